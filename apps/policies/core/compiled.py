"""A bundle made ready for decisions: patterns parsed, sentences written, problems found once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.common.hosts import HostPattern, parse_pattern
from apps.common.shared_domains import shared_domain
from apps.policies.core.check import bundle_problems
from apps.policies.core.globs import PathGlob, parse_name_glob, parse_path_glob
from apps.policies.core.index import HostIndex, build_index
from apps.policies.types import (
    BUNDLE_FORMAT,
    STRICTNESS,
    WEBSOCKET,
    Action,
    Binding,
    Bundle,
    Connection,
    DomainRule,
    HttpRule,
    Layer,
    LayerKind,
    Passed,
    ToolRule,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

CHAIN = (LayerKind.CEILING, LayerKind.TEAM, LayerKind.AGENT, LayerKind.DELEGATION)
_TITLES = {
    LayerKind.CEILING: "the organization ceiling",
    LayerKind.TEAM: "the team policy",
    LayerKind.AGENT: "the agent policy",
    LayerKind.DELEGATION: "the delegation scope",
}
_CACHE_SIZE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class HttpEntry:
    """One HTTP rule, with its sentence for each way of passing it over."""

    rule: HttpRule
    glob: PathGlob | None
    denies: bool
    other_method: Passed
    other_path: Passed


@dataclass(frozen=True, slots=True, eq=False)
class DomainEntry:
    """One domain rule; `best` is the least strict action that any request under it can get."""

    rule: DomainRule
    pattern: HostPattern
    denies: bool
    best: Action
    http: tuple[HttpEntry, ...]
    other_host: Passed
    other_port: Passed


@dataclass(frozen=True, slots=True, eq=False)
class ToolEntry:
    """One tool rule."""

    rule: ToolRule
    pieces: tuple[str, ...]
    other_name: Passed
    other_tier: Passed


@dataclass(frozen=True, slots=True, eq=False)
class LayerEntry:
    """One layer; `title` names it in a sentence: "the team policy “SRE”".

    `other_hosts` are the domain rules' `other_host` in a row: what is passed over is mostly these.
    """

    layer: Layer
    title: str
    domains: tuple[DomainEntry, ...] | None
    tools: tuple[ToolEntry, ...] | None
    index: HostIndex
    other_hosts: tuple[Passed, ...]


@dataclass(frozen=True, slots=True, eq=False)
class BindingEntry:
    """One binding; `shared` is a domain open to strangers that its wildcard reaches into, or ""."""

    binding: Binding
    pattern: HostPattern
    allowed: tuple[HostPattern, ...]
    glob: PathGlob | None
    shared: str


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A bundle ready for decisions. With a `problem`, every decision is a denial."""

    bundle: Bundle | None
    problem: str = ""
    layers: tuple[LayerEntry, ...] = ()
    bindings: tuple[BindingEntry, ...] = ()
    connections: tuple[tuple[HostPattern, Connection], ...] = ()
    platform: tuple[HostPattern, ...] = ()
    overrides: tuple[HostPattern, ...] = ()


# Bundles are compared by identity (comparing their values costs more than deciding). Holding the
# bundle in the entry keeps its id from being given to another one.
_cache: dict[int, Compiled] = {}


def compiled(bundle: Bundle) -> Compiled:
    """The compiled form of this very bundle object, made once and kept for the next time."""
    entry = _cache.get(id(bundle))
    if entry is not None and entry.bundle is bundle:
        return entry
    entry = compile_bundle(bundle)
    if len(_cache) >= _CACHE_SIZE:
        _cache.clear()  # one step, so that other threads never see a dict change under them
    _cache[id(bundle)] = entry
    return entry


def forget(bundle: Bundle) -> None:
    """Drop the compiled form of a bundle that nobody decides by any more."""
    entry = _cache.get(id(bundle))
    if entry is not None and entry.bundle is bundle:
        _cache.pop(id(bundle), None)


def compile_bundle(bundle: Bundle) -> Compiled:
    """Compile without the cache. Problems are kept, not raised."""
    if bundle.format != BUNDLE_FORMAT:
        return Compiled(bundle, problem="The policy bundle has a format that is not known here.")
    problems = bundle_problems(bundle)
    if problems:
        first = problems[0]
        return Compiled(bundle, problem=f"The policy bundle is not valid: {first.message}")
    return Compiled(
        bundle,
        layers=tuple(
            compile_layer(layer) for kind in CHAIN for layer in bundle.layers if layer.kind is kind
        ),
        bindings=tuple(map(_binding, bundle.bindings)),
        connections=tuple((parse_pattern(entry.pattern), entry) for entry in bundle.connections),
        platform=_patterns(bundle.platform_hosts),
        overrides=_patterns(bundle.provider_override),
    )


def _patterns(texts: Iterable[str]) -> tuple[HostPattern, ...]:
    return tuple(map(parse_pattern, texts))


def compile_layer(layer: Layer) -> LayerEntry:
    """Compile one document that has no problems (`check.layer_problems`)."""
    kind, title = layer.kind, _TITLES[layer.kind]
    domains = tuple(_domain(kind, rule) for rule in layer.domains or ())
    tools = tuple(_tool(kind, rule) for rule in layer.tools or ())
    return LayerEntry(
        layer,
        f"{title} “{layer.name}”" if layer.name else title,
        None if layer.domains is None else domains,
        None if layer.tools is None else tools,
        build_index(entry.pattern for entry in domains),
        tuple(entry.other_host for entry in domains),
    )


def _domain(kind: LayerKind, rule: DomainRule) -> DomainEntry:
    pattern = parse_pattern(rule.pattern)
    ports = "ports 80 and 443" if pattern.port is None else f"port {pattern.port}"
    return DomainEntry(
        rule,
        pattern,
        rule.action is Action.DENY,
        best_action(rule),
        tuple(_http(kind, http) for http in rule.http),
        Passed(kind, rule.id, f"`{rule.pattern}` does not cover this host"),
        Passed(kind, rule.id, f"`{rule.pattern}` covers this host on {ports} only"),
    )


def best_action(rule: DomainRule) -> Action:
    """The least strict action that some request under the rule can get."""
    if not rule.http:
        return rule.action
    best = min((http.action for http in rule.http), key=STRICTNESS.__getitem__)
    return stricter(rule.action, best)


def takes(rule: HttpRule, method: str) -> bool:
    """Whether a rule speaks about a method.

    A WebSocket is a stream in which no method or path is seen again, so it is allowed by a rule
    that names it only. It begins with a GET: what keeps that back keeps the WebSocket back, too.
    """
    if rule.method == method:
        return True
    if method == WEBSOCKET:
        return rule.action is not Action.ALLOW and rule.method in ("*", "GET")
    return rule.method == "*"


def stricter(first: Action, second: Action) -> Action:
    """The stricter of two actions; the first one when they are equally strict."""
    return second if STRICTNESS[second] > STRICTNESS[first] else first


def _http(kind: LayerKind, rule: HttpRule) -> HttpEntry:
    return HttpEntry(
        rule,
        None if rule.path is None else parse_path_glob(rule.path),
        rule.action is Action.DENY,
        Passed(kind, rule.id, _other_method(rule)),
        Passed(kind, rule.id, f"`{rule.path}` does not cover this path"),
    )


def _other_method(rule: HttpRule) -> str:
    if rule.method == "*":
        return f"for requests; a rule for WebSockets has the method {WEBSOCKET}"
    return f"for the method {rule.method} only"


def _tool(kind: LayerKind, rule: ToolRule) -> ToolEntry:
    return ToolEntry(
        rule,
        parse_name_glob(rule.pattern),
        Passed(kind, rule.id, f"`{rule.pattern}` does not cover this tool"),
        Passed(kind, rule.id, f"for the tier {rule.tier} only"),
    )


def _binding(binding: Binding) -> BindingEntry:
    pattern = parse_pattern(binding.pattern)
    return BindingEntry(
        binding,
        pattern,
        _patterns(binding.allowed_hosts),
        None if binding.path is None else parse_path_glob(binding.path),
        shared_domain(pattern),
    )
