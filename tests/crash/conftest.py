"""What the crash tests share: closures in caches, real Nix as the judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from crash.subject import Closure, rounds, small_closure, wide_closure
from real_nix import real_nix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from real_nix import RealNix


_FIGURE = "figure"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was counted, at the end: what docs/reliability.md says comes from here."""
    lines = [
        f"{report.nodeid.rpartition('/')[2]}: {value}"
        for report in terminalreporter.getreports("passed")
        if report.when == "call"
        for name, value in report.user_properties
        if name == _FIGURE
    ]
    if lines:
        terminalreporter.section("figures")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture
def show(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes a sentence with a figure, for the end of a run of pytest."""

    def take(sentence: str) -> None:
        record_property(_FIGURE, sentence)

    return take


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Closure:
    return small_closure(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Closure:
    """24 paths, one of 20 000 files."""
    return wide_closure(tmp_path_factory.mktemp("wide"), files=rounds(20_000, 1_000))


@pytest.fixture(scope="session")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Closure:
    """24 paths, one of 500 files: for what is done often."""
    return wide_closure(tmp_path_factory.mktemp("flat"), files=500)


@pytest.fixture(scope="session")
def steep(tmp_path_factory: pytest.TempPathFactory) -> Closure:
    """24 paths, the last of which has 2 000 files: the others are valid for a while before it."""
    return wide_closure(tmp_path_factory.mktemp("steep"), files=2_000, on_top=True)


@pytest.fixture
def nix() -> Iterator[RealNix]:
    """The judge."""
    with real_nix("host") as nix:
        yield nix


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"
