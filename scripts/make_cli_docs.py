"""Writes docs/cli.md from the program itself: every verb with its `--help`.

python -m scripts.make_cli_docs
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

TARGET = Path(__file__).parents[1] / "docs/cli.md"
_WIDTH = "100"  # columns


def text() -> str:
    """What docs/cli.md should hold."""
    os.environ["COLUMNS"] = _WIDTH
    from nixfetch.cli import app
    from snapshotter import cli as snapshotter

    parts = ["# The command line\n\nMade from the program by `make docs`.\n"]
    for name, parser in app.parsers().items():
        if " " in name:
            parts.append(f"## {name}\n")
        parts.append(_block(parser))
    parts.append("# The command line of the snapshotter\n")
    for name, parser in snapshotter.parsers().items():
        if " " in name:
            parts.append(f"## {name}\n")
        parts.append(_block(parser))
    return "\n".join(parts)


def _block(parser: argparse.ArgumentParser) -> str:
    """The help of one parser, without the global flags: those stand at the top."""
    shown = parser.format_help()
    if parser.prog.count(" "):
        shown = shown.partition("\nglobal flags:")[0] + "\n"
    return f"```text\n{shown.rstrip()}\n```\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
