"""Every statement of every connection passes here: those that name a tenant table need a scope.

It looks at the SQL itself, so it does not matter what made it: a selector, a related manager, the
admin, a third-party package, hand-written SQL. A statement's text is looked at once; after that the
answer is one look-up in a dictionary.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps

from apps.common import tenancy
from apps.common.roles import OWNER_ALIAS
from apps.common.tenancy import ORGANIZATION, OutsideScope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    Execute = Callable[[str, Any, bool, dict[str, Any]], Any]

REMEMBERED: Final = 4_096
LONGEST_REMEMBERED: Final = 8_000


@cache
def tenant_models() -> tuple[type[Model], ...]:
    """The organization, every model whose rows belong to one, and the tables that link such rows.

    Derived from the models: one that is added tomorrow is in it.
    """
    organization = apps.get_model(ORGANIZATION)
    models = apps.get_models(include_auto_created=True)
    owned = [model for model in models if model is organization or has_organization(model)]
    links = [model for model in models if model not in owned and set(parents(model)) & set(owned)]
    return (*owned, *links)


def has_organization(model: type[Model]) -> bool:
    """Whether a column `org` says whose a row is."""
    fields = model._meta.concrete_fields  # noqa: SLF001  Django's documented name
    wanted = apps.get_model(ORGANIZATION)
    return any(field.name == "org" and field.related_model is wanted for field in fields)


def parents(model: type[Model]) -> Iterator[type[Model]]:
    """The models that an automatic many-to-many table links; nothing for others."""
    meta = model._meta  # noqa: SLF001  Django's documented name
    if meta.auto_created:
        yield from (field.related_model for field in meta.concrete_fields if field.related_model)


@cache
def _tables() -> re.Pattern[str]:
    names = (re.escape(model._meta.db_table) for model in tenant_models())  # noqa: SLF001  same
    return re.compile(rf"\b(?:{'|'.join(names)})\b")


def tenant_table(sql: str) -> str | None:
    """The first tenant table that a statement names."""
    return _remembered(sql) if len(sql) <= LONGEST_REMEMBERED else _look(sql)


def _look(sql: str) -> str | None:
    found = _tables().search(sql)
    return found.group() if found else None


_remembered = lru_cache(REMEMBERED)(_look)


def install(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Put the guard on a connection. Migrations, on the owner's connection, do without."""
    if connection.alias != OWNER_ALIAS and guard not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, guard)


def guard(execute: Execute, sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:  # noqa: FBT001  Django's signature
    """Refuse a statement outside of a scope; within one, tell PostgreSQL the organization."""
    table = tenant_table(sql if isinstance(sql, str) else repr(sql))
    if table is None:
        return execute(sql, params, many, context)
    here = tenancy.standing()
    if here is None:
        raise OutsideScope(
            f"{table} holds rows of organizations, and no scope was opened: wrap the work in"
            " `tenancy.scope(org)`."
        )
    connection = context["connection"]
    prefix = tenancy.message_prefix(here) if connection.vendor == "postgresql" else ""
    if not prefix:
        return execute(sql, params, many, context)
    cursor = context["cursor"].cursor
    if many or not isinstance(sql, str) or getattr(cursor, "name", None):
        return _apart(connection, prefix, lambda: execute(sql, params, many, context))
    result = execute(prefix + sql, params, many, context)
    for _ in range(prefix.count(";")):
        cursor.nextset()  # past the answers to the prefix
    return result


def _apart(connection: BaseDatabaseWrapper, prefix: str, run: Callable[[], Any]) -> Any:
    """Where both cannot be one message (many rows, a named cursor): one transaction."""
    raw = connection.connection
    if not connection.get_autocommit():
        with connection.wrap_database_errors:
            raw.execute(prefix)
        return run()
    with raw.transaction():
        raw.execute(prefix)
        return run()
