"""Brakes for pages that anybody may call, counted a minute at a time.

They protect the database from floods, not a secret from guessing: secrets here have 256 random
bits. Two counts, so that neither a company behind one address nor the victim of a flood is locked
out: all calls from one address, generously; and those from one address about one thing (a provider,
an organization), less so. Nothing is counted about a thing alone: a stranger could use it up.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from django.core.cache import cache
from django.shortcuts import render

from apps.orgs.addresses import address_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    View = Callable[..., HttpResponseBase]

SECONDS = 60


def throttled(name: str, *, times: int, each: int = 0) -> Callable[[View], View]:
    """Decorator: at most `times` calls a minute from one address, and `each` about one thing (the
    view's own arguments; 0 = not counted); else a page with status 429."""

    def decorate(view: View) -> View:
        @wraps(view)
        def braked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            address = address_of(request)
            thing = "-".join(str(value) for value in kwargs.values())
            if _count(f"{name}-{address}") > times or (
                each and _count(f"{name}-{address}-{thing}") > each
            ):
                page = render(request, "orgs/too_many.html", status=429)
                page["Retry-After"] = str(SECONDS)
                return page
            return view(request, *args, **kwargs)

        return braked

    return decorate


def _count(what: str) -> int:
    """How many calls this minute, this one included."""
    key = f"throttle-{what}"
    cache.add(key, 0, SECONDS)
    try:
        return cache.incr(key)
    except ValueError:  # it expired between the two calls
        return 1
