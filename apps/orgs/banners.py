"""What every page of an organization must say while it is so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.urls import reverse

from apps.orgs.services.break_glass import break_glass_shown
from apps.orgs.services.setup import recoveries_shown

if TYPE_CHECKING:
    from django.http import HttpRequest

    from apps.orgs.models import BreakGlass, SetupLink


@dataclass(frozen=True, slots=True)
class Banner:
    """A sentence, and where to act on it ("" = nowhere). `ends` offers the operator the end."""

    text: str
    link: str = ""
    ends: bool = False


def banners(request: HttpRequest) -> list[Banner]:
    """Operator access and recoveries of the request's organization."""
    org = getattr(request, "org", None)
    if org is None:
        return []
    own = getattr(request, "break_glass", None)
    found = [_access(row, mine=row == own) for row in break_glass_shown(org)]
    return found + [_recovery(link) for link in recoveries_shown(org)]


def _access(row: BreakGlass, *, mine: bool) -> Banner:
    link = reverse("admin:orgs_breakglass_change", args=[row.pk])
    if mine:
        until = f"{row.expires_at:%H:%M} UTC"
        text = f"You look into {row.org.name} as an operator, read-only, until {until}."
        return Banner(f"{text} Each page is in its audit trail.", "", ends=True)
    if row.expires_at:
        until = f"{row.expires_at:%H:%M} UTC"
        return Banner(
            f"An operator ({row.requested_by}) may read everything here until {until}."
            f" Reason: {row.reason}",
            link,
        )
    asks = "asks for your approval to look" if _waits(row) else "is about to look"
    return Banner(f"An operator ({row.requested_by}) {asks} in here. Reason: {row.reason}", link)


def _waits(row: BreakGlass) -> bool:
    return row.needs_consent and row.answered_at is None


def _recovery(link: SetupLink) -> Banner:
    when = f"{link.created_at:%Y-%m-%d %H:%M} UTC"
    did = "connected" if link.used_at else "offered to connect"
    return Banner(
        f"On {when} the operator {did} the sign-in of this organization anew."
        f" Reason: {link.reason}",
        reverse("admin:orgs_identityprovider_changelist"),
    )
