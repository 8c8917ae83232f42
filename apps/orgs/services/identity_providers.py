"""Identity providers: who may say who a person is, for one organization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction

from apps.audit.types import SECRET
from apps.common import clock, rows
from apps.common.crypto import KeyRing, Sealed
from apps.orgs.access import require
from apps.orgs.events import SignInAction
from apps.orgs.models import IdentityProvider, Organization
from apps.orgs.trail import created, note

if TYPE_CHECKING:
    from apps.orgs.types import Actor

DEVELOPMENT_CLIENT = "lensagents"


@transaction.atomic
def idp_create(
    org: Organization,
    *,
    name: str,
    issuer: str,
    client_id: str,
    secret: str,
    is_development: bool = False,
    actor: Actor,
) -> IdentityProvider:
    """Connect a provider. It signs nobody in before a sign-in through it has succeeded."""
    idp = IdentityProvider(
        org=org, name=name, issuer=issuer, client_id=client_id, is_development=is_development
    )
    require(actor, "idp.create", idp)
    _seal(idp, secret)
    rows.insert(idp, taken="This issuer is already connected to the organization.")
    changes = created(idp, "name", "issuer", "client_id")
    note(actor, SignInAction.IDP_CREATE, idp, {**changes, "secret": SECRET})
    return idp


def idp_create_development(org: Organization, *, issuer: str, actor: Actor) -> IdentityProvider:
    """The development provider: any client may use it, with any secret."""
    return idp_create(
        org,
        name="development provider",
        issuer=issuer,
        client_id=DEVELOPMENT_CLIENT,
        secret=DEVELOPMENT_CLIENT,
        is_development=True,
        actor=actor,
    )


@transaction.atomic
def idp_update(
    idp: IdentityProvider,
    *,
    name: str,
    client_id: str,
    secret: str | None = None,
    actor: Actor,
) -> IdentityProvider:
    """Change how we speak to the provider; None keeps the secret. The issuer never changes:
    identities are keyed by it."""
    require(actor, "idp.update", idp)
    idp = rows.locked(idp)
    changes = rows.update(idp, {"name": name, "client_id": client_id})
    if secret is not None:
        _seal(idp, secret)
        idp.save(update_fields=["secret_key_id", "secret_iv", "secret_ciphertext"])
    if changes or secret is not None:
        hidden = {"secret": SECRET} if secret is not None else {}
        note(actor, SignInAction.IDP_UPDATE, idp, {**changes, **hidden})
    return idp


@transaction.atomic
def idp_mark_working(idp: IdentityProvider, *, actor: Actor) -> IdentityProvider:
    """A sign-in through it succeeded: from now on it is how people of the organization come in."""
    require(actor, "idp.update", idp)
    idp = rows.locked(idp)
    if idp.working_at is None:
        changes = rows.update(idp, {"working_at": clock.now()})
        note(actor, SignInAction.IDP_WORKING, idp, changes)
    return idp


def idp_secret(idp: IdentityProvider) -> str:
    """The client secret in clear; CryptoError when it cannot be opened."""
    sealed = Sealed(idp.secret_key_id, bytes(idp.secret_iv), bytes(idp.secret_ciphertext))
    return _ring().open(sealed, context=_context(idp)).decode()


def _seal(idp: IdentityProvider, secret: str) -> None:
    sealed = _ring().seal(secret.encode(), context=_context(idp))
    idp.secret_key_id, idp.secret_iv = sealed.key_id, sealed.iv
    idp.secret_ciphertext = sealed.ciphertext


def _context(idp: IdentityProvider) -> str:
    return f"identity-provider:{idp.org_id}:{idp.pk}"


def _ring() -> KeyRing:
    ring: KeyRing = settings.LENS_KEY_RING
    return ring
