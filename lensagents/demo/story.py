"""The demo's session as data: what the agent does, and what must come back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "tickets.acme.test"
TICKETS = f"https://{HOST}/api/v2/tickets"
# TEST-NET-1 (RFC 5737): an address that belongs to nobody, in case the cage should leak.
OUTSIDE = "192.0.2.1"
CURL = "curl -sS --max-time 20 -w '\\n%{http_code}'"


class DiffersError(Exception):
    """A step did not go as the story says."""


@dataclass(frozen=True, slots=True)
class Step:
    """One tool call. `check` returns the line to show, or raises DiffersError.

    `refused` says that the tool itself must answer with an error.
    """

    title: str
    tool: str
    arguments: dict[str, Any]
    check: Callable[[Any], str] = field(repr=False)
    refused: bool = False

    @property
    def through_proxy(self) -> bool:
        """Whether the egress proxy sees it; what goes around the proxy gets nowhere."""
        return "http" in str(self.arguments) and OUTSIDE not in str(self.arguments)


def steps() -> list[Step]:
    """The session, in order."""
    return [
        Step("Who am I?", "whoami", {}, _is_support),
        Step("Where do my commands run?", "shell_exec", _shell(_LOOK), _is_caged),
        Step("Read a ticket", "shell_exec", _shell(f"{CURL} {TICKETS}/4711"), _http(200)),
        Step("Comment on it", "shell_exec", _shell(_COMMENT), _http(201)),
        Step(
            "Delete it",
            "shell_exec",
            _shell(f"{CURL} -X DELETE {TICKETS}/4711"),
            _refused("no HTTP rule allows DELETE"),
        ),
        Step(
            "Call a host that no rule names",
            "web_fetch",
            {"url": "https://paste.example/"},
            _fetch_refused,
            refused=True,
        ),
        Step(
            "Go around the proxy",
            "shell_exec",
            _shell(f"curl -sS --noproxy '*' --max-time 5 https://{OUTSIDE}/"),
            _no_route,
        ),
        Step(
            "Look for the credential",
            "shell_exec",
            _shell("env | grep -ciE 'token|secret|api_?key' || true"),
            _nothing_found,
        ),
    ]


_LOOK = "id -u; ls /proc/sys/net/ipv4/conf | xargs; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"
_COMMENT = (
    f"{CURL} -H 'Content-Type: application/json'"
    f" -d '{json.dumps({'body': 'We are looking into it.'})}' {TICKETS}/4711/comments"
)


def _shell(command: str) -> dict[str, Any]:
    return {"command": command}


def _expect(seen: bool, what: str) -> None:  # noqa: FBT001  an assertion reads as one
    if not seen:
        raise DiffersError(what)


def _is_support(result: dict[str, Any]) -> str:
    text = json.dumps(result)
    _expect("support-operations" in text, f"not the support team's agent: {text}")
    return "support-triage, an agent of Support Operations in Acme Corp"


def _is_caged(result: dict[str, Any]) -> str:
    lines = result["stdout"].split("\n")
    _expect(lines[0] != "0", "the command runs as root")
    _expect(set(lines[1].split()) <= {"all", "default", "lo"}, f"interfaces: {lines[1]}")
    _expect("Seccomp:\t2" in result["stdout"], "no seccomp filter")
    _expect("NoNewPrivs:\t1" in result["stdout"], "privileges can be gained")
    return f"uid {lines[0]}, network interfaces: lo only, seccomp filter on, no new privileges"


def _split(result: dict[str, Any]) -> tuple[dict[str, Any], int]:
    body, _, status = result["stdout"].rpartition("\n")
    _expect(status.isdecimal() and body != "", f"no answer: {result['stdout']}{result['stderr']}")
    return json.loads(body), int(status)


def _http(status: int) -> Callable[[dict[str, Any]], str]:
    def check(result: dict[str, Any]) -> str:
        body, got = _split(result)
        _expect(got == status, f"HTTP {got} instead of {status}: {body}")
        return f"HTTP {got}  {json.dumps(body)[:70]}"

    return check


def _refused(what: str) -> Callable[[dict[str, Any]], str]:
    def check(result: dict[str, Any]) -> str:
        body, got = _split(result)
        _expect(got == 403, f"HTTP {got}, although {what}")
        return _explained(body)

    return check


def _fetch_refused(result: dict[str, Any]) -> str:
    _expect(bool(result.get("decision_id")), f"not refused, or without a reason: {result}")
    return f"refused   {result['message']} (decision {result['decision_id']})"


def _explained(body: dict[str, Any]) -> str:
    _expect(bool(body.get("decision_id")), f"the refusal does not explain itself: {body}")
    return f"HTTP 403  {body['reason']} (decision {body['decision_id']})"


def _no_route(result: dict[str, Any]) -> str:
    _expect(result["exit_code"] == 7, f"curl ended with {result['exit_code']}, not 7")
    return "no way out: the sandbox has no route but the proxy"


def _nothing_found(result: dict[str, Any]) -> str:
    _expect(result["stdout"].strip() == "0", f"something looks like a secret: {result['stdout']}")
    return "nothing in the environment"
