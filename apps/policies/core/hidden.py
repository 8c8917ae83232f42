"""Rules that can never apply, because an earlier rule of the same document takes all they name.

A rule is hidden when one earlier rule matches everything that its text names and says something
else. Saving such a document is refused: its author believes in a rule that does nothing.

"Its text names" is the narrow reading (ports 80 and 443, letters as written), while the earlier
rule counts with all that it matches, so a `deny` counts with every port and any case. Read widely,
`deny evil.com` below `allow *` would still have the other ports to deny, and pass unnoticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from apps.common.hosts import covers
from apps.policies.core.check import layer_problems
from apps.policies.core.compiled import DomainEntry, HttpEntry, ToolEntry, compile_layer, takes
from apps.policies.core.globs import covers_name, covers_path, parse_path_glob
from apps.policies.types import Action, DomainRule, Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ANY_PATH = parse_path_glob("/**")
_Entry = TypeVar("_Entry", DomainEntry, HttpEntry, ToolEntry)


@dataclass(frozen=True, slots=True)
class Hidden:
    """`rule` can never apply because of `by` (ids); `message` says why and what to do.

    `section` is `domains`, `http` or `tools`.
    """

    section: str
    rule: str
    by: str
    message: str


def hidden_rules(layer: Layer) -> list[Hidden]:
    """The hidden rules of a document, each with the first rule that hides it.

    A document with problems has no answer yet: ask `layer_problems` first.
    """
    if layer_problems(layer):
        return []
    entry = compile_layer(layer)
    found = _hidden("domains", entry.domains or (), _hides_domain, domain_name)
    for number, domain in enumerate(entry.domains or (), start=1):
        where = f" under rule {number} (`{domain.rule.pattern}`)"
        found += _hidden("http", domain.http, _hides_http, _http_name, where)
    return found + _hidden("tools", entry.tools or (), _hides_tool, tool_name)


def domain_name(entry: DomainEntry) -> str:
    """How a sentence shows the rule: `*.example.com`."""
    return f"`{entry.rule.pattern}`"


def tool_name(entry: ToolEntry) -> str:
    """How a sentence shows the rule: `shell_*` (background)."""
    tier = f" ({entry.rule.tier})" if entry.rule.tier else ""
    return f"`{entry.rule.pattern}`{tier}"


def _http_name(entry: HttpEntry) -> str:
    return f"`{entry.rule.method} {entry.rule.path or '/**'}`"


def _hidden(
    section: str,
    entries: Sequence[_Entry],
    hides: Callable[[_Entry, _Entry], bool],
    name: Callable[[_Entry], str],
    where: str = "",
) -> list[Hidden]:
    found = []
    for later in range(1, len(entries)):
        for earlier in range(later):
            first, second = entries[earlier], entries[later]
            if hides(first, second):
                message = (
                    f"Rule {later + 1} ({name(second)}: {second.rule.action}){where} can never "
                    f"apply: rule {earlier + 1} ({name(first)}: {first.rule.action}) matches all "
                    f"of it first. Move rule {later + 1} above rule {earlier + 1}, or remove it."
                )
                found.append(Hidden(section, second.rule.id, first.rule.id, message))
                break
    return found


def _hides_domain(first: DomainEntry, second: DomainEntry) -> bool:
    return _effect(first.rule) != _effect(second.rule) and covers(
        first.pattern, second.pattern, every_port=first.denies
    )


def _effect(rule: DomainRule) -> object:
    """What a domain rule does once it matches, whatever its id and pattern."""
    http = tuple((http.method, http.path, http.action) for http in rule.http)
    return rule.action, rule.agent_credentials, http


def _hides_http(first: HttpEntry, second: HttpEntry) -> bool:
    if first.rule.action is second.rule.action:
        return False
    if not takes(first.rule, second.rule.method):
        return False
    wide, narrow = first.glob or _ANY_PATH, second.glob or _ANY_PATH
    return covers_path(wide, narrow, folded=first.rule.action is Action.DENY)


def _hides_tool(first: ToolEntry, second: ToolEntry) -> bool:
    if first.rule.action is second.rule.action:
        return False
    if first.rule.tier not in (None, second.rule.tier):
        return False
    return covers_name(first.rule.pattern, second.rule.pattern)
