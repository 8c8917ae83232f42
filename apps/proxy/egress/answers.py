"""What the proxy itself answers: a status and a JSON body that says why, and where to read more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.policies.types import Action

if TYPE_CHECKING:
    from apps.policies.types import Decision

# The layer named when no policy layer decided but the proxy's own protocol rules did.
PROXY_LAYER = "proxy"

_REASONS = {
    400: "Bad Request",
    403: "Forbidden",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal or a failure: HTTP status, machine code, sentence, and who decided."""

    status: int
    error: str
    reason: str
    rule: str = ""
    layer: str = PROXY_LAYER

    @property
    def denied(self) -> bool:
        """Whether this is a refusal (and not a failure of something we asked)."""
        return self.status in (400, 403, 408, 431)


class RefusedError(Exception):
    """Ends the handling of a request with an answer of ours."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.error)
        self.answer = answer


def of_decision(decision: Decision) -> Answer:
    """The 403 for a decision that does not allow."""
    reason = decision.reason
    if decision.action in (Action.ASK, Action.APPROVE):
        reason = f"needs approval; approvals are not available here yet ({reason})"
    return Answer(403, "egress_denied", reason, decision.rule, decision.layer.value)


def denied(reason: str, rule: str = "") -> Answer:
    """A 403 by the proxy's own rules."""
    return Answer(403, "egress_denied", reason, rule)


def explain_link(explain_url: str, decision_id: str) -> str:
    """Where a person reads about the decision; "" when no address was configured."""
    if not explain_url:
        return ""
    if "{decision_id}" in explain_url:
        return explain_url.replace("{decision_id}", decision_id)
    return f"{explain_url.rstrip('/')}/{decision_id}"


def render(
    answer: Answer, decision_id: str, explain_url: str, *, head_only: bool, close: bool
) -> bytes:
    """The whole response as bytes; without the body for a HEAD request."""
    body = json.dumps(
        {
            "error": answer.error,
            "reason": answer.reason,
            "rule": answer.rule,
            "layer": answer.layer,
            "decision_id": decision_id,
            "explain": explain_link(explain_url, decision_id),
        }
    ).encode()
    head = (
        f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        f"X-Lens-Decision: {decision_id}\r\n"
        f"Connection: {'close' if close else 'keep-alive'}\r\n\r\n"
    ).encode()
    return head if head_only else head + body
