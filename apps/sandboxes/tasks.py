"""The jobs of this app: thin shells around `apps.sandboxes.provisioning`."""

from __future__ import annotations

import uuid
from typing import Any

from apps.common.tenancy import system
from apps.jobs.periodic import every
from apps.jobs.registry import job
from apps.sandboxes import lifecycle, provisioning


@job("sandboxes.provision", max_seconds=120)
def provision(payload: dict[str, Any]) -> None:
    """Build one sandbox. `{"sandbox": id}`."""
    provisioning.provision(uuid.UUID(payload["sandbox"]))


@job("sandboxes.clear", max_attempts=10, max_seconds=60)
def clear(payload: dict[str, Any]) -> None:
    """End what runs of a stopped sandbox. `{"sandbox": id, "driver": name}`."""
    provisioning.clear(uuid.UUID(payload["sandbox"]), payload["driver"])


@every(15, name="sandboxes.reap")
@system("sandboxes beyond their limits")
def reap() -> None:
    """Stop what is idle or old beyond its organization's limits."""
    lifecycle.reap()


@every(15, name="sandboxes.stop_disallowed")
@system("sandboxes that are no longer allowed")
def stop_disallowed() -> None:
    """Stop what is no longer allowed: tokens expire without anybody's doing."""
    provisioning.stop_disallowed()
