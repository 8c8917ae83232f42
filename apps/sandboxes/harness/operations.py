"""What each route does: check the values, do it, shape the answer. No HTTP in here."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from apps.common.errors import Conflict, Invalid, NotFound, TooLarge, Upstream
from apps.sandboxes.harness import env, runner
from apps.sandboxes.harness.spawn import Wanted, checked_bundle

if TYPE_CHECKING:
    import socket

    from apps.sandboxes.harness.manager import Manager
    from apps.sandboxes.harness.sandbox import Sandbox

_MAX_COMMAND = 128 * 1024 - 1  # MAX_ARG_STRLEN
_MAX_PATH = 4096
_MAX_OUTPUT = 64 * 1024 * 1024
_FRAME_ROOM = 4 * 1024 * 1024
_FILE_SECONDS = 30.0
_DEFAULT_TIMEOUT_MS = 30_000
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_METHOD = re.compile(r"[A-Z]{1,20}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FILE_MODES = ("overwrite", "append", "create")
_FILE_STATUS = {"not_found": NotFound, "too_large": TooLarge, "no_space": TooLarge}


@dataclass(frozen=True, slots=True)
class Call:
    """One request: the sandbox's id from the path, the body, the connection it came on."""

    id: str
    body: dict[str, Any]
    connection: socket.socket


def text(body: dict[str, Any], name: str, default: str | None = None, *, most: int = 4096) -> str:
    """A string field that can be an argument of a program: no NUL, valid Unicode, bounded."""
    value = body.get(name, default)
    if not isinstance(value, str) or "\0" in value:
        raise Invalid(f"{name} must be a string without NUL", field=name)
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise Invalid(f"{name} is not valid Unicode", field=name) from error
    if size > most:
        raise TooLarge(f"{name} is longer than {most} bytes", field=name)
    return value


def number(body: dict[str, Any], name: str, default: int, *, low: int, high: int) -> int:
    """A whole number within bounds."""
    value = body.get(name, default)
    if value is None:
        value = default
    if type(value) is not int or not low <= value <= high:
        raise Invalid(f"{name} must be a whole number from {low} to {high}", field=name)
    return value


def flag(body: dict[str, Any], name: str, *, default: bool) -> bool:
    """A boolean field."""
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise Invalid(f"{name} must be true or false", field=name)
    return value


def binary(body: dict[str, Any], name: str, *, most: int) -> bytes | None:
    """A base64 field, None when absent."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Invalid(f"{name} must be a base64 string", field=name)
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"{name} is not base64", field=name) from error
    if len(content) > most:
        raise TooLarge(f"{name} is larger than {most} bytes", field=name)
    return content


def encoded(content: bytes | bytearray) -> str:
    """Bytes as the API carries them."""
    return base64.b64encode(content).decode("ascii")


def health(manager: Manager, _: Call) -> dict[str, Any]:
    """GET /v1/health."""
    return manager.health()


def describe(sandbox: Sandbox) -> dict[str, Any]:
    """One sandbox as the API shows it."""
    return {
        "id": sandbox.id,
        "state": sandbox.state,
        "reason": sandbox.failure,
        "isolation": sandbox.mode,
        "report": sandbox.report,
        "created_ms": sandbox.created_ms,
    }


def list_all(manager: Manager, _: Call) -> dict[str, Any]:
    """GET /v1/sandboxes."""
    return {"sandboxes": [describe(s) for s in manager.list()]}


def activity(manager: Manager, _: Call) -> dict[str, Any]:
    """GET /v1/activity: which sandboxes there are and which of them are in use, without reports.

    `quiet_ms` is null where nobody has asked for anything yet; `instance` changes with every start
    of sandboxd.
    """
    return {
        "instance": manager.instance,
        "sandboxes": {sandbox.id: use_of(sandbox) for sandbox in manager.list()},
    }


def use_of(sandbox: Sandbox) -> dict[str, Any]:
    """How one sandbox is used now."""
    quiet = sandbox.quiet_seconds()
    return {
        "state": sandbox.state,
        "reason": sandbox.failure,
        "jobs": sandbox.jobs,
        "quiet_ms": None if quiet is None else int(quiet * 1000),
    }


def show(manager: Manager, call: Call) -> dict[str, Any]:
    """GET /v1/sandboxes/{id}."""
    return describe(manager.get(call.id))


def create(manager: Manager, call: Call) -> dict[str, Any]:
    """POST /v1/sandboxes."""
    body = call.body
    sandbox_id = text(body, "id")
    if not _ID.fullmatch(sandbox_id):
        raise Invalid("id must be letters, digits and dashes, at most 64", field="id")
    identity = body.get("identity", {})
    if not isinstance(identity, dict):
        raise Invalid("identity must be an object", field="identity")
    wanted = Wanted(
        id=sandbox_id,
        token=text(body, "token", ""),
        bundle=checked_bundle(body.get("bundle")),
        identity=identity,
        env=env.checked(body.get("env") or {}),
        limits=manager.spawner.config.limits.override(body.get("limits") or {}),
        allow_degraded=flag(body, "allow_degraded", default=False),
    )
    return describe(manager.create(wanted))


def delete(manager: Manager, call: Call) -> dict[str, Any]:
    """DELETE /v1/sandboxes/{id}; the same answer, whether there was one or not."""
    return {"id": call.id, "deleted": manager.delete(call.id)}


def put_bundle(manager: Manager, call: Call) -> dict[str, Any]:
    """PUT /v1/sandboxes/{id}/bundle."""
    return {"applied": manager.get(call.id).apply(checked_bundle(call.body))}


def cut(manager: Manager, call: Call) -> dict[str, Any]:
    """POST /v1/sandboxes/{id}/cut."""
    manager.get(call.id).cut()
    return {"id": call.id}


def execute(manager: Manager, call: Call) -> dict[str, Any]:
    """POST /v1/sandboxes/{id}/exec."""
    sandbox, body = manager.running(call.id), call.body
    limits = sandbox.limits
    timeout = number(body, "timeout_ms", _DEFAULT_TIMEOUT_MS, low=1, high=limits.exec_timeout_ms)
    request = {
        "command": text(body, "command", most=_MAX_COMMAND),
        "workdir": text(body, "workdir", env.WORKSPACE, most=_MAX_PATH),
        "env": env.merged(
            sandbox.places.environment(),
            sandbox.sentinels,
            sandbox.env,
            env.checked(body.get("env") or {}),
        ),
    }
    outcome = runner.run(
        sandbox,
        "exec",
        request,
        timeout=timeout / 1000,
        limit=number(body, "max_output_bytes", limits.output_bytes, low=0, high=_MAX_OUTPUT),
        content=binary(body, "stdin", most=limits.file_bytes),
        client=call.connection,
    )
    return {
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "timed_out": outcome.timed_out,
        "stdout": encoded(outcome.stdout.data),
        "stderr": encoded(outcome.stderr.data),
        "stdout_bytes": outcome.stdout.total,
        "stderr_bytes": outcome.stderr.total,
        "duration_ms": outcome.duration_ms,
    }


def _inside(
    sandbox: Sandbox,
    kind: str,
    request: dict[str, Any],
    call: Call,
    *,
    limit: int,
    seconds: float = _FILE_SECONDS,
    content: bytes | None = None,
) -> tuple[dict[str, Any], bytes]:
    """Run one of our own jobs; (its answer, the content behind it), or its refusal as an error."""
    outcome = runner.run(
        sandbox,
        kind,
        request,
        timeout=seconds,
        limit=limit + _FRAME_ROOM,
        content=content,
        client=call.connection,
    )
    head, rest = runner.answer(outcome)
    if "error" not in head:
        return head, rest
    code, message = str(head["error"]), str(head.get("message", ""))
    if kind == "fetch":
        raise Upstream(message, code=code)
    if code == "already_exists":
        raise Conflict(message, code=code)
    raise _FILE_STATUS.get(code, Invalid)(message, code=code)


def read_file(manager: Manager, call: Call) -> dict[str, Any]:
    """POST /v1/sandboxes/{id}/files/read: `path`, `offset`, `limit`."""
    sandbox = manager.running(call.id)
    most = sandbox.limits.file_bytes
    limit = number(call.body, "limit", most, low=0, high=most)
    request = {
        "path": text(call.body, "path", most=_MAX_PATH),
        "offset": number(call.body, "offset", 0, low=0, high=1 << 62),
        "limit": limit,
    }
    head, content = _inside(sandbox, "files.read", request, call, limit=limit)
    size, end = head["size"], head["offset"] + len(content)
    return {"content": encoded(content), "size": size, "offset": head["offset"], "eof": end >= size}


def write_file(manager: Manager, call: Call) -> dict[str, Any]:
    """POST /v1/sandboxes/{id}/files/write: `path`, `content`, `mode`, `parents`."""
    sandbox = manager.running(call.id)
    mode = text(call.body, "mode", "overwrite")
    if mode not in _FILE_MODES:
        raise Invalid(f"mode must be one of {', '.join(_FILE_MODES)}", field="mode")
    content = binary(call.body, "content", most=sandbox.limits.file_bytes)
    if content is None:
        raise Invalid("content must be a base64 string", field="content")
    request = {
        "path": text(call.body, "path", most=_MAX_PATH),
        "mode": mode,
        "parents": flag(call.body, "parents", default=True),
    }
    head, _ = _inside(sandbox, "files.write", request, call, limit=0, content=content)
    return {"size": head["size"], "written": len(content)}


def list_files(manager: Manager, call: Call) -> dict[str, Any]:
    """POST /v1/sandboxes/{id}/files/list: `path`, `limit`."""
    sandbox = manager.running(call.id)
    request = {
        "path": text(call.body, "path", env.WORKSPACE, most=_MAX_PATH),
        "limit": number(call.body, "limit", 1000, low=1, high=10_000),
    }
    head, _ = _inside(sandbox, "files.list", request, call, limit=0)
    return {"entries": head["entries"], "truncated": head["truncated"]}


def fetch(manager: Manager, call: Call) -> dict[str, Any]:
    """POST /v1/sandboxes/{id}/fetch: one request through the proxy, no redirect followed."""
    sandbox, body = manager.running(call.id), call.body
    most = sandbox.limits.fetch_bytes
    timeout = number(body, "timeout_ms", _DEFAULT_TIMEOUT_MS, low=1, high=300_000) / 1000
    limit = number(body, "max_bytes", min(most, 1 << 20), low=0, high=most)
    method = text(body, "method", "GET")
    if not _METHOD.fullmatch(method) or method == "CONNECT":
        raise Invalid("method must be an HTTP method", field="method")
    request = {
        "url": checked_url(text(body, "url", most=16_384)),
        "method": method,
        "headers": checked_headers(body.get("headers") or []),
        "timeout": timeout,
        "max_bytes": limit,
    }
    content = binary(body, "body", most=most)
    head, received = _inside(
        sandbox, "fetch", request, call, limit=limit, seconds=timeout + 1, content=content
    )
    return {
        "status": head["status"],
        "headers": head["headers"],
        "body": encoded(received),
        "truncated": head["truncated"],
    }


def checked_url(url: str) -> str:
    """An absolute http(s) URL without control characters and without a user in it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise Invalid(f"url: {error}", field="url") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid("url must be an absolute http or https URL", field="url")
    if "@" in parts.netloc:
        raise Invalid("url must not hold a user name", field="url")
    if not url.isascii() or any(ord(c) <= 0x20 or ord(c) == 0x7F for c in url):
        raise Invalid("url must be percent-encoded ASCII", field="url")
    return url


def checked_headers(value: object) -> list[list[str]]:
    """[[name, value]] or {name: value}, each legal in HTTP/1.1 (RFC 9110 section 5)."""
    if isinstance(value, dict):
        value = [[name, content] for name, content in value.items()]
    if not isinstance(value, list):
        raise Invalid("headers must be a list of [name, value]", field="headers")
    for item in value:
        if not (
            isinstance(item, list) and len(item) == 2 and all(isinstance(p, str) for p in item)
        ):
            raise Invalid("headers must be a list of [name, value]", field="headers")
        if not _HEADER_NAME.fullmatch(item[0]) or not _HEADER_VALUE.fullmatch(item[1]):
            raise Invalid("headers hold a character that HTTP does not allow", field="headers")
    return value
