"""A policy as one document: what a form collects, what is saved whole, what is compared and shown.

Lists are ordered; the first match wins. `id` keeps a rule's identity over an edit, so that what
the audit trail names can still be found; without one a rule is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.policies.models import Policy, PolicyKind

if TYPE_CHECKING:
    import uuid

    from apps.connections.models import Credential
    from apps.orgs.models import Team


@dataclass(frozen=True, slots=True)
class HttpRuleDoc:
    """A method (capitals, or `*`) and a path glob ("" = any path) inside a domain rule."""

    method: str = "*"
    path: str = ""
    action: str = "allow"
    id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class DomainRuleDoc:
    """A host pattern. With `http`, a request that none of those rules matches is denied."""

    pattern: str
    action: str = "allow"
    agent_credentials: str = "default"
    http: tuple[HttpRuleDoc, ...] = ()
    id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class ToolRuleDoc:
    """A glob on the tool's name."""

    pattern: str
    action: str = "allow"
    id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class BindingDoc:
    """Where a credential is injected, and how.

    `header` and `template` are for `header` only, `parameter` for `query` and `uri_placeholder`.
    `env_name` is the variable in which commands find the credential's sentinel, "" for none.
    """

    credential: Credential
    pattern: str
    injection: str = "bearer"
    method: str = "*"
    path: str = ""
    header: str = ""
    template: str = ""
    parameter: str = ""
    env_name: str = ""
    id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """The whole policy. `version` is the one that the editor saw; None = the saved row's own.

    `team` is set for kind `team`, `agent` (a row of `apps.agents`) for kind `agent`.
    """

    name: str
    kind: str = PolicyKind.TEAM
    team: Team | None = None
    agent: Any = None
    description: str = ""
    has_domains: bool = True
    has_tools: bool = True
    domains: tuple[DomainRuleDoc, ...] = ()
    tools: tuple[ToolRuleDoc, ...] = ()
    bindings: tuple[BindingDoc, ...] = ()
    version: int | None = None


def document_of(policy: Policy) -> PolicyDocument:
    """The document that a stored policy is."""
    return PolicyDocument(
        name=policy.name,
        kind=policy.kind,
        team=policy.team,
        agent=policy.agent,
        description=policy.description,
        has_domains=policy.has_domains,
        has_tools=policy.has_tools,
        domains=_domains(policy),
        tools=tuple(
            ToolRuleDoc(row.pattern, row.action, row.pk) for row in policy.tool_rules.all()
        ),
        bindings=tuple(
            BindingDoc(
                credential=row.credential,
                pattern=row.pattern,
                injection=row.injection,
                method=row.method,
                path=row.path,
                header=row.header,
                template=row.template,
                parameter=row.parameter,
                env_name=row.env_name,
                id=row.pk,
            )
            for row in policy.bindings.select_related("credential")
        ),
        version=policy.version,
    )


def outline(document: PolicyDocument) -> dict[str, Any]:
    """The document as plain data, a line a rule: what an audit event compares."""
    return {
        "name": document.name,
        "description": document.description,
        "governs_domains": document.has_domains,
        "governs_tools": document.has_tools,
        "domains": [line for rule in document.domains for line in _domain_lines(rule)],
        "tools": [f"{rule.pattern} {rule.action}" for rule in document.tools],
        "bindings": [_binding_line(binding) for binding in document.bindings],
    }


def _domains(policy: Policy) -> tuple[DomainRuleDoc, ...]:
    return tuple(
        DomainRuleDoc(
            pattern=row.pattern,
            action=row.action,
            agent_credentials=row.agent_credentials,
            http=tuple(
                HttpRuleDoc(http.method, http.path, http.action, http.pk)
                for http in row.http_rules.all()
            ),
            id=row.pk,
        )
        for row in policy.domain_rules.prefetch_related("http_rules")
    )


def _domain_lines(rule: DomainRuleDoc) -> list[str]:
    keeps = "" if rule.agent_credentials == "default" else f" {rule.agent_credentials}"
    first = f"{rule.pattern} {rule.action}{keeps}"
    return [first, *(f"  {http.method} {http.path or 'any'} {http.action}" for http in rule.http)]


def _binding_line(binding: BindingDoc) -> str:
    details = (binding.injection, binding.header, binding.template, binding.parameter)
    how = " ".join(filter(None, details))
    where = f"{binding.pattern} {binding.method} {binding.path or 'any'}"
    env = f" in {binding.env_name}" if binding.env_name else ""
    return f"{binding.credential.slug} on {where} as {how}{env}"
