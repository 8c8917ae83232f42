"""The first start: a link that works once, and what the session behind it may do.

The link is the installation's only credential before anybody can sign in. Its token is shown once
to whoever runs `manage.py bootstrap` (a person with a shell on the server) and stored as a hash.
When an organization has a working identity provider, no link is made or taken any more.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from django.db import transaction

from apps.audit.models import Result, Surface
from apps.audit.services import record
from apps.common import clock, ids, rows
from apps.common.errors import Conflict, Denied, Invalid
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
from apps.orgs.services.identity_providers import idp_mark_working
from apps.orgs.services.memberships import user_invite
from apps.orgs.services.organizations import organization_create
from apps.orgs.services.sign_in import came_in, identity_bind, verified_email
from apps.orgs.types import Actor, PrincipalKind

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_PREFIX = "lnsu"  # noqa: S105  a prefix, not a token
LINK_MINUTES = 15
SETUP = Actor(kind=PrincipalKind.SYSTEM, id="setup", name="Set-up", org_id=None)
FINISHED = "An organization already has a working sign-in, so the set-up is closed."


def is_finished() -> bool:
    """Whether some organization's identity provider works."""
    return IdentityProvider.objects.filter(
        working_at__isnull=False, org__closed_at__isnull=True
    ).exists()


@transaction.atomic
def setup_link_create() -> str:
    """A new token; links made before stop working. Raises Conflict once the set-up is finished."""
    if is_finished():
        raise Conflict(FINISHED)
    now = clock.now()
    SetupLink.objects.filter(used_at=None, expires_at__gt=now).update(expires_at=now)
    token = ids.token(TOKEN_PREFIX)
    link = SetupLink.objects.create(
        token_hash=ids.token_hash(token), expires_at=now + dt.timedelta(minutes=LINK_MINUTES)
    )
    _note(SignInAction.SETUP_LINK_CREATE, link.pk)
    return token


def setup_link_use(token: str) -> SetupLink:
    """Take the link, once. Raises Denied with one sentence for every way in which it is wrong."""
    link = _take(token)
    if link is None:
        _note(SignInAction.SETUP_LINK_REFUSE, "", result=Result.DENIED)
        raise Denied(
            "This link is not valid: it was used already, is older than 15 minutes, or is not"
            " complete. Run `manage.py bootstrap` for a new one.",
            code="setup_link_refused",
        )
    return link


@transaction.atomic
def _take(token: str) -> SetupLink | None:
    """The update decides: of two requests with one token, one finds the row unused."""
    now = clock.now()
    fitting = SetupLink.objects.filter(
        token_hash=ids.token_hash(token), used_at=None, expires_at__gt=now
    )
    if is_finished() or not fitting.update(used_at=now):
        return None
    link = SetupLink.objects.get(token_hash=ids.token_hash(token))
    _note(SignInAction.SETUP_LINK_USE, link.pk)
    return link


def unfinished_organization() -> Organization | None:
    """The organization that an earlier set-up session has begun."""
    return None if is_finished() else Organization.objects.filter(closed_at=None).first()


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
    org = organization_create(slug=slug, name=name, actor=SETUP)
    membership = user_invite(org, email=email, name=admin_name, role=OrgRole.ADMIN, actor=SETUP)
    return org, membership.user


@transaction.atomic
def setup_admin_change(org: Organization, *, email: str) -> User:
    """Correct the first admin's address. Conflict once that person has an identity somewhere."""
    admin = rows.locked(first_admin(org))
    if is_finished() or admin.identities.exists():
        raise Conflict("The first admin has signed in already.")
    taken = "Another person has this address."
    changes = rows.update(admin, {"email": email.strip().lower()}, taken=taken)
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
def setup_complete(idp: IdentityProvider, claims: Mapping[str, Any]) -> User:
    """The first admin came back from the provider: bind the identity, and open the sign-in.

    SignInError when somebody else came back.
    """
    if is_finished():
        raise SignInError("setup_finished", FINISHED)
    admin, email = first_admin(idp.org), verified_email(claims)
    if email.lower() != admin.email.lower():
        raise SignInError(
            "not_the_first_admin",
            f"You signed in as {email}, but the first admin is {admin.email}. Sign in with that"
            " account.",
        )
    identity = identity_bind(idp, claims, admin)
    idp_mark_working(idp, actor=SETUP)
    came_in(idp, identity)
    return admin


def _note(action: str, link_id: object, *, result: str = Result.SUCCESS) -> None:
    record(
        actor=SETUP,
        org_id=None,
        surface=Surface.AUTHENTICATION,
        action=action,
        resource_type="setup_link",
        resource_id=link_id,
        result=result,
    )
