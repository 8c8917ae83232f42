"""From a bearer token to a `Principal`: the one door of every data-plane edge.

Rules.
1. A token is `<prefix>_<43 characters>`. The prefix names its kind; each app that mints tokens
   registers its kind here. What has no known form is refused without asking the database.
2. Only the SHA-256 of a token is looked up, kept or logged; a refusal is audited with the first
   digits of that hash, so that an admin can tell two tokens apart, and never with the token.
3. A known token is answered from memory while the Revision stands still (`apps.orgs.revision`), so
   that a revocation anywhere is felt by the next request after at most 250 ms. Expiry is compared
   with the clock at every use.
4. Each refusal has its own code and the same status, 401. When the Revision cannot be read for
   longer than its lease, everyone is refused with 503: the token may be good, we cannot know.
5. `last_used_at` is written at most once a minute a token, by a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from django.db import Error, close_old_connections, connection

from apps.common import clock
from apps.common.errors import Unauthenticated
from apps.common.ids import token_hash
from apps.common.registry import Registry
from apps.common.tenancy import edge, scope
from apps.orgs.refusals import Refusal, token_refused
from apps.orgs.revision import LEASE_SECONDS, StampedCache, unavailable

if TYPE_CHECKING:
    import datetime as dt
    import uuid

    from apps.orgs.types import Principal

CACHE_SIZE = 10_000
USED_EVERY = timedelta(minutes=1)
_FORM = re.compile(r"([a-z]{2,8})_[A-Za-z0-9_-]{43}")
_UNKNOWN = Refusal("token_unknown", "This token is not known.")
_EXPIRED = "This token has expired."
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """A token that holds: whose it is, until when (None: without end), when it was last seen."""

    principal: Principal
    who: dict[str, str | None]
    expires_at: dt.datetime | None = None
    last_used_at: dt.datetime | None = None


class TokenKind(Protocol):
    """What an app registers for its prefix. Both run in a thread that may use the database."""

    def find(self, digest: str) -> Holder | Refusal | None:
        """Whose the token with this SHA-256 is; None when there is no such token."""

    def used(self, token_id: uuid.UUID, at: dt.datetime) -> None:
        """Write down that it was used."""


token_kinds: Registry[TokenKind] = Registry("token prefix")
_cache: StampedCache[Holder | Refusal] = StampedCache(CACHE_SIZE)
_lookups = ThreadPoolExecutor(max_workers=4, thread_name_prefix="lens-authn")


def authenticate(bearer: str) -> Principal:
    """Whose this bearer token is. Raises Unauthenticated (401), or Unavailable (503)."""
    kind, digest = _parse(bearer)
    return _admit(kind, digest, _find(kind, digest))


async def aauthenticate(bearer: str) -> Principal:
    """The same for the event loop: from memory at once, else in a thread."""
    kind, digest = _parse(bearer)
    found = _cache.peek(digest)
    if found is None:
        found = await _afind(kind, digest)
    return _admit(kind, digest, found)


def _parse(bearer: str) -> tuple[TokenKind, str]:
    if not bearer:
        raise Unauthenticated("A bearer token is needed.", code="token_missing")
    form = _FORM.fullmatch(bearer)
    kind = token_kinds.get(form.group(1)) if form else None
    if kind is None:
        # Not even a hash of it is kept: what was sent may be a password, which a hash would betray.
        raise _refused(_UNKNOWN, "")
    return kind, token_hash(bearer)


def _find(kind: TokenKind, digest: str) -> Holder | Refusal:
    """From the cache or the database. A token that nobody knows is not remembered."""

    def load(_: int) -> Holder | Refusal:
        with edge():
            found = kind.find(digest)
        if found is None:
            raise _refused(_UNKNOWN, digest)
        return found

    try:
        return _cache.get(digest, load)
    except Error as error:
        raise unavailable() from error


async def _afind(kind: TokenKind, digest: str) -> Holder | Refusal:
    """In a thread, and not longer than the lease: a database that hangs must not hang the edge."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LEASE_SECONDS):
            return await loop.run_in_executor(_lookups, _find_in_thread, kind, digest)
    except TimeoutError:
        raise unavailable() from None


def _find_in_thread(kind: TokenKind, digest: str) -> Holder | Refusal:
    try:
        return _find(kind, digest)
    finally:
        close_old_connections()


def _admit(kind: TokenKind, digest: str, found: Holder | Refusal) -> Principal:
    if isinstance(found, Refusal):
        raise _refused(found, digest)
    now = clock.now()
    if found.expires_at is not None and found.expires_at <= now:
        raise _refused(Refusal("token_expired", _EXPIRED, found.who), digest)
    _last_used.saw(kind, found, now)
    return found.principal


def _refused(refusal: Refusal, digest: str) -> Unauthenticated:
    token_refused(refusal, digest)
    return Unauthenticated(refusal.message, code=refusal.code)


class _LastUsed:
    """Writes `last_used_at` in the background, at most once a minute a token."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: OrderedDict[uuid.UUID, dt.datetime] = OrderedDict()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lens-last-used")

    def saw(self, kind: TokenKind, holder: Holder, now: dt.datetime) -> None:
        token_id = holder.principal.token_id
        if not self._due(token_id, holder.last_used_at, now):
            return
        if connection.in_atomic_block:
            # A second connection could wait for this very transaction: SQLite has one writer.
            _note_used(kind, holder, now)
        else:
            self._writer.submit(_write_used, kind, holder, now)

    def _due(self, token_id: uuid.UUID, stored: dt.datetime | None, now: dt.datetime) -> bool:
        with self._lock:
            last = self._written.get(token_id, stored)
            if last is not None and now - last < USED_EVERY:
                return False
            self._written[token_id] = now
            self._written.move_to_end(token_id)
            if len(self._written) > CACHE_SIZE:
                self._written.popitem(last=False)
            return True


_last_used = _LastUsed()


def _note_used(kind: TokenKind, holder: Holder, at: dt.datetime) -> None:
    with edge(), scope(holder.principal.org_id):
        kind.used(holder.principal.token_id, at)


def _write_used(kind: TokenKind, holder: Holder, at: dt.datetime) -> None:
    try:
        _note_used(kind, holder, at)
    except Error:
        _log.warning("the last use of token %s could not be written", holder.principal.token_id)
    finally:
        close_old_connections()
