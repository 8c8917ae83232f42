"""The first start: a link that works once, and what the session behind it may do.

The link is the installation's only credential before anybody can sign in. Its token is shown once
to whoever runs `manage.py bootstrap` (a person with a shell on the server) and stored as a hash.
When an organization has a provider of its own in use, no such link is made or taken any more. The
development provider does not count: whoever tried things out with it goes on to a real one here.

A link may also be made for an organization that has lost its provider (`recovery_link_create`): the
operator opens the same pages for it, with a reason, and one of its admins must come back through
the new provider. The organization sees that in its trail and on its pages.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from django.db import transaction

from apps.audit.models import Result, Surface
from apps.audit.services import record
from apps.common import clock, ids, rows
from apps.common.errors import Conflict, Denied, Invalid
from apps.common.tenancy import edge, scope
from apps.orgs import lookups
from apps.orgs.events import SignInAction
from apps.orgs.models import (
    IdentityProvider,
    Membership,
    Organization,
    OrgRole,
    SetupLink,
    User,
)
from apps.orgs.oidc.errors import SignInError
from apps.orgs.services.domains import plain_address
from apps.orgs.services.identity_providers import idp_disable, idp_enable
from apps.orgs.services.memberships import user_invite
from apps.orgs.services.organizations import organization_create
from apps.orgs.services.sign_in import came_in, prove, verified_email
from apps.orgs.types import Actor, PrincipalKind

if TYPE_CHECKING:
    from collections.abc import Mapping


TOKEN_PREFIX = "lnsu"  # noqa: S105  a prefix, not a token
LINK_MINUTES = 15
OPERATOR = Actor(kind=PrincipalKind.SYSTEM, id="operator", name="Operator", org_id=None)
SETUP = Actor(kind=PrincipalKind.SYSTEM, id="setup", name="Set-up", org_id=None)
MIN_REASON = 10
RECOVERY_SHOWN_DAYS = 7
FINISHED = "An organization already has a working sign-in, so the set-up is closed."


def is_finished() -> bool:
    """Whether some organization has an identity provider of its own in use."""
    return any(not is_development for _, _, is_development in lookups.PROVIDERS_IN_USE.all())


def has_sign_in() -> bool:
    """Whether anybody can sign in, be it through the development provider."""
    return bool(lookups.PROVIDERS_IN_USE.all())


@transaction.atomic
def setup_link_create() -> str:
    """A new token; links made before stop working. Raises Conflict once the set-up is finished."""
    if is_finished():
        raise Conflict(FINISHED)
    return _make()


@transaction.atomic
def recovery_link_create(org: Organization, *, reason: str, disable: bool = False) -> str:
    """A link to connect the sign-in of one organization anew. `disable` first takes every provider
    of it out of use: for one that cannot be trusted any more. Invalid without a reason."""
    if len(reason.strip()) < MIN_REASON:
        raise Invalid(
            f"Say why, in at least {MIN_REASON} characters: the organization reads it.",
            field="reason",
        )
    if disable:
        for idp in IdentityProvider.objects.filter(org=org, working_at__isnull=False):
            idp_disable(idp, actor=OPERATOR)
    return _make(org, reason.strip())


def _make(org: Organization | None = None, reason: str = "") -> str:
    now = clock.now()
    SetupLink.objects.filter(org=org, used_at=None, expires_at__gt=now).update(expires_at=now)
    token = ids.token(TOKEN_PREFIX)
    link = SetupLink.objects.create(
        org=org,
        reason=reason,
        token_hash=ids.token_hash(token),
        expires_at=now + dt.timedelta(minutes=LINK_MINUTES),
    )
    _note(SignInAction.RECOVERY_CREATE if org else SignInAction.SETUP_LINK_CREATE, link)
    return token


def recoveries_shown(org: Organization) -> list[SetupLink]:
    """The newest recovery of the last week, which the organization's pages show."""
    since = clock.now() - dt.timedelta(days=RECOVERY_SHOWN_DAYS)
    rows = SetupLink.objects.filter(org=org, created_at__gt=since).order_by("-created_at")
    return list(rows[:1])


def setup_link_use(token: str) -> SetupLink:
    """Take the link, once. Raises Denied with one sentence for every way in which it is wrong."""
    digest = ids.token_hash(token)
    # Of no organization in a first set-up; and so is what is noted of a link that is none.
    with edge(), scope(lookups.SETUP_LINK.id(digest)):
        link = _take(digest)
        if link is None:
            _note(SignInAction.SETUP_LINK_REFUSE, None, result=Result.DENIED)
    if link is None:
        raise Denied(
            "This link is not valid: it was used already, is older than 15 minutes, or is not"
            " complete. Run `manage.py bootstrap` for a new one, or `manage.py recover_sign_in`.",
            code="setup_link_refused",
        )
    return link


@transaction.atomic
def _take(digest: str) -> SetupLink | None:
    """The update decides: of two requests with one token, one finds the row unused."""
    now = clock.now()
    fitting = SetupLink.objects.filter(token_hash=digest, used_at=None, expires_at__gt=now)
    if is_finished():
        fitting = fitting.filter(org__isnull=False, org__closed_at=None)
    if not fitting.update(used_at=now):
        return None
    link = SetupLink.objects.get(token_hash=digest)
    _note(SignInAction.RECOVERY_USE if link.org_id else SignInAction.SETUP_LINK_USE, link)
    return link


def unfinished_organization() -> Organization | None:
    """The organization that an earlier set-up session has begun."""
    org_id = None if is_finished() else lookups.FIRST_ORGANIZATION.id()
    if org_id is None:
        return None
    with scope(org_id):
        return Organization.objects.get(pk=org_id)


def first_admin(org: Organization) -> User:
    """The person who shall prove the sign-in; Invalid when the organization has no admin."""
    membership = (
        Membership.objects.filter(org=org, role=OrgRole.ADMIN, user__is_active=True)
        .select_related("user")
        .order_by("created_at")
        .first()
    )
    if membership is None:
        raise Invalid("The organization has no admin.")
    return membership.user


@transaction.atomic
def setup_organization(
    *, slug: str, name: str, email: str, admin_name: str = ""
) -> tuple[Organization, User]:
    """The organization and its first admin, both or neither. Conflict when one has begun."""
    if is_finished():
        raise Conflict(FINISHED)
    if unfinished_organization() is not None:
        raise Conflict("The organization exists already; go on with its sign-in.")
    key = ids.uuid7()
    with scope(key):
        org = organization_create(slug=slug, name=name, key=key, actor=SETUP)
        membership = user_invite(org, email=email, name=admin_name, role=OrgRole.ADMIN, actor=SETUP)
        return org, membership.user


@transaction.atomic
def setup_admin_change(org: Organization, *, email: str) -> User:
    """Correct the first admin's address. Conflict once that person has signed in here."""
    admin = rows.locked(first_admin(org))
    if is_finished() or admin.identities.filter(org=org).exists():
        raise Conflict("The first admin has signed in already.")
    taken = "Another person has this address."
    changes = rows.update(admin, {"email": plain_address(email).lower()}, taken=taken)
    if changes:
        record(
            actor=SETUP,
            org_id=org.pk,
            surface=Surface.ADMIN_CHANGE,
            action=SignInAction.SETUP_ADMIN_CHANGE,
            resource_type="person",
            resource_id=admin.pk,
            changes=changes,
        )
    return admin


@transaction.atomic
def setup_complete(
    idp: IdentityProvider,
    claims: Mapping[str, Any],
    fingerprint: str,
    recovered: Organization | None = None,
) -> User:
    """An admin came back from the provider: bind the identity, and open the sign-in.

    In a first set-up it must be the first admin; in a recovery, any admin of that organization.
    SignInError when somebody else came back.
    """
    if recovered is None and is_finished():
        raise SignInError("setup_finished", FINISHED)
    if recovered is not None and recovered.pk != idp.org_id:
        raise SignInError("setup_finished", "This set-up is for another organization.")
    if recovered is None:
        _must_be_first_admin(idp, claims)
    admin = prove(idp, claims, fingerprint)
    idp_enable(idp, actor=SETUP)
    came_in(idp, admin.identities.get(idp=idp))
    return admin


def _must_be_first_admin(idp: IdentityProvider, claims: Mapping[str, Any]) -> None:
    admin, email = first_admin(idp.org), verified_email(claims)
    if email.lower() != admin.email.lower():
        raise SignInError(
            "not_the_first_admin",
            f"You signed in as {email}, but the first admin is {admin.email}. Sign in with that"
            " account.",
        )


def _note(action: str, link: SetupLink | None, *, result: str = Result.SUCCESS) -> None:
    record(
        actor=OPERATOR if link and link.org_id else SETUP,
        org_id=link.org_id if link else None,
        surface=Surface.AUTHENTICATION,
        action=action,
        resource_type="setup_link",
        resource_id=link.pk if link else "",
        result=result,
        reason=link.reason if link else "",
    )
