"""What must hold before a policy document is saved; every complaint names its field and a remedy.

The document is turned into the very layer that enforcers decide with, and the core judges that:
there is no second reading of patterns here. Rule ids are field paths, so that a problem names its
field.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from apps.common.errors import Invalid
from apps.common.hosts import parse_pattern
from apps.connections.hosts import signed_only_problem
from apps.connections.registry import kinds
from apps.policies.core.bindings import binding_refusal
from apps.policies.core.check import binding_problems, layer_problems
from apps.policies.core.hidden import hidden_rules
from apps.policies.core.sentinels import sentinel
from apps.policies.expectations import check_expectation
from apps.policies.models import PolicyKind
from apps.policies.schema import MAX_HTTP, MAX_RULES, MAX_TESTS
from apps.policies.types import (
    IN_URL,
    Action,
    AgentCredentials,
    Binding,
    DomainRule,
    HttpRule,
    Injection,
    Layer,
    LayerKind,
    ToolRule,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from enum import StrEnum

    from apps.policies.core.check import Problem
    from apps.policies.documents import (
        BindingDoc,
        DomainRuleDoc,
        HttpRuleDoc,
        PolicyDocument,
        ToolRuleDoc,
    )

    Choice = TypeVar("Choice", bound=StrEnum)

# Framing, routing and hop-by-hop fields (RFC 9110 section 7.6.1): the proxy writes these itself.
_OWN_HEADERS = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade"),
        *("te", "trailer", "expect", "proxy-authorization", "proxy-connection", "cookie"),
        *("proxy-authenticate", "forwarded", "via"),
    }
)


def check_document(document: PolicyDocument) -> None:
    """Raise Invalid with the first problem; see `problems_of`."""
    for problem in problems_of(document):
        raise problem


def problems_of(document: PolicyDocument) -> Iterator[Invalid]:
    """Each problem: shape, rules, hidden rules, bindings, tests, in this order.

    With a wrong shape nothing else can be looked at, and with unreadable rules no hidden ones.
    """
    try:
        _check_sections(document)
        layer = layer_of(document)
    except Invalid as problem:
        yield problem
        return
    for found in layer_problems(layer):
        yield Invalid(found.message, field=f"{found.rule}.{found.field}")
    for hidden in hidden_rules(layer):
        yield Invalid(hidden.message, field=hidden.rule, hidden_by=hidden.by)
    for check in _later_checks(document):
        try:
            check()
        except Invalid as problem:
            yield problem


def _later_checks(document: PolicyDocument) -> Iterator[Callable[[], None]]:
    for index, binding in enumerate(document.bindings):
        yield partial(_check_binding, document, binding, f"bindings[{index}]")
    yield partial(_check_env_names, document.bindings)
    for index, test in enumerate(document.tests):
        yield partial(check_expectation, document.kind, test, f"tests[{index}]")


def layer_of(document: PolicyDocument) -> Layer:
    """The document as the core reads it; ids are field paths such as `domains[0].http[2]`."""
    return Layer(
        kind=LayerKind(document.kind),
        id="document",
        name=document.name,
        domains=_domains(document) if document.has_domains else None,
        tools=_tools(document) if document.has_tools else None,
    )


def _check_sections(document: PolicyDocument) -> None:
    if document.kind not in PolicyKind.values:
        raise Invalid(f"A policy is one of {', '.join(PolicyKind.values)}.", field="kind")
    sections = (
        ("domains", document.has_domains, document.domains),
        ("tools", document.has_tools, document.tools),
        ("bindings", document.kind == PolicyKind.TEAM, document.bindings),
    )
    if len(document.tests) > MAX_TESTS:
        message = f"At most {MAX_TESTS} tests; there are {len(document.tests)}."
        raise Invalid(message, field="tests")
    https = sum(len(rule.http) for rule in document.domains)
    if https > MAX_HTTP:
        message = f"At most {MAX_HTTP} HTTP rules in all; there are {https}."
        raise Invalid(message, field="domains")
    for name, present, found in sections:
        if found and not present:
            raise Invalid(_ABSENT_SECTION[name], field=name)
        if len(found) > MAX_RULES:
            raise Invalid(f"At most {MAX_RULES} {name}; there are {len(found)}.", field=name)


_ABSENT_SECTION = {
    "domains": "The policy does not govern domains. Remove the domain rules, or let it.",
    "tools": "The policy does not govern tools. Remove the tool rules, or let it.",
    "bindings": "Only a team policy binds credentials. Remove the bindings here.",
}


def _domains(document: PolicyDocument) -> tuple[DomainRule, ...]:
    return tuple(_domain(rule, f"domains[{index}]") for index, rule in enumerate(document.domains))


def _domain(rule: DomainRuleDoc, at: str) -> DomainRule:
    if len(rule.http) > MAX_RULES:
        raise Invalid(f"At most {MAX_RULES} HTTP rules.", field=f"{at}.http")
    return DomainRule(
        id=at,
        pattern=rule.pattern,
        action=_choice(Action, rule.action, f"{at}.action"),
        agent_credentials=_choice(
            AgentCredentials, rule.agent_credentials, f"{at}.agent_credentials"
        ),
        http=tuple(_http(http, f"{at}.http[{number}]") for number, http in enumerate(rule.http)),
    )


def _http(rule: HttpRuleDoc, at: str) -> HttpRule:
    return HttpRule(
        id=at,
        method=rule.method,
        path=rule.path or None,
        action=_choice(Action, rule.action, f"{at}.action"),
    )


def _tools(document: PolicyDocument) -> tuple[ToolRule, ...]:
    return tuple(_tool(rule, f"tools[{index}]") for index, rule in enumerate(document.tools))


def _tool(rule: ToolRuleDoc, at: str) -> ToolRule:
    return ToolRule(at, rule.pattern, _choice(Action, rule.action, f"{at}.action"))


def _check_binding(document: PolicyDocument, binding: BindingDoc, at: str) -> None:
    credential = binding.credential
    if document.team not in credential.allowed_teams.all():
        raise Invalid(
            f"The owner of “{credential}” does not allow this team. Ask the owner to add it to "
            "the credential's teams.",
            field=f"{at}.credential",
        )
    _check_injection(binding, at)
    _raise_first(binding_problems(binding_of(binding, at)))
    refusal = _static_refusal(binding) or binding_refusal(binding.pattern, credential.allowed_hosts)
    if refusal:
        raise Invalid(refusal, field=f"{at}.pattern")


def _static_refusal(binding: BindingDoc) -> str:
    """Also where the credential is older than the rule that its hosts are held to now."""
    kind = kinds.get(binding.credential.kind)
    return "" if kind and not kind.static else signed_only_problem(parse_pattern(binding.pattern))


def _check_injection(binding: BindingDoc, at: str) -> None:
    kind = kinds.get(binding.credential.kind)
    ways = kind.injections if kind else ()
    if binding.injection not in ways:
        raise Invalid(
            f"“{binding.credential}” can be injected as {' or '.join(ways) or 'nothing'}.",
            field=f"{at}.injection",
        )
    if binding.injection != Injection.HEADER and (binding.header or binding.template):
        raise Invalid(
            "Header and template are for the injection “header”. Leave both empty.",
            field=f"{at}.header",
        )
    if binding.header.lower() in _OWN_HEADERS:
        raise Invalid(
            f"“{binding.header}” is written by the proxy itself. Name another header.",
            field=f"{at}.header",
        )
    _check_in_url(binding, at)


def _check_in_url(binding: BindingDoc, at: str) -> None:
    if binding.injection not in IN_URL:
        if binding.parameter:
            raise Invalid(
                "The parameter is for the injections “query” and “uri_placeholder”. Leave it "
                "empty.",
                field=f"{at}.parameter",
            )
    elif not binding.credential.allow_in_url:
        raise Invalid(
            f"“{binding.credential}” may not be put into URLs, since servers log them. Choose "
            "another injection, or ask an organization admin to tick “Allow in URLs” on the "
            "credential.",
            field=f"{at}.injection",
        )


def _check_env_names(bindings: Iterable[BindingDoc]) -> None:
    """A variable holds one sentinel."""
    first: dict[str, int] = {}
    for index, binding in enumerate(bindings):
        if binding.env_name and first.setdefault(binding.env_name, index) != index:
            raise Invalid(
                f"Binding {first[binding.env_name] + 1} sets {binding.env_name} already. A "
                "variable holds one placeholder: leave it empty here, or name another one.",
                field=f"bindings[{index}].env_name",
            )


def binding_of(binding: BindingDoc, at: str) -> Binding:
    """The binding as the core reads it; `at` becomes its id."""
    credential = binding.credential
    return Binding(
        id=at,
        credential_id=str(credential.pk),
        credential_name=credential.name,
        pattern=binding.pattern,
        injection=_choice(Injection, binding.injection, f"{at}.injection"),
        allowed_hosts=tuple(credential.allowed_hosts),
        method=binding.method,
        path=binding.path or None,
        header=binding.header,
        template=binding.template,
        username=credential.username,
        parameter=binding.parameter,
        env_name=binding.env_name,
        sentinel=sentinel(credential.slug),
    )


def _choice(enum: type[Choice], text: str, field: str) -> Choice:
    try:
        return enum(text)
    except ValueError as error:
        raise Invalid(f"“{text[:50]}” is not one of {', '.join(enum)}.", field=field) from error


def _raise_first(problems: Iterable[Problem]) -> None:
    for problem in problems:
        raise Invalid(problem.message, field=f"{problem.rule}.{problem.field}")
