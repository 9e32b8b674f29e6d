"""The table of complaints (docs/complaints.md) is complete, and names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs/complaints.md"
COMPLAINTS = 25


def test_the_table_is_complete_and_its_tests_exist() -> None:
    rows = [line for line in TABLE.read_text().splitlines() if re.match(r"\| \d", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, COMPLAINTS + 1))
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named or "Does not apply" in row, row
        for file, test in named:
            assert re.search(rf"^def {test}\b", (TESTS / file).read_text(), re.MULTILINE), test
