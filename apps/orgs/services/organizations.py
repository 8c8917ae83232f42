"""Organizations: the top-level tenants."""

from __future__ import annotations

import zoneinfo
from typing import TYPE_CHECKING

from django.db import transaction

from apps.common import rows
from apps.common.errors import Invalid
from apps.common.ids import uuid7
from apps.orgs import revision
from apps.orgs.access import require
from apps.orgs.events import OrgAction
from apps.orgs.models import Organization
from apps.orgs.trail import created, note

if TYPE_CHECKING:
    import uuid

    from apps.orgs.types import Actor


@transaction.atomic
def organization_create(
    *,
    slug: str,
    name: str,
    time_zone: str = "UTC",
    key: uuid.UUID | None = None,
    actor: Actor,
) -> Organization:
    """A new organization, without people: `user_invite` adds the first admin.

    `key` is its id, for who has opened its scope before it exists.
    """
    zone = _known_zone(time_zone)
    org = Organization(id=key or uuid7(), slug=slug, name=name, time_zone=zone)
    require(actor, "organization.create", org)
    rows.insert(org, taken=f"An organization with the slug “{slug}” exists. Choose another slug.")
    note(actor, OrgAction.ORGANIZATION_CREATE, org, created(org, "slug", "name", "time_zone"))
    revision.bump()
    return org


@transaction.atomic
def organization_update(
    org: Organization,
    *,
    name: str | None = None,
    time_zone: str | None = None,
    sandbox_idle_minutes: int | None = None,
    sandbox_max_age_hours: int | None = None,
    sandboxes_per_principal: int | None = None,
    sandboxes_total: int | None = None,
    allow_degraded: bool | None = None,
    manual_days: int | None = None,
    break_glass_consent: bool | None = None,
    actor: Actor,
) -> Organization:
    """Change what is given; None keeps. The slug never changes: addresses contain it.

    New limits of sandboxes hold within a minute, also for those that run; a lower number of them
    ends none. Degraded ones that are not allowed any more are ended at once.
    """
    require(actor, "organization.update", org)
    org = rows.locked(org)
    if time_zone is not None:
        _known_zone(time_zone)
    values = rows.given(
        name=name,
        time_zone=time_zone,
        sandbox_idle_minutes=sandbox_idle_minutes,
        sandbox_max_age_hours=sandbox_max_age_hours,
        sandboxes_per_principal=sandboxes_per_principal,
        sandboxes_total=sandboxes_total,
        allow_degraded=allow_degraded,
        manual_days=manual_days,
        break_glass_consent=break_glass_consent,
    )
    changes = rows.update(org, values)
    if changes:
        note(actor, OrgAction.ORGANIZATION_UPDATE, org, changes)
        revision.bump()
    return org


def _known_zone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise Invalid(
            f"“{name}” is no time zone. Write one such as “Europe/Berlin” or “UTC”.",
            field="time_zone",
        )
    return name
