"""The guide about configuration says what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nixfetch.config.access import FOR_HTTP
from nixfetch.config.cacheurl import S3_PARAMETERS
from nixfetch.config.settings import SETTINGS, Setting

GUIDES = Path(__file__).parents[3] / "docs/guides"
TEXT = (GUIDES / "configuration.md").read_text()

MET = re.findall(
    r"\S+",
    """
substituters binary-caches trusted-substituters trusted-public-keys binary-cache-public-keys
require-sigs substitute fallback http-connections http2 connect-timeout stalled-download-timeout
download-attempts filetransfer-retry-attempts download-speed download-buffer-size netrc-file
ssl-cert-file user-agent-suffix narinfo-cache-positive-ttl narinfo-cache-negative-ttl
narinfo-cache-meta-ttl max-substitution-jobs always-allow-substitutes auto-optimise-store
fsync-metadata fsync-store-paths use-sqlite-wal secret-key-files trusted-users allowed-users
ignored-acls nar-buffer-size min-free max-free
""",
)
"""Keys of nix.conf that a fetcher meets."""


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without the table's own head."""
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


@pytest.mark.parametrize("setting", [each for each in SETTINGS if not each.only_flag])
def test_each_setting(setting: Setting) -> None:
    [row] = [row for row in rows("The settings") if names(row[0]) == (setting.name,)]
    flags = tuple(setting.flag.name.split("/")) if setting.flag else ()
    assert names(row[1]) == flags
    assert names(row[2]) == setting.nix
    if isinstance(setting.default, bool | int | str) and setting.default != "":
        assert str(setting.default).lower() in row[3].lower()


def test_no_other_settings_are_in_the_table() -> None:
    assert len(rows("The settings")) == len([each for each in SETTINGS if not each.only_flag])


def test_each_key_of_nix_is_in_one_of_the_tables() -> None:
    heeded = {name for setting in SETTINGS for name in setting.nix}
    left = {name for row in rows("Keys of nix.conf that have no effect") for name in names(row[0])}
    assert not heeded & left
    assert set(MET) <= heeded | left


def test_parameters_of_caches() -> None:
    known = {name.partition("=")[0] for row in rows("Caches") for name in names(row[0])}
    retry = {"retry-attempts", "retry-delay", "retry-max-delay"}
    assert known == {"priority", "trusted", *retry, *FOR_HTTP, *S3_PARAMETERS}


def test_parameters_of_private_caches() -> None:
    text = (GUIDES / "private-caches.md").read_text()
    assert set(FOR_HTTP) <= {name.partition("=")[0] for name in names(text)}
