"""One layer's answer, and the answers of all layers joined: the strictest wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.policies.core.compiled import DomainEntry, HttpEntry, LayerEntry, stricter, takes
from apps.policies.core.globs import fold, match_name
from apps.policies.types import (
    STRICTNESS,
    WEBSOCKET,
    Action,
    AgentCredentials,
    Binding,
    Decision,
    LayerKind,
    Passed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.common.hosts import Host
    from apps.policies.core.compiled import Compiled

Http = tuple[str, str, tuple[str, ...]]
"""Scheme, method (`WEBSOCKET` for one) and canonical path segments of an HTTP request."""

_SAYS = {
    Action.DIRECT: "tunnels it",
    Action.ALLOW: "allows it",
    Action.ASK: "holds it for approval",
    Action.APPROVE: "holds it for approval",
    Action.DENY: "denies it",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one layer, or the chain of them, says."""

    action: Action
    layer: LayerKind
    rule: str
    reason: str
    passed: tuple[Passed, ...] = ()
    credentials: tuple[tuple[LayerKind, AgentCredentials], ...] = ()

    def decision(
        self,
        *,
        path: str = "",
        binding: Binding | None = None,
        strip: bool = False,
        passed: tuple[Passed, ...] = (),
    ) -> Decision:
        """The answer as a decision, with what was passed over after it."""
        return Decision(
            self.action,
            self.layer,
            self.rule,
            self.reason,
            self.passed + passed,
            binding,
            strip,
            path,
        )


def combine(ready: Compiled, ask: Callable[[LayerEntry], Answer | None]) -> Answer:
    """Ask the layers in their order; the first denial ends it, else the strictest answer wins.

    Among equally strict answers the team policy's is named, because it is the one that grants.
    """
    passed: tuple[Passed, ...] = ()
    answers: list[Answer] = []
    for entry in ready.layers:
        answer = ask(entry)
        if answer is None:
            continue
        passed += answer.passed
        if answer.action is Action.DENY:
            return _joined(answer, answers, passed)
        answers.append(answer)
    team = next((answer for answer in answers if answer.layer is LayerKind.TEAM), None)
    if team is None:
        reason = "There is no team policy, so everything is denied."
        return Answer(Action.DENY, LayerKind.TEAM, "", reason, passed)
    winner = team
    for answer in answers:
        if STRICTNESS[answer.action] > STRICTNESS[winner.action]:
            winner = answer
    return _joined(winner, [answer for answer in answers if answer is not winner], passed)


def domain_answer(
    entry: LayerEntry, host: Host, port: int, addresses: tuple[str, ...], http: Http | None
) -> Answer | None:
    """What a layer says about a destination, and about the HTTP request to it when there is one.

    Without `http` (a tunnel is asked for) the answer is the best that any request could get.
    """
    kind = entry.layer.kind
    if not entry.domains:
        return _no_section(entry, absent=entry.domains is None, what="domain")
    passed = list(entry.other_hosts)
    for position in _candidates(entry, host, addresses):
        domain = entry.domains[position]
        if domain.pattern.matches_port(port, every_port=domain.denies):
            return _domain_rule(entry, domain, http, passed[:position])
        passed[position] = domain.other_port
    reason = f"No domain rule of {entry.title} matches {host.name}:{port}, so it is denied."
    return Answer(Action.DENY, kind, "", reason, tuple(passed))


def tool_answer(entry: LayerEntry, name: str, tier: str) -> Answer | None:
    """What a layer says about a tool call."""
    kind = entry.layer.kind
    if not entry.tools:
        return _no_section(entry, absent=entry.tools is None, what="tool")
    passed: list[Passed] = []
    for tool in entry.tools:
        rule = tool.rule
        if not match_name(tool.pieces, name):
            passed.append(tool.other_name)
        elif rule.tier not in (None, tier):
            passed.append(tool.other_tier)
        else:
            reason = f"The rule `{rule.pattern}` of {entry.title} {_SAYS[rule.action]}."
            return Answer(rule.action, kind, rule.id, reason, tuple(passed))
    reason = f"No tool rule of {entry.title} matches {name}, so it is denied."
    return Answer(Action.DENY, kind, "", reason, tuple(passed))


def _candidates(entry: LayerEntry, host: Host, addresses: tuple[str, ...]) -> list[int]:
    """Positions of the rules that cover the host, or deny a range that its address lies in."""
    found = entry.index.covering(host)
    denied = [
        position
        for position in entry.index.behind(host, addresses)
        if entry.domains and entry.domains[position].denies
    ]
    return sorted({*found, *denied}) if denied else found


def _no_section(entry: LayerEntry, *, absent: bool, what: str) -> Answer | None:
    kind = entry.layer.kind
    if not absent:
        reason = f"{_upper(entry.title)} has an empty list of {what} rules, which denies all."
    elif kind is LayerKind.TEAM:
        reason = f"{_upper(entry.title)} has no {what} rules, and what it lacks is denied."
    else:
        return None
    return Answer(Action.DENY, kind, "", reason)


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _domain_rule(
    entry: LayerEntry, domain: DomainEntry, http: Http | None, passed: list[Passed]
) -> Answer:
    rule = domain.rule
    kind = entry.layer.kind
    credentials = ((kind, rule.agent_credentials),)
    if rule.action is Action.DIRECT and http is not None and http[0] != "https":
        reason = (
            f"`{rule.pattern}` of {entry.title} is `direct`, which tunnels TLS, not plain HTTP."
        )
        return Answer(Action.DENY, kind, rule.id, reason, tuple(passed), credentials)
    if http is not None and http[1] == WEBSOCKET and not domain.http and kind is LayerKind.TEAM:
        reason = (
            f"The rule `{rule.pattern}` of {entry.title} has no HTTP rule with the method "
            f"{WEBSOCKET}, so a WebSocket is denied."
        )
        return Answer(Action.DENY, kind, rule.id, reason, tuple(passed), credentials)
    if not domain.http or http is None:
        action = domain.best
        reason = f"The rule `{rule.pattern}` of {entry.title} {_SAYS[action]}."
        return Answer(action, kind, rule.id, reason, tuple(passed), credentials)
    _, method, segments = http
    found = _http_rule(domain, method, segments, passed)
    if found is None:
        reason = (
            f"No HTTP rule under `{rule.pattern}` of {entry.title} matches {method} on this path, "
            "so it is denied."
        )
        return Answer(Action.DENY, kind, rule.id, reason, tuple(passed), credentials)
    action = stricter(found.rule.action, rule.action)
    by_domain = action is not found.rule.action
    shown = "" if by_domain else f"`{found.rule.method} {found.rule.path or '/**'}` under "
    reason = f"The rule {shown}`{rule.pattern}` of {entry.title} {_SAYS[action]}."
    rule_id = rule.id if by_domain else found.rule.id
    return Answer(action, kind, rule_id, reason, tuple(passed), credentials)


def _http_rule(
    domain: DomainEntry, method: str, segments: tuple[str, ...], passed: list[Passed]
) -> HttpEntry | None:
    folded = tuple(map(fold, segments))
    for entry in domain.http:
        if not takes(entry.rule, method):
            passed.append(entry.other_method)
        elif entry.glob is None or (
            entry.glob.matches_folded(folded) if entry.denies else entry.glob.matches(segments)
        ):
            return entry
        else:
            passed.append(entry.other_path)
    return None


def _joined(winner: Answer, others: list[Answer], passed: tuple[Passed, ...]) -> Answer:
    """The winner, with the other layers' answers among what was passed over."""
    passed += tuple(
        Passed(other.layer, other.rule, f"{_SAYS[other.action]}, as far as this layer goes")
        for other in others
    )
    credentials = tuple(pair for answer in (winner, *others) for pair in answer.credentials)
    return Answer(winner.action, winner.layer, winner.rule, winner.reason, passed, credentials)
