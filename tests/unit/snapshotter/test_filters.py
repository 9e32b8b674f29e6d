from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.filters import ALL, MAX_FILTER, Filter, FilterError
from snapshotter.lifecycle import Info, Kind

SNAPSHOT = Info(
    name="default/1/sha256:abc",
    parent="default/0/base",
    kind=Kind.COMMITTED,
    labels={
        "containerd.io/snapshot.ref": "sha256:abc",
        "plain": "word",
        "odd.one": 'with "quotes", and comma',
    },
    created_ns=1,
    updated_ns=2,
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("name==default/1/sha256:abc", True),
        ("name==other", False),
        ("name!=other", True),
        ("name!=default/1/sha256:abc", False),
        ("kind==committed", True),
        ("kind==active", False),
        ("kind", True),
        ("parent==default/0/base,kind==committed", True),
        ("parent==default/0/base,kind==active", False),
        # What containerd asks after a remote answer.
        (
            'labels."containerd.io/snapshot.ref"==sha256:abc,parent=="default/0/base"',
            True,
        ),
        ('labels."containerd.io/snapshot.ref"=="sha256:abd"', False),
        ("labels.plain", True),
        ("labels.missing", False),
        ("labels.missing==word", False),
        ("labels.missing!=word", True),
        ('labels.missing!=""', False),
        ("labels.plain~=^wo", True),
        ("labels.plain~=/^wo.d$/", True),
        ("labels.plain~=|ord|", True),
        ('labels.plain~="x"', False),
        ("labels.missing~=/^$/", True),
        ("labels.odd.one", True),
        ('labels."odd.one"~=/comma/', True),
        (r'labels."odd.one"=="with \"quotes\", and comma"', True),
        (r'name=="\u0064efault/1/sh\x61256\072abc"', True),
        ("name == default/1/sha256:abc", True),
        ("kind==committed, name~=abc", True),
        (r'name!="\xff"', True),
        (r'name=="\xff"', False),
        ("nonsense", False),
        ("nonsense!=x", True),
        ("labels", False),
    ],
)
def test_what_holds(text: str, holds: bool) -> None:
    assert Filter.parse([text]).holds(SNAPSHOT) is holds


@pytest.mark.parametrize(
    "text",
    [
        "name=",
        "name==",
        "name===x",
        "name<x",
        "name=x",
        "name==a b",
        "name==a ,kind",
        "name==a,",
        ",name",
        "name.",
        ".name",
        "name ",
        " ",
        'name=="a',
        'name=="a\nb"',
        "name==/a/",
        r'name=="\q"',
        r'name=="\x4"',
        r'name=="\400"',
        r'name=="\U00110000"',
        'name=="a\\',
        "name~=(",
        "name~=/[/",
        "labels.é==x",
        "name==a\0b",
        "name==a\u0007",
        "'name'==a",
        "x" * (MAX_FILTER + 1),
    ],
)
def test_what_is_malformed(text: str) -> None:
    with pytest.raises(FilterError):
        Filter.parse([text])


def test_an_error_says_where() -> None:
    with pytest.raises(FilterError) as caught:
        Filter.parse(["kind==active,name<x"])
    assert caught.value.facts["offset"] == 17


def test_one_of_several_has_to_hold() -> None:
    assert Filter.parse(["kind==active", "labels.plain"]).holds(SNAPSHOT)
    assert not Filter.parse(["kind==active", "kind==view"]).holds(SNAPSHOT)
    assert Filter.parse(["kind==active", ""]).holds(SNAPSHOT)
    assert Filter.parse([]) == ALL
    assert ALL.holds(SNAPSHOT)


def test_what_is_known_of_what_is_wanted() -> None:
    known = Filter.parse(['labels."a.b"==c,parent==p,kind!=view,name==n,labels.x']).known
    assert known == {"label a.b": "c", "parent": "p", "name": "n"}
    assert Filter.parse(["name==a", "name==b"]).known == {}
    assert ALL.known == {}


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_malformed(text: str) -> None:
    with suppress(FilterError):
        Filter.parse([text]).holds(SNAPSHOT)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\n\0")))
def test_any_value_can_be_quoted(value: str) -> None:
    quoted = re.sub(r'(["\\])', r"\\\1", value)
    info = Info(name=value, kind=Kind.VIEW, created_ns=0, updated_ns=0)
    assert Filter.parse([f'name=="{quoted}"']).holds(info)
