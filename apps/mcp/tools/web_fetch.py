"""One HTTP request from inside the caller's sandbox, through its egress proxy."""

from __future__ import annotations

import base64
import json
from typing import Any

from apps.common.errors import Invalid
from apps.mcp.core.decisions import is_decision
from apps.mcp.core.output import as_text
from apps.mcp.tool import Call, Outcome, Risk, tool

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 300_000
DEFAULT_BYTES = 256 * 1024
MAX_BYTES = 1024 * 1024
MAX_DENIAL = 16 * 1024
GRACE_SECONDS = 10.0
DENIED = "egress_denied"
DECISION_HEADER = "x-lens-decision"
_TOLD = ("reason", "rule", "layer", "decision_id", "explain")


@tool(
    name="web_fetch",
    title="Fetch a URL",
    description=(
        "Send one HTTP request and return the answer. Your policy decides which hosts, methods and "
        "paths are allowed; where the platform holds a credential for the host it adds it, so send "
        "none. Redirects are not followed: fetch the `location` yourself."
    ),
    properties={
        "url": {
            "type": "string",
            "minLength": 8,
            "maxLength": 16_384,
            "description": "An absolute http or https URL.",
        },
        "method": {
            "type": "string",
            "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
            "default": "GET",
            "description": "The HTTP method.",
        },
        "headers": {
            "type": "object",
            "additionalProperties": {"type": "string", "maxLength": 8192},
            "maxProperties": 50,
            "default": {},
            "description": "Request headers by name.",
        },
        "body": {
            "type": "string",
            "maxLength": 1_000_000,
            "default": "",
            "description": "The request's body, as text.",
        },
        "timeout": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_TIMEOUT_MS,
            "default": DEFAULT_TIMEOUT_MS,
            "description": "Milliseconds for the whole exchange.",
        },
        "max_bytes": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_BYTES,
            "default": DEFAULT_BYTES,
            "description": "How much of the answer's body to return.",
        },
    },
    required=("url",),
    risk=Risk.DESTRUCTIVE,
    open_world=True,
)
async def web_fetch(call: Call) -> Outcome:
    """Status, headers and body of the answer; a denial by policy is an error with its reason."""
    timeout = int(call.arguments["timeout"])
    reply = await call.workplace.do(
        "fetch",
        {
            "url": call.arguments["url"],
            "method": call.arguments["method"],
            "headers": [[name, value] for name, value in call.arguments["headers"].items()],
            "body": base64.b64encode(_bytes(call.arguments["body"])).decode(),
            "timeout_ms": timeout,
            "max_bytes": int(call.arguments["max_bytes"]),
        },
        seconds=timeout / 1000 + GRACE_SECONDS,
    )
    body = base64.b64decode(reply["body"])
    denial = _denial(reply, body)
    return _denied(denial) if denial else _answered(reply, body)


def _bytes(body: str) -> bytes:
    try:
        return body.encode()
    except UnicodeEncodeError as error:
        raise Invalid(
            "`body` holds half a character (a lone surrogate).",
            field="body",
            code="invalid_arguments",
            remedy="Send whole characters.",
        ) from error


def _answered(reply: dict[str, Any], body: bytes) -> Outcome:
    sizes = {"status": reply["status"], "body_bytes": len(body), "truncated": reply["truncated"]}
    data: dict[str, Any] = {**sizes, "headers": reply["headers"]}
    text = as_text(body, cut=reply["truncated"])
    if text is None:
        data["body_base64"] = reply["body"]
        shown = f"[binary body: {len(body)} bytes as base64 in `body_base64`]"
    else:
        data["body"] = shown = text
    if reply["truncated"]:
        shown += f"\n[body truncated after {len(body)} bytes]"
    return Outcome(text=f"HTTP {reply['status']}\n{shown}", data=data, audited=sizes)


def _denial(reply: dict[str, Any], body: bytes) -> dict[str, Any] | None:
    """The egress proxy's own refusal: it alone may send the header, and its body says the same.

    A server behind a tunnel that is not inspected can imitate one. It only denies itself.
    """
    decisions = [value for name, value in reply["headers"] if name.lower() == DECISION_HEADER]
    if reply["status"] != 403 or len(body) > MAX_DENIAL or len(decisions) != 1:
        return None
    if not is_decision(decisions[0]):
        return None
    if not body:
        return {"error": DENIED, "decision_id": decisions[0]}
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict) or answer.get("error") != DENIED:
        return None
    return answer if answer.get("decision_id") == decisions[0] else None


def _denied(denial: dict[str, Any]) -> Outcome:
    told = {name: str(denial[name])[:1000] for name in _TOLD if denial.get(name)}
    message = f"Your policy does not allow this request: {told.get('reason', 'no reason given')}"
    data = {
        "error": DENIED,
        "message": message,
        "remedy": "Ask an administrator, who finds the decision by its id.",
        **told,
    }
    decision_id = told["decision_id"]
    text = f"{message} (decision {decision_id})"
    return Outcome(text=text, data=data, error=DENIED, denied=decision_id, audited=told)
