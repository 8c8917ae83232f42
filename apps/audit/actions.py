"""The registry of audit actions: each app declares an enum in its `events.py`; a name exists once.

    @actions
    class TeamAction(StrEnum):
        CREATED = "team.created"

`record()` refuses an action that is not registered, so that a typing error is found by the first
test and not by the auditor. Events from the spool are checked by shape only: an older proxy may
still send an action that this version has forgotten.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from enum import StrEnum

ACTION_SHAPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")

Enum = TypeVar("Enum", bound="type[StrEnum]")

_owners: dict[str, str] = {}


def actions(enum: Enum) -> Enum:
    """Decorator: register every member of `enum`; TypeError on a duplicate or an odd name."""
    for member in enum:
        _add(str(member), f"{enum.__module__}.{enum.__qualname__}")
    return enum


def is_registered(action: str) -> bool:
    """Whether some app declared `action`."""
    return action in _owners


def registered() -> list[str]:
    """Every declared action, sorted."""
    return sorted(_owners)


def _add(action: str, owner: str) -> None:
    if not ACTION_SHAPE.fullmatch(action) or len(action) > 100:
        raise TypeError(f"{owner}: {action!r} is no audit action; write <noun>.<verb>")
    if action in _owners:
        raise TypeError(f"audit action {action!r} is declared by {_owners[action]} and by {owner}")
    _owners[action] = owner
