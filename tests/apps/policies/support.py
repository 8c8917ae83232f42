"""What the tests of saved policies share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from apps.audit.models import AuditEvent
from apps.orgs.revision import read_seq
from apps.policies.documents import (
    BindingDoc,
    DomainRuleDoc,
    HttpRuleDoc,
    PolicyDocument,
    ToolRuleDoc,
)
from apps.policies.models import CredentialBinding, DomainRule, HttpRule, Policy, ToolRule

if TYPE_CHECKING:
    from tests.factories import World


def counts() -> tuple[int, ...]:
    """How many rows there are of all that a save writes, and the Revision."""
    tables = (Policy, DomainRule, HttpRule, ToolRule, CredentialBinding, AuditEvent)
    return (*(table.objects.count() for table in tables), read_seq())


def full_document(world: World) -> PolicyDocument:
    """One of everything."""
    return PolicyDocument(
        name="Everything",
        team=world.team,
        description="All sections.",
        domains=(
            DomainRuleDoc(
                "api.github.com",
                agent_credentials="keep",
                http=(
                    HttpRuleDoc("GET", "/repos/**"),
                    HttpRuleDoc("*", "/repos/acme/*", "ask"),
                    HttpRuleDoc("DELETE", "", "deny"),
                ),
            ),
            DomainRuleDoc("db.example.com:5432", "direct"),
            DomainRuleDoc("*.example.com", "ask"),
            DomainRuleDoc("*", "deny"),
        ),
        tools=(ToolRuleDoc("shell_*"), ToolRuleDoc("*", "deny")),
        bindings=(
            BindingDoc(
                world.credential,
                "api.github.com",
                injection="header",
                method="GET",
                path="/repos/**",
                header="X-Token",
                template="token {value}",
                env_name="GITHUB_TOKEN",
            ),
        ),
    )


def without_ids(document: PolicyDocument) -> PolicyDocument:
    """The document as somebody who writes a new one would give it."""
    return replace(
        document,
        version=None,
        domains=tuple(
            replace(rule, id=None, http=tuple(replace(http, id=None) for http in rule.http))
            for rule in document.domains
        ),
        tools=tuple(replace(rule, id=None) for rule in document.tools),
        bindings=tuple(replace(binding, id=None) for binding in document.bindings),
    )
