"""What a credential kind is: one small class a file in `apps/connections/kinds/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a field of a credential; `message` is a sentence with the remedy."""

    field: str
    message: str


class CredentialKind(Protocol):
    """A kind of secret. `injections` are the ways in which a binding may put it into a request.

    `static` says that whoever receives it can use it again: such a secret may not go to hosts where
    strangers can register names.
    """

    label: str
    injections: tuple[str, ...]
    static: bool

    def problems(self, *, username: str, value: str | None) -> Iterator[Problem]:
        """What keeps it from being saved; `value` is None when the stored one stays."""
