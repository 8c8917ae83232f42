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
    from collections.abc import Callable, Mapping

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
class ExpectationDoc:
    """A policy test: what must be decided for a tool, or for a method and a URL.

    Asked for anybody of the team, or for the agent with this slug; `team` is a ceiling's only.
    """

    expect: str
    tool: str = ""
    method: str = ""
    url: str = ""
    team: str = ""
    agent: str = ""
    tier: str = ""
    note: str = ""
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
    tests: tuple[ExpectationDoc, ...] = ()
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
        tests=tuple(
            ExpectationDoc(
                expect=row.expect,
                tool=row.tool,
                method=row.method,
                url=row.url,
                team=row.team,
                agent=row.agent,
                tier=row.tier,
                note=row.note,
                id=row.pk,
            )
            for row in policy.tests.all()
        ),
        version=policy.version,
    )


def ids_of(document: PolicyDocument) -> frozenset[uuid.UUID]:
    """The ids that its rules say."""
    rules: list[Any] = [*document.domains, *document.tools, *document.bindings, *document.tests]
    rules += [http for rule in document.domains for http in rule.http]
    return frozenset(rule.id for rule in rules if rule.id is not None)


def outline(document: PolicyDocument) -> dict[str, Any]:
    """The document as plain data, a line a rule: what an audit event compares."""
    return {
        "name": document.name,
        "description": document.description,
        "governs_domains": document.has_domains,
        "governs_tools": document.has_tools,
        "domains": [line for rule in document.domains for line in domain_lines(rule)],
        "tools": [f"{rule.pattern} {rule.action}" for rule in document.tools],
        "bindings": [binding_line(binding) for binding in document.bindings],
        "tests": [_whole_test(test) for test in document.tests],
    }


def _whole_test(test: ExpectationDoc) -> str:
    """All of a policy test, also its note and whether a word is a team, an agent or a tier."""
    words = ((name, getattr(test, name)) for name in ("team", "agent", "tier"))
    who = ", ".join(f"{name} {word}" for name, word in words if word) or "anybody"
    note = f" ({test.note})" if test.note else ""
    return f"{who}: {test.tool or f'{test.method} {test.url}'} is {test.expect}{note}"


def test_line(test: ExpectationDoc) -> str:
    """A policy test as a line: who, what, and the answer that is expected."""
    who = " ".join(filter(None, (test.team, test.agent, test.tier))) or "anybody"
    return f"{who}: {test.tool or f'{test.method} {test.url}'} is {test.expect}"


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


def domain_lines(rule: DomainRuleDoc) -> list[str]:
    """A domain rule as lines: itself, and its HTTP rules below it."""
    keeps = "" if rule.agent_credentials == "default" else f" {rule.agent_credentials}"
    first = f"{rule.pattern} {rule.action}{keeps}"
    return [first, *(f"  {http.method} {http.path or 'any'} {http.action}" for http in rule.http)]


def binding_line(binding: BindingDoc) -> str:
    """A binding as a line."""
    details = (binding.injection, binding.header, binding.template, binding.parameter)
    how = " ".join(filter(None, details))
    where = f"{binding.pattern} {binding.method} {binding.path or 'any'}"
    env = f" in {binding.env_name}" if binding.env_name else ""
    return f"{binding.credential.slug} on {where} as {how}{env}"


def obj_lines(document: Mapping[str, Any]) -> list[str]:
    """A plain document as lines, one a rule, for people who compare two of them."""
    lines = [f"name {document.get('name', '')}", *_described(document)]
    for section, line in _LINES.items():
        if section in document:
            lines += [
                f"{section}:",
                *(f"  {text}" for rule in document[section] for text in line(rule)),
            ]
    return lines


def _described(document: Mapping[str, Any]) -> list[str]:
    return [f"description {line}" for line in document.get("description", "").splitlines()]


def _obj_domain(rule: Mapping[str, Any]) -> list[str]:
    first = _words(rule, "pattern", "action", "agent_credentials")
    return [first, *(f"  {_obj_http(http)}" for http in rule.get("http", ()))]


def _obj_http(rule: Mapping[str, Any]) -> str:
    return f"{rule.get('method', '*')} {rule.get('path') or 'any'} {rule['action']}"


def _obj_binding(rule: Mapping[str, Any]) -> list[str]:
    where = f"{rule['pattern']} {rule.get('method', '*')} {rule.get('path') or 'any'}"
    how = _words({"injection": "bearer", **rule}, "injection", "header", "template", "parameter")
    env = f" in {rule['env_name']}" if rule.get("env_name") else ""
    return [f"{rule['credential']} on {where} as {how}{env}"]


def _obj_tool(rule: Mapping[str, Any]) -> list[str]:
    return [_words(rule, "pattern", "action")]


def _obj_test(rule: Mapping[str, Any]) -> list[str]:
    known = {name: value for name, value in rule.items() if name != "id"}
    note = f" ({rule['note']})" if rule.get("note") else ""
    return [test_line(ExpectationDoc(**known)) + note]


def _words(rule: Mapping[str, Any], *names: str) -> str:
    return " ".join(str(rule[name]) for name in names if rule.get(name))


_LINES: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "domains": _obj_domain,
    "bindings": _obj_binding,
    "tools": _obj_tool,
    "tests": _obj_test,
}
