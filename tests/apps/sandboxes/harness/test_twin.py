"""The control plane is tested against a twin of sandboxd: the two must answer alike."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from tests.apps.sandboxes.harness.conftest import Daemon, bundle
from tests.twins.sandboxd import SandboxdTwin

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.isolation

CONTENT = base64.b64encode(b"abc\0").decode()
EXEC = {"workdir": "/workspace", "timeout_ms": 20_000, "max_output_bytes": 1000, "env": {}}
WRITE = {"path": "d/a", "content": CONTENT, "mode": "overwrite"}
READ = {"path": "d/a", "offset": 0, "limit": 1000}
STREAMS = ("stdout", "stderr", "stdout_bytes", "stderr_bytes")
# Each call, in order; compared are the status, the error code and the values named.
CALLS: tuple[tuple[str, str, Any, tuple[str, ...]], ...] = (
    ("POST", "/exec", {**EXEC, "command": "printf out; printf err >&2; exit 3"},
     ("exit_code", "signal", "timed_out", *STREAMS)),
    ("POST", "/exec", {**EXEC, "command": "printf 0123456789", "max_output_bytes": 4}, STREAMS),
    ("POST", "/exec", {**EXEC, "command": "sleep 20", "timeout_ms": 300},
     ("exit_code", "signal", "timed_out")),
    ("POST", "/exec", {**EXEC, "command": "kill -15 $$"}, ("exit_code", "signal")),
    ("POST", "/files/write", WRITE, ("size", "written")),
    ("POST", "/files/write", {**WRITE, "mode": "append"}, ("size", "written")),
    ("POST", "/files/write", {**WRITE, "mode": "create"}, ()),
    ("POST", "/files/write", {**WRITE, "path": "/etc/x"}, ()),
    ("POST", "/files/read", READ, ("content", "size", "offset", "eof")),
    ("POST", "/files/read", {**READ, "offset": 2, "limit": 3}, ("content", "offset", "eof")),
    ("POST", "/files/read", {**READ, "path": "absent"}, ()),
    ("POST", "/files/read", {**READ, "path": "d"}, ()),
    ("POST", "/files/read", {**READ, "path": "../../etc/passwd"}, ()),
    ("POST", "/files/list", {"path": "d", "limit": 10}, ("truncated",)),
    ("POST", "/files/list", {"path": "absent", "limit": 10}, ()),
    ("PUT", "/bundle", bundle(5), ("applied",)),
)  # fmt: skip


class Speaker(Daemon):
    """A client of either."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def socket(self) -> Path:
        return self.path


def told(speaker: Daemon, box: str, call: tuple[str, str, Any, tuple[str, ...]]) -> dict[str, Any]:
    method, path, body, names = call
    status, answer = speaker.call(method, f"/v1/sandboxes/{box}{path}", body)
    if status >= 400:
        return {"status": status, "error": answer["error"]}
    return {"status": status, "values": {name: answer[name] for name in names}}


def test_the_twin_answers_like_sandboxd(daemon: Daemon, folder: Path) -> None:
    (folder / "boxes").mkdir()
    with SandboxdTwin(folder / "twin.sock", folder / "boxes"):
        twin = Speaker(folder / "twin.sock")
        request = {"id": "pair", "token": "t", "bundle": bundle(), "identity": {}}
        _, real = daemon.call("POST", "/v1/sandboxes", request)
        _, pretended = twin.call("POST", "/v1/sandboxes", request)
        assert set(pretended) <= set(real)
        differences = [
            (call[1], call[2], pretended, real)
            for call in CALLS
            if (pretended := told(twin, "pair", call)) != (real := told(daemon, "pair", call))
        ]
        assert differences == []
        for speaker in (daemon, twin):
            assert speaker.call("POST", "/v1/sandboxes", request)[0] == 409
            assert speaker.call("DELETE", "/v1/sandboxes/pair")[0] == 200
            assert speaker.call("POST", "/v1/sandboxes/pair/exec", {"command": "x"})[0] == 404
