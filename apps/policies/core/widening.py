"""Whether a document lets anything through that the one before it did not.

`widenings` is sound, not complete: what it cannot prove to be narrower, it reports. "Narrower" is
said of the answers of the document's own layer, so it holds whatever the other layers say: the
strictest answer wins there. For every request

1. the answer is as strict as before or stricter (deny, ask, allow); `direct` is compared with deny
   and itself only, since read traffic may carry a credential and plain HTTP, and tunnelled may not;
2. the credential that is injected is the same, or none;
3. the agent's own credential is removed where it was, or replaced by one that is bound.

Hosts are compared exactly: rules tell hosts apart only by their patterns, so one host for each
pattern (of those that no narrower pattern takes) stands for all of them. Paths and tool names are
compared by walking all globs at once (`core.languages`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from apps.common.hosts import covers, overlaps, parse_pattern
from apps.policies.core.atoms import Addresses, host_atoms, ports_of, shown_host
from apps.policies.core.check import TIERS, layer_problems
from apps.policies.core.compiled import DomainEntry, LayerEntry, compile_layer, stricter, takes
from apps.policies.core.globs import match_name, parse_path_glob
from apps.policies.core.hidden import domain_name, tool_name
from apps.policies.core.languages import Glob, TooIntricateError, name_glob, readings
from apps.policies.types import (
    IN_URL,
    STRICTNESS,
    WEBSOCKET,
    Action,
    AgentCredentials,
    Binding,
    Injection,
    LayerKind,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from apps.common.hosts import HostPattern
    from apps.policies.types import Layer

_OTHER_METHOD = "…"
_ANYWHERE = parse_path_glob("/**")
_KEEPING = {AgentCredentials.KEEP: 0, AgentCredentials.DEFAULT: 1, AgentCredentials.STRIP: 2}
# A tunnel of one layer is read when another layer says so.
_OPEN = (Action.ALLOW, Action.DIRECT)
_AUTHORIZATION = "Authorization"  # goes wherever the agent's own credential is removed
_INTRICATE = "its patterns are too intricate to compare"

Answers = tuple[tuple[Glob, Action], ...]
"""Globs with what each says, in order; what none matches is denied."""


@dataclass(frozen=True, slots=True)
class Widening:
    """`rule` (an id of the new document; "" for a whole section) may let more through.

    `section` is `domains`, `tools` or `bindings`; `message` is a sentence with an example.
    """

    section: str
    rule: str
    message: str


def widenings(
    before: Layer,
    after: Layer,
    *,
    bindings: tuple[Sequence[Binding], Sequence[Binding]] = ((), ()),
    tunnelled_credentials: bool = False,
) -> list[Widening]:
    """What `after` may let through that `before` did not; empty only when it provably does not.

    Both are of one kind. A policy that is new is compared with one of absent sections. `bindings`
    are those of a team policy before and after. `tunnelled_credentials` says of another kind that
    a team policy beside it has a `direct` rule for a host to which it also binds a credential.
    """
    if layer_problems(before) or layer_problems(after):
        return [Widening("domains", "", "A document with problems cannot be compared.")]
    old, new = compile_layer(before), compile_layer(after)
    return [
        *_domains(old, new, tunnelled_credentials=tunnelled_credentials),
        *_tools(old, new),
        *_bindings(new, *bindings),
    ]


def tunnels_credentials(layer: Layer, patterns: Sequence[HostPattern]) -> bool:
    """Whether a `direct` rule of the document has a host to which a binding's pattern belongs."""
    return any(
        rule.rule.action is Action.DIRECT and overlaps(rule.pattern, pattern)
        for rule in compile_layer(layer).domains or ()
        for pattern in patterns
    )


def _domains(
    old: LayerEntry, new: LayerEntry, *, tunnelled_credentials: bool
) -> Iterator[Widening]:
    team = new.layer.kind is LayerKind.TEAM
    if new.domains is None:
        if not team and old.domains is not None:
            yield Widening("domains", "", "The policy no longer governs domains.")
        return
    if old.domains is None and not team:
        if tunnelled_credentials:
            message = (
                "Traffic that a team's policy tunnels would be read, and could get the credential "
                "that is bound to its host."
            )
            yield Widening("domains", "", message)
        return
    told = set()
    for widening in _by_destination(old, new):
        if widening.rule not in told:
            told.add(widening.rule)
            yield widening


def _by_destination(old: LayerEntry, new: LayerEntry) -> Iterator[Widening]:
    """Compare the two rules that answer for a destination, for every destination there is."""
    before, after = old.domains or (), new.domains or ()
    patterns = [entry.pattern for entry in (*before, *after)]
    addresses = Addresses(before, after)
    compared: dict[tuple[int, int], str] = {}
    for host in host_atoms(patterns):
        olds, news = old.index.covering(host), new.index.covering(host)
        for port in ports_of(patterns, [before[at] for at in olds], [after[at] for at in news]):
            mine = _first(after, news, port)
            if mine < 0 or after[mine].best is Action.DENY:
                continue
            was = _first(before, olds, port)
            if (was, mine) not in compared:
                compared[was, mine] = _looser(
                    before[was] if was >= 0 else None, after[mine], new.layer.kind
                )
            why = compared[was, mine]
            if not why and addresses.fewer_denied(port, was, mine):
                why = "no rule denies it any more when it resolves to an address denied before"
            if why:
                entry = after[mine]
                message = (
                    f"Rule {mine + 1} ({domain_name(entry)}: {entry.rule.action}), for example on "
                    f"{shown_host(host)}:{port}: {why}."
                )
                yield Widening("domains", entry.rule.id, message)


def _first(entries: Sequence[DomainEntry], positions: list[int], port: int) -> int:
    """The position of the rule that answers, or -1."""
    for at in positions:
        if entries[at].pattern.matches_port(port, every_port=entries[at].denies):
            return at
    return -1


def _looser(old: DomainEntry | None, new: DomainEntry, kind: LayerKind) -> str:
    """Why the new rule may let more through than the old one, as a clause; "" when it does not."""
    if old is None or old.best is Action.DENY:
        return "it was denied"
    directs = (old.rule.action is Action.DIRECT, new.rule.action is Action.DIRECT)
    if any(directs):
        return _direct(*directs)
    if STRICTNESS[new.best] < STRICTNESS[old.best]:
        return "it was held for approval"
    if _kept(new, kind) < _kept(old, kind):
        return "the agent's own credential is kept more often"
    for method in sorted(_methods(old) | _methods(new)):
        found = _easier(_http(old, method, kind), _http(new, method, kind))
        if found is not None:
            what = f"/{'/'.join(found)}" if found else "/"
            return f"{method} {what} is let through more easily"
    return ""


def _direct(old: bool, new: bool) -> str:  # noqa: FBT001  a pair of facts
    if old and new:
        return ""
    if new:
        return "its traffic is no longer read"
    return "its traffic was tunnelled, and may now be plain HTTP or carry a credential"


def _kept(entry: DomainEntry, kind: LayerKind) -> int:
    """How far the agent's own credential is removed; only the team policy can say `keep`."""
    said = _KEEPING[entry.rule.agent_credentials]
    return said if kind is LayerKind.TEAM else max(said, 1)


def _methods(entry: DomainEntry) -> set[str]:
    named = {http.rule.method for http in entry.http} - {"*"}
    return named | {_OTHER_METHOD, WEBSOCKET, "GET"}


def _http(entry: DomainEntry, method: str, kind: LayerKind) -> Answers:
    """What a domain rule says to requests of a method, by path."""
    rule = entry.rule
    if not entry.http:
        closed = method == WEBSOCKET and kind is LayerKind.TEAM
        return () if closed else ((Glob(_ANYWHERE.parts), rule.action),)
    found = []
    for http in entry.http:
        if takes(http.rule, method):
            glob = http.glob or _ANYWHERE
            parts = glob.folded if http.denies else glob.parts
            found.append((Glob(parts, http.denies), stricter(rule.action, http.rule.action)))
    return tuple(found)


def _easier(old: Answers, new: Answers) -> tuple[str, ...] | None:
    """A text to which the new answer is less strict than the old one; None when there is none."""
    if old == new:
        return None
    globs = list(dict.fromkeys(glob for glob, _ in (*old, *new)))
    at = {glob: index for index, glob in enumerate(globs)}
    try:
        for found, text in readings(globs):
            was = _said(old, at, found)
            if STRICTNESS[_said(new, at, found)] < STRICTNESS[was]:
                return text
    except TooIntricateError:
        return (_INTRICATE,)
    return None


def _said(answers: Answers, at: dict[Glob, int], found: frozenset[int]) -> Action:
    return next((action for glob, action in answers if at[glob] in found), Action.DENY)


def _tools(old: LayerEntry, new: LayerEntry) -> Iterator[Widening]:
    team = new.layer.kind is LayerKind.TEAM
    if new.tools is None:
        if not team and old.tools is not None:
            yield Widening("tools", "", "The policy no longer governs tools.")
        return
    if old.tools is None and not team:
        return
    for tier in sorted(TIERS):
        found = _easier(_tool_answers(old, tier), _tool_answers(new, tier))
        if found is not None:
            yield _tool_widening(new, tier, "".join(found))
            return


def _tool_answers(entry: LayerEntry, tier: str) -> Answers:
    return tuple(
        (name_glob(tool.rule.pattern), tool.rule.action)
        for tool in entry.tools or ()
        if tool.rule.tier in (None, tier)
    )


def _tool_widening(new: LayerEntry, tier: str, name: str) -> Widening:
    """The widening by the rule that answers for a tool of this name."""
    for number, tool in enumerate(new.tools or (), start=1):
        if tool.rule.tier in (None, tier) and match_name(tool.pieces, name):
            message = (
                f"Rule {number} ({tool_name(tool)}: {tool.rule.action}) lets {name or 'tools'} "
                f"through more easily than before (tier {tier})."
            )
            return Widening("tools", tool.rule.id, message)
    return Widening("tools", "", f"Tools are let through more easily: {_INTRICATE}.")


def _bindings(
    new: LayerEntry, before: Sequence[Binding], after: Sequence[Binding]
) -> Iterator[Widening]:
    """The bindings that stay must be the same ones in the same order; those that go, go alone."""
    olds = [replace(binding, id="") for binding in before]
    kept: list[int] = []
    for binding in after:
        start = kept[-1] + 1 if kept else 0
        content = replace(binding, id="")
        if content not in olds[start:]:
            message = f"The binding of {binding.credential_name} to `{binding.pattern}` is new."
            yield Widening("bindings", binding.id, message)
            return
        kept.append(olds.index(content, start))
    for index in sorted(set(range(len(olds))) - set(kept)):
        others = [olds[at] for at in kept]
        later = [olds[at] for at in kept if at > index]
        why = _unbound(new, olds[index], others, later)
        if why:
            gone = olds[index]
            message = f"Without the binding of {gone.credential_name} to `{gone.pattern}`, {why}."
            yield Widening("bindings", "", message)


def _unbound(
    new: LayerEntry, gone: Binding, kept: Sequence[Binding], later: Sequence[Binding]
) -> str:
    """What a binding that went kept back, as a clause."""
    pattern = parse_pattern(gone.pattern)
    for other in later:
        if overlaps(parse_pattern(other.pattern), pattern):
            return f"requests may get {other.credential_name} instead"
    # Of another credential it is not known here that every project has it.
    mates = [other for other in kept if other.credential_id == gone.credential_id]
    bound = any(covers(parse_pattern(other.pattern), pattern) for other in mates)
    replaced = _replaced(gone)
    for entry in new.domains or ():
        if entry.best not in _OPEN or not overlaps(entry.pattern, pattern):
            continue
        said, where = entry.rule.agent_credentials, f"under `{entry.rule.pattern}`"
        if said is AgentCredentials.DEFAULT and not bound:
            return f"the agent's own credential is no longer removed {where}"
        if replaced and (replaced != _AUTHORIZATION or said is AgentCredentials.KEEP):
            return f"the agent's own `{replaced}` is no longer replaced {where}"
    return ""


def _replaced(binding: Binding) -> str:
    """The header or parameter of the agent that gives way to the credential; "" for none."""
    if binding.injection is Injection.HEADER:
        return binding.header
    if binding.injection in IN_URL:
        return binding.parameter if binding.injection is Injection.QUERY else ""
    return _AUTHORIZATION
