"""One sign-in under way: what the session remembers from leaving for the provider to coming back.

mozilla-django-oidc keeps state, nonce and PKCE verifier in the session. We add to that entry which
provider the state belongs to and what the sign-in is for, so that neither can be chosen by the URL
that comes back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from apps.common.tenancy import edge, scope
from apps.orgs import lookups
from apps.orgs.models import IdentityProvider
from apps.orgs.oidc.errors import SignInError
from apps.orgs.services.identity_providers import configured

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase

STATES = "oidc_states"  # mozilla-django-oidc's name
MAX_SECONDS = 600


class Purpose(StrEnum):
    """What the round trip is for."""

    SIGN_IN = "sign_in"
    SETUP = "setup"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Flow:
    """A sign-in that has left for the provider.

    A test, also that of the set-up, is of the configuration as it will be: `idp` has then what
    waits for a test put in, and `fingerprint` says what it was when the browser left.
    """

    idp: IdentityProvider
    purpose: Purpose
    next_url: str
    fingerprint: str = ""
    invitation: str = ""


def remember(session: SessionBase, state: str, flow: Flow) -> None:
    """Write the flow into the entry that the library made for this state."""
    session[STATES][state] |= {
        "idp": str(flow.idp.pk),
        "purpose": str(flow.purpose),
        "next": flow.next_url,
        "fingerprint": flow.fingerprint,
        "invitation": flow.invitation,
    }
    session.modified = True


def recall(session: SessionBase, state: str) -> Flow:
    """The flow of a state that this very session made within ten minutes; SignInError else."""
    entry = session.get(STATES, {}).get(state)
    if not isinstance(entry, dict) or "idp" not in entry:
        raise _unknown("no such state in this session")
    if time.time() - entry.get("added_on", 0) > MAX_SECONDS:
        forget(session, state)
        raise _unknown("the state is too old")
    idp = _provider(entry["idp"])
    if idp is None:
        raise _unknown("its identity provider is gone")
    purpose = Purpose(entry["purpose"])
    if purpose is not Purpose.SIGN_IN:
        idp = configured(idp)
    return Flow(idp, purpose, entry["next"], entry["fingerprint"], entry["invitation"])


def _provider(key: str) -> IdentityProvider | None:
    org_id = lookups.PROVIDER.id(key)
    if org_id is None:
        return None
    with edge(), scope(org_id):
        rows = IdentityProvider.objects.filter(pk=key, org__closed_at=None)
        return rows.select_related("org").first()


def forget(session: SessionBase, state: str) -> dict[str, Any]:
    """Use a state up."""
    entry: dict[str, Any] = session.get(STATES, {}).pop(state, {})
    session.modified = True
    return entry


def _unknown(detail: str) -> SignInError:
    return SignInError(
        "state_unknown",
        "This sign-in was not started in this browser, or was started too long ago. Start again.",
        detail=detail,
    )
