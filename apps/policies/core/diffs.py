"""What changed between two plain documents, rule by rule and as text.

Rules are paired by their id, then by all that they say, then by what they are about; what finds no
partner was added or removed. A pair counts as moved when it is not in the longest run of pairs that
kept their order, so one rule that is dragged to the top is one move and not twenty.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    Rule = Mapping[str, Any]

SECTIONS = ("domains", "bindings", "tools", "tests")
FIELDS = ("name", "description")
# What a rule is about: two rules with the same are the same rule, changed.
_ABOUT = {
    "domains": ("pattern",),
    "http": ("method", "path"),
    "bindings": ("credential", "pattern", "method", "path"),
    "tools": ("pattern", "tier"),
    "tests": ("team", "agent", "tier", "tool", "method", "url"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """`op` is added, removed, changed or moved; `path` a place in the new document, or the old one.

    `before` and `after` are the rules, or the values of a field; None where there is none.
    """

    section: str
    op: str
    path: str
    before: Any = None
    after: Any = None

    def as_obj(self) -> dict[str, Any]:
        """For an API."""
        return {
            "section": self.section,
            "op": self.op,
            "path": self.path,
            "before": self.before,
            "after": self.after,
        }


def changes(old: Rule, new: Rule) -> list[Change]:
    """Every change between two documents."""
    found = [
        Change(name, "changed", name, old.get(name, ""), new.get(name, ""))
        for name in FIELDS
        if old.get(name, "") != new.get(name, "")
    ]
    for section in SECTIONS:
        governed = [section in document for document in (old, new)]
        if section in ("domains", "tools") and governed[0] != governed[1]:
            found.append(Change(section, "changed", section, *map(_governs, governed)))
        found += _section(section, old.get(section, ()), new.get(section, ()))
    return found


def text_diff(old: Sequence[str], new: Sequence[str], names: tuple[str, str]) -> str:
    """A unified diff of lines, for people; "" when nothing differs."""
    return "\n".join(difflib.unified_diff(old, new, *names, lineterm=""))


def paired(section: str, old: Sequence[Rule], new: Sequence[Rule]) -> dict[int, int]:
    """For each new rule's position, that of the old rule it was."""
    pairs: dict[int, int] = {}
    about = _ABOUT[section]
    keys: tuple[Callable[[Rule], Hashable], ...] = (
        lambda rule: rule.get("id"),
        lambda rule: repr(content(rule)),
        lambda rule: tuple(rule.get(name, "") for name in about),
    )
    for key in keys:
        free: dict[Hashable, list[int]] = {}
        taken = set(pairs.values())
        for at, rule in enumerate(old):
            if at not in taken and key(rule) is not None:
                free.setdefault(key(rule), []).append(at)
        for at, rule in enumerate(new):
            if at not in pairs and free.get(key(rule)):
                pairs[at] = free[key(rule)].pop(0)
    return pairs


def content(rule: Rule) -> Any:
    """The rule without ids."""
    found = {name: value for name, value in sorted(rule.items()) if name not in ("id", "http")}
    return found, [content(http) for http in rule.get("http", ())]


def _section(section: str, old: Sequence[Rule], new: Sequence[Rule]) -> Iterator[Change]:
    pairs = paired(section, old, new)
    kept = set(pairs.values())
    for at, rule in enumerate(old):
        if at not in kept:
            yield Change(section, "removed", f"{section}[{at}]", before=_shown(rule))
    steady = _steady([pairs[at] for at in sorted(pairs)])
    for at, rule in enumerate(new):
        path = f"{section}[{at}]"
        if at not in pairs:
            yield Change(section, "added", path, after=_shown(rule))
            continue
        before = old[pairs[at]]
        if content(before) != content(rule):
            yield Change(section, "changed", path, _shown(before), _shown(rule))
        elif pairs[at] not in steady:
            yield Change(section, "moved", path, pairs[at] + 1, at + 1)


def _shown(rule: Rule) -> dict[str, Any]:
    """The rule as plain data without ids."""
    found = {name: value for name, value in rule.items() if name != "id"}
    if "http" in found:
        found["http"] = [_shown(http) for http in found["http"]]
    return found


def _governs(present: bool) -> str:  # noqa: FBT001  a fact to be said
    return "governed" if present else "not governed"


def _steady(positions: Sequence[int]) -> set[int]:
    """A longest increasing run (patience sorting), as a set."""
    tails: list[int] = []
    before: dict[int, int | None] = {}
    for position in positions:
        at = bisect_left(tails, position)
        before[position] = tails[at - 1] if at else None
        tails[at : at + 1] = [position]
    found: set[int] = set()
    last: int | None = tails[-1] if tails else None
    while last is not None:
        found.add(last)
        last = before[last]
    return found
