"""What PostgreSQL itself refuses: roles, grants, policies and the functions of look-ups.

Applied after each migration by the owner of the tables, always all of it, so that a tenant table
that is added tomorrow cannot be forgotten. Three roles, none of them with BYPASSRLS:

- the **owner** migrates. Row-level security is forced on it too; it sees rows while it migrates
  (its connection says so), and within the functions of look-ups.
- the **application** sees and writes the rows of the organization that its statement names.
- the **system** sees all: sweeps, the audit writer, the job runner.

Neither of the last two changes or deletes an audit event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from django.apps import apps
from django.db import transaction

from apps.common import lookups
from apps.common.roles import EVERYTHING
from apps.common.tenancy import NOBODY, ORGANIZATION
from apps.common.tenant_guard import has_organization, parents, tenant_models

try:
    from psycopg import sql
except ModuleNotFoundError:  # the embedded default has SQLite only, and nothing here to apply
    sql = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from apps.common.roles import Roles

# Insert and read: what happened is not changed. What is only read: the list of migrations.
APPEND_ONLY: Final = frozenset({"audit_auditevent"})
READ_ONLY: Final = frozenset({"django_migrations"})
_NAMED: Final = "nullif(current_setting('lens.org', true), '')"
_HERE: Final = f"(SELECT nullif({_NAMED}, '{NOBODY}')::uuid)"
_NOBODYS: Final = f"(SELECT {_NAMED} = '{NOBODY}')"
_MIGRATING: Final = f"(SELECT current_setting('{EVERYTHING}', true) = 'on')"
LOCK_SECONDS: Final = 10
_STATE: Final = """
SELECT (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = session_user),
       (SELECT min(pg_get_userbyid(one.role)) FROM (
            SELECT relowner AS role FROM pg_class
             WHERE relname = ANY(%s) AND relnamespace = 'public'::regnamespace
            UNION SELECT unnest(polroles) FROM pg_policy WHERE polname = 'lens_system'
        ) AS one WHERE pg_has_role(session_user, one.role, 'MEMBER')),
       (SELECT min(relname) FROM pg_class
         WHERE relname = ANY(%s) AND relnamespace = 'public'::regnamespace
           AND NOT (relrowsecurity AND relforcerowsecurity))
"""


def apply(connection: BaseDatabaseWrapper, roles: Roles) -> None:
    """Make grants, policies and functions what they should be, in one transaction."""
    existing = set(connection.introspection.table_names())
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        for statement in [
            *_grants(existing, roles),
            *(line for model in tenant_models() for line in _table(model, existing, roles)),
            *_functions(existing, roles),
        ]:
            cursor.execute(statement)


def problem(connection: BaseDatabaseWrapper) -> str:
    """Why PostgreSQL would not keep organizations apart for this connection; "" when it does.

    SQLite cannot, which the documentation says.
    """
    if connection.vendor != "postgresql":
        return ""
    tables = [model._meta.db_table for model in tenant_models()]  # noqa: SLF001  documented name
    with connection.cursor() as cursor:
        cursor.execute(_STATE, [tables, tables])
        above, member_of, unforced = cursor.fetchone() or (True, None, None)
    if above:
        return "the application's role is a superuser or has BYPASSRLS"
    if member_of:
        return f"the application's role owns tenant tables, or can become {member_of}"
    if unforced:
        return f"{unforced} has no row-level security: run `manage.py migrate`"
    return ""


def condition(model: type[Model]) -> str:
    """Which rows of a tenant table the application sees, and may write."""
    if model is apps.get_model(ORGANIZATION):
        return f"id = {_HERE}"
    if has_organization(model):
        own = f"org_id = {_HERE}"
        nullable = model._meta.get_field("org").null  # noqa: SLF001  Django's documented name
        return f"{own} OR (org_id IS NULL AND {_NOBODYS})" if nullable else own
    return " AND ".join(_linked(model))


def _linked(model: type[Model]) -> Iterator[str]:
    """Both ends of a link are seen, by their own tables' policies."""
    tenants = tenant_models()
    fields = model._meta.concrete_fields  # noqa: SLF001  Django's documented name
    for field in fields:
        if field.related_model in tenants and field.related_model in parents(model):
            table = field.related_model._meta.db_table  # noqa: SLF001  same
            yield f'EXISTS (SELECT FROM "{table}" AS far WHERE far.id = "{field.column}")'


def _table(model: type[Model], existing: set[str], roles: Roles) -> Iterator[sql.Composable]:
    name = model._meta.db_table  # noqa: SLF001  Django's documented name
    if name not in existing:
        return  # not migrated so far
    table = sql.Identifier(name)
    yield sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table)
    yield sql.SQL("ALTER TABLE {} FORCE ROW LEVEL SECURITY").format(table)
    for policy, role, rows in (
        ("lens_organization", roles.application, condition(model)),
        ("lens_system", roles.system, "true"),
        ("lens_owner", roles.owner, _MIGRATING),
    ):
        yield sql.SQL("DROP POLICY IF EXISTS {} ON {}").format(sql.Identifier(policy), table)
        yield sql.SQL("CREATE POLICY {} ON {} TO {} USING ({}) WITH CHECK ({})").format(
            sql.Identifier(policy), table, sql.Identifier(role), sql.SQL(rows), sql.SQL(rows)
        )


def _grants(existing: set[str], roles: Roles) -> Iterator[sql.Composable]:
    both = sql.SQL(", ").join(map(sql.Identifier, (roles.application, roles.system)))
    yield sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(both)
    yield sql.SQL("GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {}").format(both)
    for name in sorted(existing):
        rights = "SELECT, INSERT, UPDATE, DELETE"
        if name in APPEND_ONLY:
            rights = "SELECT, INSERT"
        elif name in READ_ONLY:
            rights = "SELECT"
        table = sql.Identifier(name)
        yield sql.SQL("REVOKE ALL ON {} FROM {}").format(table, both)
        yield sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(rights), table, both)


def _functions(existing: set[str], roles: Roles) -> Iterator[sql.Composable]:
    both = sql.SQL(", ").join(map(sql.Identifier, (roles.application, roles.system)))
    for look_up in lookups.declared():
        if not look_up.tables() <= existing:
            continue
        name = sql.SQL("{}({})").format(
            sql.Identifier(f"lens_{look_up.name}"), sql.SQL(", ".join(look_up.takes))
        )
        yield sql.SQL("DROP FUNCTION IF EXISTS {}").format(name)
        yield sql.SQL(
            "CREATE FUNCTION {} RETURNS TABLE ({}) LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = public, pg_temp AS {}"
        ).format(
            name,
            sql.SQL(", ".join(f"{column} {kind}" for column, kind in look_up.gives)),
            sql.Literal(_body(look_up)),
        )
        yield sql.SQL("REVOKE ALL ON FUNCTION {} FROM PUBLIC").format(name)
        yield sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(name, both)


def _body(look_up: lookups.LookUp) -> str:
    """The owner's own policy lets it see while it says so; it stops saying so at the end."""
    query = look_up.sql
    for number in range(1, len(look_up.takes) + 1):
        query = query.replace("%s", f"${number}", 1)
    return (
        "#variable_conflict use_column\n"
        f"BEGIN PERFORM set_config('{EVERYTHING}', 'on', true);"
        f" RETURN QUERY {query};"
        f" PERFORM set_config('{EVERYTHING}', '', true); END"
    )
