"""Reads: which sandboxes live, which of them should not, which a person may see."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.db.models import Exists, F, OuterRef, Q, QuerySet

from apps.orgs.models import Organization, ProjectGrant
from apps.sandboxes.models import DEGRADED, LIVE_STATES, Sandbox, SandboxState

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Iterator

SLACK = timedelta(seconds=5)
RUNNING_STATES = (SandboxState.READY, SandboxState.BUSY, SandboxState.IDLE)


def live() -> QuerySet[Sandbox]:
    """Every sandbox that exists or is being built."""
    return Sandbox.objects.filter(state__in=LIVE_STATES)


def running() -> QuerySet[Sandbox]:
    """Every sandbox that the sandbox service should know."""
    return Sandbox.objects.filter(state__in=RUNNING_STATES)


def unused_too_long(now: dt.datetime) -> Iterator[tuple[int, QuerySet[Sandbox]]]:
    """(minutes, live sandboxes that nobody has used for as long as their organization allows).

    For sweeps: over all organizations, one query for each limit that one of them has.
    """
    limits = Organization.objects.values_list("sandbox_idle_minutes", flat=True)
    for minutes in limits.distinct():
        since = now - timedelta(minutes=minutes)
        yield minutes, live().filter(org__sandbox_idle_minutes=minutes, last_used_at__lt=since)


def older_than_allowed(now: dt.datetime) -> Iterator[tuple[int, QuerySet[Sandbox]]]:
    """(hours, live sandboxes that are older than their organization allows); as above."""
    limits = Organization.objects.values_list("sandbox_max_age_hours", flat=True)
    for hours in limits.distinct():
        since = now - timedelta(hours=hours)
        yield hours, live().filter(org__sandbox_max_age_hours=hours, created_at__lt=since)


def agent_in(org_id: uuid.UUID, sandbox_id: uuid.UUID) -> uuid.UUID | None:
    """The agent that a sandbox was made for; None where it was made for no agent."""
    rows = Sandbox.objects.filter(org_id=org_id, pk=sandbox_id)
    return rows.values_list("agent_id", flat=True).first()


def no_longer_allowed(now: dt.datetime) -> Iterator[tuple[str, QuerySet[Sandbox]]]:
    """(reason, sandboxes) for each way in which the right to a sandbox can end.

    A token that was revoked or has expired since a sandbox was made ends the sandbox even where the
    agent has other tokens: whoever held it may have left something running there. `SLACK` covers
    a sandbox that was asked for just before the revocation was felt.
    """
    agents = Q(principal_kind="agent")
    made = F("created_at") - SLACK
    granted = ProjectGrant.objects.filter(team=OuterRef("team"), project=OuterRef("project"))
    over = Q(agent__tokens__expires_at__gte=made, agent__tokens__expires_at__lte=now)
    for reason, condition in (
        ("The organization was closed.", Q(org__closed_at__isnull=False)),
        ("The team was deleted.", Q(team__deleted_at__isnull=False)),
        ("The agent was deleted.", agents & Q(agent=None)),
        ("The agent was disabled.", agents & Q(agent__disabled_at__isnull=False)),
        ("The agent moved to another team.", agents & ~Q(agent__team=F("team"))),
        ("A token of the agent was revoked.", Q(agent__tokens__revoked_at__gte=made)),
        ("A token of the agent has expired.", over),
        ("The team lost its grant on the project.", ~Q(Exists(granted))),
        (
            "The organization does not allow degraded sandboxes any more.",
            Q(isolation=DEGRADED, org__allow_degraded=False),
        ),
    ):
        yield reason, live().filter(condition).distinct()
