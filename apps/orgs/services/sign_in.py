"""From what a provider says to a person who may come in; and the trail of both outcomes.

An identity is the pair (issuer, sub), never an e-mail address: addresses are reassigned, and any
provider can claim any of them. An address is used once, to bind the first identity at an issuer to
the person whom the provider's own organization has invited under it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import transaction

from apps.audit import emitter
from apps.audit.models import Result, Surface
from apps.audit.services import record
from apps.common import clock, rows
from apps.orgs.events import SignInAction
from apps.orgs.models import Identity, IdentityProvider, Membership, User
from apps.orgs.oidc.errors import SignInError
from apps.orgs.refusals import Damper
from apps.orgs.types import Actor, PrincipalKind

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_ACCESS = "no_access"
_damper = Damper()


@transaction.atomic
def sign_in(idp: IdentityProvider, claims: Mapping[str, Any]) -> User:
    """The person whom verified claims name; SignInError when nobody may come in.

    Nothing is written for somebody who may not: no account, no identity.
    """
    email = verified_email(claims)
    identity = _identity(idp, claims)
    user = identity.user if identity else _invited(idp, email)
    _require_member(idp, user, email)
    came_in(idp, identity or identity_bind(idp, claims, user))
    return user


@transaction.atomic
def identity_bind(idp: IdentityProvider, claims: Mapping[str, Any], user: User) -> Identity:
    """Bind (issuer, sub) to the person; SignInError when either side is bound already."""
    taken = user.identities.filter(issuer=idp.issuer).exists() or _identity(idp, claims)
    if taken:
        raise SignInError(
            "identity_taken",
            "This account belongs to another person here. Ask your administrator.",
            detail=f"{user.email} has another identity at this issuer, or the identity a person",
        )
    identity = Identity(user=user, issuer=idp.issuer, subject=claims["sub"])
    rows.insert(identity, taken="This account was bound to somebody at the same time.")
    _note(idp, user, SignInAction.IDENTITY_BIND)
    return identity


def came_in(idp: IdentityProvider, identity: Identity) -> None:
    """Note a sign-in, in the transaction that decided it."""
    identity.last_login_at = clock.now()
    identity.save(update_fields=["last_login_at"])
    _note(idp, identity.user, SignInAction.SIGN_IN)


def verified_email(claims: Mapping[str, Any]) -> str:
    """The address, when the provider says that it has verified it."""
    email = claims.get("email")
    # Some providers send the flag as a string.
    if not isinstance(email, str) or claims.get("email_verified") not in (True, "true"):
        raise SignInError(
            "email_unverified",
            "Your identity provider has not verified your e-mail address; here it must have.",
        )
    return email.strip()


def sign_out(user: User, org_id: Any) -> None:
    """The person has ended the session."""
    record(
        actor=_person(user),
        org_id=org_id,
        surface=Surface.AUTHENTICATION,
        action=SignInAction.SIGN_OUT,
        resource_type="person",
        resource_id=user.pk,
    )


def sign_in_refused(idp: IdentityProvider | None, refusal: SignInError, *, who: str = "") -> None:
    """Audit a refusal through the spool, bounded: anybody can cause these."""
    held_back = _damper.admit(str(idp.pk) if idp else "")
    if held_back is None:
        return
    more = {"more_like_this": held_back} if held_back else {}
    emitter.emit(
        {
            "org": str(idp.org_id) if idp else None,
            "org_slug": idp.org.slug if idp else "",
            "principal_kind": PrincipalKind.USER,
            "principal_name": who,
            "surface": Surface.AUTHENTICATION,
            "action": SignInAction.SIGN_IN_REFUSED,
            "resource_type": "identity_provider",
            "resource_id": str(idp.pk) if idp else "",
            "result": Result.DENIED,
            "status": 403,
            "reason": refusal.detail,
            "metadata": {"code": refusal.code, **more},
        }
    )


def _identity(idp: IdentityProvider, claims: Mapping[str, Any]) -> Identity | None:
    return (
        Identity.objects.filter(issuer=idp.issuer, subject=claims["sub"])
        .select_related("user")
        .first()
    )


def _invited(idp: IdentityProvider, email: str) -> User:
    """The invited person with this address who has no identity at this issuer yet."""
    person = User.objects.filter(
        email__iexact=email, is_active=True, memberships__org=idp.org_id
    ).first()
    if person is None:
        raise _no_access(email, f"nobody is invited as {email}")
    return person


def _require_member(idp: IdentityProvider, user: User, email: str) -> None:
    member = Membership.objects.filter(org=idp.org_id, user=user, org__closed_at=None).exists()
    if not user.is_active or not member:
        raise _no_access(email, f"{user.email} is no active member of the organization")


def _no_access(email: str, detail: str) -> SignInError:
    return SignInError(
        NO_ACCESS,
        f"You are {email}, and this organization has not given you access yet. Ask one of its"
        " administrators to invite this address.",
        detail=detail,
    )


def _note(idp: IdentityProvider, user: User, action: str) -> None:
    record(
        actor=_person(user),
        org_id=idp.org_id,
        surface=Surface.AUTHENTICATION,
        action=action,
        resource_type="person",
        resource_id=user.pk,
        metadata={"identity_provider": idp.name, "issuer": idp.issuer},
    )


def _person(user: User) -> Actor:
    return Actor(kind=PrincipalKind.USER, id=str(user.pk), name=user.email, org_id=None)
