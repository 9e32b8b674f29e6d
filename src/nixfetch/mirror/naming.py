"""What a NAR is called in a mirror. Text in, text out.

Nobody signs the URL of a narinfo: a cache could name the narinfo of another path there, or
anything else that a mirror holds. So a URL is kept, and the narinfo with it byte for byte, where
it is one file below ``nar/``; else the NAR gets the name that Nix would give it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import zstandard

from nixfetch.transport.urls import UrlError, segments

if TYPE_CHECKING:
    from nixfetch.formats.narinfo import NarInfo

FOLDER = "nar"
_USUAL = re.compile(r"nar/[0-9A-Za-z+_=-][0-9A-Za-z.+_=-]{0,200}")
_EXTENSIONS = {
    "none": "",
    "xz": ".xz",
    "bzip2": ".bz2",
    "zstd": ".zst",
    "gzip": ".gz",
    "br": ".br",
    "lzip": ".lz",
    "lz4": ".lz4",
    "lzma": ".lzma",
}


def keeps_url(info: NarInfo) -> bool:
    """Whether the URL of `info` can be that of its NAR in a mirror."""
    return _USUAL.fullmatch(info.url) is not None


def names_content(info: NarInfo) -> bool:
    """Whether the URL of `info` says what the file holds: two files have not the same one."""
    return info.file_hash is not None and info.file_hash.base32 in info.url


def usual_name(info: NarInfo) -> str:
    """The name that Nix gives to the file of `info`; that of its NAR where no hash is known.

    Source: nix, src/libstore/binary-cache-store.cc, `addToStoreCommon`.
    """
    extension = _EXTENSIONS.get(info.compression, f".{info.compression}")
    digest = info.nar_hash if info.file_hash is None else info.file_hash
    return f"{FOLDER}/{digest.base32}.nar{extension}"


def seekable_name(info: NarInfo, *, level: int) -> str:
    """The name of the NAR of `info`, compressed anew: the same name is the same bytes.

    It is known before the first of them, so not made of their hash.
    """
    library = "".join(map(str, zstandard.ZSTD_VERSION))
    return f"{FOLDER}/{info.nar_hash.base32}-{library}-{level}.nar.zst"


def object_name(url: str) -> str | None:
    """The name of the object that the URL of a narinfo leads to; None: it leads elsewhere."""
    try:
        return "/".join(map(os.fsdecode, segments(url)))
    except UrlError:
        return None


def hash_part_of(name: str) -> str | None:
    """The hash part of the path that the narinfo `name` is about; None: it is no narinfo."""
    part, dot, kind = name.partition(".")
    is_narinfo = dot and kind == "narinfo" and _HASH_PART.fullmatch(part)
    return part if is_narinfo else None


_HASH_PART = re.compile(r"[0-9a-df-np-sv-z]{32}")
