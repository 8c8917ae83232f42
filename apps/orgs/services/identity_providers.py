"""Identity providers: who may say who a person is, for one organization.

Rules.
1. A provider is in use (`working_at`) only after an admin's test sign-in with the configuration
   that the row holds; `proof` is the fingerprint of that configuration.
2. What matters for a sign-in and is changed on a provider in use waits in `staged`, so that a
   mistyped secret locks nobody out. The next test sign-in uses it, and takes it over when it works.
3. The last provider in use can be neither disabled nor deleted. Whoever has lost it needs the
   operator: `manage.py recover_sign_in`.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from apps.audit.types import SECRET
from apps.common import clock, outbound, rows
from apps.common.crypto import KeyRing, Sealed
from apps.common.errors import Conflict, Invalid
from apps.orgs import devidp, revision
from apps.orgs.access import require
from apps.orgs.events import SignInAction
from apps.orgs.models import IdentityProvider, Organization
from apps.orgs.models.sign_in import DEFAULT_SCOPES, default_algorithms
from apps.orgs.oidc.algorithms import KEY_TYPES
from apps.orgs.services.memberships import lock_organization
from apps.orgs.trail import created, note
from apps.orgs.types import PrincipalKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apps.orgs.types import Actor

DEVELOPMENT_CLIENT = "lensagents"
MAX_SECRET = 500
MAX_CLAIM = 100
MAX_CLIENT_ID = 255
_NEEDED_SCOPES = {"openid", "email"}
_SECRET_FIELDS = ("secret_key_id", "secret_iv", "secret_ciphertext")
_SHOWN = ("name", "issuer", "client_id", "scopes", "group_claim", "algorithms")


@transaction.atomic
def idp_create(
    org: Organization,
    *,
    name: str,
    issuer: str,
    client_id: str,
    secret: str,
    scopes: str = DEFAULT_SCOPES,
    group_claim: str = "",
    algorithms: Sequence[str] | None = None,
    is_development: bool = False,
    actor: Actor,
) -> IdentityProvider:
    """Connect a provider. It signs nobody in before it is tested and enabled."""
    idp = IdentityProvider(
        org=org,
        name=name,
        issuer=issuer,
        client_id=client_id,
        scopes=_scopes(scopes),
        group_claim=_claim(group_claim),
        algorithms=_algorithms(algorithms),
        is_development=is_development,
    )
    require(actor, "idp.create", idp)
    if not is_development:
        outbound.check(issuer, field="issuer")
    _seal(idp, secret)
    rows.insert(idp, taken="This issuer is already connected to the organization.")
    note(actor, SignInAction.IDP_CREATE, idp, {**created(idp, *_SHOWN), "secret": SECRET})
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
    name: str | None = None,
    client_id: str | None = None,
    secret: str | None = None,
    scopes: str | None = None,
    group_claim: str | None = None,
    algorithms: Sequence[str] | None = None,
    actor: Actor,
) -> IdentityProvider:
    """Change what is given; None keeps. On a provider in use, client ID, secret, scopes and
    algorithms wait for a test sign-in. The issuer never changes: another one means others by its
    subjects."""
    require(actor, "idp.update", idp)
    idp = rows.locked(idp)
    claim = _claim(group_claim) if group_claim is not None else None
    changes = rows.update(idp, rows.given(name=name, group_claim=claim))
    new = configured(idp)
    if client_id is not None:
        new.client_id = _client_id(client_id)
    if scopes is not None:
        new.scopes = _scopes(scopes)
    if algorithms is not None:
        new.algorithms = _algorithms(algorithms)
    hidden = {}
    if secret is not None:
        _seal(new, secret)
        hidden = {"secret": SECRET}
    changes |= _keep(idp, new)
    if changes or hidden:
        staged = bool(idp.staged)
        note(actor, SignInAction.IDP_UPDATE, idp, {**changes, **hidden}, waits_for_test=staged)
    return idp


@transaction.atomic
def idp_prove(
    idp: IdentityProvider, *, fingerprint: str, by: str, actor: Actor
) -> IdentityProvider:
    """A whole sign-in by an admin (`by`) succeeded with the configuration of this fingerprint.

    Only the platform itself may say so. Conflict when the configuration has changed meanwhile.
    """
    require(actor, "idp.prove", idp)
    idp = rows.locked(idp)
    new = configured(idp)
    if fingerprint_of(new) != fingerprint:
        raise Conflict("The provider's settings were changed during the test. Test them again.")
    changes = _apply(idp, new) if idp.staged else {}
    proof = {"proof": fingerprint, "proved_at": clock.now(), "proved_by": by}
    rows.update(idp, {**proof, "staged": {}})
    note(actor, SignInAction.IDP_PROVE, idp, {**changes, "proved_by": (None, by)})
    return idp


@transaction.atomic
def idp_enable(idp: IdentityProvider, *, actor: Actor) -> IdentityProvider:
    """From now on people of the organization come in through it. Conflict before it is tested."""
    require(actor, "idp.update", idp)
    idp = rows.locked(idp)
    if idp.working_at is None:
        if not is_proven(idp):
            raise Conflict("Test it first: a sign-in with these settings has not succeeded yet.")
        changes = rows.update(idp, {"working_at": clock.now()})
        note(actor, SignInAction.IDP_ENABLE, idp, changes)
        revision.bump()
    return idp


@transaction.atomic
def idp_disable(idp: IdentityProvider, *, actor: Actor) -> IdentityProvider:
    """Nobody comes in through it any more, and sessions that it began open nothing."""
    require(actor, "idp.update", idp)
    lock_organization(idp.org_id)
    idp = rows.locked(idp)
    if idp.working_at is not None:
        _keep_a_way_in(idp, actor)
        changes = rows.update(idp, {"working_at": None})
        note(actor, SignInAction.IDP_DISABLE, idp, changes)
        revision.bump()
    return idp


@transaction.atomic
def idp_delete(idp: IdentityProvider, *, actor: Actor) -> None:
    """With its domains, group mappings and sessions, and whom its subjects mean. Conflict while it
    is in use."""
    require(actor, "idp.delete", idp)
    idp = rows.locked(idp)
    if idp.working_at is not None:
        raise Conflict("People sign in through it. Disable it first.")
    note(actor, SignInAction.IDP_DELETE, idp, {"issuer": (idp.issuer, None)})
    idp.delete()
    revision.bump()


def is_proven(idp: IdentityProvider) -> bool:
    """Whether a test sign-in succeeded with what the row holds. The development provider believes
    everything, so there is nothing to prove."""
    return idp.is_development or (bool(idp.proof) and idp.proof == fingerprint_of(idp))


def configured(idp: IdentityProvider) -> IdentityProvider:
    """A copy with what waits in `staged` put in: what a test sign-in tests. Not to be saved."""
    new = copy.copy(idp)
    staged: dict[str, Any] = idp.staged
    for name in ("client_id", "scopes", "algorithms"):
        setattr(new, name, staged.get(name, getattr(idp, name)))
    if "secret" in staged:
        new.secret_key_id, iv, ciphertext = staged["secret"]
        new.secret_iv, new.secret_ciphertext = base64.b64decode(iv), base64.b64decode(ciphertext)
    return new


def fingerprint_of(idp: IdentityProvider) -> str:
    """Names a configuration without telling it."""
    parts = [idp.issuer, idp.client_id, idp.scopes, sorted(idp.algorithms)]
    sealed = bytes(idp.secret_iv) + bytes(idp.secret_ciphertext)
    return hashlib.sha256(json.dumps(parts).encode() + sealed).hexdigest()


def idp_secret(idp: IdentityProvider) -> str:
    """The client secret in clear; CryptoError when it cannot be opened."""
    sealed = Sealed(idp.secret_key_id, bytes(idp.secret_iv), bytes(idp.secret_ciphertext))
    return _ring().open(sealed, context=_context(idp)).decode()


def _keep(idp: IdentityProvider, new: IdentityProvider) -> rows.Changes:
    """Write a new configuration: into the row, or beside it while the row is in use."""
    if idp.working_at is None:
        changes = _apply(idp, new)
        rows.update(idp, {"staged": {}})
        return changes
    fields = ("client_id", "scopes", "algorithms")
    staged: dict[str, Any] = {
        name: getattr(new, name) for name in fields if getattr(new, name) != getattr(idp, name)
    }
    if bytes(new.secret_ciphertext) != bytes(idp.secret_ciphertext):
        iv, ciphertext = (
            base64.b64encode(bytes(part)).decode()
            for part in (new.secret_iv, new.secret_ciphertext)
        )
        staged["secret"] = [new.secret_key_id, iv, ciphertext]
    if staged == idp.staged:
        return {}
    rows.update(idp, {"staged": staged})
    if not staged:
        return {"waits_for_test": (True, False)}
    return {name: (getattr(idp, name), staged[name]) for name in fields if name in staged}


def _apply(idp: IdentityProvider, new: IdentityProvider) -> rows.Changes:
    names = ("client_id", "scopes", "algorithms")
    changes = rows.update(idp, {name: getattr(new, name) for name in names})
    for name in _SECRET_FIELDS:
        setattr(idp, name, getattr(new, name))
    idp.save(update_fields=list(_SECRET_FIELDS))
    return changes


def _keep_a_way_in(idp: IdentityProvider, actor: Actor) -> None:
    """Conflict for the last provider, unless the platform itself does it (a recovery)."""
    others = IdentityProvider.objects.filter(
        Q(is_development=False) | Q(issuer=devidp.running_origin()),
        org=idp.org_id,
        working_at__isnull=False,
    ).exclude(pk=idp.pk)
    if actor.kind is not PrincipalKind.SYSTEM and not others.exists():
        raise Conflict("This is the only way in. Connect, test and enable another provider first.")


def _scopes(text: str) -> str:
    words = text.split()
    if not set(words) >= _NEEDED_SCOPES or not all(_is_word(word, '"\\') for word in words):
        raise Invalid(
            "Write scopes with a space between, and “openid” and “email” among them.",
            field="scopes",
        )
    return " ".join(dict.fromkeys(words))


def _client_id(text: str) -> str:
    if not 0 < len(text) <= MAX_CLIENT_ID:
        raise Invalid("Copy the client ID from the provider.", field="client_id")
    return text


def _claim(text: str) -> str:
    name = text.strip()
    if len(name) > MAX_CLAIM or (name and not _is_word(name, '"\\')):
        raise Invalid("Write the claim's name alone, such as “groups”.", field="group_claim")
    return name


def _algorithms(names: Sequence[str] | None) -> list[str]:
    if names is None:
        return default_algorithms()
    if not names or not set(names) <= set(KEY_TYPES):
        raise Invalid(f"Choose among {', '.join(KEY_TYPES)}.", field="algorithms")
    return [name for name in KEY_TYPES if name in names]


def _is_word(text: str, without: str) -> bool:
    """Printable ASCII without spaces (RFC 6749 section 3.3)."""
    return all("!" <= char <= "~" and char not in without for char in text)


def _seal(idp: IdentityProvider, secret: str) -> None:
    if not 0 < len(secret) <= MAX_SECRET or not secret.isprintable():
        raise Invalid(
            f"Copy the client secret from the provider: 1 to {MAX_SECRET} characters.",
            field="secret",
        )
    sealed = _ring().seal(secret.encode(), context=_context(idp))
    idp.secret_key_id, idp.secret_iv = sealed.key_id, sealed.iv
    idp.secret_ciphertext = sealed.ciphertext


def _context(idp: IdentityProvider) -> str:
    return f"identity-provider:{idp.org_id}:{idp.pk}"


def _ring() -> KeyRing:
    ring: KeyRing = settings.LENS_KEY_RING
    return ring
