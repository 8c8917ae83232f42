"""Who acts: the values that every edge passes on, never rows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uuid


class PrincipalKind(StrEnum):
    """The kinds of product.md; `operator` looks in by break-glass, `system`
    is the platform itself (sweeps, set-up)."""

    USER = "user"
    AGENT = "agent"
    SUBAGENT = "subagent"
    SANDBOX = "sandbox"
    CLUSTER = "cluster"
    OPERATOR = "operator"
    SYSTEM = "system"


class Tier(StrEnum):
    """How the request came about."""

    INTERACTIVE = "interactive"
    SUBAGENT = "subagent"
    BACKGROUND = "background"
    API = "api"


@dataclass(frozen=True, slots=True)
class Grant:
    """A team's role on one project."""

    project_id: uuid.UUID
    slug: str
    role: str


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller of a data-plane edge, in exactly one team.

    `token_id` is the row of the credential that was shown; `chain` names parents of a subagent.
    """

    kind: PrincipalKind
    id: uuid.UUID
    name: str
    org_id: uuid.UUID
    org_slug: str
    team_id: uuid.UUID
    team_slug: str
    tier: Tier
    token_id: uuid.UUID
    grants: tuple[Grant, ...] = ()
    on_behalf_of: str = ""
    chain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Actor:
    """Who writes in the control plane, in which organization; `role` is the organization role.

    `project_roles` holds (project id, role) through the actor's teams, `team_ids` those teams.
    """

    kind: PrincipalKind
    id: str
    name: str
    org_id: uuid.UUID | None
    role: str = ""
    project_roles: tuple[tuple[uuid.UUID, str], ...] = ()
    team_ids: tuple[uuid.UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Access:
    """The answer to "may this actor do this?". `reason` is a sentence fit to show.

    `visible` False means that to this actor the object does not exist.
    """

    allowed: bool
    reason: str
    visible: bool = True


SYSTEM = Actor(kind=PrincipalKind.SYSTEM, id="system", name="Lens Agents", org_id=None)
