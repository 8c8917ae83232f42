"""The HTTP face: routes, framing, and that nothing wrong gets through or stops the server."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.apps.sandboxes.harness.conftest import bundle

if TYPE_CHECKING:
    from tests.apps.sandboxes.harness.conftest import Box, Daemon

pytestmark = pytest.mark.isolation


def raw(daemon: Daemon, request: bytes) -> bytes:
    """Send bytes, read to the end (or a second of silence)."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(daemon.socket))
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        parts = b""
        while chunk := client.recv(65536):
            parts += chunk
    return parts


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "no_such_route"),
        ("GET", "/v2/health", 404, "no_such_route"),
        ("POST", "/v1/health", 405, "method_not_allowed"),
        ("GET", "/v1/sandboxes/../health", 404, "no_such_route"),
        ("GET", "/v1/sandboxes/none", 404, "sandbox_not_found"),
        ("POST", "/v1/sandboxes/none/exec", 404, "sandbox_not_found"),
        ("POST", "/v1/sandboxes/none/files/read", 404, "sandbox_not_found"),
        ("POST", "/v1/sandboxes/none/fetch", 404, "sandbox_not_found"),
        ("POST", "/v1/sandboxes/none/cut", 404, "sandbox_not_found"),
        ("PUT", "/v1/sandboxes/none/bundle", 404, "sandbox_not_found"),
    ],
)
def test_routes(daemon: Daemon, method: str, path: str, status: int, code: str) -> None:
    got, answer = daemon.call(method, path, None if method == "GET" else {})
    assert (got, answer["error"]) == (status, code)


def test_deleting_what_is_not_there(daemon: Daemon) -> None:
    assert daemon.call("DELETE", "/v1/sandboxes/none") == (200, {"id": "none", "deleted": False})


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"Content-Length: x", b"bad_request"),
        (b"Content-Length: -1", b"bad_request"),
        (b"Content-Length: 99999999", b"too_large"),
        (b"Content-Length: 9999999999999", b"bad_request"),
        (b"Transfer-Encoding: chunked", b"bad_request"),
        (b"Content-Length: 1", b"not JSON"),
        (b"Content-Length: 2", b"must be an object"),
    ],
)
def test_framing(daemon: Daemon, head: bytes, code: bytes) -> None:
    body = b"[]" if b": 2" in head else b"["
    answer = raw(daemon, b"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body)
    assert b" 400 " in answer.split(b"\r\n")[0] or b" 413 " in answer.split(b"\r\n")[0]
    assert code in answer
    assert daemon.call("GET", "/v1/health")[0] == 200


def test_deep_json_is_refused(daemon: Daemon) -> None:
    body = b"[" * 100_000
    head = f"POST /v1/sandboxes HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    assert b"bad_request" in raw(daemon, head.encode() + body)


def test_garbage_is_no_news(daemon: Daemon) -> None:
    for garbage in (b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"\xff" * 70_000, b""):
        raw(daemon, garbage)
    assert daemon.call("GET", "/v1/health")[0] == 200
    assert "Traceback" not in daemon.log()


def test_many_requests_on_one_connection(box: Box) -> None:
    body = json.dumps({"command": "echo hi"}).encode()
    path = f"/v1/sandboxes/{box.id}/exec"
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    health = b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(box.daemon.socket))
        file = client.makefile("rb")
        for sent in (request + body, health, request + body):
            client.sendall(sent)
            assert file.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = dict(_headers(file))
            json.loads(file.read(int(headers[b"Content-Length"])))


def _headers(file: Any) -> list[list[bytes]]:
    found = []
    while (line := file.readline()) != b"\r\n":
        found.append(line.rstrip().split(b": ", 1))
    return found


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": ""}, "id"),
        ({"id": "../up"}, "id"),
        ({"id": "x" * 65}, "id"),
        ({"id": 5}, "id"),
        ({"token": 5}, "token"),
        ({"bundle": []}, "bundle"),
        ({"bundle": None}, "bundle"),
        ({"identity": []}, "identity"),
        ({"env": {"A B": "c"}}, "env"),
        ({"limits": {"pids": 0}}, "limits.pids"),
        ({"limits": {"nope": 1}}, "limits.nope"),
        ({"limits": 5}, "limits"),
    ],
)
def test_wrong_creations_are_named(daemon: Daemon, change: dict[str, Any], field: str) -> None:
    request = {"id": "wrong", "token": "t", "bundle": bundle(), "identity": {}, **change}
    status, answer = daemon.call("POST", "/v1/sandboxes", request)
    assert (status, answer["field"]) == (400, field)
    assert daemon.call("GET", "/v1/sandboxes/wrong")[0] == 404
