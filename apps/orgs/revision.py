"""The Revision: how every process notices that who-may-do-what has changed.

Rules.
1. A service that changes who may do what calls `bump()` in its transaction: the change and the new
   number become visible together, or not at all. It calls it after its last other write: everyone
   who changes something waits for this one row, and who holds it must not wait for anything else.
2. A process trusts what it has cached only as long as the number did not move. It reads the number
   at most 250 ms before it relies on it; within that time it answers from memory.
3. A process that could not read the number for longer than its lease (2 s) denies: it cannot know
   what was revoked. A shorter outage of the database passes unnoticed.
4. A value is cached under the number that was read *before* it was loaded, and only if the number
   is the same *afterwards*: never half of an old state and half of a new one.
5. Inside a transaction nothing is cached: rows that may yet be rolled back must not reach others.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from django.db import Error, connection, transaction
from django.db.models import F

from apps.common.errors import Unavailable
from apps.orgs.models import Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

POLL_SECONDS = 0.25
LEASE_SECONDS = 2.0
_LOAD_ATTEMPTS = 5
Value = TypeVar("Value")


def bump() -> None:
    """Say that who-may-do-what changes with the current transaction."""
    if not Revision.objects.filter(pk=1).update(seq=F("seq") + 1):
        Revision.objects.bulk_create([Revision(pk=1, seq=0)], ignore_conflicts=True)
        Revision.objects.filter(pk=1).update(seq=F("seq") + 1)
    transaction.on_commit(stamp.forget)


def read_seq() -> int:
    """The number as the database has it now; 0 before the first change."""
    return Revision.objects.filter(pk=1).values_list("seq", flat=True).first() or 0


class Stamp:
    """The number as this process knows it. Thread-safe; times are monotonic seconds."""

    def __init__(
        self,
        read: Callable[[], int] = read_seq,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._seq = 0
        self._read_at: float | None = None
        self._due_at = float("-inf")

    def known(self) -> int | None:
        """The number if it was read within the last 250 ms; touches no database."""
        return self._seq if self._clock() < self._due_at else None

    def current(self) -> int:
        """The number, read again when due. Unavailable when the lease has run out."""
        with self._lock:
            seq = self.known()
            return self._refresh() if seq is None else seq

    def fresh(self) -> int:
        """The number, read now. Unavailable as above."""
        with self._lock:
            return self._refresh()

    def forget(self) -> None:
        """Read again at the next call: this process itself has just changed something."""
        self._due_at = float("-inf")

    def _refresh(self) -> int:
        started = self._clock()
        try:
            seq = self._read()
        except Error as error:
            # A thread that lives long would otherwise keep a dead connection for ever.
            connection.close_if_unusable_or_obsolete()
            if self._read_at is None or self._clock() - self._read_at > LEASE_SECONDS:
                raise unavailable() from error
            return self._seq
        self._seq, self._read_at, self._due_at = seq, started, started + POLL_SECONDS
        return seq


stamp = Stamp()


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Value]):
    seq: int
    value: Value


class StampedCache(Generic[Value]):
    """Values that hold as long as the Revision did not move; the least used ones go first."""

    def __init__(self, size: int, *, stamp: Stamp = stamp) -> None:
        self._size = size
        self._stamp = stamp
        self._entries: OrderedDict[Hashable, _Entry[Value]] = OrderedDict()
        self._lock = threading.Lock()

    def peek(self, key: Hashable) -> Value | None:
        """The value if it can be had from memory alone, without asking the database."""
        seq = self._stamp.known()
        return None if seq is None else self._find(key, seq)

    def get(self, key: Hashable, load: Callable[[int], Value]) -> Value:
        """The value; `load(seq)` makes it when it is absent or old. What `load` raises passes."""
        if connection.in_atomic_block:
            return load(read_seq())
        found = self._find(key, self._stamp.current())
        return self._load(key, load) if found is None else found

    def _find(self, key: Hashable, seq: int) -> Value | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.seq != seq:
                return None
            self._entries.move_to_end(key)
            return entry.value

    def _load(self, key: Hashable, load: Callable[[int], Value]) -> Value:
        for _ in range(_LOAD_ATTEMPTS):
            seq = self._stamp.fresh()
            value = load(seq)
            if self._stamp.fresh() == seq:
                self._store(key, _Entry(seq, value))
                return value
        raise unavailable()

    def _store(self, key: Hashable, entry: _Entry[Value]) -> None:
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)


def unavailable() -> Unavailable:
    """The refusal of everyone while it cannot be known what was revoked."""
    return Unavailable(
        "The platform cannot read who may do what right now, so it refuses. Try again shortly.",
        code="authority_unavailable",
        remedy="Check that the database answers.",
    )
