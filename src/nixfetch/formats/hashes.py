"""Hashes as Nix writes them: an algorithm and a digest, in base 32, hex, base 64 or SRI form."""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from nixfetch.errors import FormatError
from nixfetch.formats import base32

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64, "blake3": 32}
"""Bytes of a digest, by the algorithms that Nix knows."""


class HashError(FormatError):
    """The text is not a hash."""


class UnsupportedHashError(FormatError):
    """The hash is well-formed, but nothing here computes it."""


class Hasher(Protocol):
    """What `hashlib` gives, and blake3 as well."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take the next bytes."""
        ...

    def digest(self) -> bytes:
        """Give the digest of what came so far."""
        ...

    def copy(self) -> Hasher:
        """Branch off."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class Hash:
    """A digest and the algorithm that made it."""

    algorithm: str
    """One of `SIZES`."""
    digest: bytes
    """As many bytes as `SIZES` says."""

    @classmethod
    def parse(cls, text: str) -> Hash:
        """Read ``algorithm:digest`` or the SRI form ``algorithm-base64``.

        Args:
            text: the digest is base 32, hex (any case) or base 64; its length says which.

        Raises:
            HashError: no algorithm, an unknown one, or a digest of none of these lengths
                or with other characters.

        Source: nix, src/libutil/hash.cc, `Hash::parseAny`, `Hash::parseSRI`.
        """
        algorithm, separator, digits = text.partition(":")
        if not separator:
            algorithm, separator, digits = text.partition("-")
            if not separator:
                raise HashError("hash has no algorithm", text=text[:200])
            if algorithm in SIZES and len(digits) != _base64_length(SIZES[algorithm]):
                raise HashError("digest has the wrong length", text=text[:200])
        size = SIZES.get(algorithm)
        if size is None:
            raise HashError("unknown hash algorithm", algorithm=algorithm[:20], text=text[:200])
        return cls(algorithm, _digest(digits, size))

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.base32}"

    @property
    def base32(self) -> str:
        """The digest in Nix's base 32."""
        return base32.encode(self.digest)

    @property
    def hex(self) -> str:
        """The digest in lower-case hex."""
        return self.digest.hex()

    @property
    def sri(self) -> str:
        """The whole hash as ``algorithm-base64``."""
        return f"{self.algorithm}-{base64.b64encode(self.digest).decode()}"


def sha256(data: bytes) -> Hash:
    """SHA-256 of `data`."""
    return Hash("sha256", hashlib.sha256(data).digest())


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def hasher(algorithm: str, *, installed: Callable[[str], bool] = _installed) -> Hasher:
    """Something that computes a hash.

    Args:
        algorithm: one of `SIZES`.
        installed: says whether an optional package is there.

    Raises:
        UnsupportedHashError: blake3, where the extra of that name is not installed.
    """
    if algorithm == "blake3":
        if not installed("blake3"):
            raise UnsupportedHashError(
                "blake3 is not installed", hint="pip install 'nixfetch[blake3]'"
            )
        return cast("Hasher", importlib.import_module("blake3").blake3())
    return hashlib.new(algorithm, usedforsecurity=False)


def _base64_length(size: int) -> int:
    return (size + 2) // 3 * 4


def _digest(digits: str, size: int) -> bytes:
    try:
        if len(digits) == 2 * size:
            if not digits.isalnum():  # bytes.fromhex skips blanks
                raise HashError("not a digest", digest=digits[:200])
            return bytes.fromhex(digits)
        if len(digits) == base32.encoded_length(size):
            return base32.decode(digits)
    except (ValueError, base32.Base32Error) as error:
        raise HashError("not a digest", digest=digits[:200]) from error
    if len(digits) == _base64_length(size):
        return decode_base64(digits)
    raise HashError("digest has the wrong length", digest=digits[:200], bytes=size)


def decode_base64(text: str) -> bytes:
    """Read base 64 with padding, in its one canonical form.

    Raises:
        HashError: other characters, missing padding, or leftover bits that are not zero.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise HashError("not base 64", text=text[:200]) from error
    if base64.b64encode(data).decode() != text:
        raise HashError("not canonical base 64", text=text[:200])
    return data
