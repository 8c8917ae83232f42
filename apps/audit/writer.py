"""From the spool into the database, exactly once by event id.

Order is everything: insert (one transaction a batch, rows with a known id ignored), commit, save
the offset, delete the finished segment. Killed between any two of these, the writer reads some
lines again and the database ignores them. What is no event is put aside and counted by a gap event
in the same transaction. A database that is away costs nothing but delay: the spool holds until it
is back.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from django.db import (
    DatabaseError,
    InterfaceError,
    OperationalError,
    connection,
)

from apps.audit import sources
from apps.audit.bulk import insert_new
from apps.audit.incoming import Rejected, parse
from apps.audit.models import AuditEvent
from apps.audit.segments import Chunk, Spools
from apps.audit.spool import GAP_SURFACE, Gap, encode_event, gap_event, timestamp
from apps.common.database import drop_stale_connections
from apps.common.tenancy import system

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

POLL_SECONDS: Final = 0.2
BATCH_EVENTS: Final = 2_000
STANDBY_SECONDS: Final = 1.0
TIDY_SECONDS: Final = 60.0
MAX_PAUSE_SECONDS: Final = 5.0
DRAIN_SECONDS: Final = 5.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Part:
    """One chunk of a batch: its events, each with its line, and the lines that are none."""

    chunk: Chunk
    events: list[tuple[AuditEvent, bytes]] = field(default_factory=list)
    refused: list[tuple[bytes, str]] = field(default_factory=list)

    def sieve(self, verdict: Callable[[AuditEvent], str]) -> None:
        """Move the events for which `verdict` gives a reason to the refused lines."""
        kept = []
        for row, line in self.events:
            reason = verdict(row)
            if reason:
                self.refused.append((line, reason))
            else:
                kept.append((row, line))
        self.events = kept


class AuditWriter:
    """Reads every producer's folder below `root` and stores what it finds."""

    def __init__(self, root: Path) -> None:
        self._spools = Spools(root)
        self._organizations: set[uuid.UUID] = set()
        self._owners: dict[str, uuid.UUID] = {}
        self._tidied = 0.0

    @system("storing audit events")
    def run(self, stop: threading.Event) -> None:
        """Store until `stop` is set, then what is left, for DRAIN_SECONDS. Never raises."""
        pause = POLL_SECONDS
        while not stop.is_set():
            try:
                if not self._spools.claim():
                    stop.wait(STANDBY_SECONDS)
                    continue
                stored = self.step()
                self._tidy()
            except Exception as error:  # noqa: BLE001  better to try again than to be dead
                pause = min(MAX_PAUSE_SECONDS, pause * 2)
                self._complain(error)
                stop.wait(pause)
                continue
            pause = POLL_SECONDS
            if not stored:
                stop.wait(pause)
        self._drain()

    @system("storing audit events")
    def step(self) -> int:
        """Store one batch; returns how many chunks it held, 0 when there was nothing to do."""
        parts: list[_Part] = []
        count = 0
        for chunk in self._spools.chunks():
            part = self._sort(chunk)
            parts.append(part)
            count += len(chunk.lines)
            if count >= BATCH_EVENTS:
                break
        if parts:
            self._store(parts)
        return len(parts)

    def _complain(self, error: Exception) -> None:
        """Say that events wait. An error that we do not know comes with its traceback."""
        expected = isinstance(error, DatabaseError | OSError)
        logger.warning(
            "audit events wait in the spool (%s)", type(error).__name__, exc_info=not expected
        )
        connection.close()

    def _drain(self) -> None:
        ends = time.monotonic() + DRAIN_SECONDS
        try:
            while self._spools.claim() and time.monotonic() < ends and self.step():
                pass
        except (DatabaseError, OSError) as error:
            logger.warning("audit events stay in the spool (%s)", type(error).__name__)
        finally:
            self._spools.release()
            connection.close()

    def _sort(self, chunk: Chunk) -> _Part:
        """Tell events from other lines, as far as that needs no database."""
        part = _Part(chunk)
        for line in chunk.lines:
            try:
                part.events.append((parse(line), line))
            except Rejected as verdict:
                part.refused.append((line, str(verdict)))
        return part

    def _store(self, parts: list[_Part]) -> None:
        """Insert and commit, put aside, move on: a crash repeats steps and skips none."""
        drop_stale_connections()
        self._refuse_foreign(parts)
        try:
            self._insert(parts)
        except (OperationalError, InterfaceError):
            raise
        except (DatabaseError, ValueError):
            # One row that the database will not take must not hold up all others for ever.
            for part in parts:
                part.sieve(self._unstorable)
            self._insert(parts)
        for part in parts:
            if part.refused:
                self._put_aside(part)
            self._spools.stored(part.chunk)

    def _insert(self, parts: list[_Part]) -> None:
        rows = [row for part in parts for row, _ in part.events]
        rows += [self._gap(part) for part in parts if part.refused]
        insert_new(rows)

    def _put_aside(self, part: _Part) -> None:
        self._spools.set_aside(part.chunk, part.refused)
        logger.warning(
            "%d lines of spool %s are no audit events and were put aside (%s)",
            len(part.refused),
            part.chunk.producer,
            part.refused[0][1],
        )

    def _refuse_foreign(self, parts: list[_Part]) -> None:
        """Refuse events of organizations that do not exist, or that are not the producer's own."""
        self._learn({row.org_id for part in parts for row, _ in part.events})
        for part in parts:
            owner = self._owner(part.chunk.producer)
            part.sieve(partial(self._foreign, owner=owner))

    def _foreign(self, row: AuditEvent, *, owner: uuid.UUID | None) -> str:
        if row.org_id is not None and row.org_id not in self._organizations:
            return "no such organization"
        if owner is not None and row.org_id != owner:
            return "not this producer's organization"
        return ""

    def _unstorable(self, row: AuditEvent) -> str:
        try:
            insert_new([row])
        except (OperationalError, InterfaceError):
            raise
        except (DatabaseError, ValueError) as error:
            return f"not storable ({type(error).__name__})"
        return ""

    def _learn(self, wanted: set[uuid.UUID | None]) -> None:
        unknown = {org for org in wanted if org is not None} - self._organizations
        if unknown:
            organizations = AuditEvent._meta.get_field("org").related_model  # noqa: SLF001  Django's documented name
            found = organizations._default_manager.filter(pk__in=unknown)  # noqa: SLF001  same
            self._organizations.update(found.values_list("pk", flat=True))

    def _owner(self, producer: str) -> uuid.UUID | None:
        """The organization that a sandbox's folder may speak for; None for the control plane's."""
        resolve = sources.resolver()
        if resolve is None or not sources.SANDBOX_FOLDER.fullmatch(producer):
            return None
        if producer not in self._owners:
            owner = resolve(uuid.UUID(producer))
            if owner is None:
                return uuid.UUID(int=0)  # an unknown sandbox speaks for nobody
            self._owners[producer] = owner
        return self._owners[producer]

    def _gap(self, part: _Part) -> AuditEvent:
        """The event that counts a chunk's refused lines; its id makes a second reading the same."""
        at = timestamp()
        chunk = part.chunk
        owner = self._owners.get(chunk.producer)
        gap = Gap(
            org=str(owner) if owner else None,
            org_slug="",
            surface=GAP_SURFACE,
            count=len(part.refused),
            first_at=at,
            last_at=at,
            cause=f"put aside: {part.refused[0][1]}",
        )
        row = parse(encode_event(gap_event(gap, producer=chunk.producer)))
        seed = f"{chunk.producer}/{chunk.stem}/{chunk.start}/{chunk.end}".encode()
        row.id = uuid.UUID(bytes=hashlib.sha256(seed).digest()[:16], version=4)
        return row

    def _tidy(self) -> None:
        if time.monotonic() - self._tidied > TIDY_SECONDS:
            self._tidied = time.monotonic()
            self._spools.tidy()
