"""Routes of raw ASGI applications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.urls import re_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]


def route(pattern: str, application: Any) -> Any:
    """A path that an ASGI application answers (Django's own type wants a view)."""
    return re_path(pattern, application)
