"""The text of `nix path-info`: a path a line, and columns behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.report.info import PathInfo
    from nixfetch.report.survey import Survey

_STEP = 1024
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")  # a NAR size has 64 bits


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns there are behind the path."""

    size: bool = False
    """Of the NAR."""
    closure_size: bool = False
    """Needs a survey with closure sizes."""
    signatures: bool = False
    """What vouches for the path: built here, content address, signatures."""
    human_readable: bool = False
    """Sizes in KiB and above, not in bytes."""

    def lines(self, report: Survey) -> Iterator[str]:
        """The lines of `report`, without their ends.

        Source: nix 2.34, src/nix/path-info.cc, `CmdPathInfo::run`.
        """
        behind = self.size or self.closure_size or self.signatures
        width = max((len(str(info.path)) for info in report.listed), default=0)
        for info in report.listed:
            text = str(info.path).ljust(width) if behind else str(info.path)
            if self.size:
                text += "\t" + self._shown(info.nar_size)
            if self.closure_size:
                text += "\t" + self._shown(report.closures[info.path].nar)
            if self.signatures:
                text += "\t" + " ".join(_vouchers(info))
            yield text

    def _shown(self, size: int) -> str:
        return _human_readable(size) if self.human_readable else f"{size:11d}"


def _vouchers(info: PathInfo) -> Iterator[str]:
    if info.ultimate:
        yield "ultimate"
    if info.ca is not None:
        yield f"ca:{info.ca}"
    yield from map(str, info.signatures)


def _human_readable(size: int) -> str:
    """`size` as Nix writes it: up to 1024.0 of a unit, and nothing below KiB."""
    power = 0
    while size >> (10 * (power + 1)) > _STEP and power + 1 < len(_UNITS):
        power += 1
    return f"{size / _STEP ** (power + 1):6.1f} {_UNITS[power]}"
