"""The shapes; that they are Nix's is shown in tests/differential/test_path_info.py."""

from __future__ import annotations

import pytest

from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.hashes import Hash, sha256
from nixfetch.formats.signing import Signature
from nixfetch.report import ClosureSize, Download, JsonFormat, PathInfo, Survey, document
from simulated_cache import store_path

A, B, DRV = store_path("a"), store_path("b"), store_path("a.drv")
EMPTY = sha256(b"")
IN_CACHE = PathInfo(
    path=A,
    nar_hash=EMPTY,
    nar_size=5,
    references=(A, B),
    signatures=(Signature("k", b"\0"),),
    deriver=DRV,
    download=Download("nar/x.xz", "xz", EMPTY, 3),
)
IN_STORE = PathInfo(
    path=B,
    nar_hash=EMPTY,
    nar_size=7,
    references=(),
    signatures=(),
    ca=ContentAddress(Method.TEXT, EMPTY),
    registered=9,
    ultimate=True,
)


def survey(*listed: PathInfo, sizes: ClosureSize | None = None) -> Survey:
    closures = {info.path: sizes for info in listed if sizes is not None}
    return Survey(listed=listed, closures=closures, missing=(), failures=())


def test_format_1_of_a_cache() -> None:
    assert document(survey(IN_CACHE, sizes=ClosureSize(50, 30))) == {
        str(A): {
            "ca": None,
            "closureDownloadSize": 30,
            "closureSize": 50,
            "compression": "xz",
            "deriver": str(DRV),
            "downloadHash": EMPTY.sri,
            "downloadSize": 3,
            "narHash": EMPTY.sri,
            "narSize": 5,
            "references": [str(A), str(B)],
            "registrationTime": None,
            "signatures": ["k:AA=="],
            "storeDir": "/nix/store",
            "ultimate": False,
            "url": "nar/x.xz",
            "version": 1,
        }
    }


def test_format_2_of_a_store() -> None:
    assert document(survey(IN_STORE, sizes=ClosureSize(7, None)), JsonFormat.TWO) == {
        "info": {
            B.base: {
                "ca": {"hash": EMPTY.sri, "method": "text"},
                "closureSize": 7,
                "deriver": None,
                "narHash": EMPTY.sri,
                "narSize": 7,
                "references": [],
                "registrationTime": 9,
                "signatures": [],
                "storeDir": "/nix/store",
                "ultimate": True,
                "version": 2,
            }
        },
        "storeDir": "/nix/store",
        "version": 2,
    }


def test_format_2_writes_base_names() -> None:
    info = document(survey(IN_CACHE), JsonFormat.TWO)["info"][A.base]
    assert (info["references"], info["deriver"]) == ([A.base, B.base], DRV.base)


def test_what_a_cache_does_not_say_is_left_out() -> None:
    info = PathInfo(
        path=A,
        nar_hash=EMPTY,
        nar_size=5,
        references=(),
        signatures=(),
        download=Download("nar/x", "none", None, 0),
    )
    value = document(survey(info))[str(A)]
    assert not {"downloadHash", "downloadSize", "closureSize", "closureDownloadSize"} & set(value)


@pytest.mark.parametrize(
    ("json_format", "key"), [(JsonFormat.ONE, str(B)), (JsonFormat.TWO, B.base)]
)
def test_missing_is_null(json_format: JsonFormat, key: str) -> None:
    report = Survey(listed=(IN_CACHE,), closures={}, missing=(B,), failures=())
    value = document(report, json_format)
    infos = value if json_format is JsonFormat.ONE else value["info"]
    assert infos[key] is None
    assert len(infos) == 2


@pytest.mark.parametrize(
    ("method", "one", "two"),
    [
        (Method.FLAT, "fixed:sha256:", "flat"),
        (Method.RECURSIVE, "fixed:r:sha256:", "nar"),
        (Method.TEXT, "text:sha256:", "text"),
        (Method.GIT, "fixed:git:sha256:", "git"),
    ],
)
def test_content_addresses(method: Method, one: str, two: str) -> None:
    digest = Hash("sha256", bytes(32))
    info = PathInfo(
        path=A,
        nar_hash=EMPTY,
        nar_size=5,
        references=(),
        signatures=(),
        ca=ContentAddress(method, digest),
    )
    assert document(survey(info))[str(A)]["ca"] == one + digest.base32
    ca = document(survey(info), JsonFormat.TWO)["info"][A.base]["ca"]
    assert ca == {"hash": digest.sri, "method": two}
