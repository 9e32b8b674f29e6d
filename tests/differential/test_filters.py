"""The same filters through us and through containerd's own parser."""

from __future__ import annotations

import json
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import conformance_suite
from snapshotter.filters import Filter, FilterError
from snapshotter.lifecycle import Info, Kind

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.differential

CASES = 6000
LABELS = {
    "a": "1",
    "containerd.io/snapshot.ref": "sha256:feed",
    "x.y": 'q"u',
    "empty": "",
    "é": "ü",
}
SNAPSHOT = Info(
    name="ns/1/sha256:feed", parent="p", kind=Kind.ACTIVE, labels=LABELS, created_ns=1, updated_ns=1
)
WHAT = {"name": SNAPSHOT.name, "parent": SNAPSHOT.parent, "kind": "active", "labels": LABELS}
FIELDS = (
    *("name", "parent", "kind", "labels", "labels.a", "labels.x.y", 'labels."x.y"', "labels.empty"),
    *('labels."containerd.io/snapshot.ref"', '"name"', "nothing", "labels.nothing", "9", "_", "é"),
    *('labels."é"', "/name/", "labels.", "name.x", "'name'", '"na\\x6de"', "", "labels. a"),
)
OPERATORS = ("==", "==", "!=", "~=", "=", "===", "=~", "!", " == ", "== ", " !=", "<", "")
VALUES = (
    *(
        "ns/1/sha256:feed",
        "p",
        "active",
        "1",
        "sha256:feed",
        '"sha256:feed"',
        '""',
        "",
        "x y",
        "a,b",
    ),
    *(
        '"a,b"',
        '"q\\"u"',
        "/^ns/",
        "|feed$|",
        "feed",
        "^p$",
        "a|b",
        "[0-9]",
        '"\\u0031"',
        '"\\x31"',
    ),
    *(
        '"\\061"',
        '"\\400"',
        '"\\q"',
        '"open',
        "/a/b/",
        ".",
        "a.b",
        "=",
        "~",
        "!",
        "ü",
        '"ü"',
        "\t1",
    ),
    *(
        '"\\ud800"',
        '"\\U0010ffff"',
        '"a\\tb"',
        "'1'",
        "1'",
        '1"',
        "(",
        "/(/",
        "\x01",
        "1\x01",
        "\u00a0",
    ),
)
SEPARATORS = (",", ",", ", ", " ,", ",,", ";", ".")


def texts(rng: random.Random) -> list[str]:
    """Filters, most of them nearly right."""
    found = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        parts = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            whole = rng.random() < 0.15
            operator, value = ("", "") if whole else (rng.choice(OPERATORS), rng.choice(VALUES))
            parts += [rng.choice(FIELDS) + operator + value, rng.choice(SEPARATORS)]
        text = "".join(parts[:-1])
        if rng.random() < 0.1 and text:
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice(' ."\\,=~\0') + text[place + rng.randrange(2) :]
        found.append(text)
    return found


def ours(filters: list[str]) -> str:
    try:
        return "true" if Filter.parse(filters).holds(SNAPSHOT) else "false"
    except FilterError as error:
        # A malformed pattern is an error here, and finds nothing there.
        return "pattern" if "regular expression" in error.problem else "error"


@pytest.fixture(scope="module")
def probe() -> Path:
    return conformance_suite.build("filterprobe")


def test_the_same_answers(probe: Path) -> None:
    rng = random.Random(5)
    questions = [texts(rng) for _ in range(CASES)]
    document: list[dict[str, Any]] = [{"filters": each, "info": WHAT} for each in questions]
    done = subprocess.run(
        [probe], input=json.dumps(document).encode(), capture_output=True, check=True
    )
    theirs = json.loads(done.stdout)
    answers = [ours(each) for each in questions]
    different = [
        (question, own, other)
        for question, own, other in zip(questions, answers, theirs, strict=True)
        if own not in {other, "pattern"}
    ]
    assert not different, (len(different), different[:20])
    counts = {answer: answers.count(answer) for answer in ("true", "false", "error")}
    assert min(counts.values()) > CASES / 20, counts
