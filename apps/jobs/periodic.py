"""What beat does again and again: each app declares its own in `tasks.py`.

    @every(60, name="sandboxes.reap")
    def reap() -> None: ...

It begins nowhere (`apps.common.tenancy`): a sweep says `system(…)` itself. A run that could not
start before the next one is due is dropped, so that a worker that was away does not find a pile of
them.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from celery import shared_task

if TYPE_CHECKING:
    from collections.abc import Callable

MIN_EXPIRES_SECONDS = 10

_entries: dict[str, dict[str, Any]] = {}


def every(seconds: float, *, name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Decorator: make the function the Celery task `name` and run it every `seconds`."""

    def add(function: Callable[[], None]) -> Callable[[], None]:
        if name in _entries:
            raise TypeError(f"periodic task {name!r} is declared twice")
        task = _nowhere(function)
        shared_task(name=name, ignore_result=True)(task)
        options = {"expires": max(int(seconds), MIN_EXPIRES_SECONDS)}
        _entries[name] = {"task": name, "schedule": seconds, "options": options}
        return task

    return add


def _nowhere(function: Callable[[], None]) -> Callable[[], None]:
    """The function, begun nowhere."""

    @wraps(function)
    def run() -> None:
        from apps.common.tenancy import edge  # noqa: PLC0415  Celery's app is made before models

        with edge():
            function()

    return run


def schedule() -> dict[str, dict[str, Any]]:
    """The entries of all apps, as Celery's `beat_schedule` wants them."""
    return dict(_entries)
