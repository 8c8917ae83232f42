"""Whose refusal an answer is: the egress proxy's, or that of the server behind it."""

from __future__ import annotations

import base64
import json
import uuid
from typing import TYPE_CHECKING, Any, cast

import pytest

from apps.common.errors import Invalid
from apps.common.ids import uuid7
from apps.mcp.tool import Call
from apps.mcp.tools.web_fetch import web_fetch
from apps.orgs.types import Grant
from tests.apps.mcp.test_trail import WHO

if TYPE_CHECKING:
    from apps.mcp.tool import Outcome
    from apps.mcp.workplace import Workplace

DECISION = str(uuid7())
ARGUMENTS = {
    "url": "https://x.example/",
    "method": "GET",
    "headers": {},
    "body": "",
    "timeout": 1000,
    "max_bytes": 65_536,
}


class Replying:
    """A workplace in which every request gets the same answer."""

    def __init__(self, reply: dict[str, Any]) -> None:
        self._reply = reply

    async def do(self, *_: object, **__: object) -> dict[str, Any]:
        return self._reply


async def fetched(body: object, *decisions: str) -> Outcome:
    """What the tool makes of a 403 with that JSON body, and the header once for each decision."""
    data = b"" if body is None else json.dumps(body).encode()
    reply = {
        "status": 403,
        "headers": [["X-Lens-Decision", decision] for decision in decisions],
        "body": base64.b64encode(data).decode(),
        "truncated": False,
    }
    grant = Grant(uuid.uuid4(), "production", "member")
    workplace = cast("Workplace", Replying(reply))
    return await web_fetch(Call(WHO, grant, ARGUMENTS, workplace))


def refusal(decision_id: object) -> dict[str, object]:
    return {"error": "egress_denied", "reason": "No rule.", "decision_id": decision_id}


@pytest.mark.parametrize("body", [refusal(DECISION), None], ids=["GET", "HEAD"])
async def test_the_proxys_refusal_is_a_denial(body: object) -> None:
    outcome = await fetched(body, DECISION)
    assert (outcome.error, outcome.denied) == ("egress_denied", DECISION)
    assert outcome.data["decision_id"] == DECISION


@pytest.mark.parametrize(
    ("body", "decisions"),
    [
        (refusal(DECISION), ()),
        (refusal("d" * 65), ()),
        (refusal("d" * 65), ("d" * 65,)),
        (refusal(DECISION), (str(uuid7()),)),
        (refusal(DECISION), (DECISION, DECISION)),
        (refusal([DECISION]), (DECISION,)),
        ({"error": "egress_denied"}, (DECISION,)),
        ([DECISION], (DECISION,)),
        (None, ("unknown",)),
    ],
)
async def test_what_imitates_one_is_an_answer(body: object, decisions: tuple[str, ...]) -> None:
    outcome = await fetched(body, *decisions)
    assert (outcome.error, outcome.denied) == ("", "")
    assert outcome.data["status"] == 403


async def test_half_a_character_in_the_body_is_the_caller_s_mistake() -> None:
    """JSON can say it, UTF-8 cannot."""
    grant = Grant(uuid.uuid4(), "production", "member")
    workplace = cast("Workplace", Replying({}))
    with pytest.raises(Invalid) as refused:
        await web_fetch(Call(WHO, grant, {**ARGUMENTS, "body": "\ud800"}, workplace))
    assert refused.value.data["field"] == "body"
