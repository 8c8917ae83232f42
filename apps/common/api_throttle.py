"""The brake of the REST API: so many calls a minute for each principal, counted in the cache."""

from __future__ import annotations

import time

from django.core.cache import cache

from apps.common.errors import RateLimited

WINDOW_SECONDS = 60


def count_call(who: str, *, limit: int) -> None:
    """Count one call; RateLimited past `limit` within the current minute."""
    minute, seconds = divmod(int(time.time()), WINDOW_SECONDS)
    key = f"api-calls-{who}-{minute}"
    cache.add(key, 0, 2 * WINDOW_SECONDS)
    try:
        count = cache.incr(key)
    except ValueError:  # the cache was cleared between the two calls
        count = 1
    if count > limit:
        raise RateLimited(
            f"More than {limit} calls in a minute. Wait, and ask less often.",
            retry_after=WINDOW_SECONDS - seconds,
        )
