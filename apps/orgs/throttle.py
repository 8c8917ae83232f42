"""A small brake for pages that anybody may call: so many times a minute for each caller's address.

It protects the database from floods, not a secret from guessing: secrets here have 256 random bits.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from django.core.cache import cache
from django.shortcuts import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    View = Callable[..., HttpResponseBase]

SECONDS = 60


def throttled(name: str, *, times: int) -> Callable[[View], View]:
    """Decorator: at most `times` calls a minute from one address, else a page with status 429."""

    def decorate(view: View) -> View:
        @wraps(view)
        def braked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            key = f"throttle-{name}-{request.META.get('REMOTE_ADDR', '')}"
            cache.add(key, 0, SECONDS)
            try:
                count = cache.incr(key)
            except ValueError:  # it expired between the two calls
                count = 1
            if count > times:
                page = render(request, "orgs/too_many.html", status=429)
                page["Retry-After"] = str(SECONDS)
                return page
            return view(request, *args, **kwargs)

        return braked

    return decorate
