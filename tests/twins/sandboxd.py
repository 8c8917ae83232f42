"""A small real sandboxd without isolation, for tests only, on a Unix socket.

It keeps each sandbox in a folder and runs commands there with `sh -c`. It speaks the API of the
real one, so that control plane and MCP edge can be tested where no cage can be built.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
import urllib.parse
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

WORKSPACE = "/workspace"


class RefusedError(Exception):
    """An answer of `{"error", "message"}` with a status."""

    def __init__(self, status: int, code: str, message: str = "", **data: Any) -> None:
        super().__init__(code)
        self.status = status
        self.body = {"error": code, "message": message or code, **data}


@dataclass
class Box:
    """One sandbox: what it was made from, its folder, and the processes that run in it."""

    spec: dict[str, Any]
    folder: Path
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    bundles: list[dict[str, Any]] = field(default_factory=list)
    takes_bundles: bool = True

    used: float | None = None
    quiet_ms: int | None = None
    over: str = ""
    delay: float = 0.0

    def use(self) -> dict[str, Any]:
        """As the real one tells it; a test may set `quiet_ms` for it."""
        quiet = self.quiet_ms
        if quiet is None and self.used is not None:
            quiet = int((time.monotonic() - self.used) * 1000)
        return {
            "state": "failed" if self.over else "ready",
            "reason": self.over,
            "jobs": len(self.running),
            "quiet_ms": quiet,
        }

    def kill(self) -> None:
        for process in list(self.running):
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128
    twin: SandboxdTwin


class SandboxdTwin:
    """`with SandboxdTwin(socket, folder) as twin:`; `unavailable` answers isolation_unavailable.

    `isolation` is what it says that it isolates with; `degraded` wants `allow_degraded`.
    """

    def __init__(self, socket_path: Path, folder: Path, *, unavailable: str = "") -> None:
        self.socket_path = socket_path
        self.folder = folder
        self.unavailable = unavailable
        self.boxes: dict[str, Box] = {}
        self.calls: list[str] = []
        self.isolation = "none"
        self.create_delay = 0.0
        self.instance = ""
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; a socket left by an earlier one is replaced."""
        self.instance = uuid.uuid4().hex
        self.socket_path.unlink(missing_ok=True)
        self._server = _Server(str(self.socket_path), _Handler)
        self._server.twin = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """Kill every sandbox and forget them all, as a restart of the real one does."""
        for box in self.boxes.values():
            box.kill()
        self.boxes.clear()
        if self._server and self._thread:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(5)
            self._server = None
        self.socket_path.unlink(missing_ok=True)

    def restart(self) -> None:
        """Come back without memory of any sandbox."""
        self.stop()
        self.start()

    def handle(self, method: str, path: str, body: dict[str, Any], gone: Any) -> dict[str, Any]:
        """One request; raises RefusedError."""
        self.calls.append(f"{method} {path}")
        parts = path.strip("/").split("/")
        if parts == ["v1", "health"]:
            return self._health()
        if parts == ["v1", "activity"]:
            return self._activity()
        if parts == ["v1", "sandboxes"]:
            return self._create(body) if method == "POST" else self._list()
        box = self.boxes.get(parts[2])
        if method == "DELETE":
            return self._delete(parts[2])
        if box is not None and box.over and method == "POST":
            raise RefusedError(409, "sandbox_over", f"the sandbox is over: {box.over}")
        if box is None:
            raise RefusedError(404, "sandbox_not_found", "no such sandbox")
        try:
            return _on_box(box, "/".join(parts[3:]), body, gone)
        finally:
            if method == "POST":
                box.used = time.monotonic()

    def _health(self) -> dict[str, Any]:
        return {
            "isolation": "unavailable" if self.unavailable else self.isolation,
            "layers": [],
            "remedy": self.unavailable,
            "sandboxes": len(self.boxes),
        }

    def _activity(self) -> dict[str, Any]:
        found = {name: box.use() for name, box in list(self.boxes.items())}
        return {"instance": self.instance, "sandboxes": found}

    def _list(self) -> dict[str, Any]:
        return {"sandboxes": [{"id": name, "state": "ready"} for name in self.boxes]}

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.unavailable:
            raise RefusedError(503, "isolation_unavailable", remedy=self.unavailable)
        if self.isolation == "degraded" and not body["allow_degraded"]:
            raise RefusedError(503, "isolation_unavailable", remedy="An organization admin can")
        time.sleep(self.create_delay)
        with self._lock:
            if body["id"] in self.boxes:
                raise RefusedError(409, "sandbox_exists")
            folder = self.folder / body["id"]
            folder.mkdir(parents=True)
            self.boxes[body["id"]] = Box(body, folder)
        report = [{"probe": "isolation", "ok": False, "detail": "test twin: none"}]
        return {"id": body["id"], "isolation": self.isolation, "report": report, "created_ms": 1.0}

    def _delete(self, name: str) -> dict[str, Any]:
        box = self.boxes.pop(name, None)
        if box:
            time.sleep(box.delay)
            box.kill()
            shutil.rmtree(box.folder, ignore_errors=True)
        return {"deleted": name}


def _on_box(box: Box, operation: str, body: dict[str, Any], gone: Any) -> dict[str, Any]:
    time.sleep(box.delay)
    if operation == "bundle" and not box.takes_bundles:
        raise RefusedError(502, "proxy_away", "its proxy did not answer")
    if operation == "bundle":
        box.bundles.append(body)
        return {"applied": body["version"]}
    if operation == "exec":
        return _exec(box, body, gone)
    if operation == "fetch":
        return _fetch(body)
    return _FILES[operation](box, body)


def _path(box: Box, text: str) -> Path:
    inside = os.path.normpath(f"{WORKSPACE}/{text}" if not text.startswith("/") else text)
    if inside != WORKSPACE and not inside.startswith(WORKSPACE + "/"):
        raise RefusedError(400, "path_outside_workspace", f"{text} is not under {WORKSPACE}")
    return box.folder / inside.removeprefix(WORKSPACE).lstrip("/")


class _Sink(threading.Thread):
    """Reads a stream to its end and keeps at most `limit` bytes of it."""

    def __init__(self, stream: Any, limit: int) -> None:
        super().__init__(daemon=True)
        self.stream, self.limit, self.kept, self.total = stream, limit, bytearray(), 0
        self.start()

    def run(self) -> None:
        while chunk := self.stream.read1(65536):
            self.total += len(chunk)
            self.kept += chunk[: max(0, self.limit - len(self.kept))]


def _exec(box: Box, body: dict[str, Any], gone: Any) -> dict[str, Any]:
    started = time.monotonic()
    process = subprocess.Popen(  # noqa: S602  running a shell is what it is for
        body["command"],
        shell=True,
        cwd=_path(box, body.get("workdir") or WORKSPACE),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={"PATH": os.defpath, "HOME": str(box.folder), **body.get("env", {})},
    )
    box.running.add(process)
    limit = body["max_output_bytes"]
    out, err = _Sink(process.stdout, limit), _Sink(process.stderr, limit)
    deadline = started + body["timeout_ms"] / 1000
    while process.poll() is None and time.monotonic() < deadline and not gone():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    timed_out = process.poll() is None
    if timed_out:
        _kill(process)
    code = process.wait(5)
    for sink in (out, err):
        sink.join(5)
    box.running.discard(process)
    if process.stdout and process.stderr:
        process.stdout.close()
        process.stderr.close()
    return {
        "exit_code": code if code >= 0 else None,
        "signal": -code if code < 0 else None,
        "timed_out": timed_out,
        "stdout": base64.b64encode(out.kept).decode(),
        "stderr": base64.b64encode(err.kept).decode(),
        "stdout_bytes": out.total,
        "stderr_bytes": err.total,
        "duration_ms": (time.monotonic() - started) * 1000,
    }


def _read(box: Box, body: dict[str, Any]) -> dict[str, Any]:
    path = _path(box, body["path"])
    if path.is_dir():
        raise RefusedError(400, "is_directory", "that is a directory")
    if not path.is_file():
        raise RefusedError(404, "not_found", "no such file")
    data, offset = path.read_bytes(), body.get("offset", 0)
    part = data[offset : offset + body["limit"]]
    return {
        "content": base64.b64encode(part).decode(),
        "size": len(data),
        "offset": offset,
        "eof": offset + len(part) >= len(data),
    }


def _write(box: Box, body: dict[str, Any]) -> dict[str, Any]:
    path, data = _path(box, body["path"]), base64.b64decode(body["content"])
    if body["mode"] == "create" and path.exists():
        raise RefusedError(409, "already_exists", "the file exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab" if body["mode"] == "append" else "wb") as file:
        file.write(data)
    return {"size": path.stat().st_size, "written": len(data)}


def _list(box: Box, body: dict[str, Any]) -> dict[str, Any]:
    path = _path(box, body["path"])
    if not path.is_dir():
        raise RefusedError(404, "not_found", "no such directory")
    found = sorted(path.iterdir())
    entries = [
        {
            "name": item.name,
            "type": "directory" if item.is_dir() else "file",
            "size": item.lstat().st_size,
            "modified": item.lstat().st_mtime,
        }
        for item in found[: body["limit"]]
    ]
    return {"entries": entries, "truncated": len(found) > body["limit"]}


_FILES = {"files/read": _read, "files/write": _write, "files/list": _list}


def _fetch(body: dict[str, Any]) -> dict[str, Any]:
    url = urllib.parse.urlsplit(body["url"])
    connection = http.client.HTTPConnection(url.netloc, timeout=body["timeout_ms"] / 1000)
    try:
        connection.request(
            body.get("method", "GET"),
            url.path or "/",
            base64.b64decode(body.get("body") or ""),
            dict(body.get("headers") or {}),
        )
        reply = connection.getresponse()
        data = reply.read(body["max_bytes"] + 1)
    except OSError as error:
        raise RefusedError(502, "fetch_failed", str(error)) from error
    finally:
        connection.close()
    return {
        "status": reply.status,
        "headers": [list(pair) for pair in reply.getheaders()],
        "body": base64.b64encode(data[: body["max_bytes"]]).decode(),
        "truncated": len(data) > body["max_bytes"],
    }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        try:
            status = 200
            reply = self.server.twin.handle(self.command, self.path, body, self._gone)
        except RefusedError as refusal:
            status, reply = refusal.status, refusal.body
        data = json.dumps(reply).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815  http.server's names

    def _gone(self) -> bool:
        """Whether the caller closed its connection, which ends what it had started."""
        try:
            return not self.connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        return
