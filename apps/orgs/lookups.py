"""Whose is this, before anybody is known: what people come in by. See `apps.common.lookups`."""

from __future__ import annotations

from apps.common.lookups import TEXT, UUID, LookUp

BOOLEAN = "boolean"

SESSION = LookUp("session", "SELECT org_id FROM orgs_usersession WHERE id = %s", takes=(UUID,))
ORGANIZATION = LookUp(
    "organization", "SELECT id FROM orgs_organization WHERE slug = %s", takes=(TEXT,)
)
# The organization that a set-up has begun: the oldest.
FIRST_ORGANIZATION = LookUp(
    "first_organization",
    "SELECT id FROM orgs_organization WHERE closed_at IS NULL ORDER BY created_at LIMIT 1",
    takes=(),
)
SETUP_LINK = LookUp(
    "setup_link", "SELECT org_id FROM orgs_setuplink WHERE token_hash = %s", takes=(TEXT,)
)
INVITATION = LookUp(
    "invitation", "SELECT org_id FROM orgs_invitation WHERE token_hash = %s", takes=(TEXT,)
)
INVITATION_TAKEN = LookUp(
    "invitation_taken", "SELECT org_id FROM orgs_invitation WHERE id = %s", takes=(UUID,)
)
BREAK_GLASS = LookUp(
    "break_glass", "SELECT org_id FROM orgs_breakglass WHERE token_hash = %s", takes=(TEXT,)
)
BREAK_GLASS_TAKEN = LookUp(
    "break_glass_taken", "SELECT org_id FROM orgs_breakglass WHERE id = %s", takes=(UUID,)
)
PROVIDER = LookUp(
    "provider", "SELECT org_id FROM orgs_identityprovider WHERE id = %s", takes=(UUID,)
)
_PROVIDER = (("org_id", UUID), ("id", UUID))
# Who may have sent a logout token: the token itself proves it, per provider.
PROVIDERS_AT = LookUp(
    "providers_at",
    "SELECT org_id, id FROM orgs_identityprovider WHERE issuer = %s LIMIT 200",
    takes=(TEXT,),
    gives=_PROVIDER,
)
# The provider that vouches for an e-mail domain; a domain is verified once in all organizations.
DOMAIN = LookUp(
    "domain",
    "SELECT org_id, idp_id FROM orgs_emaildomain WHERE domain = %s AND verified_at IS NOT NULL",
    takes=(TEXT,),
    gives=_PROVIDER,
)
# How one can sign in at all: the page shows it where there is only one way, else that there is one.
PROVIDERS_IN_USE = LookUp(
    "providers_in_use",
    "SELECT i.org_id, i.id, i.is_development FROM orgs_identityprovider AS i"
    " JOIN orgs_organization AS o ON o.id = i.org_id"
    " WHERE i.working_at IS NOT NULL AND o.closed_at IS NULL"
    " ORDER BY i.is_development, i.name LIMIT 2",
    takes=(),
    gives=(*_PROVIDER, ("is_development", BOOLEAN)),
)
