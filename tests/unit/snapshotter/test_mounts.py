from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nixfetch import StorePath
from simulated_cache import store_path
from snapshotter.mounts import (
    FORMATS,
    MAX_UNIT_NAME,
    InexpressibleError,
    Mount,
    binds,
    render,
    unit_name,
)

A, B = store_path("a"), store_path("b")
FIRST, SECOND = sorted([A, B])
AWKWARD = "/srv/a b\tc\\040%h$x#'\"/nix/store/"


def at(root: str, *paths: StorePath) -> tuple[Mount, ...]:
    return binds((path, f"{root}{path.base}") for path in paths)


def test_one_bind_a_path_by_target() -> None:
    mounts = binds([(SECOND, "/r/2"), (FIRST, "/r/1"), (SECOND, "/r/2")])
    assert mounts == (
        Mount("bind", "/r/1", str(FIRST), ("ro", "rbind")),
        Mount("bind", "/r/2", str(SECOND), ("ro", "rbind")),
    )
    assert {mount.type for mount in binds([(A, "/r")], type="none")} == {"none"}
    assert binds([]) == ()


def test_json_is_what_the_contract_says() -> None:
    document = json.loads(render("json", at("/r/", A, B)))
    assert document == {
        "version": 1,
        "closure": [str(FIRST), str(SECOND)],
        "mounts": [
            {
                "type": "bind",
                "source": f"/r/{path.base}",
                "target": str(path),
                "options": ["ro", "rbind"],
            }
            for path in (FIRST, SECOND)
        ],
    }


def test_oci_has_the_names_of_the_runtime_specification() -> None:
    assert json.loads(render("oci", at(AWKWARD, A))) == [
        {
            "destination": str(A),
            "type": "bind",
            "source": f"{AWKWARD}{A.base}",
            "options": ["ro", "rbind"],
        }
    ]


def test_fstab_has_six_fields_whatever_the_root_is_called() -> None:
    (line,) = render("fstab", at(AWKWARD, A)).decode().splitlines()
    source, target, kind, options, *rest = line.split(" ")
    assert source == f"/srv/a\\040b\\011c\\134040%h$x#'\"/nix/store/{A.base}"
    assert (target, kind, rest) == (str(A), "none", ["0", "0"])
    assert options == "ro,rbind,X-mount.mkdir"
    assert render("fstab", at("/a\nb/", A)).count(b"\n") == 1


def test_fstab_says_of_files_what_to_make_first() -> None:
    note, line = render("fstab", at("/r/", A), files=[str(A)]).decode().splitlines()
    assert note == f"# a file; before: install -D -m 0444 /dev/null {A}"
    assert "mkdir" not in line


def test_bwrap_arguments_end_with_a_nul_each() -> None:
    raw = render("bwrap", at("/a b\n/", A, B))
    assert raw.endswith(b"\0")
    assert raw[:-1].split(b"\0") == [
        word
        for path in (FIRST, SECOND)
        for word in (b"--ro-bind", f"/a b\n/{path.base}".encode(), str(path).encode())
    ]


def test_bwrap_takes_so_many_arguments_and_no_more() -> None:
    paths = [store_path(str(number)) for number in range(3001)]
    assert render("bwrap", at("/r/", *paths[1:])).count(b"\0") == 9000
    with pytest.raises(InexpressibleError) as caught:
        render("bwrap", at("/r/", *paths))
    assert caught.value.facts["arguments"] == 9003
    assert caught.value.exit_code == 6


def test_systemd_gives_a_unit_for_each() -> None:
    first, second = render("systemd", at("/a %h\\/", A, B)).decode().split("\n\n#")
    assert f"\nWhat=/a %%h\\/{FIRST.base}\nWhere={FIRST}\nType=none\nOptions=ro,rbind\n" in first
    name = f"nix-store-{FIRST.hash_part}\\x2d{FIRST.name}.mount"
    assert first.startswith(f"# /etc/systemd/system/{name}\n[Unit]\n")
    assert second.endswith("\n[Install]\nWantedBy=local-fs.target\n")


def test_names_of_units_are_those_of_systemd_escape() -> None:
    paths = [*(f"/nix/store/{'0' * 32}-a+b-._?={tail}" for tail in "xyz"), "/", "/.a/b", "/ä/ \\"]
    names = [unit_name(path) for path in paths]
    assert names[3:] == ["-.mount", "\\x2ea-b.mount", "\\xc3\\xa4-\\x20\\x5c.mount"]
    if shutil.which("systemd-escape") is None:
        return
    told = subprocess.run(
        ["systemd-escape", "--path", "--suffix=mount", *paths], capture_output=True, check=True
    )
    assert told.stdout.decode().split() == names


def test_a_unit_name_that_systemd_refuses_is_refused_here() -> None:
    longest = MAX_UNIT_NAME - len(unit_name(f"/nix/store/{'0' * 32}-"))
    fits = StorePath.parse(f"{'0' * 32}-{'x' * longest}")
    assert len(unit_name(str(fits))) == MAX_UNIT_NAME
    with pytest.raises(InexpressibleError) as caught:
        unit_name(f"{fits}x")
    assert caught.value.hint is not None
    assert "fstab" in caught.value.hint


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_utf8_keeps_its_bytes_or_is_refused(name: str) -> None:
    mounts = at("/\udcff/", A)
    if name in ("fstab", "bwrap"):
        assert b"/\xff/" in render(name, mounts)
        return
    with pytest.raises(InexpressibleError) as caught:
        render(name, mounts)
    assert caught.value.facts["format"] == name


@pytest.mark.parametrize("character", "\n\t\x01\x7f")
def test_units_name_no_control_characters(character: str) -> None:
    with pytest.raises(InexpressibleError):
        render("systemd", at(f"/a{character}b/", A))


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20))
def test_every_reader_gets_back_the_source(name: str) -> None:
    mounts = at(f"/{name}/", A, B)
    sources = [mount.source for mount in mounts]
    assert [each["source"] for each in json.loads(render("json", mounts))["mounts"]] == sources
    assert [each["source"] for each in json.loads(render("oci", mounts))] == sources
    assert render("bwrap", mounts).decode().split("\0")[1::3] == sources
    lines = render("fstab", mounts).decode().removesuffix("\n").split("\n")
    assert [_unescaped(line.split(" ")[0]) for line in lines] == sources


def _unescaped(field: str) -> str:
    first, *rest = field.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
