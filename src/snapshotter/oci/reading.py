"""JSON documents that somebody else wrote, read strictly: each error says where. No files.

    fields = Fields.parse(data, what="manifest", limit=MAX_MANIFEST)
    fields.each("layers", MAX_LAYERS)     # the objects of an array
    fields.text("mediaType")              # a string that must be there

Only what the reader asks for is looked at; what else there is may be whatever it likes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snapshotter.oci.digests import ImageError


class DocumentError(ImageError):
    """A JSON document of an image does not say what it has to."""


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object, and where it stands."""

    place: str
    """Such as ``manifest.layers[2]``."""
    members: Mapping[str, Any]

    @classmethod
    def parse(cls, data: bytes, *, what: str, limit: int) -> Fields:
        """Read a document that is an object.

        Raises:
            DocumentError: it is none, or larger than `limit` bytes.
        """
        return cls.of(document(data, what=what, limit=limit), what)

    @classmethod
    def of(cls, value: object, place: str) -> Fields:
        """A value that must be an object.

        Raises:
            DocumentError: it is none.
        """
        if not isinstance(value, Mapping):
            raise DocumentError("not a JSON object", place=place)
        return cls(place, value)

    def at(self, key: str) -> str:
        """Where a member stands."""
        return f"{self.place}.{key}"

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without `default` it must be there."""
        value = self.members.get(key, default)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise DocumentError("not a string, or missing", place=self.at(key))
        return value

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number that is not negative; without `default` it must be there."""
        value = self.members.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise DocumentError("not a size, or missing", place=self.at(key))
        return value

    def child(self, key: str) -> Fields | None:
        """An object; None where there is none."""
        value = self.members.get(key)
        return None if value is None else Fields.of(value, self.at(key))

    def texts(self, key: str, limit: int) -> tuple[str, ...]:
        """An array of strings; empty where there is none."""
        values = self._array(key, limit)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise DocumentError("not a string", place=f"{self.at(key)}[{number}]")
        return tuple(values)

    def each(self, key: str, limit: int) -> list[Fields]:
        """The objects of an array; none where there is no array."""
        return [
            Fields.of(value, f"{self.at(key)}[{number}]")
            for number, value in enumerate(self._array(key, limit))
        ]

    def mapping(self, key: str) -> dict[str, str]:
        """An object whose members are strings; empty where there is none."""
        child = self.child(key)
        if child is None:
            return {}
        return {name: child.text(name) for name in child.members}

    def _array(self, key: str, limit: int) -> list[Any]:
        value = self.members.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise DocumentError("not a JSON array", place=self.at(key))
        if len(value) > limit:
            raise DocumentError(
                "more than an image may have", place=self.at(key), found=len(value), limit=limit
            )
        return value


def document(data: bytes, *, what: str, limit: int) -> Any:
    """Read one JSON document.

    Raises:
        DocumentError: it is none, or larger than `limit` bytes.
    """
    if len(data) > limit:
        raise DocumentError(f"{what} is too large", size=len(data), limit=limit)
    try:
        return json.loads(data, parse_float=_finite, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # the latter: thousands of brackets
        raise DocumentError(f"{what} is not JSON", reason=str(error)[:200]) from error


def canonical(value: object) -> bytes:
    """A document in one way: members by name, no blanks, all of it ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number that JSON cannot write")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")
