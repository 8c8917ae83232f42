"""Processes of the kill test: one that emits, one that stores.

main("emit", <spool folder>, <tag>)    emit numbered events for ever, print each number once it
is out main("write")                          the audit writer on the settings' spool, for ever
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from apps.audit.spool import Spool


def emit(folder: str, tag: str) -> None:
    """Number events; a printed number is a promise."""
    spool = Spool(Path(folder), max_segment_bytes=100_000)
    for n in range(10**9):
        spool.emit(
            {
                "org": None,
                "surface": "forward_proxy",
                "action": "egress.request",
                "result": "success",
                "resource_id": f"{tag}-{n}",
            }
        )
        sys.stdout.write(f"{n}\n")
        sys.stdout.flush()
        time.sleep(0.001)


def write() -> None:
    """Store until killed."""
    import django  # noqa: PLC0415  only this process has Django

    django.setup()
    from django.conf import settings  # noqa: PLC0415  after setup

    from apps.audit.writer import AuditWriter  # noqa: PLC0415  same

    AuditWriter(settings.SPOOL_DIR).run(threading.Event())


def main(what: str, *arguments: str) -> None:
    """Run as the module's text says."""
    if what == "emit":
        emit(*arguments)
    else:
        write()
