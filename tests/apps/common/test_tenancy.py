"""The door to tenant rows: nothing without it, one organization through it, and nothing left after.

On PostgreSQL what these tests do in a scope runs as the application's role, under row-level
security; `test_row_security.py` looks at that layer alone.
"""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps
from django.db import connection, connections, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.agents.models import Agent
from apps.common import lookups, tenancy
from apps.common.tenancy import OutsideScope, WrongScope, edge, scope, standing, system
from apps.common.tenant_guard import tenant_models, tenant_table
from apps.orgs.models import Membership, Organization, Team, User
from tests import factories

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.factories import World

pytestmark = [pytest.mark.database, pytest.mark.django_db]
NOBODY = uuid.UUID(int=0)


@pytest.fixture
def acme() -> World:
    return factories.acme()


@pytest.fixture
def globex() -> World:
    return factories.globex()


@pytest.fixture
def nowhere() -> Iterator[None]:
    with edge():
        yield


def count(model: Any) -> int:
    """How many rows this thread sees, by SQL that no selector has touched."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {model._meta.db_table}")  # noqa: S608  our model
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("model", tenant_models(), ids=lambda model: model._meta.label)
def test_no_tenant_table_is_reached_from_nowhere(model: Any, nowhere: None) -> None:
    with pytest.raises(OutsideScope, match=model._meta.db_table):
        count(model)
    with pytest.raises(OutsideScope, match=r"tenancy\.scope"):
        model._default_manager.first()


@pytest.mark.parametrize(
    "reach",
    [
        lambda world: list(world.org.__class__.objects.all()),
        lambda world: list(world.agent.tokens.all()),
        lambda world: world.credential.allowed_teams.count(),
        lambda world: world.team.refresh_from_db(),
        lambda world: world.agent.save(),
        lambda world: world.agent.delete(),
        lambda _: list(User.objects.filter(memberships__role="admin")),
        lambda world: Team.objects.bulk_create([Team(org=world.org, slug="x", name="X")]),
        lambda _: Team.objects.update(name="X"),
        lambda _: list(Team.objects.raw("SELECT * FROM orgs_team")),
        lambda _: list(Agent.objects.iterator()),
        lambda _: Membership.objects.select_for_update().first(),
    ],
)
def test_whatever_makes_the_statement(reach: Callable[[World], object], acme: World) -> None:
    with edge(), pytest.raises(OutsideScope), transaction.atomic():
        reach(acme)


def test_what_belongs_to_nobody_needs_no_scope(nowhere: None) -> None:
    assert User.objects.count() == 0
    assert tenant_table("SELECT 1 FROM orgs_user") is None
    assert tenant_table("SAVEPOINT orgs_team_id") is None
    assert tenant_table('UPDATE "orgs_team" SET x = 1') == "orgs_team"
    assert tenant_table("x" * 10_000 + ' FROM "orgs_team"') == "orgs_team"


def test_a_scope_reaches_its_organization(acme: World, globex: World) -> None:
    with edge(), scope(acme.org.pk):
        assert Team.objects.get(pk=acme.team.pk) == acme.team
        with scope(str(acme.org.pk)):  # the same again joins
            assert standing() == tenancy.Place(org=acme.org.pk)
        assert Team.objects.filter(org=acme.org).count() == 2


@pytest.mark.parametrize("leave", [scope, lambda _: system("wider")])
def test_a_scope_is_neither_left_nor_widened(leave: Any, acme: World, globex: World) -> None:
    with edge(), scope(acme.org.pk):
        with pytest.raises(WrongScope), leave(globex.org.pk):
            pytest.fail("entered")
        assert standing() == tenancy.Place(org=acme.org.pk)
        assert Team.objects.filter(pk=acme.team.pk).exists()


def test_all_organizations_may_be_narrowed_to_one(acme: World, globex: World) -> None:
    with edge(), system("a sweep"):
        assert Organization.objects.count() == 2
        with system("again"), scope(acme.org.pk):
            assert Organization.objects.filter(pk=acme.org.pk).exists()
        assert Organization.objects.count() == 2


def test_an_edge_forgets_where_the_thread_stood(acme: World) -> None:
    with edge(), scope(acme.org.pk):
        with edge():
            assert standing() is None
            with pytest.raises(OutsideScope):
                Team.objects.count()
        assert Team.objects.count() == 2


@pytest.mark.parametrize("broken", [False, True], ids=["ours", "the database's"])
def test_an_exception_leaves_nothing_behind(acme: World, broken: bool) -> None:  # noqa: FBT001
    def work() -> None:
        if broken:
            with connection.cursor() as cursor:
                cursor.execute("SELECT * FROM orgs_team WHERE no_such_column")
        raise ZeroDivisionError

    with edge():
        with pytest.raises(Exception), transaction.atomic(), scope(acme.org.pk):  # noqa: B017, PT011
            work()
        assert standing() is None
        assert setting() == ""


def test_nothing_is_left_within_a_transaction_that_goes_on(acme: World) -> None:
    with edge(), transaction.atomic():
        with scope(acme.org.pk):
            assert count(Team) == 2
        assert setting() == ""
        with pytest.raises(OutsideScope):
            count(Team)


def setting() -> str:
    """The organization that the connection itself knows, "" for none; SQLite knows none ever."""
    if connection.vendor != "postgresql":
        return ""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('lens.org', true)")
        return str(cursor.fetchone()[0] or "")


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_is_used_again_knows_no_organization(acme: World) -> None:
    with edge():
        with scope(acme.org.pk):
            assert count(Team) == 2
            assert setting() == ""  # it was of that statement alone
            with transaction.atomic():
                assert count(Team) == 2
        assert setting() == ""


@pytest.mark.django_db(transaction=True)
def test_threads_each_stand_for_themselves(acme: World, globex: World) -> None:
    """Random scopes in many threads at once: nobody ever sees another organization's row."""
    worlds = [acme, globex]
    seen: list[tuple[uuid.UUID, set[uuid.UUID]]] = []
    failures: list[BaseException] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        try:
            start.wait(10)
            for turn in range(25):
                org = worlds[(number + turn * (number % 3 + 1)) % 2].org.pk
                with pytest.raises(OutsideScope):
                    Team.objects.count()
                with scope(org), transaction.atomic() if turn % 2 else scope(org):
                    found = set(Team.objects.values_list("org", flat=True))
                    seen.append((org, found))
        except BaseException as error:  # noqa: BLE001  looked at below
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(seen) == 200
    if connection.vendor == "postgresql":
        assert all(found == {org} for org, found in seen)


class TestRandomOrder:
    """Any order of steps into and out of scopes, savepoints and failures."""

    STEPS = st.lists(
        st.sampled_from(["acme", "globex", "nobody", "edge", "savepoint", "fail"]), max_size=8
    )

    @settings(max_examples=60)
    @given(steps=STEPS)
    def test_a_statement_sees_its_own_scope_or_is_refused(self, steps: list[str]) -> None:
        with transaction.atomic():
            worlds = {"acme": factories.acme().org.pk, "globex": factories.globex().org.pk}
            with edge():
                self.descend(steps, worlds)
            assert setting() in ("", str(None))
            transaction.set_rollback(True)

    def descend(self, steps: list[str], worlds: dict[str, uuid.UUID]) -> None:
        self.look()
        if not steps:
            return
        step, rest = steps[0], steps[1:]
        try:
            with self.enter(step, worlds):
                self.descend(rest, worlds)
                _ = 1 // (step != "fail")
        except (ZeroDivisionError, WrongScope):
            pass
        self.look()

    @staticmethod
    def enter(step: str, worlds: dict[str, uuid.UUID]) -> Any:
        if step in worlds:
            return scope(worlds[step])
        if step == "nobody":
            return scope(NOBODY)
        return edge() if step == "edge" else transaction.atomic()

    @staticmethod
    def look() -> None:
        here = standing()
        if here is None:
            with pytest.raises(OutsideScope):
                count(Team)
        elif connection.vendor == "postgresql":
            found = set(Team.objects.values_list("org", flat=True))
            assert found == ({here.org} if here.org != NOBODY else set())


def test_look_ups_answer_from_anywhere(acme: World, globex: World) -> None:
    from apps.agents.authentication import _OWNER  # noqa: PLC0415  one of many
    from apps.common.ids import token_hash  # noqa: PLC0415  same

    digest = token_hash(acme.minted.value)
    with edge():
        assert _OWNER.id(digest) == acme.org.pk
        assert _OWNER.id("0" * 64) is None
        with scope(globex.org.pk):
            assert _OWNER.id(digest) == acme.org.pk
            assert standing() == tenancy.Place(org=globex.org.pk)
    for look_up in lookups.declared():
        keys = {lookups.TEXT: "x", lookups.UUID: uuid.uuid4()}
        with edge():
            assert all(
                len(row) == len(look_up.gives) for row in look_up.all(*map(keys.get, look_up.takes))
            )


def test_a_look_up_is_declared_once() -> None:
    with pytest.raises(TypeError, match="twice"):
        lookups.LookUp("agent_token", "SELECT 1 WHERE %s", takes=(lookups.TEXT,))
    with pytest.raises(TypeError, match="other parameters"):
        lookups.LookUp("unheard_of", "SELECT 1", takes=(lookups.TEXT,))


def test_each_table_is_of_a_tenant_or_has_no_foreign_key_to_one() -> None:
    """One that points to an organization by another name would have no row-level security."""
    tenants = set(tenant_models())
    for model in apps.get_models(include_auto_created=True):
        targets = {field.related_model for field in model._meta.concrete_fields}
        assert model in tenants or not targets & tenants, model._meta.label
