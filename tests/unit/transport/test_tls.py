from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization

from nixfetch.transport.tls import CertificateFileError, LazyTrust
from servers import certified

if TYPE_CHECKING:
    from pathlib import Path

NOWHERE = ssl.DefaultVerifyPaths(None, None, "", "", "", "")  # type: ignore[arg-type]


def handshake(context: ssl.SSLContext) -> ssl.SSLObject:
    return context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="cache.example")


def test_nothing_is_read_before_the_first_handshake(tmp_path: Path) -> None:
    _, ca_file = certified(tmp_path)
    context = LazyTrust(str(ca_file))
    assert context.get_ca_certs() == []
    handshake(context)
    assert len(context.get_ca_certs()) == 1
    ca_file.unlink()
    handshake(context)


def test_who_is_not_checked_is_not_believed() -> None:
    context = LazyTrust()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_machine_without_authorities_believes_the_bundled_ones() -> None:
    context = LazyTrust(machine=lambda: NOWHERE)
    handshake(context)
    assert len(context.get_ca_certs()) > 50


@pytest.mark.skipif(
    ssl.get_default_verify_paths().cafile is None, reason="this machine has no such file"
)
def test_the_machine_is_asked_first() -> None:
    context = LazyTrust()
    handshake(context)
    assert context.get_ca_certs()


# Who we are


def refusal(certificate: Path, key: Path | None = None) -> CertificateFileError:
    context = LazyTrust(certificate=str(certificate), key=None if key is None else str(key))
    with pytest.raises(CertificateFileError) as caught:
        handshake(context)
    assert not caught.value.retryable
    assert caught.value.facts["file"] == str(certificate)
    assert caught.value.hint is not None
    return caught.value


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    _, certificate = certified(tmp_path)
    key = tmp_path / "key.pem"
    missing, garbage, locked = (tmp_path / name for name in ("missing", "garbage", "locked"))
    garbage.write_text("not a certificate")
    locked.write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hush"),
        )
    )
    (tmp_path / "other").mkdir()
    certified(tmp_path / "other")
    reasons = {
        "missing": refusal(missing),
        "key missing": refusal(certificate, missing),
        "garbage": refusal(garbage, key),
        "no key": refusal(certificate),
        "another's key": refusal(certificate, tmp_path / "other/key.pem"),
        "locked": refusal(certificate, locked),
    }
    assert {case: error.facts["reason"] for case, error in reasons.items()} == {
        "missing": "no such file or directory",
        "key missing": "no such file or directory",
        "garbage": "not PEM files of a certificate and its key",
        "no key": "not PEM files of a certificate and its key",
        "another's key": "the key is another certificate's",
        "locked": "the key has a password",
    }
