"""The watcher: what changed in who-may-do-what reaches the sandboxes that run, within a second.

It reads the Revision every 250 ms. When that moved, sandboxes that are no longer allowed are
stopped and the others get their policy anew, whichever service, process or `manage.py` command it
was that changed something. Every two seconds it asks the sandbox service which sandboxes are in
use; every half minute, and when the service was started anew, rows and service are made to agree.

What fails for one sandbox never keeps another from its turn. The look is then done again.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from django.db import DatabaseError, close_old_connections

from apps.common.errors import LensError
from apps.common.tenancy import system
from apps.orgs.revision import read_seq
from apps.sandboxes import lifecycle, provisioning
from apps.sandboxes.driver import driver_for
from apps.sandboxes.sweeping import run_all

if TYPE_CHECKING:
    import datetime as dt
    import uuid

POLL_SECONDS = 0.25
AGAIN_SECONDS = 1.0
USE_SECONDS = 2.0
RECONCILE_SECONDS = 30.0
AWAY_SECONDS = 5.0
logger = logging.getLogger(__name__)


class Watcher:
    """A thread of its own, one a host that runs sandboxes."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lens-sandboxes", daemon=True)
        self._seq = -1
        self._bundles: dict[uuid.UUID, str] = {}
        self._again_at = float("inf")
        self._agree_at = float("-inf")
        self._use_at = float("-inf")
        self._written: dict[uuid.UUID, tuple[str, dt.datetime]] = {}
        self._instance = ""
        self._seen_at = time.monotonic()

    def start(self) -> None:
        """Look at once, then again and again."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(5)

    def alive(self) -> bool:
        """Whether it watches."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                close_old_connections()
                self.look()
            except (DatabaseError, LensError) as error:
                logger.warning("sandboxes could not be looked after (%s)", type(error).__name__)
            except Exception:
                # Whatever it was: the next revocation must reach what runs.
                logger.exception("sandboxes could not be looked after")
            self._stop.wait(POLL_SECONDS)
        close_old_connections()

    @system("looking after sandboxes")
    def look(self) -> None:
        """Do what is due. What fails is tried again at the next look, and holds up nothing else."""
        run_all(self._govern, self._note_use, self._agree)

    def _govern(self) -> None:
        """Bring changes to the sandboxes; first of all, since they may be revocations."""
        seq, now = read_seq(), time.monotonic()
        if seq != self._seq:
            run_all(
                provisioning.stop_disallowed,
                lambda: provisioning.push_bundles(self._bundles),
            )
            self._seq, self._again_at = seq, now + AGAIN_SECONDS
        elif now > self._again_at:
            # For what was asked for by a request that had not felt the change yet.
            self._again_at = float("inf")
            provisioning.stop_disallowed()

    def _note_use(self) -> None:
        """Ask which sandboxes are in use, and notice a service that ended or came back."""
        now = time.monotonic()
        if now < self._use_at:
            return
        self._use_at = now + USE_SECONDS
        try:
            activity = driver_for(lifecycle.PROCESS).activity()
        except LensError:
            if now - self._seen_at > AWAY_SECONDS:
                lifecycle.service_away()
            return
        self._seen_at = now
        if self._instance not in ("", activity.instance):
            lifecycle.service_restarted(self._instance, activity.instance)
            self._written.clear()
        self._instance = activity.instance
        if any(use.state == "failed" for use in activity.sandboxes.values()):
            self._agree_at = now
        lifecycle.note_use(activity, self._written)

    def _agree(self) -> None:
        """Make rows and sandbox service agree."""
        now = time.monotonic()
        if now < self._agree_at:
            return
        self._agree_at = now + AWAY_SECONDS
        try:
            lifecycle.reconcile()
        except LensError as error:
            logger.warning("the sandbox service cannot be asked: %s", error.message)
        else:
            self._agree_at = now + RECONCILE_SECONDS
