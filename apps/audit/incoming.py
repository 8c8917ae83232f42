"""From a spooled line to a row: the writer trusts no producer, not even our own.

A line that is not exactly an event is refused with the reason and kept aside by the caller. Long
free text is cut, since cut evidence is better than none; a wrong identity is not repaired.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import uuid
from typing import Any, Final, NoReturn

from apps.audit.actions import ACTION_SHAPE
from apps.audit.cleaning import MAX_TEXT, clean_metadata, clean_text
from apps.audit.models import AuditEvent, Result, Surface
from apps.audit.spool import MAX_EVENT_BYTES
from apps.common import clock

MAX_CHAIN: Final = 16
MAX_STATUS: Final = 999
FUTURE: Final = dt.timedelta(days=1)
OLDEST: Final = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)

_SURFACES: Final = frozenset(Surface.values)
_RESULTS: Final = frozenset(Result.values)
_WORD = re.compile(r"[a-z0-9_-]*")
# Columns of free text are cut to their length; words and identifiers must fit.
_FREE_TEXT: Final = {
    "principal_name": 254,
    "on_behalf_of": 254,
    "resource_id": 500,
    "reason": MAX_TEXT,
}
_WORDS: Final = {"principal_kind": 16, "tier": 16, "team_slug": 63, "project_slug": 63}
_IDENTIFIERS: Final = {
    "principal_id": 64,
    "resource_type": 50,
    "decision_id": 64,
    "trace_id": 64,
}


class Rejected(Exception):  # noqa: N818  a verdict on a line, not a failure of ours
    """The line is no event; the text says why and quotes nothing of it."""


def parse(line: bytes) -> AuditEvent:
    """The unsaved row that `line` describes; raises Rejected."""
    event = _load(line)
    return AuditEvent(
        id=_uuid(event, "id", required=True),
        at=_time(event),
        duration_ms=_duration(event),
        org_id=_uuid(event, "org"),
        team_id=_uuid(event, "team"),
        project_id=_uuid(event, "project"),
        surface=_choice(event, "surface", _SURFACES),
        result=_choice(event, "result", _RESULTS),
        action=_action(event),
        status=_status(event),
        chain=_chain(event),
        metadata=_metadata(event),
        **{name: clean_text(_text(event, name), limit) for name, limit in _FREE_TEXT.items()},
        **{name: _word(event, name, limit) for name, limit in _WORDS.items()},
        **{name: _identifier(event, name, limit) for name, limit in _IDENTIFIERS.items()},
    )


def _load(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_EVENT_BYTES:
        raise Rejected("longer than an event may be")
    try:
        event = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Rejected("not JSON") from None
    if not isinstance(event, dict):
        raise Rejected("not an object")
    return event


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and infinities are no JSON")


def _uuid(event: dict[str, Any], name: str, *, required: bool = False) -> uuid.UUID | None:
    value = event.get(name)
    if value in (None, "") and not required:
        return None
    try:
        return uuid.UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise Rejected(f"{name} is not a UUID") from None


def _time(event: dict[str, Any]) -> dt.datetime:
    try:
        at = dt.datetime.fromisoformat(event["at"])
    except (KeyError, ValueError, TypeError):
        raise Rejected("at is not an ISO 8601 time") from None
    if at.tzinfo is None or not OLDEST <= at <= clock.now() + FUTURE:
        raise Rejected("at has no zone or is out of range")
    return at.astimezone(dt.UTC)


def _duration(event: dict[str, Any]) -> float | None:
    value = event.get("duration_ms")
    if value is None:
        return None
    if not _is_number(value) or not math.isfinite(value) or not 0 <= value < 1e12:
        raise Rejected("duration_ms is not a duration")
    return float(value)


def _status(event: dict[str, Any]) -> int | None:
    value = event.get("status")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_STATUS:
        raise Rejected("status is not a status code")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _choice(event: dict[str, Any], name: str, values: frozenset[str]) -> str:
    value = event.get(name)
    if not isinstance(value, str) or value not in values:
        raise Rejected(f"{name} is not one that exists")
    return value


def _action(event: dict[str, Any]) -> str:
    value = _text(event, "action")
    if len(value) > 100 or not ACTION_SHAPE.fullmatch(value):
        raise Rejected("action is not <noun>.<verb>")
    return value


def _text(event: dict[str, Any], name: str) -> str:
    value = event.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Rejected(f"{name} is not text")
    return value


def _word(event: dict[str, Any], name: str, limit: int) -> str:
    value = _text(event, name)
    if len(value) > limit or not _WORD.fullmatch(value):
        raise Rejected(f"{name} is not a word of at most {limit} characters")
    return value


def _identifier(event: dict[str, Any], name: str, limit: int) -> str:
    value = clean_text(_text(event, name), limit + 1)
    if len(value) > limit:
        raise Rejected(f"{name} is longer than {limit} characters")
    return value


def _chain(event: dict[str, Any]) -> list[str]:
    value = event.get("chain") or []
    names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if not names or len(value) > MAX_CHAIN:
        raise Rejected("chain is not a list of names")
    return [clean_text(name, 254) for name in value]


def _metadata(event: dict[str, Any]) -> dict[str, Any]:
    value = event.get("metadata") or {}
    if not isinstance(value, dict):
        raise Rejected("metadata is not an object")
    return clean_metadata(value)
