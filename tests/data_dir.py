"""Where the collected real inputs are: NIXFETCH_TEST_DATA. They are not part of the repository."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

VARIABLE = "NIXFETCH_TEST_DATA"


def data_dir(name: str) -> Path:
    """The folder `name` of the test data; skips the test where it is not there."""
    value = os.environ.get(VARIABLE)
    if not value:
        pytest.skip(f"{VARIABLE} is not set: no collected real inputs")
    folder = Path(value, name)
    if not folder.is_dir():
        pytest.skip(f"{VARIABLE} has no {name}/")
    return folder


def rows(table: Path) -> list[dict[str, str]]:
    """The rows of a tab-separated table with a header; missing cells are empty."""
    with table.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restval=""))
