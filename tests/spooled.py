"""What this process emitted to its audit spool while a test ran."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from apps.audit import emitter
from apps.audit.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def spooled(directory: Path) -> Iterator[list[dict[str, Any]]]:
    """A real spool in `directory`; the list is filled when the block ends."""
    events: list[dict[str, Any]] = []
    before = emitter._spool
    emitter._spool = Spool(directory)
    try:
        yield events
    finally:
        emitter._spool.close()
        emitter._spool = before
        for segment in sorted(directory.glob("*.ndjson*")):
            events += map(json.loads, segment.read_text().splitlines())
