"""HTTP/1.1 on sockets: what `http` sends its requests with.

    adapter      httpx's requests and responses; the one module that knows httpx
    pool         connections that are kept, as many as are allowed
    connection   one connection: a request out, an answer in; the waiting is measured here
    dial         a server's name to a connection: proxies, TLS
    sockets      a name to a socket: addresses, the deadline
    proxies      what the environment says of proxies; no sockets
    head, framing   bytes to values; no sockets

Ours because of three things: a remote that drips bytes, floods us with interim answers or never
ends its handshake must be bounded where the waiting is; a request costs a third of what it costs
through httpcore and h11; and bodies come in the pieces that the kernel gives.
"""
