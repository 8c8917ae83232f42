"""`manage.py audit_writer`: stores spooled audit events; one on each host that has a spool."""

from __future__ import annotations

import signal
import threading
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from apps.audit.writer import AuditWriter


class Command(BaseCommand):
    help = "Store the audit events that this host's producers spooled, until SIGTERM or SIGINT."

    def handle(self, *_args: Any, **_options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        AuditWriter(settings.SPOOL_DIR).run(stop)
