"""E-mail domains: whose addresses a provider may vouch for, and where an address signs in.

A domain is proven by a TXT record that only its owner can publish, or marked by the operator, who
answers for it. Of all organizations one can have it verified: else two could claim its people.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import idna
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction

from apps.common import clock, rows
from apps.common.errors import Conflict, Invalid
from apps.orgs import lookups
from apps.orgs.access import require
from apps.orgs.dns_proof import txt_records
from apps.orgs.events import OrgAction
from apps.orgs.models import EmailDomain, IdentityProvider
from apps.orgs.trail import created, note

if TYPE_CHECKING:
    from apps.orgs.types import Actor

RECORD = "_lens-agents"
VALUE = "lens-agents-verify="
MAX_ADDRESS = 254
TAKEN = "Another organization has verified this domain. Ask the operator of this installation."


@transaction.atomic
def domain_create(idp: IdentityProvider, *, domain: str, actor: Actor) -> EmailDomain:
    """Claim a domain for a provider. It counts for nothing before it is verified."""
    require(actor, "domain.create", idp)
    row = EmailDomain(
        org_id=idp.org_id,
        idp=idp,
        domain=domain_name(domain),
        challenge=secrets.token_hex(16),
    )
    rows.insert(row, taken="This domain is in the list already.")
    note(actor, OrgAction.DOMAIN_CREATE, row, created(row, "domain"), provider=idp.name)
    return row


def domain_verify(domain: EmailDomain, *, actor: Actor) -> EmailDomain:
    """Look the TXT record up. Invalid when it is not there, Upstream when nobody answers."""
    require(actor, "domain.update", domain)
    if domain.verified_at is not None:
        return domain
    found = txt_records(record_name(domain))
    if record_value(domain) not in found:
        seen = f"{len(found)} other" if found else "no"
        raise Invalid(
            f"{record_name(domain)} has {seen} TXT record. Publish the one below; it may take some"
            " minutes until it is seen.",
            field="domain",
        )
    return _verified(domain, "dns", actor)


@transaction.atomic
def domain_mark(domain: EmailDomain, *, reason: str, actor: Actor) -> EmailDomain:
    """The operator answers for it; only the platform's own command may say so."""
    require(actor, "domain.mark", domain)
    return _verified(domain, "operator", actor, reason=reason)


@transaction.atomic
def domain_move(domain: EmailDomain, *, idp: IdentityProvider, actor: Actor) -> EmailDomain:
    """From now on its people come in through another provider of the organization."""
    require(actor, "domain.update", domain)
    if idp.org_id != domain.org_id:
        raise Invalid("There is no such provider in this organization.", field="idp")
    domain = rows.locked(domain)
    before = domain.idp.name
    if rows.update(domain, {"idp": idp}):
        note(actor, OrgAction.DOMAIN_MOVE, domain, {"provider": (before, idp.name)})
    return domain


@transaction.atomic
def domain_delete(domain: EmailDomain, *, actor: Actor) -> None:
    """Its people are no longer sent to the provider; those who are bound to it still come in."""
    require(actor, "domain.delete", domain)
    domain = rows.locked(domain)
    note(actor, OrgAction.DOMAIN_DELETE, domain, {"domain": (domain.domain, None)})
    domain.delete()


def record_name(domain: EmailDomain) -> str:
    """Where the TXT record belongs."""
    return f"{RECORD}.{domain.domain}"


def record_value(domain: EmailDomain) -> str:
    """What it says."""
    return f"{VALUE}{domain.challenge}"


def domain_name(text: str) -> str:
    """A domain as DNS knows it: lower case, A-labels, at least two of them."""
    try:
        name = idna.encode(text.strip().rstrip("."), uts46=True).decode().lower()
    except (idna.IDNAError, UnicodeError):
        name = ""
    if "." not in name or name.rpartition(".")[2].isdigit():
        raise Invalid("Write a domain such as “acme.com”.", field="domain")
    return name


def plain_address(text: str) -> str:
    """An e-mail address in ASCII, an international domain as DNS knows it; Invalid where it has no
    such form.

    Addresses are looked up without regard to case, and each database has its own idea of that:
    PostgreSQL finds “mike” also for one that is written with a dotless i, who is somebody else.
    """
    local, _, domain = text.strip().rpartition("@")
    address = f"{local}@{domain if domain.isascii() else domain_name(domain)}"
    try:
        validate_email(address)
    except ValidationError:
        address = ""
    if not (0 < len(address) <= MAX_ADDRESS and address.isascii() and address.isprintable()):
        raise Invalid("Enter a valid email address.", field="email")
    return address


@transaction.atomic
def _verified(domain: EmailDomain, how: str, actor: Actor, **more: str) -> EmailDomain:
    domain = rows.locked(domain)
    if any(org_id != domain.org_id for org_id in lookups.DOMAIN.ids(domain.domain)):
        raise Conflict(TAKEN)
    changes = rows.update(domain, {"verified_at": clock.now(), "verified_by": how}, taken=TAKEN)
    note(actor, OrgAction.DOMAIN_VERIFY, domain, changes, **more)
    return domain
