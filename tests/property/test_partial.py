"""A partial download beside a plain value, and with any bytes of its file changed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from nixfetch.cache.partial import Partials

if TYPE_CHECKING:
    from nixfetch.cache.partial import Partial

NAME = "0" * 64
versions = st.none() | st.text(
    st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=400
)


@dataclass(frozen=True, slots=True)
class Append:
    data: bytes


@dataclass(frozen=True, slots=True)
class Restart:
    validator: str | None


@dataclass(frozen=True, slots=True)
class Reopen:
    pass


@dataclass(frozen=True, slots=True)
class Discard:
    pass


Step = Append | Restart | Reopen | Discard
steps = st.one_of(
    st.builds(Append, st.binary(max_size=2000)),
    st.builds(Restart, versions),
    st.builds(Reopen),
    st.builds(Discard),
)


def claimed(partials: Partials) -> Partial:
    found = partials.claim(NAME)
    assert found is not None
    return found


@settings(deadline=None)
@given(plan=st.lists(steps, max_size=30))
def test_it_keeps_what_a_plain_value_would(plan: list[Step]) -> None:
    data, validator, discarded = b"", None, False
    with tempfile.TemporaryDirectory() as name:
        partials = Partials(Path(name), spare=0)
        partial = claimed(partials)
        for step in plan:
            match step:
                case Append(more):
                    partial.append(more)
                    data += b"" if discarded else more
                case Restart(version):
                    partial.restart(version)
                    if not discarded:
                        data, validator = b"", version
                case Discard():
                    partial.discard()
                    data, validator, discarded = b"", None, True
                case Reopen():
                    partial.close()
                    partial, discarded = claimed(partials), False
                    validator = validator if data else None
            assert (partial.size, partial.validator) == (len(data), validator)
            assert b"".join(partial.read()) == data
        partial.close()
        assert len(list(Path(name).iterdir())) == bool(data)


@settings(deadline=None)
@given(
    length=st.integers(0, 3000),
    changes=st.lists(st.tuples(st.integers(0, 3600), st.binary(max_size=40)), max_size=8),
)
def test_any_damage_is_borne(length: int, changes: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        partials = Partials(Path(name), spare=0)
        with claimed(partials) as partial:
            partial.restart('"version"')
            partial.append(bytes(length))
        with (Path(name) / NAME).open("r+b" if length else "w+b") as stream:
            for position, data in changes:
                stream.seek(position)
                stream.write(data)
        with claimed(partials) as partial:
            before = b"".join(partial.read())
            assert len(before) == partial.size
            partial.append(b"more")
        with claimed(partials) as partial:
            assert b"".join(partial.read()) == before + b"more"
