"""PostgreSQL alone: with our own check switched off, a forgotten filter still shows nobody's rows.

The statements here go to the database by psycopg, past everything of ours, as `lens_app`.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from psycopg import sql

from apps.audit.models import AuditEvent
from apps.common import row_security
from apps.common.tenancy import NOBODY
from apps.common.tenant_guard import has_organization, tenant_models
from apps.orgs.models import Identity, IdentityProvider, Membership
from apps.orgs.services.invitations import invitation_create
from tests import factories

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.factories import World

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]
REFUSED = psycopg.errors.InsufficientPrivilege


@pytest.fixture(autouse=True)
def postgresql(transactional_db: None) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no row-level security")


@pytest.fixture
def worlds() -> tuple[World, World]:
    found = factories.acme(), factories.globex()
    for world in found:
        invitation_create(world.org, email="new@x.example", teams=[world.team], actor=world.admin)
        idp = IdentityProvider.objects.create(org=world.org, issuer="https://x.example")
        person = Membership.objects.filter(org=world.org)[0].user
        Identity.objects.create(org=world.org, idp=idp, user=person, subject="1")
    return found


def connect(alias: str = "default") -> psycopg.Connection[Any]:
    at = settings.DATABASES[alias]
    where = settings.DATABASES["default"]
    return psycopg.connect(
        host=where["HOST"],
        port=where["PORT"],
        dbname=where["NAME"],
        user=at["USER"],
        password=at["PASSWORD"],
        options=at["OPTIONS"].get("options", ""),
        autocommit=True,
    )


@pytest.fixture
def app() -> Iterator[psycopg.Connection[Any]]:
    with connect() as found:
        assert found.execute("SELECT current_user, session_user").fetchone() == ("lens_app",) * 2
        yield found


def ids(database: psycopg.Connection[Any], model: Any, org: object = None) -> set[Any]:
    """The keys that this role sees of a table, once it has named an organization."""
    with database.transaction():
        if org is not None:
            database.execute("SELECT set_config('lens.org', %s, true)", [str(org)])
        table = sql.Identifier(model._meta.db_table)
        query = sql.SQL("SELECT {} FROM {}").format(sql.Identifier(model._meta.pk.column), table)
        return {row[0] for row in database.execute(query)}


def true_ids(model: Any, world: World) -> set[Any]:
    """The same as the owner knows it: by the organization, or by the row that a link begins at."""
    by = {"pk": world.org.pk} if model is type(world.org) else {"org": world.org.pk}
    if model._meta.auto_created:
        by = {"credential__org": world.org.pk}
    return set(model._default_manager.filter(**by).values_list("pk", flat=True))


def test_without_our_check_the_database_shows_one_organization(
    worlds: tuple[World, World], app: psycopg.Connection[Any]
) -> None:
    with_rows = 0
    for model in tenant_models():
        name, own = model._meta.label, [true_ids(model, world) for world in worlds]
        with_rows += all(own)
        assert ids(app, model) == set(), name
        for world, expected in zip(worlds, own, strict=True):
            assert ids(app, model, world.org.pk) == expected, name
        assert ids(app, model) == set(), name
        assert ids(app, model, "00000000-0000-0000-0000-000000000000") == set(), name
        assert not ids(app, model, NOBODY) & (own[0] | own[1]), name
    assert with_rows > 15


def test_the_owner_sees_nothing_either_unless_it_migrates(worlds: tuple[World, World]) -> None:
    with connect("owner") as owner, connect("system") as system:
        for model in tenant_models():
            both = true_ids(model, worlds[0]) | true_ids(model, worlds[1])
            assert ids(system, model) >= both, model._meta.label
            owner.execute("SET lens.everything = 'on'")
            assert ids(owner, model) >= both, model._meta.label
            owner.execute("SET lens.everything = ''")
            assert ids(owner, model) == set(), model._meta.label


def test_no_row_is_written_for_another_organization(
    worlds: tuple[World, World], app: psycopg.Connection[Any]
) -> None:
    """A copy of a row of theirs, and ours given to them."""
    ours, theirs = worlds
    refused = 0
    for model in tenant_models():
        table = sql.Identifier(model._meta.db_table)
        copied = sql.SQL("INSERT INTO {0} SELECT (json_populate_record(NULL::{0}, %s)).*")
        for row in rows_of(model, theirs)[:1]:
            with pytest.raises(REFUSED, match="row-level security"):
                as_of(app, ours, copied.format(table), json.dumps(row))
            refused += 1
        if has_organization(model) and true_ids(model, ours) and model is not AuditEvent:
            given = sql.SQL("UPDATE {} SET org_id = %s").format(table)
            with pytest.raises(REFUSED, match="row-level security"):
                as_of(app, ours, given, theirs.org.pk)
    assert refused > 15


def as_of(
    database: psycopg.Connection[Any], world: World, statement: sql.Composed, *values: object
) -> None:
    """Run a statement in a transaction that has named this organization."""
    with database.transaction():
        database.execute("SELECT set_config('lens.org', %s, true)", [str(world.org.pk)])
        database.execute(statement, values)


def rows_of(model: Any, world: World) -> list[dict[str, Any]]:
    keys = [str(key) for key in true_ids(model, world)]
    table, key = sql.Identifier(model._meta.db_table), sql.Identifier(model._meta.pk.column)
    with connect("owner") as owner:
        query = sql.SQL("SELECT row_to_json(t) FROM {} AS t WHERE {}::text = ANY(%s)")
        return [row[0] for row in owner.execute(query.format(table, key), [keys])]


def test_another_organizations_rows_are_neither_changed_nor_deleted(
    worlds: tuple[World, World], app: psycopg.Connection[Any]
) -> None:
    ours, theirs = worlds
    for statement in ("UPDATE orgs_team SET name = 'taken'", "DELETE FROM orgs_projectgrant"):
        with app.transaction():
            app.execute("SELECT set_config('lens.org', %s, true)", [str(ours.org.pk)])
            assert app.execute(statement).rowcount == 2
    theirs.team.refresh_from_db()
    assert theirs.team.name == "SRE"
    assert theirs.team.grants.count() == 1


@pytest.mark.parametrize("alias", ["default", "system"])
@pytest.mark.parametrize(
    "statement", ["UPDATE audit_auditevent SET reason = ''", "DELETE FROM audit_auditevent"]
)
def test_audit_events_are_not_changed(
    alias: str, statement: str, worlds: tuple[World, World]
) -> None:
    with connect(alias) as database, pytest.raises(REFUSED, match="permission denied"):
        database.execute(statement)


@pytest.mark.parametrize("alias", ["default", "system"])
@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE orgs_team DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE orgs_team NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY lens_organization ON orgs_team",
        "TRUNCATE orgs_team CASCADE",
        "CREATE TABLE mine ()",
        "DELETE FROM django_migrations",
    ],
)
def test_the_rules_are_the_owners(alias: str, statement: str) -> None:
    with connect(alias) as database, pytest.raises(REFUSED):
        database.execute(statement)


def test_every_tenant_table_is_forced_and_has_these_policies_only() -> None:
    with connect("owner") as owner:
        policies = owner.execute(
            "SELECT tablename, policyname, roles::text[], cmd, qual, with_check FROM pg_policies"
        ).fetchall()
        forced = owner.execute(
            "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
        ).fetchall()
    tables = {model._meta.db_table for model in tenant_models()}
    assert {name for (name,) in forced} == tables
    wanted = {
        ("lens_organization", "lens_app"),
        ("lens_system", "lens_system"),
        ("lens_owner", "lens_owner"),
    }
    for table in tables:
        mine = [policy for policy in policies if policy[0] == table]
        assert {(name, role) for _, name, (role,), _, _, _ in mine} == wanted
        assert all(command == "ALL" and seen == written for *_, command, seen, written in mine)


def test_who_is_not_the_owner_is_told_so_before_anything_is_migrated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(settings.DATABASES, "owner")
    said = "lens_app is not, lens_owner is; set LENS_DATABASE_OWNER_URL"
    with pytest.raises(CommandError, match=said):
        call_command("migrate", verbosity=0)


def test_it_is_applied_again_without_a_change() -> None:
    with connect("owner") as owner:
        before = owner.execute("SELECT * FROM pg_policies ORDER BY 1, 2, 3").fetchall()
    roles: Any = settings.LENS_DATABASE_ROLES
    row_security.apply(connection, roles)
    with connect("owner") as owner:
        assert owner.execute("SELECT * FROM pg_policies ORDER BY 1, 2, 3").fetchall() == before


def test_look_ups_are_for_the_two_roles_only() -> None:
    with connect("owner") as owner:
        found = owner.execute(
            "SELECT proname, prosecdef, array_to_string(proconfig, ','), proacl::text FROM pg_proc"
            " WHERE proname LIKE 'lens\\_%'"
        ).fetchall()
    assert found
    for name, definer, configuration, rights in found:
        assert definer, name
        assert configuration == "search_path=public, pg_temp"
        granted = set(re.findall(r"(\w*)=X", rights))
        assert granted == {"lens_owner", "lens_app", "lens_system"}, name
