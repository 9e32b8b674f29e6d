from __future__ import annotations

from pathlib import Path

import pytest

from nixfetch.config.errors import ConfigError
from nixfetch.config.tomlfile import parse

PATH = Path("/c.toml")


def read(text: str, home: Path | None = None) -> list[tuple[str, object, bool]]:
    found = parse(text.encode(), PATH, home)
    assert {part.origin for part in found} <= {"/c.toml"}
    return [(part.setting.field, part.value, part.append) for part in found]


def test_keys_and_types() -> None:
    text = """
        extra-trusted-keys = ["b-1:BB"]
        trusted-keys = ["a-1:AA"]
        from = ["https://a"]
        check-sigs = false
        jobs = 3
        progress = "plain"
    """
    assert read(text) == [
        ("trusted_keys", ("a-1:AA",), False),
        ("substituters", ("https://a",), False),
        ("check_sigs", False, False),
        ("jobs", 3, False),
        ("progress", "plain", False),
        ("trusted_keys", ("b-1:BB",), True),
    ]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("job", "jobs"),
        ("trusted_keys", "trusted-keys"),
        ("trusted-public-keys", "trusted-keys"),
        ("extra-substituters", "extra-from"),
        ("substituters", "from"),
        ("http-connections", "connections"),
        ("Store", "store"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_guess(key: str, meant: str) -> None:
    with pytest.raises(ConfigError, match="unknown key") as caught:
        read(f"{key} = 1")
    assert caught.value.facts == {"origin": PATH, "setting": key}
    assert caught.value.hint == f"did you mean {meant}?"


def test_without_a_guess_all_keys_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        read("zzzzzzzzzzz = 1")
    assert str(caught.value.hint).startswith(
        "known keys: bandwidth, ca-file, cache-dir, cache-info-ttl, check-sigs"
    )


@pytest.mark.parametrize("key", ["json", "extra-jobs"])
def test_what_belongs_to_no_file_is_an_unknown_key(key: str) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        read(f"{key} = true")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('jobs = "3"', "a whole number from 1 to 2147483647"),
        ("jobs = 0", "a whole number from 1 to 2147483647"),
        ("jobs = true", "a whole number from 1 to 2147483647"),
        ("jobs = 1.5", "a whole number from 1 to 2147483647"),
        ('from = "https://a"', "a list of text"),
        ("from = [1]", "a list of text"),
        ("check-sigs = 1", "true or false"),
        ('progress = "loud"', "one of auto, tty, plain, json, none"),
        ("[store]", "a path"),
        ('store = ""', "a path"),
    ],
)
def test_a_wrong_type_names_file_key_and_what_fits(line: str, expected: str) -> None:
    with pytest.raises(ConfigError, match="unusable value") as caught:
        read(line)
    facts = caught.value.facts
    assert facts["origin"] == PATH
    assert facts["setting"] == line.strip("[]").split()[0]
    assert facts["expected"] == expected


def test_paths_are_absolute_or_below_home() -> None:
    assert read('store = "~/s"', Path("/h")) == [("store", "/h/s", False)]
    assert read('netrc-file = ""') == [("netrc_file", None, False)]
    for text in ("~/s", "s", "./s"):
        with pytest.raises(ConfigError, match="not absolute"):
            read(f'store = "{text}"')


@pytest.mark.parametrize(
    "content",
    [
        b"jobs",
        b"jobs = 1\njobs = 2",
        b"\xff",
        b"jobs = " + b"9" * 5000,
        b"from = " + b"[" * 100_000,
    ],
)
def test_what_is_no_toml_is_an_error(content: bytes) -> None:
    with pytest.raises(ConfigError, match="malformed TOML") as caught:
        parse(content, PATH, None)
    assert caught.value.facts["origin"] == PATH


@pytest.mark.parametrize(
    ("text", "rate"),
    [('"10M"', 10 * 2**20), ('"500K"', 512_000), ("1234", 1234), ('"7"', 7), ("0", None)],
)
def test_rates_may_have_a_unit(text: str, rate: int | None) -> None:
    [found] = read(f"bandwidth = {text}")
    assert found == ("bandwidth", rate, False)


@pytest.mark.parametrize("text", ['"fast"', '"10MB/s"', "-1", "1.5", "true", '"2000000T"', '""'])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ConfigError, match="unusable value"):
        read(f"bandwidth = {text}")


def test_other_numbers_are_no_text() -> None:
    with pytest.raises(ConfigError, match="unusable value"):
        read('jobs = "3"')


def test_nowhere_to_remember() -> None:
    [found] = read('cache-dir = ""')
    assert found == ("cache_dir", None, False)
