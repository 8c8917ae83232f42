"""What runs beside the web server, each behind `start` and `stop`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from apps.audit.writer import AuditWriter
from apps.orgs.devidp import DevIdp
from apps.sandboxes.broker import Broker
from apps.sandboxes.paths import broker_socket, inside_socket
from apps.sandboxes.watch import Watcher
from lensagents.celery import start_embedded
from lensagents.embedded.single import StartError, is_loopback
from lensagents.inside import InsideDoor

if TYPE_CHECKING:
    from lensagents.celery import EmbeddedJobs
    from lensagents.embedded.platform import Service

STOP_SECONDS = 2.0


class AuditTrail:
    """The writer that stores spooled events. Stopped last, since it drains what others left."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._writer = AuditWriter(settings.SPOOL_DIR)
        self._thread = threading.Thread(
            target=self._writer.run, args=(self._stop,), name="lens-audit", daemon=True
        )

    def start(self) -> None:
        """Store from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Store what is left."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)

    def alive(self) -> bool:
        """Whether it stores."""
        return self._thread.is_alive()


class Jobs:
    """Celery's worker and beat."""

    def __init__(self) -> None:
        self._jobs: EmbeddedJobs | None = None

    def start(self) -> None:
        """Take over what a dead process left, then run."""
        self._jobs = start_embedded()

    def stop(self) -> None:
        """Let running jobs end; what does not end in time is taken over at the next start."""
        if self._jobs is not None:
            self._jobs.stop(STOP_SECONDS)

    def alive(self) -> bool:
        """Whether jobs are done."""
        return self._jobs is not None and self._jobs.alive()


def development_provider(host: str, port: int) -> DevIdp:
    """The development identity provider for a platform on `host`; StartError where it must not run.

    `port` 0 keeps the port of the first start.
    """
    try:
        return DevIdp(settings.DATA_DIR, bind=host, loopback=is_loopback(host), port=port)
    except ImproperlyConfigured as error:
        raise StartError(str(error)) from None


def background_services() -> list[Service]:
    """All others, new, in the order of starting; they are stopped in the other direction."""
    return [
        AuditTrail(),
        Broker(broker_socket()),
        InsideDoor(inside_socket()),
        Jobs(),
        Watcher(),
    ]
