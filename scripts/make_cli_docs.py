"""Writes docs/cli.md from the program itself: every verb with its `--help`.

python -m scripts.make_cli_docs
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

TARGET = Path(__file__).parents[1] / "docs/cli.md"
_WIDTH = "100"  # columns


def text() -> str:
    """What docs/cli.md should hold."""
    os.environ["COLUMNS"] = _WIDTH
    from nixfetch.cli import app

    top = app.parser()
    parts = ["# The command line\n\nMade from the program by `make docs`.\n", _block(top)]
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                parts.append(f"## nixfetch {name}\n")
                parts.append(_block(verb))
    return "\n".join(parts)


def _block(parser: argparse.ArgumentParser) -> str:
    """The help of one parser, without the global flags: those stand at the top."""
    shown = parser.format_help()
    if parser.prog.count(" "):
        shown = shown.partition("\nglobal flags:")[0] + "\n"
    return f"```text\n{shown.rstrip()}\n```\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
