"""What a call leaves on the trail."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from apps.audit import emitter
from apps.audit.spool import MAX_EVENT_BYTES, encode_event
from apps.mcp.trail import Record
from apps.orgs.types import Grant, Principal, PrincipalKind, Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

WHO = Principal(
    kind=PrincipalKind.AGENT,
    id=uuid.uuid4(),
    name="Bot",
    org_id=uuid.uuid4(),
    org_slug="acme",
    team_id=uuid.uuid4(),
    team_slug="sre",
    tier=Tier.API,
    token_id=uuid.uuid4(),
    on_behalf_of="ann@acme.example",
)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(emitter.spool(), "emit", seen.append)
    return seen


def emitted(tool: str, arguments: Mapping[str, Any], **answer: Any) -> Record:
    record = Record(WHO, tool, arguments, grant=Grant(uuid.uuid4(), "production", "member"))
    record.sandbox_id = uuid.uuid4()
    record.emit(answer)
    return record


def test_a_call_names_who_where_and_what(events: list[dict[str, Any]]) -> None:
    record = emitted("shell_exec", {"command": "id"}, stdout="uid=0")
    call, shell = events
    assert (call["surface"], call["action"], call["resource_id"]) == (
        "mcp_tool",
        "tool.call",
        "shell_exec",
    )
    assert (shell["surface"], shell["resource_id"]) == ("shell_command", str(record.sandbox_id))
    assert call["trace_id"] == shell["trace_id"] == record.trace_id
    assert call["on_behalf_of"] == "ann@acme.example"
    assert call["project_slug"] == "production"
    assert call["metadata"]["parameters"] == {"command": "id"}
    assert call["metadata"]["result_bytes"] == len(json.dumps({"stdout": "uid=0"})) - 1
    assert "uid=0" not in json.dumps(events)


def test_without_a_sandbox_there_is_one_event(events: list[dict[str, Any]]) -> None:
    Record(WHO, "shell_exec", {"command": "id"}).emit()
    assert [event["surface"] for event in events] == ["mcp_tool"]
    assert events[0]["project"] is None


def test_a_refusal_has_an_id_of_its_own(events: list[dict[str, Any]]) -> None:
    record = Record(WHO, "shell_exec", {})
    decision = record.refuse("Not allowed.", layer="team")
    record.emit()
    assert events[0]["decision_id"] == decision
    assert (events[0]["result"], events[0]["status"]) == ("denied", 403)
    assert events[0]["metadata"]["layer"] == "team"


@pytest.mark.parametrize("odd", ["unknown", "d" * 65, "\n"])
def test_only_ids_of_decisions_are_kept_as_such(events: list[dict[str, Any]], odd: str) -> None:
    Record(WHO, "web_fetch", {}, decision_id=odd).emit()
    assert events[0]["decision_id"] == ""


@pytest.mark.parametrize(
    "arguments",
    [
        {"content": "x" * 3_000_000},
        {f"k{number}": "y" * 4000 for number in range(100)},
        {"a": [["z" * 4000] * 100] * 100},
        {"\ud800": "\udfff", "n": 10**6000, "f": float("nan")},
    ],
    ids=["one long", "many", "nested", "odd"],
)
def test_an_event_stays_small_whatever_was_sent(
    events: list[dict[str, Any]], arguments: dict[str, Any]
) -> None:
    emitted("file_write", arguments)
    assert len(events) == 2
    for event in events:
        assert len(encode_event(event)) < MAX_EVENT_BYTES
        assert "truncated" not in event["metadata"]


def test_what_a_call_did_is_kept_whatever_came_before_it(events: list[dict[str, Any]]) -> None:
    headers = {f"h{number}": "v" * 8000 for number in range(50)}
    emitted("web_fetch", {"headers": headers, "method": "DELETE", "url": "https://x.example/"})
    kept = events[0]["metadata"]["parameters"]
    assert (kept["method"], kept["url"]) == ("DELETE", "https://x.example/")
    assert list(kept) == ["headers", "method", "url"]


def test_a_tool_name_from_outside_is_cut(events: list[dict[str, Any]]) -> None:
    Record(WHO, "x" * 10_000, {}).emit()
    assert len(events[0]["resource_id"]) == 200
