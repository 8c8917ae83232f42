"""A token or API key that is sent as it is, in a header or, where that is allowed, in the URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.connections.registry import kinds
from apps.connections.text import value_problem
from apps.connections.types import CredentialKind, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator


class StaticToken(CredentialKind):
    """One secret text."""

    label = "Token or API key"
    injections = ("bearer", "header", "query", "uri_placeholder")
    static = True

    def problems(self, *, username: str, value: str | None) -> Iterator[Problem]:
        if username:
            yield Problem("username", "A token has no user name. Leave it empty, or choose basic.")
        if value is not None and (text := value_problem(value)):
            yield Problem("value", text)


kinds.register("static")(StaticToken())
