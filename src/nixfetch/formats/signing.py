"""Ed25519 keys and signatures in Nix's form, ``name:base64``. Knows nothing of what is signed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from nixfetch.errors import FormatError
from nixfetch.formats.hashes import HashError, decode_base64

PUBLIC_SIZE = 32  # bytes
SECRET_SIZE = 64  # bytes: the seed, then the public key
SEED_SIZE = 32  # bytes
SIGNATURE_SIZE = 64  # bytes
MAX_KEY_NAME = 255  # characters; key names are host names with a number, in practice
_NAME = re.compile(r"[!-9;-~]+\Z")  # printable ASCII without blanks and colon


class KeyFormatError(FormatError):
    """The text is not a key or a signature."""


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """What somebody who calls the key `key_name` claims to have signed."""

    key_name: str
    data: bytes
    """64 bytes when it can be a signature at all; any other length never verifies."""

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Read ``name:base64``.

        Raises:
            KeyFormatError: no colon, an empty name or one with blanks, not base 64.
        """
        return cls(*_named_bytes(text))

    def __str__(self) -> str:
        return _text(self.key_name, self.data)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that we may decide to trust."""

    name: str
    data: bytes
    """32 bytes."""

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read ``name:base64`` of 32 bytes.

        Raises:
            KeyFormatError: malformed, or not 32 bytes; 64 bytes are a secret key, and it says so.
        """
        name, data = _named_bytes(text)
        if len(data) == SECRET_SIZE:
            raise KeyFormatError(
                "this is a secret key, not a public one",
                key=name,
                hint="`nixfetch key public` prints its public half",
            )
        if len(data) != PUBLIC_SIZE:
            raise KeyFormatError("a public key has 32 bytes", key=name, bytes=len(data))
        return cls(name, data)

    def __str__(self) -> str:
        return _text(self.name, self.data)

    def signed(self, signature: Signature, message: bytes) -> bool:
        """Whether `signature` is one of this key, by name and by mathematics, on `message`."""
        if signature.key_name != self.name or len(signature.data) != SIGNATURE_SIZE:
            return False
        # Here, not above: the import takes 23 ms, and `--help` has no use for it.
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.data).verify(signature.data, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A key that signs."""

    name: str
    seed: bytes = field(repr=False)
    """32 bytes."""

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> SecretKey:
        """A new key from 32 random bytes.

        Raises:
            KeyFormatError: an empty name, one with blanks or a colon, or a seed of another size.
        """
        if _NAME.match(name) is None or len(name) > MAX_KEY_NAME:
            raise KeyFormatError(
                "a key name is printable ASCII without blanks and colons", key=name
            )
        if len(seed) != SEED_SIZE:
            raise KeyFormatError("a seed has 32 bytes", key=name, bytes=len(seed))
        return cls(name, seed)

    @classmethod
    def parse(cls, text: str) -> SecretKey:
        """Read ``name:base64`` of 64 bytes, the seed and the public key.

        Raises:
            KeyFormatError: malformed, not 64 bytes, or the two halves do not belong together.
        """
        name, data = _named_bytes(text, secret=True)
        if len(data) == PUBLIC_SIZE:
            raise KeyFormatError("this is a public key, not a secret one", key=name)
        if len(data) != SECRET_SIZE:
            raise KeyFormatError("a secret key has 64 bytes", key=name, bytes=len(data))
        key = cls(name, data[:SEED_SIZE])
        if key.public().data != data[SEED_SIZE:]:
            raise KeyFormatError("the two halves of the secret key do not match", key=name)
        return key

    def text(self) -> str:
        """The key in Nix's form: a secret."""
        return _text(self.name, self.seed + self.public().data)

    def public(self) -> PublicKey:
        """The half that others verify with."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        return PublicKey(self.name, private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> Signature:
        """Sign `message`; the same message gives the same signature."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        return Signature(self.name, private.sign(message))


def _text(name: str, data: bytes) -> str:
    from base64 import b64encode

    return f"{name}:{b64encode(data).decode()}"


def _named_bytes(text: str, *, secret: bool = False) -> tuple[str, bytes]:
    shown = "(secret)" if secret else text[:200]
    name, colon, digits = text.partition(":")
    if not colon:
        raise KeyFormatError("expected NAME:BASE64", text=shown)
    if _NAME.match(name) is None or len(name) > MAX_KEY_NAME:
        raise KeyFormatError("a key name is printable ASCII without blanks and colons", text=shown)
    try:
        return name, decode_base64(digits)
    except HashError as error:
        if not secret:
            raise KeyFormatError("expected base 64 behind the colon", key=name) from error
    # Outside of the handler: the other error, which quotes the secret, must not hang on to this.
    raise KeyFormatError("expected base 64 behind the colon", key=name)
