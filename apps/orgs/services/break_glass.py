"""Break-glass: an operator looks into one organization, in an emergency, and everybody sees that.

Operators run the installation and have no role in any organization. This is the one way in: asked
for on the server with a reason, for an hour at most, read-only, without any credential value, each
page view an event in the organization's own trail, and shown on the organization's pages while it
lasts. An organization may want to be asked first (`break_glass_consent`).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from django.db import transaction

from apps.audit.models import Result, Surface
from apps.audit.services import record
from apps.common import clock, ids, mail, rows
from apps.common.errors import Conflict, Denied, Invalid
from apps.common.tenancy import edge, scope
from apps.orgs import lookups
from apps.orgs.access import OPERATOR, require
from apps.orgs.events import SignInAction
from apps.orgs.models import BreakGlass, Membership, Organization
from apps.orgs.selectors import live_admin
from apps.orgs.trail import created, note
from apps.orgs.types import Actor, PrincipalKind

TOKEN_PREFIX = "lnso"  # noqa: S105  what every link's token starts with
MAX_MINUTES = 60
MIN_REASON = 10
LINK_MINUTES = 15
CONSENT_HOURS = 24


@dataclass(frozen=True, slots=True)
class Requested:
    """A new request; `token` is for the link, shown once, and kept out of `repr`."""

    access: BreakGlass
    token: str = field(repr=False)


@transaction.atomic
def break_glass_request(
    org: Organization, *, reason: str, minutes: int, requested_by: str, actor: Actor
) -> Requested:
    """Ask to look into an organization. The link works once: at once, or when an admin agreed."""
    require(actor, "break_glass.create", org)
    if len(reason.strip()) < MIN_REASON:
        raise Invalid(
            f"Say why, in at least {MIN_REASON} characters: the organization reads it.",
            field="reason",
        )
    if not 1 <= minutes <= MAX_MINUTES:
        raise Invalid(f"Choose 1 to {MAX_MINUTES} minutes.", field="minutes")
    token = ids.token(TOKEN_PREFIX)
    consent = org.break_glass_consent
    wait = dt.timedelta(hours=CONSENT_HOURS) if consent else dt.timedelta(minutes=LINK_MINUTES)
    row = BreakGlass(
        org=org,
        reason=reason.strip(),
        minutes=minutes,
        requested_by=requested_by,
        token_hash=ids.token_hash(token),
        needs_consent=consent,
        use_before=clock.now() + wait,
    )
    rows.insert(row, taken="Try again.")
    changes = created(row, "reason", "minutes", "requested_by", "needs_consent")
    note(actor, SignInAction.BREAK_GLASS_REQUEST, row, changes)
    return Requested(row, token)


@transaction.atomic
def break_glass_approve(access: BreakGlass, *, actor: Actor) -> BreakGlass:
    """An admin of the organization agrees; the operator has 15 minutes to begin."""
    access = _unanswered(access, actor)
    until = clock.now() + dt.timedelta(minutes=LINK_MINUTES)
    answer = {"answered_at": clock.now(), "answered_by": actor.name, "use_before": until}
    note(actor, SignInAction.BREAK_GLASS_APPROVE, access, rows.update(access, answer))
    return access


@transaction.atomic
def break_glass_refuse(access: BreakGlass, *, actor: Actor) -> BreakGlass:
    """An admin of the organization does not agree; the link is void."""
    access = _unanswered(access, actor)
    answer = {"answered_at": clock.now(), "answered_by": actor.name, "refused": True}
    note(actor, SignInAction.BREAK_GLASS_REFUSE, access, rows.update(access, answer))
    return access


@transaction.atomic
def break_glass_end(access: BreakGlass, *, actor: Actor) -> BreakGlass:
    """An admin of the organization, or the operator, ends it: with the operator's next click."""
    require(actor, "break_glass.end", access)
    access = rows.locked(access)
    if access.ended_at is None:
        changes = rows.update(access, {"ended_at": clock.now()})
        note(actor, SignInAction.BREAK_GLASS_END, access, changes)
    return access


def break_glass_open(token: str) -> BreakGlass:
    """Use the link, once. Denied while it waits for consent, and for every way to be wrong."""
    digest = ids.token_hash(token)
    org_id = lookups.BREAK_GLASS.id(digest)
    opened = waiting = None
    if org_id is not None:
        with edge(), scope(org_id):
            waiting = _waiting(digest)
            opened = None if waiting else _open(digest)
    if waiting is not None:
        raise Denied(
            f"{waiting.org.name} has not answered yet. One of its admins must approve the request;"
            " then open this link again.",
            code="break_glass_waits",
        )
    if opened is None:
        raise Denied(
            "This link is not valid: it was used or refused, is too old, or is not complete. Run"
            " `manage.py break_glass` for a new one.",
            code="break_glass_refused",
        )
    return opened


def _waiting(digest: str) -> BreakGlass | None:
    found = BreakGlass.objects.filter(token_hash=digest, org__closed_at=None)
    waiting = found.filter(needs_consent=True, answered_at=None, use_before__gt=clock.now())
    return waiting.select_related("org").first()


@transaction.atomic
def _open(digest: str) -> BreakGlass | None:
    """The update decides: of two requests with one token, one finds the row unused."""
    now = clock.now()
    fitting = BreakGlass.objects.filter(
        token_hash=digest,
        used_at=None,
        ended_at=None,
        refused=False,
        use_before__gt=now,
        org__closed_at=None,
    ).exclude(needs_consent=True, answered_at=None)
    if not fitting.update(used_at=now):
        return None
    row = BreakGlass.objects.select_related("org").get(token_hash=digest)
    changes = rows.update(row, {"expires_at": now + dt.timedelta(minutes=row.minutes)})
    note(operator_of(row), SignInAction.BREAK_GLASS_OPEN, row, changes)
    return row


def break_glass_live(access_id: str) -> BreakGlass | None:
    """The access while it lasts."""
    org_id = lookups.BREAK_GLASS_TAKEN.id(access_id)
    if org_id is None:
        return None
    with edge(), scope(org_id):
        rows_of_it = BreakGlass.objects.filter(
            pk=access_id, ended_at=None, expires_at__gt=clock.now(), org__closed_at=None
        )
        return rows_of_it.select_related("org").first()


def break_glass_shown(org: Organization) -> list[BreakGlass]:
    """What the organization's pages show: open requests, and what lasts now."""
    now = clock.now()
    found = BreakGlass.objects.filter(org=org, ended_at=None, refused=False, use_before__gt=now)
    lasting = BreakGlass.objects.filter(org=org, ended_at=None, expires_at__gt=now)
    return list((found.filter(used_at=None) | lasting).order_by("created_at")[:5])


def break_glass_viewed(access: BreakGlass, *, method: str, path: str, status: int) -> None:
    """One request of the operator, in the organization's trail."""
    denied = status in (403, 405)
    record(
        actor=operator_of(access),
        org_id=access.org_id,
        surface=Surface.AUTHENTICATION,
        action=SignInAction.BREAK_GLASS_VIEW,
        resource_type="break_glass",
        resource_id=access.pk,
        result=Result.DENIED if denied else Result.SUCCESS,
        status=status,
        reason=access.reason,
        metadata={"method": method, "path": path},
    )


def break_glass_tell(access: BreakGlass) -> bool:
    """Mail the organization's admins; whether that worked."""
    admins = Membership.objects.filter(live_admin(), org=access.org_id, user__is_active=True)
    ask = (
        "It waits for your approval: open Operator access in the admin.\n"
        if access.needs_consent
        else "You can end it at any time: open Operator access in the admin.\n"
    )
    return mail.send(
        admins.values_list("user__email", flat=True),
        f"An operator asks to look into {access.org.name}",
        f"{access.requested_by} asks for read-only access to {access.org.name} for"
        f" {access.minutes} minutes.\nReason: {access.reason}\n\n{ask}"
        "Every page that the operator opens stands in your audit trail.\n",
    )


def operator_of(access: BreakGlass) -> Actor:
    """The operator as an actor: reads what an auditor reads, in this organization only."""
    return Actor(
        kind=PrincipalKind.OPERATOR,
        id=f"break-glass:{access.pk}",
        name=f"operator {access.requested_by}",
        org_id=access.org_id,
        role=OPERATOR,
    )


def _unanswered(access: BreakGlass, actor: Actor) -> BreakGlass:
    require(actor, "break_glass.update", access)
    access = rows.locked(access)
    if not access.needs_consent or access.answered_at or access.use_before <= clock.now():
        raise Conflict("This request does not wait for an answer any more.")
    return access
