"""A `direct` tunnel: bytes pass unread, after the ClientHello proved where they go.

No credential, no rules on methods or paths. The tunnel ends when the policy no longer says `direct`
(the line is re-decided at each policy change) and when both sides were silent for `stall` seconds.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from apps.proxy.egress.tls import hello

if TYPE_CHECKING:
    import socket

    from apps.proxy.egress.audit import Record
    from apps.proxy.egress.wire import Wire

_PIECE = 256 * 1024


def read_hello(wire: Wire) -> tuple[bytes, str]:
    """The first TLS record as sent, and the host it names; raises HelloError or as `Wire.some`."""
    header = _exactly(wire, hello.RECORD_HEADER)
    payload = _exactly(wire, hello.record_length(header))
    return header + payload, hello.server_name(payload)


def _exactly(wire: Wire, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        parts += wire.some(count - len(parts))
    return bytes(parts)


def splice(
    client: Wire, upstream: socket.socket, first: bytes, idle: float, record: Record
) -> None:
    """Pass bytes both ways until one side ends or `idle` seconds pass without any."""
    upstream.sendall(first)
    record.bytes_out += len(first)
    if client.pending:
        early = client.some(client.pending)
        upstream.sendall(early)
        record.bytes_out += len(early)
    buffer = memoryview(bytearray(_PIECE))
    poller = select.poll()
    poller.register(client.sock, select.POLLIN)
    poller.register(upstream, select.POLLIN)
    agent = client.sock.fileno()
    while ready := poller.poll(idle * 1000):
        for descriptor, _ in ready:
            outward = descriptor == agent
            source, sink = (client.sock, upstream) if outward else (upstream, client.sock)
            count = source.recv_into(buffer)
            if not count:
                return
            sink.sendall(buffer[:count])
            if outward:
                record.bytes_out += count
            else:
                record.bytes_in += count
