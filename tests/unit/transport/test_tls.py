from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from nixfetch.transport.tls import LazyTrust
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
