"""Tenants: the shape of every tenant row, and the one door to them.

A row has a time-ordered key, its organization, and two times. The foreign key is by label, so that
`common` knows no domain. Deleting an organization that still has rows is refused by the database:
organizations are closed, not deleted.

The door. A thread stands nowhere, in one organization (`scope`), or in all of them (`system`).

1. A statement that names a tenant table raises OutsideScope where the thread stands nowhere; see
   `apps.common.tenant_guard`, through which every statement of every connection goes.
2. In a scope each such statement tells PostgreSQL the organization, and row-level security shows
   and takes the rows of that one only (`apps.common.row_security`). SQLite has the first rule only.
3. A scope is never widened: another organization, or all of them, inside a scope raises.
4. `system` is for reviewed modules, which a test lists: sweeps, the audit writer, the job runner,
   commands. On PostgreSQL it works on a connection of its own, with a role of its own.
5. A request, a job, a thread begins nowhere (`edge`), whatever was before.

A scope opens no transaction: it may surround a job that waits a minute for a sandbox, and on SQLite
a transaction that only reads would keep every writer out. Each statement carries its organization
in its own message, for the transaction that it runs in (`SET LOCAL`), so nothing stays behind on a
pooled connection, whatever happens.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.validators import RegexValidator
from django.db import DEFAULT_DB_ALIAS, connections, models

from apps.common.clock import now
from apps.common.ids import uuid7
from apps.common.roles import SYSTEM_ALIAS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

    _CharField = models.CharField[str, str]
else:
    _CharField = models.CharField

# `\Z` where one would write `$`, which lets a line break pass at the end.
SLUG_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z"
SLUG_HELP = "Lower-case letters, digits and inner hyphens, for example “platform-engineering”."
slug_validator = RegexValidator(SLUG_PATTERN, f"Not a valid slug. {SLUG_HELP}", code="slug")


class Row(models.Model):
    """A row with a UUIDv7 key and its times."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=now, editable=False)
    updated_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        abstract = True


class TenantRow(Row):
    """A row that belongs to one organization, for good."""

    org = models.ForeignKey(
        "orgs.Organization",
        on_delete=models.PROTECT,
        related_name="+",
        editable=False,
        verbose_name="organization",
    )

    class Meta:
        abstract = True


class SlugField(_CharField):
    """A slug as product rules have it; unique in its organization by the model's constraint."""

    default_validators = [slug_validator]

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("max_length", 63)
        kwargs.setdefault("help_text", SLUG_HELP)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # Django's own signature


ORGANIZATION: Final = "orgs.Organization"
NOBODY: Final = "none"
_IN_TRANSACTION: Final = 2  # libpq's PQTRANS_INTRANS: begun, and no statement has failed


class OutsideScope(RuntimeError):  # noqa: N818  reads as what happened
    """A tenant row was asked for where no organization was named: an error of ours, never a 404."""


class WrongScope(RuntimeError):  # noqa: N818  same
    """A scope was to be widened, or left for another organization."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a thread stands: in one organization, or `everywhere` with the reason why.

    Without either it stands among the rows that belong to no organization (those of the set-up).
    """

    org: uuid.UUID | None = None
    everywhere: str = ""


class _Standing(threading.local):
    """A thread's own: connections belong to threads, and so does where they may look."""

    place: Place | None = None
    own_connection: BaseDatabaseWrapper


_standing = _Standing()


def standing() -> Place | None:
    """Where this thread stands; None = nowhere, and no tenant row can be reached."""
    return _standing.place


@contextmanager
def scope(org: uuid.UUID | str | None) -> Iterator[None]:
    """Reach the tenant rows of this organization, and of no other, in this thread.

    None: the rows of no organization, such as a first set-up's. Inside a scope of the same
    organization it changes nothing; inside another one it raises WrongScope.
    """
    wanted = Place(org=None if org is None else uuid.UUID(str(org)))
    here = _standing.place
    if here == wanted:
        yield
        return
    if here is not None and not here.everywhere:
        raise WrongScope(
            "This thread is in the scope of another organization. Leave that one first."
        )
    with _at(wanted):
        yield


@contextmanager
def system(why: str) -> Iterator[None]:
    """Reach the rows of all organizations; `why` says for what. Reviewed modules only."""
    here = _standing.place
    if here is not None and here.everywhere:
        yield
        return
    if here is not None:
        raise WrongScope(f"{why}: the scope of one organization cannot be widened. Leave it first.")
    with _at(Place(everywhere=why)):
        yield


@contextmanager
def edge() -> Iterator[None]:
    """Where something from outside comes in: begin nowhere."""
    with _at(None):
        yield


@contextmanager
def looking_up() -> Iterator[None]:
    """For one look-up of `apps.common.lookups` on SQLite, where functions cannot stand for it."""
    before = _standing.place
    _standing.place = Place(everywhere="looking up whose this is")
    try:
        yield
    finally:
        _standing.place = before


@contextmanager
def _at(place: Place | None) -> Iterator[None]:
    before = _standing.place
    with switched(everywhere=bool(place and place.everywhere)):
        _standing.place = place
        try:
            yield
        finally:
            _standing.place = before
            if place is not None and not place.everywhere:
                forget_organization()


@contextmanager
def switched(*, everywhere: bool) -> Iterator[None]:
    """Let the default connection be the one whose role may see so much, until the block ends.

    Only PostgreSQL has roles. A thread changes its own connections only.
    """
    if connections[DEFAULT_DB_ALIAS].vendor != "postgresql":
        yield
        return
    before = connections[DEFAULT_DB_ALIAS]
    after = _connection(everywhere=everywhere)
    if after is before:
        yield
        return
    if before.in_atomic_block:
        raise WrongScope("End the transaction first: what follows runs on another connection.")
    connections[DEFAULT_DB_ALIAS] = after
    try:
        yield
    finally:
        connections[DEFAULT_DB_ALIAS] = before


def _connection(*, everywhere: bool) -> BaseDatabaseWrapper:
    current = connections[DEFAULT_DB_ALIAS]
    if everywhere == (current.alias == SYSTEM_ALIAS):
        return current
    if not everywhere:
        return _standing.own_connection
    if SYSTEM_ALIAS not in settings.DATABASES:
        raise ImproperlyConfigured(
            "This process works on all organizations: LENS_DATABASE_SYSTEM_URL must be set in it."
        )
    _standing.own_connection = current
    return connections[SYSTEM_ALIAS]


def message_prefix(place: Place) -> str:
    """What goes to PostgreSQL in front of a statement, in the same message."""
    return "" if place.everywhere else f"SET LOCAL lens.org = '{place.org or NOBODY}'; "


def forget_organization() -> None:
    """At the end of a scope within a transaction that goes on: what comes then sees no row."""
    connection = connections[DEFAULT_DB_ALIAS]
    if connection.vendor != "postgresql" or not connection.in_atomic_block:
        return
    raw = connection.connection
    if raw is not None and raw.info.transaction_status == _IN_TRANSACTION:
        with connection.wrap_database_errors:
            raw.execute("SET LOCAL lens.org = ''")
