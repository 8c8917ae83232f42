"""The one place that reads the wall clock; tests patch `now` here and nowhere else."""

from __future__ import annotations

import datetime as dt


def now() -> dt.datetime:
    """The current time, aware, in UTC."""
    return dt.datetime.now(tz=dt.UTC)  # noqa: TID251  this is the module the ban points to
