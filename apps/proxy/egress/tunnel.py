"""A `direct` tunnel: bytes pass unread, after the ClientHello proved where they go.

No credential, no rules on methods or paths. The tunnel ends when the policy no longer says `direct`
(the line is re-decided at each policy change) and when both sides were silent for `stall` seconds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from apps.proxy.egress import websocket
from apps.proxy.egress.scrub import NONE
from apps.proxy.egress.tls import hello
from apps.proxy.egress.wire import Wire

if TYPE_CHECKING:
    import socket

    from apps.proxy.egress.audit import Record


def read_hello(wire: Wire, seconds: float) -> tuple[bytes, str]:
    """The first TLS record as sent, and the host it names; raises HelloError or as `Wire.some`.

    No further byte is waited for when `seconds` have passed.
    """
    until = time.monotonic() + seconds
    header = _exactly(wire, hello.RECORD_HEADER, until)
    payload = _exactly(wire, hello.record_length(header), until)
    return header + payload, hello.server_name(payload)


def _exactly(wire: Wire, count: int, until: float) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        if time.monotonic() > until:
            raise TimeoutError
        parts += wire.some(count - len(parts))
    return bytes(parts)


def splice(
    client: Wire, upstream: socket.socket, first: bytes, idle: float, record: Record
) -> None:
    """Pass bytes both ways until one side ends or `idle` seconds pass without any; OSError."""
    upstream.sendall(first)
    try:
        websocket.splice(client, Wire(upstream), NONE, idle, record)
    finally:
        record.bytes_out += len(first)
