"""Who may do what in the control plane: one table, one question.

Rules.
1. A verb that is not in the table is refused; so is an actor with no role that the table names.
2. Roles are held in an organization (`admin`, `auditor`, `member`), on a project through a team
   (`project_admin`, `project_member`) or in a team (`team_member`). Each counts only for objects
   of that organization, project or team.
3. An object that is absent, of another organization, or not to be seen by this actor, looks the
   same: it does not exist.
4. Operators have no role in any organization, but for break-glass: `operator` reads what an
   auditor reads, in one organization, for an hour at most.
5. There is no superuser. The platform itself (`system`: set-up, sweeps) passes, and its events say
   so.
6. An agent's token acts over the REST API with the roles of its one team, and none in the
   organization. A sandbox's token is no actor here; it changes nothing in the control plane.

`docs/access.md` is generated from `VERBS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apps.common.errors import Denied, NotFound
from apps.orgs.models import Organization, Project, Team
from apps.orgs.refusals import access_refused
from apps.orgs.types import Access, Actor, PrincipalKind

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator

ADMIN = "admin"
AUDITOR = "auditor"
MEMBER = "member"
OPERATOR = "operator"
PROJECT_ADMIN = "project_admin"
PROJECT_MEMBER = "project_member"
TEAM_MEMBER = "team_member"
ROLES = (ADMIN, AUDITOR, OPERATOR, MEMBER, PROJECT_ADMIN, PROJECT_MEMBER, TEAM_MEMBER)

_ADMINS = frozenset({ADMIN})
_READERS = frozenset({ADMIN, AUDITOR, OPERATOR})
_TEAM_READERS = _READERS | {TEAM_MEMBER}
_PROJECT_ADMINS = frozenset({ADMIN, PROJECT_ADMIN})

VERBS: dict[str, frozenset[str]] = {
    "organization.view": _READERS | {MEMBER},
    "organization.create": frozenset(),
    "organization.update": _ADMINS,
    "idp.view": _READERS,
    "idp.create": _ADMINS,
    "idp.update": _ADMINS,
    "idp.prove": frozenset(),
    "idp.delete": _ADMINS,
    "domain.view": _READERS,
    "domain.create": _ADMINS,
    "domain.update": _ADMINS,
    "domain.mark": frozenset(),
    "domain.delete": _ADMINS,
    "mapping.view": _READERS,
    "mapping.create": _ADMINS,
    "mapping.update": _ADMINS,
    "mapping.delete": _ADMINS,
    "invitation.view": _READERS,
    "invitation.create": _ADMINS,
    "invitation.delete": _ADMINS,
    "session.view": _READERS,
    "session.end": _ADMINS,
    "break_glass.view": _READERS,
    "break_glass.create": frozenset(),
    "break_glass.update": _ADMINS,
    "break_glass.end": _ADMINS | {OPERATOR},
    "membership.view": _READERS,
    "membership.create": _ADMINS,
    "membership.update": _ADMINS,
    "membership.delete": _ADMINS,
    "team.view": _TEAM_READERS,
    "team.create": _ADMINS,
    "team.update": _ADMINS,
    "team.delete": _ADMINS,
    "project.view": _READERS | {PROJECT_ADMIN, PROJECT_MEMBER},
    "project.create": _ADMINS,
    "project.update": _PROJECT_ADMINS,
    "project.delete": _ADMINS,
    "grant.view": _TEAM_READERS | {PROJECT_ADMIN},
    "grant.create": _ADMINS,
    "grant.update": _ADMINS,
    "grant.delete": _ADMINS,
    "credential.view": _READERS | {PROJECT_ADMIN},
    "credential.create": _PROJECT_ADMINS,
    "credential.update": _PROJECT_ADMINS,
    "credential.delete": _PROJECT_ADMINS,
    "policy.view": _TEAM_READERS,
    "policy.create": _ADMINS,
    "policy.update": _ADMINS,
    "policy.delete": _ADMINS,
    "agent.view": _TEAM_READERS,
    "agent.create": _ADMINS,
    "agent.update": _ADMINS,
    "agent.delete": _ADMINS,
    "token.view": _READERS,
    "token.create": _ADMINS,
    "token.delete": _ADMINS,
    "sandbox.view": _TEAM_READERS | {PROJECT_ADMIN},
    "sandbox.stop": _ADMINS,
    "audit.view": _READERS,
    "job.view": _READERS,
}

_ABSENT = Access(allowed=False, reason="Not found.", visible=False)


def can(actor: Actor | None, verb: str, obj: Any) -> Access:
    """Whether `actor` may `verb` this row, or this Organization for what has no row yet.

    Pure but for attributes of `obj`: a row's `org_id`, `project_id` and `team_id` say where it is.
    """
    roles = VERBS.get(verb)
    if roles is None:
        return Access(allowed=False, reason=f"There is no action called {verb}.")
    if actor is None or obj is None:
        return _ABSENT
    if actor.kind is PrincipalKind.SYSTEM:
        return Access(allowed=True, reason="The platform itself.")
    if actor.org_id is None or actor.org_id != _org_id(obj):
        return _ABSENT
    return _judge(verb, roles, set(_roles_on(actor, obj)))


def can_somewhere(actor: Actor | None, verb: str, org: Organization | None) -> Access:
    """Whether some role of the actor, also one on a project or in a team, carries the verb.

    For menus and lists only: each row is asked about by itself.
    """
    if actor is not None and org is not None and actor.org_id == org.pk:
        held = set(_roles_anywhere(actor)) & VERBS.get(verb, frozenset())
        if held:
            return _granted(held)
    return can(actor, verb, org)


def require(actor: Actor, verb: str, obj: Any) -> None:
    """Raise unless `can`: NotFound where the object is not to be seen, else Denied. Audited."""
    access = can(actor, verb, obj)
    if access.allowed:
        return
    access_refused(actor, verb, str(getattr(obj, "pk", "")), access.reason)
    if not access.visible:
        raise NotFound(access.reason)
    raise Denied(access.reason, verb=verb)


def _judge(verb: str, roles: frozenset[str], held: set[str]) -> Access:
    matching = held & roles
    if matching:
        return _granted(matching)
    noun, _, _ = verb.partition(".")
    if not held & VERBS.get(f"{noun}.view", frozenset()):
        return _ABSENT
    names = " or ".join(_plain(role) for role in ROLES if role in roles) or "the platform itself"
    return Access(allowed=False, reason=f"Only {names} may do this ({verb}).")


def _granted(held: set[str]) -> Access:
    strongest = next(role for role in ROLES if role in held)
    return Access(allowed=True, reason=f"As {_plain(strongest)}.")


def _plain(role: str) -> str:
    """A role as it stands in a sentence."""
    scoped = {
        ADMIN: "an organization admin",
        AUDITOR: "an auditor",
        OPERATOR: "an operator with break-glass",
        MEMBER: "a member of the organization",
        PROJECT_ADMIN: "an admin of the project",
        PROJECT_MEMBER: "a member of the project",
        TEAM_MEMBER: "a member of the team",
    }
    return scoped[role]


def _roles_on(actor: Actor, obj: Any) -> Iterator[str]:
    """The roles of the actor that count for this object."""
    if actor.role:
        yield actor.role
    project_id, team_id = _project_id(obj), _team_id(obj)
    for held_on, role in actor.project_roles:
        if held_on == project_id:
            yield f"project_{role}"
    if team_id is not None and team_id in actor.team_ids:
        yield TEAM_MEMBER


def _roles_anywhere(actor: Actor) -> Iterator[str]:
    if actor.role:
        yield actor.role
    yield from (f"project_{role}" for _, role in actor.project_roles)
    if actor.team_ids:
        yield TEAM_MEMBER


def _org_id(obj: Any) -> uuid.UUID | None:
    return obj.pk if isinstance(obj, Organization) else getattr(obj, "org_id", None)


def _project_id(obj: Any) -> uuid.UUID | None:
    return obj.pk if isinstance(obj, Project) else getattr(obj, "project_id", None)


def _team_id(obj: Any) -> uuid.UUID | None:
    return obj.pk if isinstance(obj, Team) else getattr(obj, "team_id", None)
