"""Content addresses: store paths that follow from what they hold, and so need no signature.

    CA                       type of the path                     hash of the path
    text:sha256:h            text[:reference]...                  sha256:h
    fixed:r:sha256:h         source[:reference]...[:self]         sha256:h
    fixed:[r:|git:]algo:h    output:out  (no references)        sha256("fixed:out:[r:|git:]algo:h:")

    path = xor-fold20(sha256("<type>:<hash>:/nix/store:<name>"))  - name

Knows nothing of contents: `nixfetch.plan.content` compares them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from nixfetch.errors import FormatError
from nixfetch.formats import base32
from nixfetch.formats.hashes import Hash, sha256
from nixfetch.formats.storepath import STORE_DIR, StorePath

if TYPE_CHECKING:
    from collections.abc import Iterable

_PATH_DIGEST = 20  # bytes of a store path's hash part
_GIT_ALGORITHMS = frozenset({"sha1", "sha256"})


class ContentAddressError(FormatError):
    """The text is not a content address, or no path can have it."""


class Method(Enum):
    """What of an object is hashed; the values are Nix's prefixes."""

    TEXT = "text:"
    """The contents of one file, as `builtins.toFile` and derivations."""
    FLAT = "fixed:"
    """The contents of one file."""
    RECURSIVE = "fixed:r:"
    """The NAR."""
    GIT = "fixed:git:"
    """The git object of the tree or file."""


# Longest prefix first: "fixed:" is a prefix of the others.
_PREFIXES = (Method.TEXT, Method.RECURSIVE, Method.GIT, Method.FLAT)


@dataclass(frozen=True, slots=True)
class ContentAddress:
    """How the content of a path was hashed, and to what."""

    method: Method
    hash: Hash

    @classmethod
    def parse(cls, text: str) -> ContentAddress:
        """Read ``text:sha256:…``, ``fixed:sha256:…``, ``fixed:r:…`` or ``fixed:git:…``.

        Raises:
            ContentAddressError: another prefix, text with another hash than sha256, git with
                another than sha1 and sha256.
            HashError: the hash is malformed.

        Source: nix, src/libstore/content-address.cc, `ContentAddress::parse`.
        """
        for method in _PREFIXES:
            if text.startswith(method.value):
                hash_ = Hash.parse(text[len(method.value) :])
                if method is Method.TEXT and hash_.algorithm != "sha256":
                    raise ContentAddressError("text is hashed with sha256 only", text=text[:200])
                if method is Method.GIT and hash_.algorithm not in _GIT_ALGORITHMS:
                    raise ContentAddressError(
                        "git hashes with sha1 or sha256 only", text=text[:200]
                    )
                return cls(method, hash_)
        raise ContentAddressError("unknown kind of content address", text=text[:200])

    def __str__(self) -> str:
        return f"{self.method.value}{self.hash}"

    def path(
        self, name: str, references: Iterable[StorePath] = (), *, self_reference: bool = False
    ) -> StorePath:
        """The store path of an object `name` with this content.

        Args:
            name: the part behind the hash part.
            references: other store paths that the content mentions.
            self_reference: whether the content mentions its own path.

        Raises:
            ContentAddressError: references where this kind of content address has none.
            StorePathError: `name` is not allowed.

        Source: nix, src/libstore/store-dir-config.cc, `makeFixedOutputPath`, `makeTextPath`.
        """
        others = sorted(set(references))
        if self.method is Method.TEXT:
            if self_reference:
                raise ContentAddressError("a text cannot mention itself", name=name)
            return _make_path("text", others, self.hash, name)
        if self.method is Method.RECURSIVE and self.hash.algorithm == "sha256":
            return _make_path("source", others, self.hash, name, self_reference=self_reference)
        if others or self_reference:
            raise ContentAddressError(
                "this kind of content address has no references", ca=str(self), name=name
            )
        prefix = self.method.value.removeprefix("fixed:")
        inner = f"fixed:out:{prefix}{self.hash.algorithm}:{self.hash.hex}:"
        return _make_path("output:out", (), sha256(inner.encode()), name)

    def is_address_of(self, path: StorePath, references: Iterable[StorePath]) -> bool:
        """Whether an object with this content and these references is called `path`.

        Args:
            path: the path as claimed.
            references: as claimed; `path` among them is a self reference.
        """
        mentioned = set(references)
        try:
            honest = self.path(path.name, mentioned - {path}, self_reference=path in mentioned)
        except ContentAddressError:
            return False
        return honest == path


def _make_path(
    kind: str,
    references: Iterable[StorePath],
    digest: Hash,
    name: str,
    *,
    self_reference: bool = False,
) -> StorePath:
    type_ = ":".join([kind, *map(str, references), *(["self"] if self_reference else [])])
    fingerprint = f"{type_}:{digest.algorithm}:{digest.hex}:{STORE_DIR}:{name}"
    full = hashlib.sha256(fingerprint.encode()).digest()
    folded = bytearray(_PATH_DIGEST)
    for position, byte in enumerate(full):
        folded[position % _PATH_DIGEST] ^= byte
    return StorePath.parse(f"{base32.encode(bytes(folded))}-{name}")
