r"""`.narinfo`: what a cache says about one store path.

Parsing believes nothing: a `NarInfo` is a claim. `nixfetch.plan.trust` turns a
claim into a `Trusted` one; the store accepts nothing else.

    narinfo ::= (name ":" " "? value "\n")*

Stricter than Nix's reader, which skips two characters behind the colon whatever they are
and lets the last of two fields win: a field that comes twice is an error here (`Sig` apart),
and so is a byte outside ASCII. More lenient in what real caches get wrong: a missing last
newline, CRLF, blank lines and ``References:`` without a blank are read as they are meant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from nixfetch.errors import FormatError
from nixfetch.formats.contentaddress import ContentAddress
from nixfetch.formats.hashes import Hash
from nixfetch.formats.signing import Signature
from nixfetch.formats.storepath import StorePath

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

MAX_SIZE = 2 * 1024 * 1024  # bytes; the largest real one seen has 208 KB
MAX_LINES = 1000  # real ones have less than 20; each costs memory
MAX_NUMBER = 2**64 - 1  # sizes are u64
MAX_DIGITS = 20  # decimal digits of MAX_NUMBER
_UNKNOWN_DERIVER = "unknown-deriver"  # what old Nix wrote for "none"
_DEFAULT_COMPRESSION = "bzip2"  # what Nix assumes when the field is missing or empty
_KNOWN = frozenset(
    {
        "StorePath",
        "URL",
        "Compression",
        "FileHash",
        "FileSize",
        "NarHash",
        "NarSize",
        "References",
        "Deriver",
        "CA",
    }
)


class NarInfoError(FormatError):
    """The bytes are not a usable narinfo. Carries `line`, from 1, and `field` where known."""

    what = "narinfo"


@dataclass(frozen=True, slots=True, kw_only=True)
class NarInfo:
    """A cache's claim about one store path. Sizes are bytes."""

    # Covered by the signatures.
    path: StorePath
    nar_hash: Hash
    """Of the uncompressed NAR."""
    nar_size: int
    references: tuple[StorePath, ...] = ()
    """Ascending, each once; may hold `path` itself."""
    signatures: tuple[Signature, ...] = ()

    # NOT covered by any signature: whoever runs the cache may write here what he likes.
    url: str
    compression: str = _DEFAULT_COMPRESSION
    file_hash: Hash | None = None
    """Of the file as it is downloaded; Nix never checks it."""
    file_size: int | None = None
    deriver: StorePath | None = None
    ca: ContentAddress | None = None
    """Needs no signature: `ContentAddress.is_address_of` proves or refutes it."""
    extra: tuple[tuple[str, str], ...] = ()
    """Fields that we do not know (and the old `System`), as they stood."""
    raw: bytes = field(default=b"", compare=False, repr=False)
    """What was parsed, byte for byte; empty for a narinfo that we made."""

    @classmethod
    def parse(cls, raw: bytes) -> NarInfo:
        """Read a narinfo.

        Args:
            raw: the whole file, at most `MAX_SIZE` bytes.

        Raises:
            NarInfoError: too large, not ASCII, a line without a colon, a required field
                that is missing or empty, a field that comes twice, a bad number; any malformed
                path, hash or signature inside is its `__cause__`.

        Source: nix, src/libstore/nar-info.cc, `NarInfo::NarInfo`.
        """
        fields = _Fields.read(raw)
        required, optional = fields.required, fields.optional
        return cls(
            path=required("StorePath", StorePath.parse_full),
            url=required("URL", str),
            compression=optional("Compression", str) or _DEFAULT_COMPRESSION,
            file_hash=optional("FileHash", Hash.parse),
            file_size=optional("FileSize", _number),
            nar_hash=required("NarHash", Hash.parse),
            nar_size=required("NarSize", _positive),
            references=optional("References", _references) or (),
            deriver=optional("Deriver", _deriver),
            signatures=tuple(fields.signatures),
            ca=optional("CA", ContentAddress.parse),
            extra=tuple(fields.extra),
            raw=raw,
        )

    def fingerprint(self) -> bytes:
        """The message that every signature of this narinfo signs.

        Source: nix, src/libstore/path-info.cc, `ValidPathInfo::fingerprint`.
        """
        references = ",".join(map(str, self.references))
        return f"1;{self.path};{self.nar_hash};{self.nar_size};{references}".encode()

    def render(self) -> bytes:
        """The narinfo in the order and form in which Nix writes it, unknown fields last.

        Equal to `raw` when Nix wrote that.

        Source: nix, src/libstore/nar-info.cc, `NarInfo::to_string`.
        """
        lines = [("StorePath", str(self.path)), ("URL", self.url)]
        lines.append(("Compression", self.compression))
        if self.file_hash is not None:
            lines.append(("FileHash", str(self.file_hash)))
        if self.file_size is not None:
            lines.append(("FileSize", str(self.file_size)))
        lines.append(("NarHash", str(self.nar_hash)))
        lines.append(("NarSize", str(self.nar_size)))
        lines.append(("References", " ".join(path.base for path in self.references)))
        if self.deriver is not None:
            lines.append(("Deriver", self.deriver.base))
        lines += [("Sig", text) for text in sorted(map(str, self.signatures))]
        if self.ca is not None:
            lines.append(("CA", str(self.ca)))
        lines += self.extra
        return "".join(f"{name}: {value}\n" for name, value in lines).encode()


@dataclass(slots=True)
class _Fields:
    """The lines of a narinfo, told apart but not yet understood."""

    values: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Known fields: the number of the line, the text."""
    signatures: list[Signature] = field(default_factory=list)
    extra: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, raw: bytes) -> _Fields:
        fields = cls()
        for number, line in enumerate(_text(raw).split("\n"), start=1):
            line = line.removesuffix("\r")  # noqa: PLW2901 - the same line without its CR
            if not line:
                continue
            name, colon, value = line.partition(":")
            if not colon:
                raise NarInfoError("line has no colon", line=number, text=line[:80])
            fields._take(number, name, value.removeprefix(" "))
        return fields

    def _take(self, number: int, name: str, value: str) -> None:
        if name == "Sig":
            self.signatures.append(_converted(number, name, value, Signature.parse))
        elif name not in _KNOWN:
            self.extra.append((name, value))
        elif name in self.values:
            raise NarInfoError("field comes twice", field=name, line=number)
        else:
            self.values[name] = number, value

    def required(self, name: str, convert: Callable[[str], _T]) -> _T:
        number, value = self.values.get(name, (None, ""))
        if not value:
            problem = "required field is missing" if number is None else "required field is empty"
            raise NarInfoError(problem, field=name)
        return _converted(number, name, value, convert)

    def optional(self, name: str, convert: Callable[[str], _T]) -> _T | None:
        number, value = self.values.get(name, (None, ""))
        if not value:
            if name == "Deriver" and number is not None:
                raise NarInfoError("field is empty", field=name, line=number)
            return None
        return _converted(number, name, value, convert)


def _text(raw: bytes) -> str:
    if len(raw) > MAX_SIZE:
        raise NarInfoError("narinfo is too large", bytes=len(raw), limit=MAX_SIZE)
    if raw.lstrip()[:1] == b"<":
        raise NarInfoError(
            "this is HTML, not a narinfo",
            hint="a proxy or a log-in page answers in place of the cache",
        )
    if raw.count(b"\n") > MAX_LINES:
        raise NarInfoError("narinfo has too many lines", limit=MAX_LINES)
    if b"\0" in raw or not raw.isascii():
        raise NarInfoError("narinfo holds bytes that are not ASCII text")
    return raw.decode("ascii")


def _converted(number: int | None, name: str, value: str, convert: Callable[[str], _T]) -> _T:
    try:
        return convert(value)
    except FormatError as error:
        known = {"field": name, "line": number, **error.facts}
        raise NarInfoError(error.problem, hint=error.hint, **known) from error


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > MAX_DIGITS or int(text) > MAX_NUMBER:
        raise NarInfoError("expected a decimal number of at most 64 bits", text=text[:80])
    return int(text)


def _positive(text: str) -> int:
    number = _number(text)
    if number == 0:
        raise NarInfoError("expected a number above zero", text=text)
    return number


def _references(text: str) -> tuple[StorePath, ...]:
    return tuple(sorted({StorePath.parse(word) for word in text.split(" ") if word}))


def _deriver(text: str) -> StorePath | None:
    return None if text == _UNKNOWN_DERIVER else StorePath.parse(text)
