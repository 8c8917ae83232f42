"""Which function does which kind of job.

    @job("sandbox.provision", max_seconds=120)
    def provision(payload: dict[str, Any]) -> None: ...

Handlers live in each app's `tasks.py`, which Celery imports. A job runs at least once: a handler
must be able to run again after it was killed at any line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Handler = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job: its handler, how often it is tried, how long one try may hold its lease."""

    name: str
    handler: Handler
    max_attempts: int
    max_seconds: float


_kinds: dict[str, Kind] = {}


def job(
    name: str, *, max_attempts: int = 5, max_seconds: float = 600
) -> Callable[[Handler], Handler]:
    """Decorator: `name` is done by this function; TypeError when it already is by another."""

    def add(handler: Handler) -> Handler:
        if name in _kinds:
            raise TypeError(f"job kind {name!r} is registered twice")
        _kinds[name] = Kind(name, handler, max_attempts, max_seconds)
        return handler

    return add


def kind_of(name: str) -> Kind | None:
    """The kind called `name`, or None."""
    return _kinds.get(name)


def kinds() -> list[str]:
    """The names of all kinds, sorted."""
    return sorted(_kinds)
