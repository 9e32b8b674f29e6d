"""References of images: ``nix:0/nix/store/…`` and those of registries. Knows no network.

The grammar is Docker's, for kubelet reads every reference by it before anybody else does:

    reference ::= [domain "/"] path [":" tag] ["@" digest]
    path      ::= component ("/" component)*
    component ::= alphanumeric (separator alphanumeric)*
    separator ::= "." | "_" | "__" | "-"+                alphanumeric ::= [a-z0-9]+

A store path is an image under the host ``nix``, port 0. Its name may have what no component has:
upper case, ``+ ? =``, several separators side by side, one at the end. Such characters are
written ``__`` and their two hexadecimal digits:

    /nix/store/<hash>-gtk+3-3.24      nix:0/nix/store/<hash>-gtk__2b3-3.24
    /nix/store/<hash>-R-4.3           nix:0/nix/store/<hash>__2d__52-4.3

The second one shows that a separator before an escape is escaped too, for no two may stand side by
side; so is the first of ``__`` in a name. What is read is an escape only where this very text is
what the path would be written as; all else is the name as it stands, as nix-snapshotter reads it.
Hence every path that fits has one written form, and that is read as the path it was written for.

Source: distribution, reference/reference.go, regexp.go and normalize.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

import nixfetch
from snapshotter.errors import InvalidArgumentError

NIX_HOST: Final = "nix:0"
LATEST: Final = "latest"
DOCKER_HUB: Final = "docker.io"
MAX_REPOSITORY = 255  # characters of host and path; Docker's limit
MAX_REFERENCE = 1024  # characters; a repository, a tag of 128 and a digest of 140 are far below
_LEGACY_HUB = "index.docker.io"
_HUB_ENDPOINT = "registry-1.docker.io"
_OFFICIAL = "library/"
_SHOWN = 300  # characters of a bad reference in a message

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_DIGEST = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}\Z")
_RUN = re.compile(r"[^a-z0-9]+")
_SEPARATOR = re.compile(r"(?:\.|_|-+)\Z")  # less "__", which begins an escape
_ESCAPE = re.compile(r"__([0-9a-f]{2})")
_NIX_HINT = "an image of the store is nix:0/nix/store/HASH-NAME, as `image ref PATH` writes it"
_HINT = (
    "a reference is [HOST[:PORT]/]NAME[:TAG][@DIGEST]; a NAME has lower-case letters and digits,"
    " with single . _ or dashes between them"
)


class ImageReferenceError(InvalidArgumentError):
    """The text is no reference of an image."""


@dataclass(frozen=True, slots=True)
class NixReference:
    """A store path, as an image."""

    path: nixfetch.StorePath
    digest: str | None = None
    """The manifest that the image has to have, where the reference says so."""

    def __str__(self) -> str:
        return f"{self.repository}:{LATEST}" + (f"@{self.digest}" if self.digest else "")

    @property
    def repository(self) -> str:
        """The reference without tag and digest.

        Raises:
            ImageReferenceError: the name is too long for a reference.
        """
        text = f"{NIX_HOST}{nixfetch.STORE_DIR}/{_escaped(self.path.base)}"
        if len(text) > MAX_REPOSITORY:
            raise ImageReferenceError(
                "store path has too long a name for a reference",
                path=self.path,
                length=len(text),
                limit=MAX_REPOSITORY,
                hint="build an image with a shorter name from it: `image build … --name NAME`",
            )
        return text


@dataclass(frozen=True, slots=True)
class RegistryReference:
    """An image of a registry. Without a tag and a digest, all tags of a repository."""

    host: str
    """With its port; ``docker.io`` where none was named."""
    repository: str
    """Its path there; official images of Docker's have ``library/`` before their name."""
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        """Host and path."""
        return f"{self.host}/{self.repository}"

    @property
    def endpoint(self) -> str:
        """The host, with its port, that answers for `host`."""
        return _HUB_ENDPOINT if self.host == DOCKER_HUB else self.host

    @property
    def wanted(self) -> str:
        """What a registry is asked for: the digest, for it is the surer of the two, or the tag."""
        return self.digest or self.tag or LATEST

    def with_tag(self) -> RegistryReference:
        """The same, with the tag ``latest`` where there is neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=LATEST)


Reference = NixReference | RegistryReference


def parse(text: str) -> Reference:
    """Read a reference, as users, kubelet or containerd give it.

    Raises:
        ImageReferenceError: it is none. Says what is wrong, and what is allowed.
    """
    if len(text) > MAX_REFERENCE:
        raise ImageReferenceError("reference is too long", length=len(text), limit=MAX_REFERENCE)
    if text.startswith(f"{NIX_HOST}/"):  # without the slash: tag 0 of the image `nix`
        return _nix(text)
    return parse_registry(text)


def parse_registry(text: str) -> RegistryReference:
    """Read the reference of an image in a registry.

    Returns:
        With the host and the ``library/`` that stand for Docker's own, and without a tag where
        none was said: see `RegistryReference.with_tag`.

    Raises:
        ImageReferenceError: it is none.
    """
    shown = text[:_SHOWN]
    if len(text) > MAX_REFERENCE:
        raise ImageReferenceError("reference is too long", length=len(text), limit=MAX_REFERENCE)
    if _IMAGE_ID.match(text):
        raise ImageReferenceError(
            "that is the ID of an image, not a reference", text=shown, hint=_HINT
        )
    rest, digest = _cut_digest(text)
    rest, tag = _cut_tag(rest)
    host, path = _cut_host(rest)
    if not _HOST.match(host):
        raise ImageReferenceError(
            "reference has a bad host", text=shown, host=host[:_SHOWN], hint=_HINT
        )
    if not _PATH.match(path):
        raise ImageReferenceError(_why_no_path(path), text=shown, name=path[:_SHOWN], hint=_HINT)
    found = RegistryReference(host, path, tag, digest)
    if len(found.name) > MAX_REPOSITORY:
        raise ImageReferenceError(
            "reference has too long a name", length=len(found.name), limit=MAX_REPOSITORY
        )
    return found


def is_digest(text: str) -> bool:
    """Whether `text` is ``sha256:`` or ``sha512:`` and the hexadecimal digits."""
    return _DIGEST.match(text) is not None


def _nix(text: str) -> NixReference:
    shown = text[:_SHOWN]
    rest, digest = _cut_digest(text)
    name, tag = _cut_tag(rest)
    if tag not in {None, LATEST}:
        raise ImageReferenceError(
            "an image of the store has no tag but latest", text=shown, tag=tag, hint=_NIX_HINT
        )
    path = name.removeprefix(NIX_HOST)
    base = path.removeprefix(f"{nixfetch.STORE_DIR}/")
    if base == path:
        raise ImageReferenceError("not in the store directory", text=shown, hint=_NIX_HINT)
    try:
        return NixReference(nixfetch.StorePath.parse(_unescaped(base)), digest)
    except nixfetch.FormatError as error:
        raise ImageReferenceError(error.problem, text=shown, hint=_NIX_HINT) from error


def _cut_digest(text: str) -> tuple[str, str | None]:
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise ImageReferenceError(
            "reference has a bad digest",
            text=text[:_SHOWN],
            hint="a digest is sha256: and 64 hexadecimal digits in lower case",
        )
    return rest, digest or None


def _cut_tag(text: str) -> tuple[str, str | None]:
    """A colon behind the last slash begins a tag; in ``HOST:PORT/`` it does not."""
    slash = text.rfind("/")
    colon = text.rfind(":")
    if colon <= slash:
        return text, None
    tag = text[colon + 1 :]
    if not _TAG.match(tag):
        raise ImageReferenceError(
            "reference has a bad tag",
            text=text[:_SHOWN],
            tag=tag[:_SHOWN],
            hint="a tag has up to 128 letters, digits, . _ and -, and begins with none of . and -",
        )
    return text[:colon], tag


def _cut_host(text: str) -> tuple[str, str]:
    """The first part is a host where it looks like one, or has what no path may have."""
    first, slash, rest = text.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    if is_host or (slash and first != first.lower()):
        host, path = first, rest
    else:
        host, path = DOCKER_HUB, text
    host = DOCKER_HUB if host == _LEGACY_HUB else host
    if host == DOCKER_HUB and "/" not in path:
        path = _OFFICIAL + path
    return host, path


def _why_no_path(path: str) -> str:
    if not path or path == _OFFICIAL:
        return "reference has no name"
    if path != path.lower():
        return "reference has upper case in its name"
    return "reference has a name that is not allowed"


def _escaped(base: str) -> str:
    """The base name of a store path as one component."""
    return "".join(_pieces(base))


def _pieces(base: str) -> list[str]:
    done, pieces = 0, []
    for run in _RUN.finditer(base):
        pieces.append(base[done : run.start()])
        # The hash part begins every base name: what ends a run may be a separator, but at the end.
        last = _SEPARATOR.search(run[0]) if run.end() < len(base) else None
        plain = last[0] if last else ""
        pieces += [f"__{ord(each):02x}" for each in run[0].removesuffix(plain)]
        pieces.append(plain)
        done = run.end()
    return [*pieces, base[done:]]


def _unescaped(component: str) -> str:
    """The base name that `component` was written for, or `component` itself."""
    base = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), component)
    return base if _escaped(base) == component else component
