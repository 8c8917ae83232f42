"""What a sandbox driver does, and the table of drivers: one module each in `drivers/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from apps.common.errors import Invalid
from apps.common.registry import Registry

if TYPE_CHECKING:
    import uuid


@dataclass(frozen=True, slots=True)
class Spec:
    """All that a driver is told of a sandbox. `token` is the only secret and is kept nowhere else.

    `bundle` is the encoded policy, `identity` the audit columns that say who acts.
    """

    id: uuid.UUID
    token: str = field(repr=False)
    bundle: dict[str, Any]
    identity: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Built:
    """A sandbox that runs: how it is isolated, and the self-test that ran at its start."""

    isolation: str
    report: list[dict[str, Any]]


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

    def states(self) -> dict[str, str]:
        """Id → `creating`, `ready` or `failed` of every sandbox that exists."""
        ...


drivers: Registry[type[Driver]] = Registry("sandbox driver", "apps.sandboxes.drivers")


def driver_for(name: str) -> Driver:
    """The driver called `name`; Invalid when there is none."""
    found = drivers.get(name)
    if found is None:
        raise Invalid(f"There is no sandbox driver {name!r}.", field="driver")
    return found()
