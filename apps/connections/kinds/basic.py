"""A user name and a password (RFC 7617)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.connections.registry import kinds
from apps.connections.text import user_name_problem, value_problem
from apps.connections.types import CredentialKind, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator


class BasicAuthentication(CredentialKind):
    """The value is the password."""

    label = "User name and password"
    injections = ("basic",)
    static = True

    def problems(self, *, username: str, value: str | None) -> Iterator[Problem]:
        if text := user_name_problem(username):
            yield Problem("username", text)
        if value is not None and (text := value_problem(value)):
            yield Problem("value", text)


kinds.register("basic")(BasicAuthentication())
