"""Which credential is injected, and whether the one that the agent sent is taken off.

Only the team policy binds. Patterns are read narrowly: a credential goes nowhere by a wide reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.common.hosts import HostPattern, PatternError, covers, parse_pattern
from apps.common.shared_domains import shared_domain
from apps.policies.types import WEBSOCKET, AgentCredentials, Binding, LayerKind, Passed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from apps.common.hosts import Host
    from apps.policies.core.compiled import BindingEntry


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An allowed HTTP request that may get a credential; `segments` are its canonical path's.

    `method` is that of rules: `WEBSOCKET` for a GET that asks to become one.
    """

    scheme: str
    host: Host
    port: int
    method: str
    segments: tuple[str, ...]


def choose_binding(
    entries: tuple[BindingEntry, ...], request: Outgoing
) -> tuple[Binding | None, tuple[Passed, ...]]:
    """The first binding for the request, and those passed over with the reason."""
    passed: list[Passed] = []
    for entry in entries:
        why = next(filter(None, _obstacles(entry, request)), "")
        if not why:
            return entry.binding, tuple(passed)
        passed.append(Passed(LayerKind.TEAM, entry.binding.id, why))
    return None, tuple(passed)


def strips(
    credentials: Iterable[tuple[LayerKind, AgentCredentials]],
    entries: tuple[BindingEntry, ...],
    host: Host,
    port: int,
) -> bool:
    """Whether the agent's own credential is removed.

    Any layer may say strip. Where a binding covers the host strip is the default, and only the team
    policy, which binds, may say keep instead.
    """
    said = tuple(credentials)
    if any(value is AgentCredentials.STRIP for _, value in said):
        return True
    if (LayerKind.TEAM, AgentCredentials.KEEP) in said:
        return False
    return any(entry.pattern.matches(host, port) for entry in entries)


def binding_refusal(pattern: str, allowed_hosts: Iterable[str]) -> str:
    """Why a binding with this pattern must not be saved, as a sentence; "" when it may be.

    Every host and port of the pattern must be covered by one entry of the credential's
    `allowed_hosts`, and a wildcard must not reach into domains where strangers register names.
    """
    try:
        wanted = parse_pattern(pattern)
        allowed = [parse_pattern(text) for text in allowed_hosts]
    except PatternError as error:
        return str(error)
    shared = shared_domain(wanted)
    if shared:
        return _shared_sentence(wanted, shared)
    if any(covers(entry, wanted) for entry in allowed):
        return ""
    listed = ", ".join(f"`{entry.text}`" for entry in allowed) or "none"
    return (
        f"`{pattern}` is outside the hosts that the credential's owner allows ({listed}). Narrow "
        "the pattern, or ask the owner to allow the host (with its port, unless it is 80 or 443)."
    )


def _shared_sentence(pattern: HostPattern, shared: str) -> str:
    if shared == "*":
        return "A credential cannot be bound to every host: name the hosts that may receive it."
    return (
        f"`{pattern.text}` reaches names under `{shared}` that anybody can register and so receive "
        "the credential: name the exact host."
    )


def _obstacles(entry: BindingEntry, request: Outgoing) -> Iterator[str]:
    """Why the binding does not apply: one phrase each, nothing when it applies."""
    host, port, binding = request.host, request.port, entry.binding
    if not entry.pattern.matches(host, port):
        yield f"`{entry.pattern.text}` does not cover this host and port"
    begun_by = "GET" if request.method == WEBSOCKET else request.method
    if binding.method not in ("*", request.method, begun_by):
        yield f"bound for the method {binding.method} only"
    if entry.glob is not None and not entry.glob.matches(request.segments):
        yield f"bound for the path `{binding.path}` only"
    if not any(allowed.matches(host, port) for allowed in entry.allowed):
        yield "the credential's owner does not allow this host"
    if entry.shared:
        yield _shared_sentence(entry.pattern, entry.shared)
    if request.scheme != "https":
        yield "credentials are sent over HTTPS only"
