"""sandboxd's HTTP/1.1 API on a Unix socket: JSON in, JSON out, one thread a connection.

Who may connect is asked of the kernel (SO_PEERCRED), not of the caller. What a caller sends is
bounded and checked here; what it asks to be *done with it* happens inside a sandbox.
"""

from __future__ import annotations

import json
import re
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from apps.common.errors import IsolationUnavailable, LensError
from apps.sandboxes.harness import operations
from apps.sandboxes.harness.manager import Manager, complain
from apps.sandboxes.harness.runner import ClientGoneError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BODY = 48 * 1024 * 1024
_IDLE_SECONDS = 60
_MAX_CONNECTIONS = 512

Handler = Callable[[Manager, operations.Call], dict[str, Any]]

_ID = r"(?P<id>[A-Za-z0-9][A-Za-z0-9-]{0,63})"
ROUTES: tuple[tuple[str, str, int, Handler], ...] = (
    ("GET", r"/v1/health", 200, operations.health),
    ("GET", r"/v1/sandboxes", 200, operations.list_all),
    ("GET", r"/v1/activity", 200, operations.activity),
    ("POST", r"/v1/sandboxes", 201, operations.create),
    ("GET", rf"/v1/sandboxes/{_ID}", 200, operations.show),
    ("DELETE", rf"/v1/sandboxes/{_ID}", 200, operations.delete),
    ("PUT", rf"/v1/sandboxes/{_ID}/bundle", 200, operations.put_bundle),
    ("POST", rf"/v1/sandboxes/{_ID}/cut", 200, operations.cut),
    ("POST", rf"/v1/sandboxes/{_ID}/exec", 200, operations.execute),
    ("POST", rf"/v1/sandboxes/{_ID}/files/read", 200, operations.read_file),
    ("POST", rf"/v1/sandboxes/{_ID}/files/write", 200, operations.write_file),
    ("POST", rf"/v1/sandboxes/{_ID}/files/list", 200, operations.list_files),
    ("POST", rf"/v1/sandboxes/{_ID}/fetch", 200, operations.fetch),
)
_COMPILED = tuple((method, re.compile(path), status, to) for method, path, status, to in ROUTES)


class _BadRequestError(LensError):
    code = "bad_request"
    status = 400


class _Connection(BaseHTTPRequestHandler):
    """Requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    server_version = "sandboxd"
    sys_version = ""
    timeout = _IDLE_SECONDS
    wbufsize = -1  # one write an answer
    server: Server

    def do_GET(self) -> None:
        """Any method: find the route, run it, answer."""
        try:
            status, body = self._dispatch()
        except ClientGoneError:
            self.close_connection = True
            return
        except LensError as error:
            status, body = error.status, error_body(error)
        except Exception as error:  # noqa: BLE001 a bug must not end the connection without answer
            complain(f"{self.command} failed: {type(error).__name__}")
            status, body = 500, {"error": "internal", "message": "sandboxd failed; see its log"}
        self._send(status, body)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 the base class looks for these

    def _dispatch(self) -> tuple[int, dict[str, Any]]:
        body = self._body()
        found = [(m, path.fullmatch(self.path), s, to) for m, path, s, to in _COMPILED]
        matching = [(m, match, s, to) for m, match, s, to in found if match]
        for method, match, status, handler in matching:
            if method == self.command:
                call = operations.Call(match.groupdict().get("id", ""), body, self.connection)
                return status, handler(self.server.manager, call)
        if matching:
            return 405, {"error": "method_not_allowed", "message": self.command}
        return 404, {"error": "no_such_route", "message": "there is no such route"}

    def _body(self) -> dict[str, Any]:
        """The JSON object of the request. What cannot be framed ends the connection."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,9}", length):
            self.close_connection = True
            raise _BadRequestError("the body needs one Content-Length")
        if int(length) > _MAX_BODY:
            self.close_connection = True
            raise _BadRequestError("the body is too large", code="too_large")
        raw = self.rfile.read(int(length))
        if not raw:
            return {}
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise _BadRequestError("the body is not JSON") from error
        if not isinstance(body, dict):
            raise _BadRequestError("the body must be an object")
        return body

    def _send(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body, separators=(",", ":")).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(raw)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the base class's name
        """Nothing: paths and errors of requests are not for the log."""

    def address_string(self) -> str:
        """A Unix peer has no address."""
        return "local"


def error_body(error: LensError) -> dict[str, Any]:
    """The contract's error object."""
    body = {"error": error.error_code, "message": error.message}
    if isinstance(error, IsolationUnavailable):
        body["remedy"] = error.data.get("remedy", "")
    if error.data.get("field"):
        body["field"] = error.data["field"]
    return body


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The listening socket. Peers that are neither root nor the control plane are turned away."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: Path, manager: Manager, allowed: frozenset[int]) -> None:
        self.manager = manager
        self.allowed = allowed
        self._room = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(str(path), _Connection)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 given
        """Ask the kernel who is at the other end."""
        return peer_uid(request) in self.allowed

    def process_request(self, request: Any, client_address: Any) -> None:
        """One thread a connection, up to a bound; beyond it the connection is closed."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve, then make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that goes away in mid-answer is no news."""


def peer_uid(sock: socket.socket) -> int:
    """The user of the process that connected, as the kernel knows it."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return int(uid)
