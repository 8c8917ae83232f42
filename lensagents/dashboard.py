"""The overview: is it set up, is it working, what was denied, how well is this host isolated.

Every query is of one organization, uses an index, and looks at no more than `NEWEST` events, so
that the page costs the same on a busy day as on a quiet one.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.db.models import CharField, Count, Q
from django.db.models.functions import Cast, Substr
from django.urls import reverse

from apps.agents.models import Agent, AgentToken
from apps.audit.models import AuditEvent, Result, Surface
from apps.common import clock
from apps.common.errors import LensError
from apps.orgs.models import IdentityProvider, Team
from apps.policies.models import Policy, PolicyKind
from apps.sandboxes.client import Sandboxd
from apps.sandboxes.models import LIVE_STATES, Sandbox
from apps.sandboxes.paths import sandboxd_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.models import QuerySet
    from django.http import HttpRequest

    from apps.orgs.models import Organization

    Allows = Callable[[str], bool]

NEWEST = 50_000
HOURS = 24
REASONS_SHOWN = 8
SANDBOXD_PATIENCE = 1.0  # seconds that the page waits for the host's answer
CONTROL_PLANE = (Surface.ADMIN_CHANGE, Surface.AUTHENTICATION)


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the set-up checklist, checked against the database each time."""

    title: str
    hint: str
    done: bool
    link: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One counter."""

    title: str
    value: str
    link: str


def overview(request: HttpRequest, allows: Allows) -> dict[str, Any]:
    """What the template shows; for people without an organization, nothing but that."""
    org: Organization | None = getattr(request, "org", None)
    if org is None:
        return {"lost": True}
    context: dict[str, Any] = {"organization": org, "reads_audit": allows("audit.view")}
    if allows("audit.view"):
        decisions = recent_decisions(org)
        bounded = bound(org) is not None
        checklist = steps(org)
        context |= {
            "steps": checklist,
            "all_done": all(step.done for step in checklist),
            "figures": figures(org, decisions, bounded=bounded),
            "reasons": denied_reasons(org),
            "chart": json.dumps(chart(decisions)),
            "bounded": bounded,
            "chart_options": json.dumps(CHART_OPTIONS),
            "isolation": isolation(),
        }
    return context


def steps(org: Organization) -> list[Step]:
    """The way to the first governed call, in order."""
    now = clock.now()
    usable = Q(expires_at=None) | Q(expires_at__gt=now)
    return [
        Step(
            "Connect sign-in",
            "Your people sign in through your identity provider, and somebody has done so.",
            IdentityProvider.objects.filter(org=org, working_at__isnull=False).exists(),
            page("orgs_identityprovider_changelist"),
        ),
        Step(
            "Create a team",
            "People and agents work in teams, each under one policy.",
            Team.objects.filter(org=org, deleted_at=None).exists(),
            page("orgs_team_add"),
        ),
        Step(
            "Write its policy",
            "A team without a policy may do nothing.",
            Policy.objects.filter(org=org, kind=PolicyKind.TEAM).exists(),
            page("policies_policy_add"),
        ),
        Step(
            "Give an agent a token",
            "Create an agent, then a token; it is shown once.",
            AgentToken.objects.filter(usable, org=org, revoked_at=None).exists(),
            page("agents_agent_changelist"),
        ),
        Step(
            "See the first governed call",
            "The agent calls a tool, and the call stands in the audit trail.",
            AuditEvent.objects.filter(org=org, surface=Surface.MCP_TOOL).exists(),
            page("audit_auditevent_changelist"),
        ),
    ]


def recent_decisions(org: Organization) -> list[tuple[dt.datetime, str, int]]:
    """(hour, result, how many) of the data plane, last 24 hours, among the newest `NEWEST`."""
    rows = (
        window(org)
        # The text of a time begins with its hour on both databases, whose sessions are in UTC;
        # Django's TruncHour would call Python for each row of SQLite.
        .annotate(hour=Substr(Cast("at", CharField()), 1, 13))
        .values_list("hour", "result")
        .annotate(events=Count("pk"))
    )
    return [
        (dt.datetime.strptime(f"{hour} +0000", "%Y-%m-%d %H %z"), result, events)
        for hour, result, events in rows
    ]


def figures(
    org: Organization, decisions: list[tuple[dt.datetime, str, int]], *, bounded: bool
) -> list[Figure]:
    """The counters."""
    totals: Counter[str] = Counter()
    for _, result, events in decisions:
        totals["denied" if result == Result.DENIED else "allowed"] += events
    agents = Agent.objects.filter(org=org, disabled_at=None, team__deleted_at=None)
    sandboxes = Sandbox.objects.filter(org=org, state__in=LIVE_STATES)
    audit = page("audit_auditevent_changelist")
    return [
        Figure("Agents", shown(agents.count()), page("agents_agent_changelist")),
        Figure("Live sandboxes", shown(sandboxes.count()), page("sandboxes_sandbox_changelist")),
        Figure(
            "Allowed, last 24 hours", shown(totals["allowed"], more=bounded), f"{audit}?since=24h"
        ),
        Figure(
            "Denied, last 24 hours",
            shown(totals["denied"], more=bounded),
            f"{audit}?since=24h&result__exact={Result.DENIED}",
        ),
    ]


def denied_reasons(org: Organization) -> list[dict[str, Any]]:
    """The most frequent reasons of denial in the last 24 hours, each with a link to its events."""
    rows = (
        window(org, result=Result.DENIED)
        .values("reason", "surface")
        .annotate(events=Count("pk"))
        .order_by("-events", "reason")[:REASONS_SHOWN]
    )
    names = dict(Surface.choices)
    audit = page("audit_auditevent_changelist")
    return [
        {
            "reason": row["reason"] or "no reason given",
            "surface": names.get(row["surface"], row["surface"]),
            "events": row["events"],
            "link": f"{audit}?{_denied_query(row['reason'], row['surface'])}",
        }
        for row in rows
    ]


def window(org: Organization, **narrow: Any) -> QuerySet[AuditEvent]:
    """Data-plane events of the last 24 hours, no further back than the `NEWEST` newest."""
    rows = last_hours(org, **narrow)
    if floor := bound(org, **narrow):
        rows = rows.filter(at__gt=floor)
    return rows.exclude(surface__in=CONTROL_PLANE)


def bound(org: Organization, **narrow: Any) -> dt.datetime | None:
    """The time of the first event that is too old to be looked at; None when all are."""
    newest = last_hours(org, **narrow).order_by("-at").values_list("at", flat=True)
    return newest[NEWEST : NEWEST + 1].first()


def last_hours(org: Organization, **narrow: Any) -> QuerySet[AuditEvent]:
    """All events of the last 24 hours."""
    since = clock.now() - dt.timedelta(hours=HOURS)
    return AuditEvent.objects.filter(org=org, at__gte=since, **narrow)


def chart(decisions: list[tuple[dt.datetime, str, int]]) -> dict[str, Any]:
    """What Chart.js draws: allowed and denied by hour, the current hour last."""
    now = clock.now().replace(minute=0, second=0, microsecond=0)
    hours = [now - dt.timedelta(hours=back) for back in range(HOURS - 1, -1, -1)]
    counted: Counter[tuple[dt.datetime, bool]] = Counter()
    for hour, result, events in decisions:
        counted[hour, result == Result.DENIED] += events
    return {
        "labels": [f"{hour:%H}:00" for hour in hours],
        "datasets": [
            _series("Allowed", [counted[hour, False] for hour in hours], "--color-primary-600"),
            _series("Denied", [counted[hour, True] for hour in hours], "--lens-chart-denied"),
        ],
    }


def isolation() -> dict[str, Any]:
    """What sandboxd says of this host, or that it does not answer."""
    try:
        health = Sandboxd(sandboxd_socket(), timeout=SANDBOXD_PATIENCE).health()
    except LensError as error:
        return {"state": "away", "remedy": error.message, "layers": []}
    layers = [layer for layer in health.get("layers", ()) if isinstance(layer, dict)]
    return {
        "state": str(health.get("isolation", "unavailable")),
        "remedy": str(health.get("remedy", "")),
        "layers": layers,
        "active": sum(layer.get("state") == "active" for layer in layers),
    }


def page(name: str) -> str:
    """The address of a page of the admin."""
    return reverse(f"admin:{name}")


def shown(number: int, *, more: bool = False) -> str:
    """With thousands apart; `+` where there are more than were counted."""
    return f"{number:,}+" if more else f"{number:,}"


def _denied_query(reason: str, surface: str) -> str:
    query = {"since": "24h", "result__exact": str(Result.DENIED), "surface__exact": surface}
    return urlencode(query | ({"q": reason[:120]} if reason else {}))


def _series(label: str, data: list[int], colour: str) -> dict[str, Any]:
    return {"label": label, "data": data, "backgroundColor": f"var({colour})", "stack": "decisions"}


CHART_OPTIONS = {
    "animation": False,
    "maintainAspectRatio": False,
    "responsive": True,
    "barPercentage": 0.8,
    "categoryPercentage": 0.9,
    "maxBarThickness": 26,
    "plugins": {"legend": {"display": True, "align": "end", "position": "top"}},
    "scales": {
        "x": {"stacked": True, "grid": {"display": False}, "ticks": {"maxTicksLimit": 12}},
        "y": {"stacked": True, "beginAtZero": True, "ticks": {"precision": 0, "maxTicksLimit": 5}},
    },
}
