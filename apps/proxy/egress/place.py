"""A credential's place in a URL: a query parameter, or a word in the path that it replaces.

The value enters as one segment or one parameter: everything that could end it is escaped. The
agent's own value of that parameter is removed, in every spelling that some server would take for
its name. Whoever places a value decides on the result again: it is another URL than the agent's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_plus

_SEPARATOR = re.compile("([&;])")
_PARAMETER = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_PLACEHOLDER = re.compile(r"[A-Za-z0-9_-]{6,64}")
# PHP turns these into `_`; what frameworks fold otherwise differs in letter case only.
_FOLDED = str.maketrans(".- ", "___")


class InjectionError(Exception):
    """A credential cannot be injected; the message never contains its value."""


@dataclass(frozen=True, slots=True)
class Query:
    """The value of the parameter `name`; `text` is escaped."""

    name: str
    text: str = field(repr=False)

    def put(self, target: str) -> str:
        """The request target with this parameter last, and without the agent's own."""
        path, _, query = target.partition("?")
        kept = _without(query, _folded(self.name))
        return f"{path}?{kept}{'&' if kept else ''}{self.name}={self.text}"


@dataclass(frozen=True, slots=True)
class Placeholder:
    """What the word `name` in the path is replaced by; `text` is escaped."""

    name: str
    text: str = field(repr=False)

    def put(self, target: str) -> str:
        """The request target with the value; InjectionError unless the path has the word once.

        Without it, a token that the agent wrote itself would stand there.
        """
        path, mark, query = target.partition("?")
        if path.count(self.name) != 1:
            raise InjectionError(f"the path must hold {self.name} once, where the credential goes")
        return path.replace(self.name, self.text) + mark + query


Place = Query | Placeholder


def query(name: str, value: str) -> Query:
    """The place for a value in the query; raises InjectionError."""
    if _PARAMETER.fullmatch(name) is None:
        raise InjectionError("the binding's query parameter is not one that may be set")
    return Query(name, quote(value, safe=""))


def placeholder(name: str, value: str) -> Placeholder:
    """The place for a value in the path; raises InjectionError."""
    if _PLACEHOLDER.fullmatch(name) is None:
        raise InjectionError("the binding's placeholder is not one that may be used")
    return Placeholder(name, quote(value, safe=""))


def _without(query: str, name: str) -> str:
    """The query without a parameter; what stays keeps its order, spelling and separators."""
    parts = _SEPARATOR.split(query)
    kept = ""
    for separator, piece in zip(["", *parts[1::2]], parts[::2], strict=True):
        if _folded(piece.partition("=")[0]) != name:
            kept += separator + piece if kept else piece
    return kept


def _folded(name: str) -> str:
    """A parameter's name as the laxest server reads it: `Key[]`, `%6bey` and `key` are one."""
    seen = unquote_plus(unquote_plus(name)).partition("[")[0].partition("\0")[0]
    return seen.strip().translate(_FOLDED).lower()
