"""Sessions of people, so that they can be found and ended: by the provider, an admin, a removal."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction

from apps.common import clock, rows
from apps.common.crypto import CryptoError, KeyRing, Sealed
from apps.orgs.access import require
from apps.orgs.events import SignInAction
from apps.orgs.models import IdentityProvider, User, UserSession
from apps.orgs.trail import note
from apps.orgs.types import Actor, PrincipalKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django.db.models import QuerySet

MAX_HINT = 4_000  # it becomes part of a URL; a longer ID token is not kept
KEEP_DAYS = 7


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a sign-in leaves behind for the session: verified claims, and the token they were in."""

    claims: Mapping[str, Any]
    id_token: str = field(repr=False)


def session_begin(
    user: User, idp: IdentityProvider, arrival: Arrival, *, address: str = "", agent: str = ""
) -> UserSession:
    """Remember a session that begins now."""
    sid = arrival.claims.get("sid")
    row = UserSession(
        org_id=idp.org_id,
        user=user,
        idp=idp,
        subject=arrival.claims["sub"],
        sid=sid if isinstance(sid, str) and len(sid) <= 255 and sid.isprintable() else "",
        address=address[:64],
        agent=agent[:200],
        expires_at=clock.now() + dt.timedelta(hours=settings.SESSION_HOURS),
    )
    if len(arrival.id_token) <= MAX_HINT:
        sealed = _ring().seal(arrival.id_token.encode(), context=_context(row))
        row.hint_key_id, row.hint_iv = sealed.key_id, sealed.iv
        row.hint_ciphertext = sealed.ciphertext
    row.save(force_insert=True)
    return row


def live_session(session_id: str, user: User) -> UserSession | None:
    """The person's session, if it has not ended."""
    return (
        UserSession.objects.filter(
            pk=session_id, user=user, ended_at=None, expires_at__gt=clock.now()
        )
        .select_related("idp", "org", "user")
        .first()
    )


def sessions_end(sessions: QuerySet[UserSession], *, by: str) -> int:
    """End those that have not ended, with the next click of each; how many. `by` says who."""
    return sessions.filter(ended_at=None).update(
        ended_at=clock.now(), ended_by=by, hint_key_id="", hint_iv=b"", hint_ciphertext=b""
    )


@transaction.atomic
def sessions_end_by_provider(idp: IdentityProvider, claims: Mapping[str, Any]) -> int:
    """A verified logout token ends the sessions that this provider began: the one with the `sid`,
    or all of the `sub`. How many.
    """
    rows_of_it = UserSession.objects.filter(idp=idp)
    if "sub" in claims:
        rows_of_it = rows_of_it.filter(subject=claims["sub"])
    if "sid" in claims:
        # A session of the person whose `sid` no ID token told may be the one that is meant.
        unknown = [""] if "sub" in claims else []
        rows_of_it = rows_of_it.filter(sid__in=[claims["sid"], *unknown])
    ended = sessions_end(rows_of_it, by="provider")
    who = Actor(kind=PrincipalKind.SYSTEM, id=str(idp.pk), name=idp.name, org_id=None)
    note(who, SignInAction.SESSIONS_END, idp, {}, sessions=ended)
    return ended


@transaction.atomic
def session_end(session: UserSession, *, actor: Actor) -> None:
    """An admin ends one session."""
    require(actor, "session.end", session)
    session = rows.locked(session)
    if session.ended_at is None:
        sessions_end(UserSession.objects.filter(pk=session.pk), by="admin")
        changes = {"person": (session.user.email, None)}
        note(actor, SignInAction.SESSION_END, session, changes)


def logout_hint(session: UserSession) -> str:
    """The ID token of the sign-in, for the provider's own sign-out; empty when it was not kept."""
    sealed = Sealed(session.hint_key_id, bytes(session.hint_iv), bytes(session.hint_ciphertext))
    try:
        return _ring().open(sealed, context=_context(session)).decode()
    except CryptoError:
        return ""


def sessions_forget() -> int:
    """Delete what ended a week ago; the audit trail keeps the sign-ins."""
    past = clock.now() - dt.timedelta(days=KEEP_DAYS)
    return UserSession.objects.filter(expires_at__lt=past).delete()[0]


def _context(row: UserSession) -> str:
    return f"user-session:{row.org_id}:{row.pk}"


def _ring() -> KeyRing:
    ring: KeyRing = settings.LENS_KEY_RING
    return ring
