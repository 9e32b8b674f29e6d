"""Whom we believe over TLS. Knows certificates; knows nothing of HTTP.

Reading a machine's certificate authorities takes 20 ms and more, and a cache over plain HTTP,
a directory or a refused path never needs them. So they are read at the first handshake. Until
then the context believes nobody: forgetting to load them could only refuse.
"""

from __future__ import annotations

import ssl
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from nixfetch.errors import TransportError
from nixfetch.transport import causes

if TYPE_CHECKING:
    from collections.abc import Callable


class CertificateFileError(TransportError):
    """The file of certificate authorities is missing or is not one."""


class LazyTrust(ssl.SSLContext):
    """A client's TLS context that reads its certificate authorities when it is first used.

    Args:
        ca_file: PEM file of the authorities to believe; None: those of this machine, or the
            bundled ones (certifi) where the machine has none.
        certificate: PEM file of the certificate that says who we are, and its chain.
        key: PEM file of its key, where that is another one.
        machine: says where OpenSSL looks for the machine's.
    """

    _ca_file: str | None
    _identity: tuple[str, str | None] | None
    _machine: Callable[[], ssl.DefaultVerifyPaths]
    _lock: Lock
    _loaded: bool

    def __new__(
        cls,
        ca_file: str | None = None,
        *,
        certificate: str | None = None,
        key: str | None = None,
        machine: Callable[[], ssl.DefaultVerifyPaths] = ssl.get_default_verify_paths,
    ) -> Self:
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context._ca_file = ca_file
        context._identity = (certificate, key) if certificate is not None else None
        # Python's own lowest, said again: a machine's openssl.cnf may say less.
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context._machine = machine
        context._lock = Lock()
        context._loaded = False
        return context

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        self._load()
        return super().wrap_socket(*args, **kwargs)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        self._load()
        return super().wrap_bio(*args, **kwargs)

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            if self._ca_file is not None:
                self._load_file(self._ca_file)
            elif (paths := self._machine()).cafile or paths.capath:
                self.load_default_certs()
            else:
                import certifi

                self._load_file(certifi.where())
            if self._identity is not None:
                self._load_identity(*self._identity)
            self._loaded = True

    def _load_identity(self, certificate: str, key: str | None) -> None:
        try:
            # Asking for a password would stop a run that nobody watches.
            self.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise CertificateFileError(
                "cannot use the client certificate",
                file=certificate,
                key=key,
                reason=_identity_problem(error),
                hint="both are PEM files, and the key has no password",
            ) from error

    def _load_file(self, ca_file: str) -> None:
        try:
            self.load_verify_locations(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise CertificateFileError(
                "cannot read the certificate authorities",
                file=ca_file,
                reason=error.strerror or "not a PEM file of certificates",
                hint="see NIX_SSL_CERT_FILE, SSL_CERT_FILE and ssl-cert-file",
            ) from error


def _identity_problem(error: OSError | ValueError) -> str:
    match error:
        case ssl.SSLError(reason="KEY_VALUES_MISMATCH"):
            return "the key is another certificate's"
        case ssl.SSLError():
            return "not PEM files of a certificate and its key"
        case _:
            return causes.reason(error)


def _no_password() -> str:
    raise ValueError("the key has a password")
