"""Sandboxes as processes of this host, built by sandboxd."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from apps.sandboxes.client import Sandboxd
from apps.sandboxes.driver import Activity, Built, Spec, Use, drivers
from apps.sandboxes.paths import sandboxd_socket

# At a restart a call may come before sandboxd listens again.
START_SECONDS = 2.0
BRIEF_SECONDS = 5.0


@drivers.register("process")
class ProcessDriver:
    """One sandbox is a process tree in namespaces of its own, beside its egress proxy."""

    def __init__(self) -> None:
        self._sandboxd = Sandboxd(sandboxd_socket())
        # Who asks what is in use also brings revocations, and must not wait for long.
        self._brief = Sandboxd(sandboxd_socket(), timeout=BRIEF_SECONDS)

    def create(self, spec: Spec) -> Built:
        self._sandboxd.wait(START_SECONDS)
        # A job that was killed half-way has left a sandbox whose token nobody knows.
        self._sandboxd.delete(spec.id)
        reply = self._sandboxd.create(
            {
                "id": str(spec.id),
                "token": spec.token,
                "bundle": spec.bundle,
                "identity": spec.identity,
                "env": spec.environment,
                "limits": {},
                "allow_degraded": spec.allow_degraded,
            }
        )
        return Built(isolation=str(reply["isolation"]), report=list(reply["report"]))

    def stop(self, sandbox_id: uuid.UUID) -> None:
        self._sandboxd.delete(sandbox_id)

    def apply(self, sandbox_id: uuid.UUID, bundle: dict[str, Any]) -> None:
        # The proxy itself cuts what the new policy does not allow any more.
        self._sandboxd.put_bundle(sandbox_id, bundle)

    def activity(self) -> Activity:
        reply = self._brief.activity()
        found = {uuid.UUID(key): _use(use) for key, use in reply["sandboxes"].items()}
        return Activity(str(reply["instance"]), found)

    def away(self) -> bool:
        return not self._brief.listens()


def _use(use: dict[str, Any]) -> Use:
    quiet = use["quiet_ms"]
    return Use(
        state=str(use["state"]),
        jobs=int(use["jobs"]),
        reason=str(use["reason"]),
        quiet=None if quiet is None else timedelta(milliseconds=quiet),
    )
