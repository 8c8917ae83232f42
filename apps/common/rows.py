"""How services write rows: checked before the database sees them, with errors that name the field.

The database's constraints stay the last word. Two callers who race for a name both pass the check;
the slower one is told the same as if it had come a minute later.

A caller that saw a certain version of a row says so around the service (`expecting`); the two are
compared where the service locks the row, inside the service's own transaction.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import IntegrityError, models, transaction

from apps.common import clock
from apps.common.errors import Conflict, Invalid, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from apps.common.tenancy import Row

    Changes = dict[str, tuple[Any, Any]]

RowType = TypeVar("RowType", bound="Row")
_TAKEN_CODES = frozenset({"unique", "unique_together"})


def locked(row: RowType) -> RowType:
    """The row as it is now, locked until the transaction ends; NotFound when it is gone.

    The lock leaves the key free (FOR NO KEY UPDATE): others may insert rows that point to it.
    SQLite has no row locks and needs none: its transactions begin IMMEDIATE, one writer at a time.
    """
    manager = type(row)._default_manager  # noqa: SLF001  Django's documented name
    found = manager.select_for_update(of=("self",), no_key=True).filter(pk=row.pk).first()
    if found is None:
        raise NotFound("Not found.")
    expectation = _expectation.get()
    if expectation is not None and expectation.row == found:
        expectation.check(found)
        expectation.compared = True
    return found


@dataclass
class _Expectation:
    row: Row
    check: Callable[[Any], None]
    compared: bool = False


_expectation: ContextVar[_Expectation | None] = ContextVar("expected row", default=None)


@contextmanager
def expecting(row: Row, check: Callable[[Any], None]) -> Iterator[None]:
    """Around one service call: `check(row as it is now, locked)` raises when it is another version.

    A service that changes the row without locking it would lose somebody's change unseen: that is
    an error of the program, and its change is rolled back when the caller is in a transaction.
    """
    expectation = _Expectation(row, check)
    token = _expectation.set(expectation)
    try:
        yield
    finally:
        _expectation.reset(token)
    if not expectation.compared:
        raise RuntimeError(f"{type(row).__name__} was changed without being locked")


def insert(row: RowType, *, taken: str) -> RowType:
    """Check and insert. `taken` is the sentence for the caller when the name is in use."""
    _check(row, taken)
    _write(row, taken, force_insert=True)
    return row


def update(row: RowType, values: Mapping[str, Any], *, taken: str = "") -> Changes:
    """Set the values that differ, check, save them, and return `{field: (old, new)}`."""
    changes = {
        name: (getattr(row, name), value)
        for name, value in values.items()
        if getattr(row, name) != value
    }
    if not changes:
        return {}
    for name, (_, value) in changes.items():
        setattr(row, name, value)
    row.updated_at = clock.now()
    _check(row, taken)
    _write(row, taken, update_fields=[*changes, "updated_at"])
    return changes


def _check(row: Row, taken: str) -> None:
    try:
        row.full_clean()
    except ValidationError as error:
        raise _translated(error, taken) from error


def _write(row: models.Model, taken: str, **options: Any) -> None:
    """Save inside a savepoint, so that a refused row leaves the caller's transaction usable."""
    try:
        with transaction.atomic():
            row.save(**options)
    except IntegrityError as error:
        raise Conflict(taken or "It was changed by someone else at the same time.") from error


def _translated(error: ValidationError, taken: str) -> Invalid | Conflict:
    """The first complaint, as an error of ours; a name in use is a Conflict."""
    field, complaints = next(iter(error.error_dict.items()))
    first = complaints[0]
    text = " ".join(first.messages)
    if first.code in _TAKEN_CODES and taken:
        return Conflict(taken)
    return Invalid(text, field="" if field == NON_FIELD_ERRORS else field)


def given(**values: Any) -> dict[str, Any]:
    """The arguments of an update that the caller gave: None means "leave it as it is"."""
    return {name: value for name, value in values.items() if value is not None}
