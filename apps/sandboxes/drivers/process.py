"""Sandboxes as processes of this host, built by sandboxd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apps.sandboxes.client import Sandboxd
from apps.sandboxes.driver import Built, Spec, drivers
from apps.sandboxes.paths import sandboxd_socket

if TYPE_CHECKING:
    import uuid

# At a restart a call may come before sandboxd listens again.
START_SECONDS = 2.0


@drivers.register("process")
class ProcessDriver:
    """One sandbox is a process tree in namespaces of its own, beside its egress proxy."""

    def __init__(self) -> None:
        self._sandboxd = Sandboxd(sandboxd_socket())

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
                "env": {},
                "limits": {},
            }
        )
        return Built(isolation=str(reply["isolation"]), report=list(reply["report"]))

    def stop(self, sandbox_id: uuid.UUID) -> None:
        self._sandboxd.delete(sandbox_id)

    def apply(self, sandbox_id: uuid.UUID, bundle: dict[str, Any]) -> None:
        # The proxy itself cuts what the new policy does not allow any more.
        self._sandboxd.put_bundle(sandbox_id, bundle)

    def states(self) -> dict[str, str]:
        return self._sandboxd.states()
