"""What a web session may open.

A session is as good as the provider that made it: it opens the organization whose provider that is,
and no other, though the person may be a member there. Else the administrator of one organization's
provider could enter another organization as somebody who belongs to both. So a person of two
organizations signs in at each; and what groups gave was replaced by this very sign-in.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from django.conf import settings
from django.contrib import auth

from apps.common.tenancy import edge, scope
from apps.orgs import lookups
from apps.orgs.addresses import address_of
from apps.orgs.models import Organization, User, UserSession
from apps.orgs.services.break_glass import break_glass_live
from apps.orgs.services.sessions import live_session, session_begin, sessions_end

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase
    from django.http import HttpRequest

    from apps.orgs.models import BreakGlass, IdentityProvider, SetupLink
    from apps.orgs.services.sessions import Arrival

STARTED: Final = "signed_in_at"
ROW: Final = "row"
SETUP_UNTIL: Final = "setup_until"
RECOVERED: Final = "recovered"
INVITATION: Final = "invitation"
BREAK_GLASS: Final = "break_glass"
HINT: Final = "login_hint"
SETUP_SECONDS: Final = 3600


def begin(request: HttpRequest, user: User, idp: IdentityProvider, arrival: Arrival) -> None:
    """A new session for the person: nothing of the old one is kept, and its key is new."""
    end(request, by="new sign-in")
    request.session.flush()
    auth.login(request, user)
    row = session_begin(
        user,
        idp,
        arrival,
        address=address_of(request),
        agent=request.headers.get("User-Agent", ""),
    )
    request.session[ROW] = str(row.pk)
    request.session[STARTED] = int(time.time())


def end(request: HttpRequest, *, by: str) -> None:
    """This browser's session is over; its cookie would open nothing any more."""
    row = str(request.session.get(ROW, ""))
    org_id = lookups.SESSION.id(row) if row else None
    if org_id is not None:
        with edge(), scope(org_id):
            sessions_end(UserSession.objects.filter(pk=row), by=by)


def row_of(request: HttpRequest) -> UserSession | None:
    """The session's row, if it has not ended: a provider, an admin or a removal may have."""
    row = str(request.session.get(ROW, ""))
    org_id = lookups.SESSION.id(row) if row else None
    if org_id is None or not isinstance(request.user, User):
        return None
    with edge(), scope(org_id):
        return live_session(row, request.user)


def is_over(session: SessionBase) -> bool:
    """Whether the session has reached its age, counted from the sign-in, not from its last use."""
    started = session.get(STARTED)
    age = settings.SESSION_HOURS * 3600
    return not isinstance(started, int) or not 0 <= time.time() - started < age


def begin_break_glass(request: HttpRequest, access: BreakGlass) -> None:
    """An operator's session: it belongs to no person, and opens one organization for reading."""
    end(request, by="break-glass")
    request.session.flush()
    request.session[BREAK_GLASS] = str(access.pk)


def operator_access(request: HttpRequest) -> BreakGlass | None:
    """The break-glass access of this session, while it lasts."""
    access = request.session.get(BREAK_GLASS)
    return break_glass_live(access) if access else None


def begin_setup(request: HttpRequest, link: SetupLink) -> None:
    """A set-up session: it belongs to no person and ends after an hour."""
    end(request, by="set-up")
    request.session.flush()
    request.session[SETUP_UNTIL] = int(time.time()) + SETUP_SECONDS
    request.session[RECOVERED] = str(link.org_id or "")


def in_setup(request: HttpRequest) -> bool:
    """Whether this is a set-up session that has not ended, nor lost the organization it is for."""
    until = request.session.get(SETUP_UNTIL)
    gone = bool(request.session.get(RECOVERED)) and _recovered(request) is None
    return isinstance(until, int) and time.time() < until and not gone


def recovered_organization(request: HttpRequest) -> Organization | None:
    """The organization whose sign-in this set-up session connects anew; None in a first set-up."""
    return _recovered(request) if in_setup(request) else None


def _recovered(request: HttpRequest) -> Organization | None:
    org_id = request.session.get(RECOVERED)
    if not org_id:
        return None
    with scope(org_id):
        return Organization.objects.filter(pk=org_id, closed_at=None).first()
