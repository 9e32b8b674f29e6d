"""A store, or a cache directory, as a read-only binary cache over HTTP.

with LocalStore(root, read_only=True) as store:
    with make_server(StoreSource(store), Address("127.0.0.1", 5000)) as server:
        print(server.url)
        server.serve_forever()
"""

from __future__ import annotations

from nixfetch.serve.address import Address, AddressError
from nixfetch.serve.directory import DirectorySource
from nixfetch.serve.objects import Object, Source
from nixfetch.serve.server import Limits, ListenError, Server, make_server
from nixfetch.serve.store import StoreSource

__all__ = (
    "Address",
    "AddressError",
    "DirectorySource",
    "Limits",
    "ListenError",
    "Object",
    "Server",
    "Source",
    "StoreSource",
    "make_server",
)
