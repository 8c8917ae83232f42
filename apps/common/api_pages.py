"""Pages of a list, newest first, by keyset: a row that comes or goes moves no other.

The cursor is the place of the last row of a page: its id (a UUIDv7, so in order of creation), or
its time and id where a list is in order of time. It is not signed, because it opens nothing: every
page starts from the rows that the caller may see.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db.models import Q

from apps.common.errors import Invalid

if TYPE_CHECKING:
    from django.db.models import QuerySet

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and where to go on; None at the end."""

    rows: list[Any]
    following: str | None


def page_of(rows: QuerySet[Any], *, cursor: str | None, limit: str | None, by: str = "id") -> Page:
    """The page behind `cursor` (None = the first). `by` is "id" or the name of a time column."""
    size = _size(limit)
    ordered = rows.order_by("-id") if by == "id" else rows.order_by(f"-{by}", "-id")
    if cursor is not None:
        ordered = ordered.filter(_behind(cursor, by))
    found = list(ordered[: size + 1])
    more = len(found) > size
    return Page(found[:size], _cursor(found[size - 1], by) if more else None)


def _size(limit: str | None) -> int:
    if limit is None:
        return DEFAULT_LIMIT
    number = int(limit) if limit.isascii() and limit.isdecimal() and len(limit) < 4 else 0
    if not 1 <= number <= MAX_LIMIT:
        raise Invalid(f"A number from 1 to {MAX_LIMIT}.", field="limit")
    return number


def _cursor(row: Any, by: str) -> str:
    at = b"" if by == "id" else _micros(getattr(row, by)).to_bytes(8)
    return base64.urlsafe_b64encode(at + row.pk.bytes).rstrip(b"=").decode()


def _behind(cursor: str, by: str) -> Q:
    """The condition for the rows after the cursor's; Invalid for what is no cursor."""
    length = 16 if by == "id" else 24
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != length or base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != cursor:
        raise _not_a_cursor()
    last = uuid.UUID(bytes=raw[-16:])
    if by == "id":
        return Q(id__lt=last)
    try:
        at = _EPOCH + int.from_bytes(raw[:8]) * _MICROSECOND
    except OverflowError:
        raise _not_a_cursor() from None
    return Q(**{f"{by}__lte": at}) & (Q(**{f"{by}__lt": at}) | Q(id__lt=last))


def _micros(at: dt.datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _not_a_cursor() -> Invalid:
    return Invalid("Not a cursor of this list. Leave it out to start anew.", field="cursor")
