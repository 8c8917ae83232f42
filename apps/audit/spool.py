"""The local spool: how the data plane leaves audit events without ever waiting for a database.

Rules first:

* `emit()` is one `os.write` of one JSON line to a file opened with O_APPEND. It takes no network,
  no
  database and no fsync, does not block on a consumer, and raises nothing.
* What was written survives the death of the process (`kill -9`), since the page cache is the
  kernel's.
  It does not survive a power loss that comes before the kernel has flushed.
* What cannot be written is dropped and *counted*, and as soon as there is room a gap event says how
  many
  events of which organization and surface are missing, and from when to when.

A producer has one open segment, `<uuid7>.ndjson.open`, on which it holds an exclusive `flock` for
as long as it lives. Full segments are renamed to `<uuid7>.ndjson`. The writer reads both and
deletes a segment only when it was renamed, or when it could take the lock, which means that the
producer is dead. The lock is taken before the name becomes visible, so that a living producer is
never found unlocked.

This module is standard library only: the egress proxies use it, and they have no Django.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from apps.common import clock
from apps.common.ids import uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_EVENT_BYTES: Final = 64 * 1024
MAX_SEGMENT_BYTES: Final = 64 * 1024 * 1024
MAX_TOTAL_BYTES: Final = 512 * 1024 * 1024
OPEN_SUFFIX: Final = ".ndjson.open"
DONE_SUFFIX: Final = ".ndjson"
GAP_ACTION: Final = "audit.gap"
GAP_SURFACE: Final = "admin_change"

_RETRY_SECONDS: Final = 1.0
_MAX_GAPS: Final = 64
# Made once: `json.dumps` with options makes an encoder for every event.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_TOKEN = re.compile(rb"\b(ln[a-z]{1,3})_[A-Za-z0-9_-]{43}")
_OPEN_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(slots=True)
class Gap:
    """Events of one organization and surface that could not be written."""

    org: str | None
    org_slug: str
    surface: str
    count: int
    first_at: str
    last_at: str
    cause: str


def timestamp() -> str:
    """The current time as events carry it: ISO 8601, UTC, microseconds."""
    return clock.now().isoformat(timespec="microseconds")


def gap_event(gap: Gap, *, producer: str) -> dict[str, Any]:
    """The event that stands in the trail for `gap.count` missing ones."""
    noun = "event is" if gap.count == 1 else "events are"
    return {
        "id": str(uuid7()),
        "at": timestamp(),
        "org": gap.org,
        "org_slug": gap.org_slug,
        "principal_kind": "system",
        "principal_id": "system",
        "principal_name": "Lens Agents",
        "surface": gap.surface or GAP_SURFACE,
        "action": GAP_ACTION,
        "resource_type": "audit_spool",
        "resource_id": producer,
        "result": "error",
        "reason": f"{gap.count} audit {noun} missing ({gap.cause})",
        "metadata": {
            "lost": gap.count,
            "cause": gap.cause,
            "first_at": gap.first_at,
            "last_at": gap.last_at,
        },
    }


def encode_event(event: Mapping[str, Any]) -> bytes:
    """One line of at most MAX_EVENT_BYTES, newline included; platform tokens in it are masked.

    `id` and `at` are added where absent. An event that is too large keeps its identity and loses
    its metadata, then its reason. Raises TypeError, ValueError or RecursionError on what JSON
    cannot hold.
    """
    full = {"id": str(uuid7()), "at": timestamp(), **event}
    line = _dump(full)
    if len(line) > MAX_EVENT_BYTES:
        line = _dump({**full, "metadata": {"truncated": True, "bytes": len(line)}})
    if len(line) > MAX_EVENT_BYTES:
        line = _dump({**full, "metadata": {"truncated": True}, "reason": "", "chain": []})
    if len(line) > MAX_EVENT_BYTES:
        raise ValueError("an audit event is larger than its bound without metadata and reason")
    return line


def _dump(event: Mapping[str, Any]) -> bytes:
    return _TOKEN.sub(rb"\1_[masked]", _encode(event).encode()) + b"\n"


class Spool:
    """One producer's directory of segments. Thread-safe; safe to use on both sides of a fork."""

    def __init__(
        self,
        directory: Path,
        *,
        max_segment_bytes: int = MAX_SEGMENT_BYTES,
        max_total_bytes: int = MAX_TOTAL_BYTES,
    ) -> None:
        self.directory = directory
        self.max_total_bytes = max_total_bytes
        self.max_segment_bytes = min(max_segment_bytes, max(1, max_total_bytes // 2))
        self.dropped = 0
        self._lock = threading.Lock()
        self._gaps: dict[tuple[str | None, str], Gap] = {}
        self._retry: threading.Timer | None = None
        self._fd = -1
        self._pid = os.getpid()
        self._stem = ""
        self._size = 0
        self._total = 0
        self._scanned = 0.0
        self._closed = False
        with self._lock:
            self._ready()

    def emit(self, event: Mapping[str, Any]) -> None:
        """Append one event; never raises, never waits for a consumer. What is lost is counted."""
        try:
            line = encode_event(event)
        except (TypeError, ValueError, RecursionError):
            with self._lock:
                self._drop(event, "not encodable")
            return
        with self._lock:
            if self._gaps:
                self._report()
            cause = self._append(line)
            if cause:
                self._drop(event, cause)

    def close(self) -> None:
        """Report open gaps if there is room, and hand the segment over to the writer."""
        with self._lock:
            self._report()
            self._seal()
            self._closed = True
            if self._retry is not None:
                self._retry.cancel()

    def _append(self, line: bytes) -> str:
        """Write one whole line or nothing; returns why not, or an empty string."""
        if not self._room(len(line)):
            return "spool full"
        if not self._ready():
            return "spool not writable"
        try:
            written = os.write(self._fd, line)
        except OSError:
            return "disk full or failing"
        if written != len(line):
            self._undo()
            return "disk full or failing"
        self._size += written
        self._total += written
        if self._size >= self.max_segment_bytes:
            self._seal()
            self._ready()
        return ""

    def _undo(self) -> None:
        """Take back a torn line; if even that fails, leave the segment to the writer as it is."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._seal()

    def _room(self, count: int) -> bool:
        """Whether `count` more bytes fit; when full, looks at the directory once a second."""
        if self._total + count <= self.max_total_bytes:
            return True
        if time.monotonic() - self._scanned < _RETRY_SECONDS:
            return False
        self._scan()
        if self._total + count <= self.max_total_bytes:
            return True
        if self._size:
            self._seal()
        return False

    def _scan(self) -> None:
        """Count the bytes that the writer has not yet deleted."""
        self._scanned = time.monotonic()
        with suppress(OSError), os.scandir(self.directory) as entries:
            self._total = sum(entry.stat(follow_symlinks=False).st_size for entry in entries)

    def _ready(self) -> bool:
        """Have an open segment of this process; False when none can be made."""
        if self._fd >= 0 and self._pid == os.getpid():
            return True
        if self._closed:
            return False
        if self._fd >= 0:
            os.close(self._fd)  # the parent's: as long as a copy is open, its lock looks alive
            self._fd = -1
        try:
            self._open()
        except OSError:
            return False
        return True

    def _open(self) -> None:
        """Create, lock, then publish a segment, so that it is never seen unlocked."""
        self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        stem = str(uuid7())
        hidden = self.directory / f".{stem}.new"
        fd = os.open(hidden, _OPEN_FLAGS, 0o640)
        try:
            os.fchmod(fd, 0o640)  # the writer reads by group, whatever umask the producer has
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self.directory / f"{stem}{OPEN_SUFFIX}")
        except OSError:
            os.close(fd)
            raise
        self._fd, self._pid, self._stem, self._size = fd, os.getpid(), stem, 0
        self._scan()

    def _seal(self) -> None:
        """Rename the segment to its finished name and let go of it."""
        if self._fd < 0 or self._pid != os.getpid():
            return
        path = self.directory / f"{self._stem}{OPEN_SUFFIX}"
        with suppress(OSError):
            path.rename(self.directory / f"{self._stem}{DONE_SUFFIX}")
        os.close(self._fd)
        self._fd, self._size = -1, 0

    def _drop(self, event: Mapping[str, Any], cause: str) -> None:
        """Count a lost event; a handful of counters, whatever the flood."""
        self.dropped += 1
        org = event.get("org")
        key = (str(org) if org else None, str(event.get("surface") or GAP_SURFACE))
        if key not in self._gaps and len(self._gaps) >= _MAX_GAPS:
            key = (None, GAP_SURFACE)
        at = timestamp()
        gap = self._gaps.get(key)
        if gap is None:
            slug = str(event.get("org_slug") or "") if key[0] else ""
            gap = self._gaps[key] = Gap(key[0], slug, key[1], 0, at, at, cause)
        gap.count += 1
        gap.last_at = at
        self._schedule()

    def _report(self) -> None:
        """Write a gap event for each counter; keep the counters that find no room."""
        for key, gap in list(self._gaps.items()):
            if self._append(encode_event(gap_event(gap, producer=self.directory.name))):
                return
            del self._gaps[key]

    def _schedule(self) -> None:
        """Try again later even when no further event comes."""
        if self._closed or (self._retry is not None and self._retry.is_alive()):
            return
        self._retry = threading.Timer(_RETRY_SECONDS, self._later)
        self._retry.daemon = True
        with suppress(RuntimeError):  # no thread to be had: the next emit() reports instead
            self._retry.start()

    def _later(self) -> None:
        with self._lock:
            self._report()
            self._retry = None
            if self._gaps:
                self._schedule()
