"""Where tests stand: a test's own thread reaches all rows, the code that it tests only its scope's.

On PostgreSQL the suite signs in as the application's role. A test and what it tests must see one
transaction, so `system()` cannot have a connection of its own here: each statement says with
`SET LOCAL ROLE` whom it runs as, and so do the statements of the test itself, which run as the
owner. What runs in a scope runs as the application, as everywhere. The real switch of connections
is tested with `real_connections`.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connections

from apps.common import tenancy
from apps.common.roles import OWNER_ALIAS
from apps.common.tenancy import Place

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Place(everywhere="tests")
PRODUCT = (tenancy.message_prefix, tenancy.switched)


def begin() -> None:
    """This thread is a test's own from now on."""
    tenancy._standing.place = TESTS
    if connections["default"].vendor == "postgresql":
        tenancy.message_prefix = message_prefix
        tenancy.switched = switched


@contextmanager
def everywhere() -> Iterator[None]:
    """For a thread that a test begins to look at rows by itself."""
    before = tenancy.standing()
    tenancy._standing.place = TESTS
    try:
        yield
    finally:
        tenancy._standing.place = before


@contextmanager
def real_connections() -> Iterator[None]:
    """The product's own way: one connection a role, and this thread stands nowhere."""
    ours = (tenancy.message_prefix, tenancy.switched)
    tenancy.message_prefix, tenancy.switched = PRODUCT
    try:
        with tenancy.edge():
            yield
    finally:
        tenancy.message_prefix, tenancy.switched = ours


def message_prefix(place: Place) -> str:
    """The product's, and whom the statement runs as."""
    if place is TESTS:
        return "SET LOCAL ROLE lens_owner; SET LOCAL lens.everything = 'on'; "
    role = "lens_system" if place.everywhere else "NONE"
    product = PRODUCT[0](place)
    return f"SET LOCAL ROLE {role}; SET LOCAL lens.everything = ''; {product}"


def switched(*, everywhere: bool) -> Any:
    """One connection for all."""
    return nullcontext(everywhere)


def sign_in_as(alias: str) -> None:
    """Let the default connection use the role of another alias from its next connect on."""
    chosen = settings.DATABASES[alias] if alias == OWNER_ALIAS else _application
    connections["default"].close()
    connections["default"].settings_dict.update({key: chosen[key] for key in ("USER", "PASSWORD")})


_application = (
    {key: settings.DATABASES["default"][key] for key in ("USER", "PASSWORD")}
    if (OWNER_ALIAS in settings.DATABASES)
    else {}
)
