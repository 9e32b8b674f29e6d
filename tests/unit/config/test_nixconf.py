from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nixfetch.config.errors import ConfigError, UnreadableFileError
from nixfetch.config.nixconf import MAX_INCLUDE_DEPTH, NixConfReader

if TYPE_CHECKING:
    from collections.abc import Mapping

Simple = tuple[str, object, bool, str]


class Files:
    """Files in memory; a None among them is one that may not be read."""

    def __init__(self, files: Mapping[str, str | None]) -> None:
        self._files = files
        self.reads = 0

    def read(self, path: Path) -> bytes | None:
        self.reads += 1
        if str(path) not in self._files:
            return None
        text = self._files[str(path)]
        if text is None:
            raise UnreadableFileError("cannot read settings", file=path, reason="Permission denied")
        return text.encode("latin-1")


def read(text: str, **files: str | None) -> list[Simple]:
    """What ``/etc/nix/nix.conf`` with this text sets; `files` lie beside it."""
    there = Files({f"/etc/nix/{name}": content for name, content in files.items()})
    found = NixConfReader(there.read).text(text, "/etc/nix/nix.conf")
    assert all(assignment.from_nix for assignment in found)
    return [
        (part.setting.field, part.value, part.append, part.origin.removeprefix("/etc/nix/"))
        for part in found
    ]


def test_names_aliases_and_extra() -> None:
    text = "substituters = https://a  https://b\nextra-binary-caches = https://c\n"
    assert read(text) == [
        ("substituters", ("https://a", "https://b"), False, "nix.conf:1"),
        ("substituters", ("https://c",), True, "nix.conf:2"),
    ]


def test_blanks_comments_and_crlf() -> None:
    text = "\n  # nothing\n\trequire-sigs\t=  false # really\r\n#\r\n   \n"
    assert read(text) == [("check_sigs", False, False, "nix.conf:3")]


def test_empty_values() -> None:
    text = "substituters =\nuser-agent-suffix =\nnetrc-file =\n"
    assert [value for _, value, *_ in read(text)] == [(), "", None]


def test_words_are_joined_by_one_space() -> None:
    assert read("user-agent-suffix = a \t b")[0][1] == "a b"


@pytest.mark.parametrize(
    "line",
    [
        "max-jobs = many",
        "substitute = false",
        "store = /x",
        "extra-connect-timeout = 5",
        "extra-extra-substituters = x",
        "trusted-substituters = https://x",
        "jobs = 3",
        "foo =",
    ],
)
def test_what_is_none_of_our_business_is_ignored(line: str) -> None:
    assert read(line) == []


@pytest.mark.parametrize(
    "line",
    [
        "access-tokens github.com=hunter2",
        "= x",
        "foo",
        "substituters=https://a",
        "substituters =https://a",
        "foo\x0c=\x0cx",
    ],
)
def test_a_malformed_line_is_an_error_with_its_place_but_not_its_text(line: str) -> None:
    with pytest.raises(ConfigError, match="illegal configuration line") as caught:
        read(f"# one\n{line}\n")
    assert caught.value.facts == {"origin": "/etc/nix/nix.conf:2"}


@pytest.mark.parametrize(
    "line",
    ["connect-timeout =", "require-sigs = TRUE", "http-connections = -1", "netrc-file = rel"],
)
def test_an_unfit_value_is_an_error_with_its_place(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(line)
    assert caught.value.facts["origin"] == "/etc/nix/nix.conf:1"
    assert caught.value.facts["setting"] == line.partition(" ")[0]


def test_includes_take_the_place_of_their_line_and_are_relative_to_their_file() -> None:
    text = "connect-timeout = 1\ninclude sub/../one\nconnect-timeout = 3\n"
    assert read(text, one="\nconnect-timeout = 2\n!include none\n!include two", two="") == [
        ("connect_timeout", 1, False, "nix.conf:1"),
        ("connect_timeout", 2, False, "one:2"),
        ("connect_timeout", 3, False, "nix.conf:3"),
    ]


def test_a_missing_include_is_an_error_unless_it_may_miss() -> None:
    assert read("!include none") == []
    with pytest.raises(ConfigError, match="included file is missing") as caught:
        read("include none")
    assert caught.value.facts == {"origin": "/etc/nix/nix.conf:1", "file": "/etc/nix/none"}


@pytest.mark.parametrize("line", ["include", "!include", "include a b"])
def test_include_takes_one_file(line: str) -> None:
    with pytest.raises(ConfigError):
        read(line)


def test_a_nul_in_an_include_is_an_error() -> None:
    with pytest.raises(ConfigError, match="illegal"):
        read("!include a\0b")


def test_loops_are_refused() -> None:
    with pytest.raises(ConfigError, match="includes itself"):
        read("include one", one="include two", two="!include one")


def test_depth_is_limited() -> None:
    chain = {str(n): f"include {n + 1}" for n in range(MAX_INCLUDE_DEPTH)}
    last = str(MAX_INCLUDE_DEPTH)
    assert read("include 1", **(chain | {last: "connect-timeout = 1"}))
    with pytest.raises(ConfigError, match="too many includes"):
        read("include 0", **(chain | {last: ""}))


def test_includes_that_multiply_are_stopped() -> None:
    files = Files({f"/{n}": f"include /{n + 1}\n" * 10 for n in range(15)} | {"/15": ""})
    with pytest.raises(ConfigError, match="too many includes"):
        NixConfReader(files.read).text("include /0", "/nix.conf")
    assert files.reads < 300


def test_files_that_may_not_be_read_are_passed_over_as_in_nix_but_not_silently() -> None:
    files = Files({"/nix.conf": "include /secret\nconnect-timeout = 1", "/secret": None})
    reader = NixConfReader(files.read)
    assert [part.value for part in reader.file(Path("/nix.conf"))] == [1]
    assert reader.file(Path("/secret")) == []
    assert reader.file(Path("/none")) == []
    assert reader.skipped == ["/secret: Permission denied"] * 2


def test_bytes_that_are_not_utf8_do_no_harm_in_comments() -> None:
    files = Files({"/nix.conf": "# caf\xe9\nconnect-timeout = 1"})
    assert len(NixConfReader(files.read).file(Path("/nix.conf"))) == 1
