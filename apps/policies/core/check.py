"""What is wrong with a document or a bundle, rule by rule: for forms, the codec and `decide`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.common.addresses import parse_network
from apps.common.hosts import HostPattern, PatternError, parse_pattern
from apps.policies.core.globs import GlobError, parse_name_glob, parse_path_glob
from apps.policies.core.sentinels import SENTINEL, name_problem
from apps.policies.types import (
    Action,
    AgentCredentials,
    Binding,
    Bundle,
    Connection,
    DomainRule,
    HttpRule,
    Injection,
    Layer,
    LayerKind,
    ToolRule,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TIERS = frozenset({"interactive", "subagent", "background", "api"})
DOMAIN_ACTIONS = frozenset({Action.DIRECT, Action.ALLOW, Action.ASK, Action.DENY})
HTTP_ACTIONS = frozenset({Action.ALLOW, Action.ASK, Action.DENY})
TOOL_ACTIONS = frozenset({Action.ALLOW, Action.APPROVE, Action.DENY})
METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
# Unreserved characters (RFC 3986 section 2.3): no client writes these in two ways.
_PARAMETER = re.compile(r"[A-Za-z0-9._~-]{1,64}")
# A field value (RFC 9110 section 5.5) in the one spelling that every server reads alike.
_TEMPLATE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_PLACEHOLDER = re.compile(r"[A-Za-z0-9_-]{6,64}")

_NO_PLACEHOLDER = (
    "Name the word in the path that the value replaces, as in `LENS_TOKEN`: 6 to 64 letters, "
    "digits, `_` and `-`."
)


@dataclass(frozen=True, slots=True)
class Problem:
    """`rule` is the rule's or binding's id, `field` its field's name, `message` a sentence."""

    rule: str
    field: str
    message: str


def layer_problems(layer: Layer) -> list[Problem]:
    """What keeps a document from being saved, in the order of its rules."""
    found = [problem for rule in layer.domains or () for problem in domain_problems(rule)]
    found += [problem for tool in layer.tools or () for problem in tool_problems(tool)]
    if layer.kind is LayerKind.BUILTIN:
        found.append(Problem(layer.id, "kind", "The built-in layer cannot be written."))
    return found


def bundle_problems(bundle: Bundle) -> list[Problem]:
    """What makes a bundle unusable: any of these denies every request."""
    found = [problem for layer in bundle.layers for problem in layer_problems(layer)]
    found += [problem for binding in bundle.bindings for problem in binding_problems(binding)]
    found += [problem for entry in bundle.connections for problem in connection_problems(entry)]
    for field in ("platform_hosts", "provider_override"):
        for text in getattr(bundle, field):
            found += _pattern_problem("", field, text)[1]
    if any(text.startswith("*") for text in bundle.provider_override):
        found.append(Problem("", "provider_override", "An override names its hosts, without `*`."))
    kinds = [layer.kind for layer in bundle.layers]
    if kinds.count(LayerKind.TEAM) > 1 or kinds.count(LayerKind.CEILING) > 1:
        found.append(Problem("", "layers", "A bundle has one team policy and at most one ceiling."))
    return found


def domain_problems(rule: DomainRule) -> list[Problem]:
    """The problems of one domain rule and its HTTP rules."""
    pattern, found = _pattern_problem(rule.id, "pattern", rule.pattern)
    found += [
        Problem(rule.id, field, message)
        for field, message in _domain_action_problems(rule, pattern)
    ]
    return found + [problem for http in rule.http for problem in http_problems(http)]


def http_problems(rule: HttpRule) -> list[Problem]:
    """The problems of one HTTP rule."""
    found = _request_problems(rule.id, rule.method, rule.path)
    if rule.action not in HTTP_ACTIONS:
        found.append(
            Problem(
                rule.id,
                "action",
                "An HTTP rule says `allow`, `ask` or `deny`; `direct` "
                "traffic is not read, so it has no HTTP rules.",
            )
        )
    return found


def tool_problems(rule: ToolRule) -> list[Problem]:
    """The problems of one tool rule."""
    found = []
    try:
        parse_name_glob(rule.pattern)
    except GlobError as error:
        found.append(Problem(rule.id, "pattern", str(error)))
    if rule.action not in TOOL_ACTIONS:
        message = "A tool rule says `allow`, `approve` or `deny`."
        found.append(Problem(rule.id, "action", message))
    if rule.tier is not None and rule.tier not in TIERS:
        message = f"A tier is one of {', '.join(sorted(TIERS))}; leave it out for every tier."
        found.append(Problem(rule.id, "tier", message))
    return found


def binding_problems(binding: Binding) -> list[Problem]:
    """The problems of one credential binding (what it may be bound to is `core.bindings`')."""
    found = _pattern_problem(binding.id, "pattern", binding.pattern)[1]
    found += _request_problems(binding.id, binding.method, binding.path)
    for text in binding.allowed_hosts:
        found += _pattern_problem(binding.id, "allowed_hosts", text)[1]
    found += [Problem(binding.id, field, message) for field, message in _injection(binding)]
    if binding.env_name and (message := name_problem(binding.env_name)):
        found.append(Problem(binding.id, "env_name", message))
    if binding.env_name and not SENTINEL.fullmatch(binding.sentinel):
        found.append(Problem(binding.id, "sentinel", "The binding's sentinel is none."))
    return found


def connection_problems(connection: Connection) -> list[Problem]:
    """The problems of one connection."""
    found = _pattern_problem(connection.pattern, "pattern", connection.pattern)[1]
    found += [
        Problem(connection.pattern, "addresses", f"`{text[:60]}` is no range such as `10.0.0.0/8`.")
        for text in connection.addresses
        if parse_network(text) is None
    ]
    return found


def _pattern_problem(rule: str, field: str, text: str) -> tuple[HostPattern | None, list[Problem]]:
    try:
        return parse_pattern(text), []
    except PatternError as error:
        return None, [Problem(rule, field, str(error))]


def _domain_action_problems(
    rule: DomainRule, pattern: HostPattern | None
) -> Iterator[tuple[str, str]]:
    if rule.action not in DOMAIN_ACTIONS:
        yield "action", "A domain rule says `allow`, `direct`, `ask` or `deny`."
    if rule.action is Action.DENY and rule.http:
        yield (
            "http",
            "A `deny` rule has no HTTP rules; in an `allow` rule they say what is allowed.",
        )
    if rule.action is not Action.DIRECT:
        return
    if pattern is not None and not pattern.exact:
        yield "pattern", "A `direct` rule names one host and its port: `db.example.com:5432`."
    if rule.http:
        yield "http", "A `direct` rule has no HTTP rules, since its traffic is not read."
    if rule.agent_credentials is not AgentCredentials.DEFAULT:
        yield (
            "agent_credentials",
            "A `direct` rule cannot keep or strip credentials, since its traffic is not read.",
        )


def _request_problems(rule: str, method: str, path: str | None) -> list[Problem]:
    found = []
    if method != "*" and not METHOD.fullmatch(method):
        message = "A method is written in capitals, as in `GET`, or `*` for any."
        found.append(Problem(rule, "method", message))
    if path is not None:
        try:
            parse_path_glob(path)
        except GlobError as error:
            found.append(Problem(rule, "path", str(error)))
    return found


def _injection(binding: Binding) -> Iterator[tuple[str, str]]:
    if binding.injection is Injection.QUERY and not _PARAMETER.fullmatch(binding.parameter):
        yield "parameter", "Name the query parameter, as in `api_key`: letters, digits, `._~-`."
    if binding.injection is Injection.URI_PLACEHOLDER and not _PLACEHOLDER.fullmatch(
        binding.parameter
    ):
        yield "parameter", _NO_PLACEHOLDER
    if binding.injection is not Injection.HEADER:
        return
    if not _HEADER.fullmatch(binding.header):
        yield "header", "A header name has letters, digits and dashes, as in `X-Api-Key`."
    if binding.template.count("{value}") != 1:
        yield "template", "The template holds `{value}` once, as in `Token {value}`."
    elif not _TEMPLATE.fullmatch(binding.template):
        yield "template", "The template is one line of ASCII, without a space at either end."
