"""One HTTP request from inside the sandbox, through its proxy like anything else there.

Runs in a child of pid 1 as the sandbox's user: it has no way out but the proxy either, and trusts
the sandbox's bundle. It never follows a redirect: what is asked for is what is governed.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

from apps.common.frames import encode_frame
from apps.sandboxes.harness import places

_PROXY_ADDRESS = "127.0.0.1"
_CHUNK = 64 * 1024


def preload() -> None:
    """Import and initialise, before the fork, what a request would load from the host's disk."""
    "preload".encode("idna")
    ssl.create_default_context()
    http.client.HTTPSConnection("preload.invalid", 443)


def run(request: dict[str, Any]) -> None:
    """`url`, `method`, `headers` ([[name, value]]), `max_bytes`, `timeout` (s); body on stdin.

    Answers a frame {status, reason, headers, truncated} and the body's bytes, or {error, message}.
    """
    try:
        head, body = _fetch(request)
    except (OSError, http.client.HTTPException, ValueError) as error:
        head, body = _failure(error), b""
    for part in (encode_frame(head), body):
        view = memoryview(part)
        while view:
            view = view[os.write(1, view) :]


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, TimeoutError):
        return {"error": "fetch_timeout", "message": "no complete answer in time"}
    name = type(error).__name__
    return {"error": "fetch_failed", "message": f"{name}: {error}"[:500]}


def _fetch(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    parts = urlsplit(request["url"])
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    timeout = request["timeout"]
    if parts.scheme == "https":
        connection, refusal = _tunnel(host, port, timeout)
        if refusal is not None:
            return _read(refusal, request["max_bytes"])
    else:
        connection = http.client.HTTPConnection(_PROXY_ADDRESS, places.here().port, timeout=timeout)
        path = f"http://{parts.netloc.rpartition('@')[2]}{path}"
    with open(0, "rb", closefd=False) as file:
        body = file.read()
    connection.putrequest(request["method"], path, skip_host=True, skip_accept_encoding=True)
    _put_headers(connection, request["headers"], parts.netloc.rpartition("@")[2], body)
    connection.endheaders(body or None)
    return _read(connection.getresponse(), request["max_bytes"])


def _put_headers(
    connection: http.client.HTTPConnection, headers: list[list[str]], host: str, body: bytes
) -> None:
    """The caller's headers, but for those that frame the message: they are ours."""
    ours = {"host", "content-length", "transfer-encoding", "connection"}
    connection.putheader("Host", host)
    connection.putheader("Connection", "close")
    if body:
        connection.putheader("Content-Length", str(len(body)))
    for name, value in headers:
        if name.lower() not in ours:
            connection.putheader(name, value)


def _tunnel(
    host: str, port: int, timeout: float
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse | None]:
    """A connection inside TLS through CONNECT, or the proxy's refusal."""
    raw = socket.create_connection((_PROXY_ADDRESS, places.here().port), timeout=timeout)
    name = f"[{host}]" if ":" in host else host.encode("idna").decode()
    authority = f"{name}:{port}"
    raw.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode("ascii"))
    response = http.client.HTTPResponse(raw, method="CONNECT")
    response.begin()
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    if response.status != 200:
        return connection, response
    context = ssl.create_default_context(cafile=places.here().bundle)
    connection.sock = context.wrap_socket(raw, server_hostname=host)
    return connection, None


def _read(response: http.client.HTTPResponse, limit: int) -> tuple[dict[str, Any], bytes]:
    """At most `limit` bytes of the body; what is more is cut off, and said."""
    body = bytearray()
    while len(body) <= limit:
        chunk = response.read(min(_CHUNK, limit + 1 - len(body)))
        if not chunk:
            break
        body += chunk
    if len(body) <= limit and response.length:  # `read` with a size does not tell
        raise http.client.IncompleteRead(bytes(body), response.length)
    head = {
        "status": response.status,
        "reason": response.reason,
        "headers": [[name, value] for name, value in response.getheaders()],
        "truncated": len(body) > limit,
    }
    return head, bytes(body[:limit])
