"""The JSON of `nix path-info --json`, in both of its formats.

    format 1    {"/nix/store/<base>": INFO or null, …}
    format 2    {"info": {"<base>": INFO or null, …}, "storeDir": …, "version": 2}

In format 2 paths within INFO are base names, and a content address is an object.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.storepath import STORE_DIR, StorePath

if TYPE_CHECKING:
    from nixfetch.report.info import PathInfo
    from nixfetch.report.survey import ClosureSize, Survey

_METHODS = {
    Method.FLAT: "flat",
    Method.RECURSIVE: "nar",
    Method.TEXT: "text",
    Method.GIT: "git",
}


class JsonFormat(IntEnum):
    """The argument of Nix's ``--json-format``."""

    ONE = 1
    TWO = 2


def document(report: Survey, json_format: JsonFormat = JsonFormat.ONE) -> dict[str, Any]:
    """What `nix path-info --json --json-format N` prints.

    A path that is not there is null, as is one whose closure was to be measured and is not
    there; a path about which we could not find out is no key at all.

    Source: nix 2.34, src/nix/path-info.cc, `pathInfoToJSON`; src/libstore/path-info.cc and
    src/libstore/nar-info.cc, `toJSON`.
    """
    name = _Namer(json_format)
    infos: dict[str, Any] = {name(path): None for path in report.missing}
    for info in report.listed:
        infos[name(info.path)] = _info(info, report.closures.get(info.path), name)
    if json_format is JsonFormat.ONE:
        return infos
    return {"info": infos, "storeDir": STORE_DIR, "version": 2}


class _Namer:
    """Writes a path as the format wants it."""

    def __init__(self, json_format: JsonFormat) -> None:
        self.format = json_format

    def __call__(self, path: StorePath) -> str:
        return str(path) if self.format is JsonFormat.ONE else path.base


def _info(info: PathInfo, closure: ClosureSize | None, name: _Namer) -> dict[str, Any]:
    value: dict[str, Any] = {
        "ca": None if info.ca is None else _content_address(info.ca, name.format),
        "deriver": None if info.deriver is None else name(info.deriver),
        "narHash": info.nar_hash.sri,
        "narSize": info.nar_size,
        "references": [name(path) for path in info.references],
        "registrationTime": info.registered,
        "signatures": list(map(str, info.signatures)),
        "storeDir": STORE_DIR,
        "ultimate": info.ultimate,
        "version": int(name.format),
    }
    if info.download is not None:
        value["url"] = info.download.url
        value["compression"] = info.download.compression
        if info.download.hash is not None:
            value["downloadHash"] = info.download.hash.sri
        if info.download.size:  # Nix takes 0 for "not said"
            value["downloadSize"] = info.download.size
    if closure is not None:
        value["closureSize"] = closure.nar
        if closure.download is not None:
            value["closureDownloadSize"] = closure.download
    return value


def _content_address(ca: ContentAddress, json_format: JsonFormat) -> str | dict[str, str]:
    if json_format is JsonFormat.ONE:
        return str(ca)
    return {"hash": ca.hash.sri, "method": _METHODS[ca.method]}
