"""Asking for a sandbox, and ending one. Building it is a job (`apps.sandboxes.provisioning`)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import transaction

from apps.audit.models import Result, Surface
from apps.audit.services import record
from apps.common import clock, rows
from apps.common.errors import Denied, NotFound, RateLimited
from apps.jobs.services import enqueue
from apps.orgs import revision
from apps.orgs.access import require
from apps.orgs.models import Organization
from apps.orgs.types import PrincipalKind
from apps.sandboxes.events import SandboxAction
from apps.sandboxes.models import LIVE_STATES, Sandbox, SandboxState

if TYPE_CHECKING:
    import uuid

    from apps.orgs.types import Actor, Grant, Principal

RETRY_AFTER = timedelta(seconds=5)
LOST = "sandbox_lost"
LIMIT = "sandbox_limit"
UNKNOWN = "The sandbox service was restarted and does not know this sandbox."


@dataclass(frozen=True, slots=True)
class Named:
    """A team or project, as the audit trail copies it."""

    id: uuid.UUID
    slug: str


def sandbox_key(
    principal: Principal, project_id: uuid.UUID, delegation_scope: str, on_behalf_of: str
) -> str:
    """SHA-256 over the tuple that no two sandboxes share; as JSON, so that no value spans two."""
    parts = [
        str(principal.kind),
        str(principal.id),
        str(principal.team_id),
        str(project_id),
        delegation_scope,
        on_behalf_of,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@transaction.atomic
def sandbox_for(
    *,
    principal: Principal,
    project_id: uuid.UUID,
    delegation_scope: str = "",
    on_behalf_of: str = "",
) -> Sandbox:
    """The principal's live sandbox in this project; a new row and its job where there is none.

    Two callers who race get the same row. A sandbox that has just failed is returned as it is for
    `RETRY_AFTER`, so that a host which cannot isolate is not asked by every call. NotFound when the
    principal's team has no grant on the project; RateLimited `sandbox_limit` when the principal or
    the organization has as many sandboxes as it may.
    """
    if principal.kind is PrincipalKind.SANDBOX:
        text = "What runs in a sandbox is given no other one."
        raise Denied(text, code="sandbox_in_sandbox")
    grant = next((grant for grant in principal.grants if grant.project_id == project_id), None)
    if grant is None:
        raise NotFound("There is no such project.", code="project_not_found")
    behalf = on_behalf_of or principal.on_behalf_of
    key = sandbox_key(principal, project_id, delegation_scope, behalf)
    found = _live_or_just_failed(key)
    if found:
        return found
    # One new sandbox of an organization after the other: so nobody counts what another adds.
    org = rows.locked(Organization(pk=principal.org_id))
    found = _live_or_just_failed(key)
    if found:
        return found
    _require_room(org, principal)
    row = _new_row(principal, key, project_id, delegation_scope, behalf)
    row.save(force_insert=True)
    _record_request(row, principal, grant)
    enqueue("sandboxes.provision", {"sandbox": str(row.pk)}, org=row.org_id, dedupe_key=str(row.pk))
    return row


@transaction.atomic
def sandbox_stop(sandbox: Sandbox, *, reason: str, actor: Actor) -> Sandbox:
    """End a live sandbox and everything in it; one that is over already stays as it is."""
    require(actor, "sandbox.stop", sandbox)
    return end(sandbox, SandboxState.STOPPED, reason=reason, actor=actor)


@transaction.atomic
def sandbox_lost(sandbox_id: uuid.UUID, *, reason: str = UNKNOWN, actor: Actor) -> None:
    """Mark failed what does not run any more without anybody's doing, so that a fresh one can
    come."""
    row = Sandbox.objects.filter(pk=sandbox_id).first()
    if row:
        end(row, SandboxState.FAILED, reason=reason, actor=actor, failure=LOST)


def end(
    sandbox: Sandbox, state: SandboxState, *, reason: str, actor: Actor, failure: str = ""
) -> Sandbox:
    """Move a live row to an end state, audit it, and let a job clear what runs."""
    now = clock.now()
    changed = Sandbox.objects.filter(pk=sandbox.pk, state__in=LIVE_STATES).update(
        state=state,
        failure=failure,
        reason=reason,
        stopped_at=now,
        updated_at=now,
        token_hash="",
    )
    before = sandbox.state
    sandbox.refresh_from_db()
    if not changed:
        return sandbox
    failed = state == SandboxState.FAILED
    record(
        actor=actor,
        org_id=sandbox.org_id,
        surface=Surface.SANDBOX_OPERATION,
        action=SandboxAction.FAIL if failed else SandboxAction.STOP,
        resource_type="sandbox",
        resource_id=sandbox.pk,
        result=Result.ERROR if failed else Result.SUCCESS,
        reason=reason,
        changes={"state": (before, str(state))},
        metadata={"failure": failure, "principal": sandbox.principal_name, **sandbox.note},
        team=sandbox.team,
        project=sandbox.project,
    )
    enqueue(
        "sandboxes.clear",
        {"sandbox": str(sandbox.pk), "driver": sandbox.driver},
        org=sandbox.org_id,
        dedupe_key=str(sandbox.pk),
    )
    revision.bump()  # its token is remembered by those who have seen it
    return sandbox


def _live_or_just_failed(key: str) -> Sandbox | None:
    known = Sandbox.objects.filter(key=key)
    live = known.filter(state__in=LIVE_STATES).first()
    if live:
        return live
    since = clock.now() - RETRY_AFTER
    failed = known.filter(state=SandboxState.FAILED, stopped_at__gt=since)
    return failed.exclude(failure=LOST).order_by("-created_at").first()


def _require_room(org: Organization, principal: Principal) -> None:
    """Raise when the principal or the organization has as many sandboxes as it may. `org` is
    locked."""
    live = Sandbox.objects.filter(org=org, state__in=LIVE_STATES)
    own = live.filter(principal_kind=str(principal.kind), principal_id=str(principal.id))
    for scope, found, most in (
        (f"“{principal.name}”", own, org.sandboxes_per_principal),
        (f"The organization “{org.name}”", live, org.sandboxes_total),
    ):
        if found.count() >= most:
            raise RateLimited(
                f"{scope} has as many sandboxes as it may have at once ({most}).",
                code=LIMIT,
                remedy="Stop one that is not needed, wait until one has been idle for "
                f"{org.sandbox_idle_minutes} min, or ask an organization admin to raise the limit.",
            )


def _new_row(
    principal: Principal,
    key: str,
    project_id: uuid.UUID,
    delegation_scope: str,
    on_behalf_of: str,
) -> Sandbox:
    return Sandbox(
        org_id=principal.org_id,
        key=key,
        principal_kind=str(principal.kind),
        principal_id=str(principal.id),
        principal_name=principal.name,
        agent_id=principal.id if principal.kind == "agent" else None,
        team_id=principal.team_id,
        project_id=project_id,
        delegation_scope=delegation_scope,
        on_behalf_of=on_behalf_of,
    )


def _record_request(row: Sandbox, principal: Principal, grant: Grant) -> None:
    record(
        actor=principal,
        org_id=row.org_id,
        surface=Surface.SANDBOX_OPERATION,
        action=SandboxAction.CREATE,
        resource_type="sandbox",
        resource_id=row.pk,
        metadata={"driver": row.driver},
        team=Named(principal.team_id, principal.team_slug),
        project=Named(grant.project_id, grant.slug),
    )
