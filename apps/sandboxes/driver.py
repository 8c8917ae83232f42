"""What a sandbox driver does, and the table of drivers: one module each in `drivers/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from apps.common.errors import Invalid
from apps.common.registry import Registry
from apps.policies.core.builtin import INSIDE_NAME

if TYPE_CHECKING:
    import uuid
    from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Spec:
    """All that a driver is told of a sandbox. `token` is the only secret and is kept nowhere else.

    `bundle` is the encoded policy, `identity` the audit columns that say who acts. A sandbox that
    would be degraded is made only if `allow_degraded` says so.
    """

    id: uuid.UUID
    token: str = field(repr=False)
    bundle: dict[str, Any]
    identity: dict[str, Any]
    allow_degraded: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What every command finds beside the harness's own variables: where the platform is."""
        project = self.identity.get("project_slug")
        return {"LENS_MCP_URL": f"https://{INSIDE_NAME}/mcp/p/{project}"} if project else {}


@dataclass(frozen=True, slots=True)
class Built:
    """A sandbox that runs: how it is isolated, and the self-test that ran at its start."""

    isolation: str
    report: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Use:
    """How a sandbox is used now: calls that run in it, and for how long none has (None: never).

    `reason` is why a failed one is over.
    """

    state: str
    jobs: int = 0
    quiet: timedelta | None = None
    reason: str = ""

    @property
    def ever(self) -> bool:
        """Whether it was used at all."""
        return self.jobs > 0 or self.quiet is not None

    def within(self, span: timedelta) -> bool:
        """Whether something runs in it, or did less than `span` ago."""
        return self.jobs > 0 or (self.quiet is not None and self.quiet < span)


@dataclass(frozen=True, slots=True)
class Activity:
    """Every sandbox that exists, by id. `instance` changes when the service was started anew."""

    instance: str
    sandboxes: dict[uuid.UUID, Use]


class Driver(Protocol):
    """Builds sandboxes somewhere. Every method may be repeated; errors are `apps.common.errors`."""

    def create(self, spec: Spec) -> Built:
        """Build it, replacing whatever has its id. IsolationUnavailable carries the remedy."""
        ...

    def stop(self, sandbox_id: uuid.UUID) -> None:
        """End everything in it and forget it; an unknown one is no error."""
        ...

    def apply(self, sandbox_id: uuid.UUID, bundle: dict[str, Any]) -> None:
        """Let its proxy decide by `bundle` from now on, and end what that does not allow."""
        ...

    def activity(self) -> Activity:
        """What exists, in which state (`creating`, `ready`, `failed`), and how it is used."""
        ...

    def away(self) -> bool:
        """Whether the service is not there at all, so that none of its sandboxes runs."""
        ...


drivers: Registry[type[Driver]] = Registry("sandbox driver", "apps.sandboxes.drivers")


def driver_for(name: str) -> Driver:
    """The driver called `name`; Invalid when there is none."""
    found = drivers.get(name)
    if found is None:
        raise Invalid(f"There is no sandbox driver {name!r}.", field="driver")
    return found()
