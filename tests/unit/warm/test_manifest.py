from __future__ import annotations

import pytest

from nixfetch.plan.timetable import Slot, Timetable
from nixfetch.warm.manifest import (
    Manifest,
    ManifestError,
    ManifestLimits,
    SourceSpec,
    parse_duration,
    parse_size,
)
from simulated_cache import store_path

A, B = store_path("a"), store_path("b")


def parsed(text: str) -> Manifest:
    return Manifest.parse(text.encode(), name="nodes")


def test_a_list() -> None:
    manifest = parsed(f"\n# tools\n{A}\n  {B}  # why\n{A}\n")
    assert manifest.sources == (SourceSpec(name="paths", kind="paths", paths=(A, B)),)
    assert parsed("# nothing\n").sources[0].paths == ()


def test_toml() -> None:
    manifest = parsed(f"""
        [limits]
        bandwidth = "20M"
        max-bytes = "1G"
        max-duration = "1h30m"
        [[limits.timetable]]
        times = "08:00-18:00"
        bandwidth = "2M"
        [[limits.timetable]]
        times = "18:00-20:00"

        [[roots]]
        name = "tools"
        paths = ["{A}", "{B}"]
        [[roots]]
        store-paths = "https://channels.example/store-paths.xz"
        match = ["*-hello-*"]
        [[roots]]
        hydra = "https://hydra.example/job/a/b/c/latest-finished"
        outputs = ["out"]
        [[roots]]
        pods = "pods.json"
        [[roots]]
        cache = "s3://bucket"
    """)
    assert manifest.limits == ManifestLimits(
        max_bytes=1 << 30,
        max_duration=5400.0,
        timetable=Timetable(
            (Slot.parse("08:00-18:00", 2 << 20), Slot.parse("18:00-20:00", None)), 20 << 20
        ),
    )
    assert manifest.sources == (
        SourceSpec(name="tools", kind="paths", paths=(A, B)),
        SourceSpec(
            name="roots-2",
            kind="store-paths",
            where="https://channels.example/store-paths.xz",
            match=("*-hello-*",),
        ),
        SourceSpec(
            name="roots-3",
            kind="hydra",
            where="https://hydra.example/job/a/b/c/latest-finished",
            outputs=("out",),
        ),
        SourceSpec(name="roots-4", kind="pods", where="pods.json"),
        SourceSpec(name="roots-5", kind="cache", where="s3://bucket"),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense", "manifest is not TOML"),
        ("/nix/store/nonsense", "not a store path"),
        ("[rots]", "unknown key in the manifest"),
        ("roots = 1", "roots are [[roots]] tables"),
        ("[[roots]]", "say one of these"),
        ('[[roots]]\npods = "a"\ncache = "b"', "say one of these"),
        ('[[roots]]\npod = "a"', "unknown key in the manifest"),
        ('[[roots]]\npods = ""', "expected a URL or a file"),
        ('[[roots]]\npods = "a"\nname = "a/b"', "unusable name"),
        ('[[roots]]\npods = "a"\noutputs = ["out"]', "outputs go with hydra"),
        ('[[roots]]\npaths = "a"', "expected a list of strings"),
        ('[[roots]]\npaths = ["/nix/store/x"]', "not a store path"),
        ('[[roots]]\npods="a"\nname="x"\n[[roots]]\npods="b"\nname="x"', "two roots of one name"),
        ("limits = 1", "limits are a [limits] table"),
        ('[limits]\nmax-bytes = "lots"', "not a size"),
        ("[limits]\nmax-duration = 5", "not a duration"),
        ("[limits]\ntimetable = 5", "a timetable is [[limits.timetable]] tables"),
        ('[[limits.timetable]]\ntimes = "always"', "expected HH:MM-HH:MM"),
    ],
)
def test_mistakes(text: str, problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parsed(text)
    assert caught.value.problem == problem
    assert caught.value.exit_code == 78


def test_did_you_mean() -> None:
    with pytest.raises(ManifestError) as caught:
        parsed('[[roots]]\nstore_paths = "x"')
    assert caught.value.hint == "did you mean store-paths?"


@pytest.mark.parametrize("name", ["", "a b", "-x", "a/b", "a:b"])
def test_names(name: str) -> None:
    with pytest.raises(ManifestError, match="name of the manifest"):
        Manifest.parse(b"", name=name)


def test_not_text() -> None:
    with pytest.raises(ManifestError, match="not text"):
        Manifest.parse(b"\xff", name="x")


def test_sizes_and_durations() -> None:
    assert [parse_size(text) for text in ("1", "2k", "3M", "4G", "5T")] == [
        *(1, 2 << 10, 3 << 20, 4 << 30, 5 << 40),
    ]
    assert [parse_duration(text) for text in ("9s", "2m", "1h30m", "2d")] == [9, 120, 5400, 172800]
    for text in ("", "0", "-1", "1.5M", "x"):
        with pytest.raises(ManifestError):
            parse_size(text)
        with pytest.raises(ManifestError):
            parse_duration(text)
