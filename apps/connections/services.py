"""The vault's writes, and the one function that opens a value.

A value is sealed under the installation's key ring together with the ids of its row and
organization, so that a ciphertext copied to another row does not open. It is never in an audit
event, an error or a selector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction
from django.db.models import ProtectedError

from apps.audit.types import SECRET
from apps.common import clock, rows
from apps.common.crypto import Sealed
from apps.common.errors import Conflict, Invalid, NotFound
from apps.connections.events import CredentialAction
from apps.connections.hosts import checked_hosts
from apps.connections.models import Credential
from apps.connections.registry import kinds
from apps.orgs import revision
from apps.orgs.access import require
from apps.orgs.models import OrgRole, Project
from apps.orgs.selectors import live_teams
from apps.orgs.trail import created, note
from apps.orgs.types import PrincipalKind

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Iterable

    from apps.common.crypto import KeyRing
    from apps.connections.types import CredentialKind
    from apps.orgs.models import Organization, Team
    from apps.orgs.types import Actor


@transaction.atomic
def credential_create(
    org: Organization,
    *,
    slug: str,
    name: str,
    value: str,
    project: Project | None = None,
    kind: str = "static",
    username: str = "",
    allowed_hosts: Iterable[str],
    allowed_teams: Iterable[Team] = (),
    allow_in_url: bool = False,
    actor: Actor,
) -> Credential:
    """Store a secret. `value` is write-only; without a project it belongs to the organization."""
    _require_create(org, project, actor)
    row = Credential(org=org, project=project, slug=slug, name=name, kind=kind, username=username)
    how = _kind(kind)
    _check_kind(how, username=username, value=value)
    row.allowed_hosts = checked_hosts(allowed_hosts, static=how.static)
    _check_in_url(row, actor, allow=allow_in_url)
    row.allow_in_url = allow_in_url
    _seal(row, value)
    rows.insert(row, taken=f"A credential with the slug “{slug}” exists. Choose another slug.")
    changes = _set_teams(row, allowed_teams, actor)
    fields = ("slug", "name", "kind", "username", "allowed_hosts", "allow_in_url")
    note(actor, CredentialAction.CREATE, row, {**created(row, *fields), "value": SECRET, **changes})
    revision.bump()
    return row


@transaction.atomic
def credential_update(
    credential: Credential,
    *,
    name: str | None = None,
    value: str | None = None,
    username: str | None = None,
    allowed_hosts: Iterable[str] | None = None,
    allowed_teams: Iterable[Team] | None = None,
    allow_in_url: bool | None = None,
    actor: Actor,
) -> Credential:
    """Change what is given; None keeps, also the value. Kind, slug and project never change.

    Taking a host, a team or URLs away works at once, also where a policy still binds the
    credential.
    """
    require(actor, "credential.update", credential)
    row = rows.locked(credential)
    how = _kind(row.kind)
    _check_kind(how, username=row.username if username is None else username, value=value)
    hosts = None if allowed_hosts is None else checked_hosts(allowed_hosts, static=how.static)
    _check_in_url(row, actor, allow=allow_in_url)
    values = rows.given(
        name=name, username=username, allowed_hosts=hosts, allow_in_url=allow_in_url
    )
    changes: dict[str, Any] = rows.update(row, values)
    if value is not None:
        _seal(row, value)
        row.save(update_fields=["key_id", "iv", "ciphertext", "value_set_at"])
        changes["value"] = SECRET
    if allowed_teams is not None:
        changes |= _set_teams(row, allowed_teams, actor)
    if changes:
        note(actor, CredentialAction.UPDATE, row, changes)
        revision.bump()
    return row


@transaction.atomic
def credential_delete(credential: Credential, *, actor: Actor) -> None:
    """Forget it; Conflict while a policy binds it."""
    require(actor, "credential.delete", credential)
    row = rows.locked(credential)
    note(actor, CredentialAction.DELETE, row, {"slug": (row.slug, None)})
    try:
        row.delete()
    except ProtectedError as error:
        names = sorted(set(row.bindings.values_list("policy__name", flat=True)))
        raise Conflict(
            f"It is bound by {' and '.join(names)}. Remove the binding there first."
        ) from error
    revision.bump()


def credential_value(credential: Credential) -> str:
    """The secret itself, for the credential broker alone. CryptoError when it does not open."""
    sealed = Sealed(credential.key_id, bytes(credential.iv), bytes(credential.ciphertext))
    ring: KeyRing = settings.LENS_KEY_RING
    return ring.open(sealed, context=_context(credential)).decode()


def _seal(row: Credential, value: str) -> None:
    ring: KeyRing = settings.LENS_KEY_RING
    sealed = ring.seal(value.encode(), context=_context(row))
    row.key_id, row.iv, row.ciphertext = sealed.key_id, sealed.iv, sealed.ciphertext
    row.value_set_at = clock.now()


def _context(row: Credential) -> str:
    return f"credential:{row.org_id}:{row.pk}"


def _require_create(org: Organization, project: Project | None, actor: Actor) -> None:
    if project is None:
        require(actor, "credential.create", org)
        return
    require(actor, "credential.create", project)
    if project.org_id != org.pk or project.deleted_at is not None:
        raise NotFound("Not found.")


def _kind(name: str) -> CredentialKind:
    found = kinds.get(name)
    if found is None:
        raise Invalid(f"There is no kind “{name}”: {', '.join(kinds.names())}.", field="kind")
    return found


def _check_kind(kind: CredentialKind, *, username: str, value: str | None) -> None:
    for problem in kind.problems(username=username, value=value):
        raise Invalid(problem.message, field=problem.field)


def _check_in_url(row: Credential, actor: Actor, *, allow: bool | None) -> None:
    """Only an organization admin lets a secret into URLs; anybody who may change it forbids it."""
    if allow and not row.allow_in_url and not _is_admin(actor):
        raise Invalid(
            "Only an organization admin can allow a credential in URLs. Leave it unticked, or ask "
            "one.",
            field="allow_in_url",
        )


def _is_admin(actor: Actor) -> bool:
    return actor.kind is PrincipalKind.SYSTEM or actor.role == OrgRole.ADMIN


def _set_teams(row: Credential, teams: Iterable[Team], actor: Actor) -> dict[str, Any]:
    """Set `allowed_teams`; the change, or nothing when it is no change."""
    wanted = {team.pk: team for team in teams}
    held = {team.pk: team for team in row.allowed_teams.all()}
    _check_teams(row, wanted.keys() - held.keys(), actor)
    if wanted.keys() == held.keys():
        return {}
    row.allowed_teams.set(wanted.values())
    slugs = [sorted(team.slug for team in group.values()) for group in (held, wanted)]
    return {"allowed_teams": (slugs[0], slugs[1])}


def _check_teams(row: Credential, added: Collection[uuid.UUID], actor: Actor) -> None:
    """New teams must exist; who is no organization admin sees those of the project only."""
    known = live_teams(row.org_id).filter(pk__in=added)
    if not _is_admin(actor):
        known = known.filter(grants__project=row.project_id)
    if known.count() != len(added):
        raise Invalid(
            "One of these teams does not exist, or has no grant on the project.",
            field="allowed_teams",
        )
