"""Rules without effect, because a layer above or a built-in refusal denies all that they name.

A warning, not an error: the layer above belongs to somebody else, and may change. Only what single
rules prove is reported; several rules above that deny a rule together may go unnoticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.common.addresses import NEVER
from apps.common.hosts import Host, HostPattern, covers, overlaps, parse_pattern, subnet
from apps.policies.core.builtin import name_refusal, platform_refusal, provider_refusal
from apps.policies.core.check import layer_problems
from apps.policies.core.compiled import (
    CHAIN,
    DomainEntry,
    LayerEntry,
    ToolEntry,
    compile_layer,
)
from apps.policies.core.globs import covers_name, overlaps_name
from apps.policies.core.hidden import domain_name, tool_name
from apps.policies.types import Action

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from apps.policies.types import Layer


@dataclass(frozen=True, slots=True)
class Moot:
    """`rule` of the document `layer` (ids) has no effect; `message` says what denies it."""

    layer: str
    section: str
    rule: str
    message: str


def moot_rules(
    layers: Sequence[Layer],
    platform_hosts: Iterable[str] = (),
    provider_override: Iterable[str] = (),
) -> list[Moot]:
    """The rules that have no effect, in the order of the chain. Unreadable documents are left out.

    `platform_hosts` and `provider_override` as in a bundle.
    """
    chain = [
        compile_layer(layer)
        for kind in CHAIN
        for layer in layers
        if layer.kind is kind and not layer_problems(layer)
    ]
    platform = tuple(map(parse_pattern, platform_hosts))
    overrides = tuple(map(parse_pattern, provider_override))
    found: list[Moot] = []
    for index, lower in enumerate(chain):
        for domain in lower.domains or ():
            why = _builtin(domain, platform, overrides)
            why = why or _first_denial(domain, chain[:index])
            found += _moot(lower, "domains", domain, domain_name(domain), why)
        for tool in lower.tools or ():
            why = next((up.title for up in chain[:index] if _denies_tool(up, tool)), "")
            found += _moot(lower, "tools", tool, tool_name(tool), why and f"{why} denies it")
    return found


def _moot(
    layer: LayerEntry, section: str, entry: DomainEntry | ToolEntry, name: str, why: str
) -> list[Moot]:
    if not why:
        return []
    message = f"The rule {name} of {layer.title} has no effect: {why}."
    return [Moot(layer.layer.id, section, entry.rule.id, message)]


def _first_denial(domain: DomainEntry, above: list[LayerEntry]) -> str:
    for upper in above:
        if _denies_domain(upper, domain):
            return f"{upper.title} denies all that it names"
        if domain.rule.action is Action.DIRECT and not _tunnels(upper, domain):
            return f"{upper.title} does not say `direct` too, so the traffic is inspected or denied"
    return ""


def _denies_domain(upper: LayerEntry, domain: DomainEntry) -> bool:
    """Whether no rule but denials reaches anything that the lower rule names."""
    if upper.domains is None:
        return False
    for entry in upper.domains:
        if entry.best is not Action.DENY:
            if overlaps(entry.pattern, domain.pattern):
                return False
        elif covers(entry.pattern, domain.pattern, every_port=entry.denies):
            return True
    return True


def _tunnels(upper: LayerEntry, domain: DomainEntry) -> bool:
    """Whether the layer's first rule for a `direct` rule's one destination says direct as well."""
    if upper.domains is None:
        return True
    first = next(
        (
            entry
            for entry in upper.domains
            if covers(entry.pattern, domain.pattern, every_port=entry.denies)
        ),
        None,
    )
    return first is not None and first.rule.action is Action.DIRECT


def _denies_tool(upper: LayerEntry, tool: ToolEntry) -> bool:
    if upper.tools is None:
        return False
    for entry in upper.tools:
        same_tier = entry.rule.tier in (None, tool.rule.tier)
        if entry.rule.action is not Action.DENY:
            if (same_tier or tool.rule.tier is None) and overlaps_name(entry.pieces, tool.pieces):
                return False
        elif same_tier and covers_name(entry.rule.pattern, tool.rule.pattern):
            return True
    return True


def _builtin(
    domain: DomainEntry, platform: tuple[HostPattern, ...], overrides: tuple[HostPattern, ...]
) -> str:
    """The built-in refusal of the one host that the rule names, as a clause; denials need none."""
    pattern = domain.pattern
    if domain.denies:
        return ""
    if pattern.network is not None:
        return _closed_network(pattern)
    if not pattern.name:
        return ""
    host = Host(pattern.name)
    refusal = name_refusal(host) or provider_refusal(host, overrides)
    if refusal is None and any(covers(entry, pattern, every_port=True) for entry in platform):
        refusal = platform_refusal(host, platform, pattern.port or 443)
    return refusal.reason.rstrip(".") if refusal else ""


def _closed_network(pattern: HostPattern) -> str:
    """A clause when no address of the range can ever be reached, else an empty string."""
    network = pattern.network
    for closed, why in NEVER:
        if network is not None and subnet(network, closed):
            return f"`{pattern.text}` is {why}, and no policy can open it"
    return ""
