"""Whose is this? The few questions that come before anybody knows the organization.

Each is one statement, keyed by what the caller holds (a token's hash, a slug, an identifier), and
answers with as little as it can: mostly the organization's id, in whose scope everything else is
then read. On PostgreSQL it is a SECURITY DEFINER function of the tables' owner, made by
`manage.py migrate`; on SQLite the same statement runs as it stands.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any, Final

from django.db import connection

from apps.common import tenancy

TEXT: Final = "text"
UUID: Final = "uuid"
_TABLE: Final = re.compile(r"\b(?:FROM|JOIN)\s+(\w+)")

_declared: dict[str, LookUp] = {}


@dataclass(frozen=True, slots=True)
class LookUp:
    """A question. `sql` has a `%s` for each of `takes`, and `gives` are its columns' types."""

    name: str
    sql: str
    takes: tuple[str, ...]
    gives: tuple[tuple[str, str], ...] = (("org_id", UUID),)

    def __post_init__(self) -> None:
        if self.sql.count("%s") != len(self.takes):
            raise TypeError(f"the look-up {self.name} has other parameters than it takes")
        if self.name in _declared:
            raise TypeError(f"the look-up {self.name} is declared twice")
        _declared[self.name] = self

    def all(self, *keys: object) -> list[tuple[Any, ...]]:
        """Every answer, as tuples of `gives`; none to a key that no row can hold."""
        if not all(map(_can_be_stored, keys)):
            return []
        if connection.vendor == "postgresql":
            places = ", ".join(f"%s::{kind}" for kind in self.takes)
            call = f"SELECT * FROM lens_{self.name}({places})"  # noqa: S608  our own declaration
            return self._rows(call, list(map(str, keys)))
        with tenancy.looking_up():
            return self._rows(self.sql, list(map(_for_sqlite, keys, self.takes)))

    def ids(self, *keys: object) -> list[uuid.UUID]:
        """The first column of every answer."""
        return [row[0] for row in self.all(*keys)]

    def id(self, *keys: object) -> uuid.UUID | None:
        """The first column of the only answer, None without one."""
        return next(iter(self.ids(*keys)), None)

    def tables(self) -> set[str]:
        """The tables that it reads."""
        return set(_TABLE.findall(self.sql))

    def _rows(self, sql: str, keys: list[Any]) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql, keys)
            rows = cursor.fetchall()
        kinds = [kind for _, kind in self.gives]
        return [tuple(map(_given, row, kinds)) for row in rows]


def declared() -> list[LookUp]:
    """All of them, by name."""
    return [_declared[name] for name in sorted(_declared)]


def _can_be_stored(key: object) -> bool:
    """PostgreSQL refuses NUL in a text, and both databases half of a surrogate pair."""
    text = str(key)
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _for_sqlite(key: object, kind: str) -> str:
    return uuid.UUID(str(key)).hex if kind == UUID else str(key)


def _given(value: Any, kind: str) -> Any:
    return uuid.UUID(value) if kind == UUID and isinstance(value, str) else value
