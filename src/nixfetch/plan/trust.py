"""Whose word we take.

A narinfo is let in when one of these holds, and refused otherwise:

    its content address gives its path   (no signature is needed: the content is checked later)
    `needed` keys of different names, all trusted, signed its fingerprint
    signatures are not checked at all    (`--no-check-sigs`, or a cache with `?trusted=1`)

Whatever else holds, a content address that does not give the path is refused, and so is a
NAR hash other than SHA-256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.errors import TrustError

if TYPE_CHECKING:
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.signing import PublicKey


class UnsignedError(TrustError):
    """Not enough trusted keys signed this narinfo."""


class FalseContentAddressError(TrustError):
    """The narinfo claims a content address that belongs to another path."""


class WeakHashError(TrustError):
    """The NAR is named by a hash that vouches for nothing."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """A narinfo that `TrustPolicy.admit` let in. The store takes nothing else."""

    info: NarInfo
    signed_by: tuple[str, ...] = ()
    """Names of the trusted keys that vouched for it, ascending; none where none was needed."""
    content_addressed: bool = False
    """Whether its content address gives its path."""


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """The keys whose signatures we believe, and how many of them it takes."""

    keys: tuple[PublicKey, ...] = ()
    """Several keys may have the same name: any of them will do."""
    needed: int = 1
    """Good signatures by keys of as many different names."""
    check: bool = True
    """False: nothing needs a signature."""

    def admit(self, info: NarInfo, *, check: bool = True) -> Trusted:
        """Vouch for `info`, or raise; there is no third outcome.

        Args:
            info: the claim.
            check: False for a cache whose word is taken (``?trusted=1``).

        Raises:
            UnsignedError: fewer than `needed` trusted keys signed it, and its content address
                does not speak for it.
            FalseContentAddressError: whatever the signatures are.
            WeakHashError: its NAR hash is not SHA-256.

        Source: nix, src/libstore/path-info.cc, `ValidPathInfo::checkSignatures`,
        `isContentAddressed`.
        """
        if info.nar_hash.algorithm != "sha256":
            raise WeakHashError(
                "NAR hash is not sha256", path=info.path, algorithm=info.nar_hash.algorithm
            )
        if info.ca is not None and not info.ca.is_address_of(info.path, info.references):
            raise FalseContentAddressError(
                "content address is not that of the path", path=info.path, ca=str(info.ca)
            )
        signers = self._signers(info)
        signed_by = tuple(sorted({key.name for key in signers}))
        trusted = Trusted(info, signed_by, content_addressed=info.ca is not None)
        if trusted.content_addressed or not (check and self.check):
            return trusted
        # By name and by number: one key under two names is one key.
        good = min(len(signed_by), len({key.data for key in signers}))
        if good >= self.needed:
            return trusted
        raise self._unsigned(info, signed_by, good)

    def _signers(self, info: NarInfo) -> list[PublicKey]:
        """The trusted keys that signed `info`."""
        if not (info.signatures and self.keys):
            return []
        message = info.fingerprint()
        return [
            key
            for key in self.keys
            if any(key.signed(signature, message) for signature in info.signatures)
        ]

    def _unsigned(self, info: NarInfo, signed_by: tuple[str, ...], good: int) -> UnsignedError:
        claimed = sorted({signature.key_name for signature in info.signatures})
        trusted = sorted({key.name for key in self.keys})
        bad = sorted(set(claimed) & set(trusted) - set(signed_by))
        if not claimed:
            problem = "path is not signed"
            hint = "sign it in the cache (`nix store sign`), or accept it with --no-check-sigs"
        elif bad:
            problem = "signature is wrong"
            hint = "the cache was tampered with, or signed with another key of that name"
        elif signed_by:
            problem, hint = "too few trusted signatures", "lower --sigs-needed, or trust more keys"
        else:
            problem = "path is signed by no trusted key"
            hint = f"if you trust it, add --trusted-key {claimed[0]}:<its public key>"
        return UnsignedError(
            problem,
            hint=hint,
            path=info.path,
            keys_seen=claimed,
            keys_trusted=trusted,
            good=good,
            needed=self.needed,
        )
