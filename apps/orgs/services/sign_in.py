"""From what a provider says to a person who may come in; and the trail of both outcomes.

An identity is the pair (provider, sub), never an e-mail address: addresses are reassigned, and any
provider can claim any of them. An address is used once, to bind the first identity at a provider to
the person whom its own organization has invited under it, or to a new person when the domain is
proven to be this provider's and one of its groups is mapped. The provider is an organization's own
row, not its issuer: others may have connected that too, and none speaks for another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import transaction

from apps.audit import emitter
from apps.audit.models import Result, Surface
from apps.audit.services import record
from apps.common import clock, rows
from apps.common.errors import LensError
from apps.orgs import lookups
from apps.orgs.events import SignInAction
from apps.orgs.models import (
    EmailDomain,
    Identity,
    IdentityProvider,
    Invitation,
    Membership,
    User,
)
from apps.orgs.oidc.errors import SignInError
from apps.orgs.refusals import Damper
from apps.orgs.selectors import live_admin, live_membership
from apps.orgs.services.domains import domain_name, plain_address
from apps.orgs.services.groups import groups_apply, groups_in, mapped
from apps.orgs.services.identity_providers import idp_prove
from apps.orgs.services.invitations import invitation_accept
from apps.orgs.services.memberships import lock_organization, person_with
from apps.orgs.types import SYSTEM, Actor, PrincipalKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apps.orgs.models import GroupMapping

NO_ACCESS = "no_access"
_ENTRA = ("https://login.microsoftonline.com/", "https://login.microsoftonline.us/")
_damper = Damper()


def sign_in(idp: IdentityProvider, claims: Mapping[str, Any], invitation_id: str = "") -> User:
    """The person whom verified claims name; SignInError when nobody may come in.

    Nobody is created who does not come in: account, membership and identity appear together. What
    groups take away is taken away even from a person who is then refused.
    """
    email = verified_email(claims)
    check_domain(idp, email)
    groups = groups_in(idp, claims)
    found = _decide(idp, claims, email, mapped(idp, groups), invitation_id)
    if isinstance(found, SignInError):
        raise found
    return found


@transaction.atomic
def _decide(
    idp: IdentityProvider,
    claims: Mapping[str, Any],
    email: str,
    given: list[GroupMapping],
    invitation_id: str,
) -> User | SignInError:
    lock_organization(idp.org_id)  # before anything that bumps the Revision
    if not IdentityProvider.objects.filter(pk=idp.pk, working_at__isnull=False).exists():
        raise SignInError(
            "provider_disabled",
            "This identity provider is not in use any more. Start again at the sign-in page.",
        )
    identity = _identity(idp, claims)
    user = identity.user if identity else _newcomer(idp, claims, email, given, invitation_id)
    if user is None:
        return _no_access(email, f"nobody is invited as {email}")
    if not user.is_active:
        return _no_access(email, f"{user.email} is deactivated")
    if identity and invitation_id:
        _accept(idp, email, invitation_id, user)
    if not groups_apply(idp, user, given) or not _is_member(idp, user):
        return _no_access(email, f"{user.email} is no active member of the organization")
    came_in(idp, identity or identity_bind(idp, claims, user))
    return user


@transaction.atomic
def prove(idp: IdentityProvider, claims: Mapping[str, Any], fingerprint: str) -> User:
    """A test sign-in came back: keep the proof, and bind the admin, who can then come in this way.

    SignInError unless it was the account of an admin of this organization.
    """
    email = verified_email(claims)
    check_domain(idp, email, testing=True)
    groups_in(idp, claims)
    identity = _identity(idp, claims)
    admins = User.objects.filter(
        is_active=True,
        pk__in=Membership.objects.filter(live_admin(), org=idp.org_id).values("user"),
    )
    known = admins.filter(pk=identity.user_id) if identity else admins.filter(email__iexact=email)
    admin = known.first()
    if admin is None:
        raise SignInError(
            "not_an_admin",
            f"You signed in as {email}. A test must be done by an admin of the organization, with"
            " the address that the admin has here: else the provider might let no admin in.",
        )
    if identity is None:
        identity_bind(idp, claims, admin)
    try:
        idp_prove(idp, fingerprint=fingerprint, by=email, actor=SYSTEM)
    except LensError as error:
        raise SignInError("settings_changed", error.message) from None
    return admin


def check_domain(idp: IdentityProvider, email: str, *, testing: bool = False) -> None:
    """SignInError for an address that another provider vouches for, or, where this provider has
    verified domains, one of any other domain.

    What another provider of the same organization has verified is no stranger's: it counts where
    that one is out of use, and for a test before the domain moves.
    """
    try:
        name = domain_name(email.rpartition("@")[2])
    except LensError:
        name = ""
    ours = EmailDomain.objects.filter(verified_at__isnull=False, org=idp.org_id)
    found = ours.filter(domain=name).select_related("idp").first()
    if found and (testing or found.idp_id == idp.pk or found.idp.working_at is None):
        return
    if ours.filter(idp=idp).exists() or lookups.DOMAIN.all(name):
        raise SignInError(
            "domain_foreign",
            f"You signed in as {email}, but this sign-in is not the one for that domain. Use an"
            " account of your organization.",
            detail=f"{name} is not a verified domain of this provider",
        )


@transaction.atomic
def identity_bind(idp: IdentityProvider, claims: Mapping[str, Any], user: User) -> Identity:
    """Bind (provider, sub) to the person; SignInError when either side is bound already."""
    taken = user.identities.filter(idp=idp).exists() or _identity(idp, claims)
    if taken:
        raise SignInError(
            "identity_taken",
            "This account belongs to another person here. Ask your administrator.",
            detail=f"{user.email} has another account at this provider, or it is another person's",
        )
    identity = Identity(org_id=idp.org_id, idp=idp, user=user, subject=claims["sub"])
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
    # Some providers send the flag as a string; Entra ID has a flag of its own, for the domain.
    verified = claims.get("email_verified") in (True, "true") or (
        str(claims.get("iss")).startswith(_ENTRA) and claims.get("xms_edov") in (True, "1", "true")
    )
    if not isinstance(email, str) or not verified:
        raise SignInError(
            "email_unverified",
            "Your identity provider has not verified your e-mail address; here it must have.",
        )
    try:
        return plain_address(email)
    except LensError:
        raise SignInError(
            "email_unusable",
            "Your identity provider sends an e-mail address that cannot be used here, so nobody was"
            " signed in. Tell your administrator.",
            detail="the address is none, or holds letters outside ASCII",
        ) from None


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


def sign_in_refused(idp: IdentityProvider | None, refusal: SignInError) -> None:
    """Audit a refusal through the spool, bounded: anybody can cause these."""
    _refused(idp, refusal, SignInAction.SIGN_IN_REFUSED, 403)


def logout_refused(idp: IdentityProvider | None, refusal: SignInError) -> None:
    """The same for a logout token that does not hold."""
    _refused(idp, refusal, SignInAction.LOGOUT_REFUSED, 400)


def _refused(idp: IdentityProvider | None, refusal: SignInError, action: str, status: int) -> None:
    held_back = _damper.admit(str(idp.pk) if idp else "")
    if held_back is None:
        return
    more = {"more_like_this": held_back} if held_back else {}
    emitter.emit(
        {
            "org": str(idp.org_id) if idp else None,
            "org_slug": idp.org.slug if idp else "",
            "principal_kind": PrincipalKind.USER,
            "surface": Surface.AUTHENTICATION,
            "action": action,
            "resource_type": "identity_provider",
            "resource_id": str(idp.pk) if idp else "",
            "result": Result.DENIED,
            "status": status,
            "reason": refusal.detail,
            "metadata": {"code": refusal.code, **more},
        }
    )


def _identity(idp: IdentityProvider, claims: Mapping[str, Any]) -> Identity | None:
    return Identity.objects.filter(idp=idp, subject=claims["sub"]).select_related("user").first()


def _newcomer(
    idp: IdentityProvider,
    claims: Mapping[str, Any],
    email: str,
    given: list[GroupMapping],
    invitation_id: str,
) -> User | None:
    """The person of an account that comes for the first time: invited by link, added by address,
    or sent by groups from a domain that this provider has verified."""
    if invitation_id and (guest := _accept(idp, email, invitation_id)):
        return guest
    known = User.objects.filter(email__iexact=email, memberships__org=idp.org_id).first()
    if known is not None or not given:
        return known
    if not idp.domains.filter(verified_at__isnull=False).exists():
        return None
    return person_with(email, _name(claims))


def _accept(
    idp: IdentityProvider, email: str, invitation_id: str, known: User | None = None
) -> User | None:
    invitation = Invitation.objects.filter(pk=invitation_id, org=idp.org_id).first()
    return invitation_accept(invitation, email, known) if invitation else None


def _name(claims: Mapping[str, Any]) -> str:
    """What the provider calls the person, in one printable line."""
    name = claims.get("name")
    words = name.split() if isinstance(name, str) else []
    return "".join(char for char in " ".join(words) if char.isprintable())[:200]


def _is_member(idp: IdentityProvider, user: User) -> bool:
    return Membership.objects.filter(
        live_membership(), org=idp.org_id, user=user, org__closed_at=None
    ).exists()


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
