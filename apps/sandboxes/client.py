"""The client of sandboxd's HTTP API on its Unix socket. Django-free.

Two faces of one API. `Sandboxd` is synchronous and opens a connection per call: for tasks, which
create, stop and re-bundle sandboxes. `AsyncSandboxd` keeps connections alive: for tool calls, where
a new connection would be most of what we add. The protocol is the small part of HTTP/1.1 that
sandboxd speaks: JSON both ways, `Content-Length` always, never chunked.

A call is never sent twice. A kept connection is looked at before it is used again; if sandboxd goes
away after that, the command may or may not have run, and only the caller can know what to do.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from apps.common import errors

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping
    from pathlib import Path

MAX_HEAD = 16 * 1024
MAX_REPLY = 64 * 1024 * 1024
CONTROL_TIMEOUT = 30.0
IDLE_SECONDS = 10.0
START_SECONDS = 3.0
POLL_SECONDS = 0.05
START_REMEDY = "Start the sandbox service: `manage.py up` runs it, or see docs/install.md."

_KINDS: dict[int, type[errors.LensError]] = {
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.TooLarge,
    503: errors.Unavailable,
}


def failure(status: int, body: Mapping[str, Any]) -> errors.LensError:
    """sandboxd's `{"error", "message", "remedy"?}` with its HTTP status, as one of our errors.

    The code is kept as it came; an unknown status becomes `Invalid` if 4xx and `Upstream` if not.
    """
    code = str(body.get("error") or "sandbox_failed")
    message = str(body.get("message") or body.get("remedy") or code)
    data = {"remedy": str(body["remedy"])} if body.get("remedy") else {}
    if code == errors.IsolationUnavailable.code:
        return errors.IsolationUnavailable(message, **data)
    kind = _KINDS.get(status) or (errors.Invalid if 400 <= status < 500 else errors.Upstream)
    return kind(message, code=code, **data)


def away(error: Exception) -> errors.Unavailable:
    """sandboxd cannot be reached, or went away in the middle of a call."""
    return errors.Unavailable(
        f"the sandbox service did not answer ({type(error).__name__})",
        code="sandboxd_unavailable",
        remedy=START_REMEDY,
    )


def _full() -> errors.Unavailable:
    """sandboxd was not asked: other calls held every connection for the whole time."""
    return errors.Unavailable(
        "Too many calls are under way on this platform; nothing was done.",
        code="sandboxd_busy",
        remedy="Call again in some seconds.",
    )


def _decode(status: int, raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw) if raw else {}
    except ValueError as error:
        raise errors.Upstream("the sandbox service sent no JSON", code="sandbox_failed") from error
    if not isinstance(body, dict):
        raise errors.Upstream("the sandbox service sent no object", code="sandbox_failed")
    if status >= 400:
        raise failure(status, body)
    return body


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection whose transport is a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("sandboxd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Sandboxd:
    """sandboxd for synchronous callers. Raises the errors of `failure` and `away`."""

    def __init__(self, path: Path, *, timeout: float = CONTROL_TIMEOUT) -> None:
        self._path = path
        self._timeout = timeout

    def wait(self, seconds: float) -> None:
        """Return when sandboxd listens, or when the time is over: the next call then says so."""
        deadline = time.monotonic() + seconds
        while not self.listens() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def listens(self) -> bool:
        """Whether somebody listens on its socket."""
        connection = _UnixConnection(self._path, self._timeout)
        try:
            connection.connect()
        except OSError:
            return False
        finally:
            connection.close()
        return True

    def health(self) -> dict[str, Any]:
        """`{"isolation", "layers", "remedy", "sandboxes"}`: what this host can isolate with."""
        return self._call("GET", "/v1/health")

    def create(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Build a sandbox; `{"id", "isolation", "report", "created_ms"}`."""
        return self._call("POST", "/v1/sandboxes", spec)

    def activity(self) -> dict[str, Any]:
        """`{"instance", "sandboxes": {id: {"state", "jobs", "quiet_ms"}}}`."""
        return self._call("GET", "/v1/activity")

    def delete(self, sandbox_id: uuid.UUID) -> None:
        """Kill everything in a sandbox and forget it; deleting an unknown one is no error."""
        try:
            self._call("DELETE", f"/v1/sandboxes/{sandbox_id}")
        except errors.NotFound:
            return

    def put_bundle(self, sandbox_id: uuid.UUID, bundle: dict[str, Any]) -> int:
        """Replace the policy bundle; the version that the proxy now applies."""
        return int(self._call("PUT", f"/v1/sandboxes/{sandbox_id}/bundle", bundle)["applied"])

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = _UnixConnection(self._path, self._timeout)
        payload = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        try:
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            raw = reply.read(MAX_REPLY + 1)
        except (OSError, http.client.HTTPException) as error:
            raise away(error) from error
        finally:
            connection.close()
        if len(raw) > MAX_REPLY:
            raise errors.Upstream("the sandbox service sent too much", code="sandbox_failed")
        return _decode(reply.status, raw)


class _Pooled(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def usable(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())


class AsyncSandboxd:
    """sandboxd for one event loop, over at most `connections` kept-alive connections.

    Cancelling a call closes its connection, on which sandboxd ends what the call had started.
    """

    def __init__(self, path: Path, *, connections: int = 128) -> None:
        self._path = path
        self._idle: list[tuple[float, _Pooled]] = []
        self._places = asyncio.Semaphore(connections)

    async def call(
        self, sandbox_id: str, operation: str, body: dict[str, Any], *, seconds: float
    ) -> dict[str, Any]:
        """One operation inside a sandbox, bounded by `seconds` as a whole.

        `operation` is `exec`, `fetch`, `files/read`, `files/write` or `files/list`; the bodies and
        replies are sandboxd's. Raises the errors of `failure` and `away`.
        """
        payload = json.dumps(body, separators=(",", ":")).encode()
        head = (
            f"POST /v1/sandboxes/{sandbox_id}/{operation} HTTP/1.1\r\nHost: sandboxd\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        placed = False
        try:
            async with asyncio.timeout(seconds), self._places:
                placed = True
                status, raw = await self._exchange(head.encode("ascii") + payload)
        except TimeoutError as error:
            raise (away(error) if placed else _full()) from error
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise away(error) from error
        return _decode(status, raw)

    def close(self) -> None:
        """Close the kept connections; calls under way keep theirs until they end."""
        while self._idle:
            self._idle.pop()[1].writer.close()

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        connection = self._take() or await self._connect()
        keep = False
        try:
            connection.writer.write(request)
            await connection.writer.drain()
            status, length, keep = _parse_head(await connection.reader.readuntil(b"\r\n\r\n"))
            raw = await connection.reader.readexactly(length)
        except BaseException:
            keep = False
            raise
        finally:
            if keep:
                self._idle.append((time.monotonic(), connection))
            else:
                connection.writer.close()
        return status, raw

    async def _connect(self) -> _Pooled:
        """A new connection. A sandboxd that is just started anew is waited for: until somebody
        listens, nothing was asked for."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                opened = await asyncio.open_unix_connection(str(self._path), limit=1 << 20)
            except (ConnectionRefusedError, FileNotFoundError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(POLL_SECONDS)
            else:
                return _Pooled(*opened)

    def _take(self) -> _Pooled | None:
        """The kept connection that was used last, if it is young and still open."""
        while self._idle:
            since, connection = self._idle.pop()
            if connection.usable() and time.monotonic() - since < IDLE_SECONDS:
                return connection
            connection.writer.close()
        return None


def _parse_head(head: bytes) -> tuple[int, int, bool]:
    """(status, body length, whether the connection stays open) of a reply's head."""
    lines = head.decode("latin-1").split("\r\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:] if line)
    }
    try:
        status = int(lines[0].split(" ", 2)[1])
        length = int(fields["content-length"])
    except (IndexError, KeyError, ValueError) as error:
        raise errors.Upstream("the sandbox service sent no HTTP", code="sandbox_failed") from error
    if not 0 <= length <= MAX_REPLY:
        raise errors.Upstream("the sandbox service sent too much", code="sandbox_failed")
    return status, length, fields.get("connection", "").lower() != "close"
