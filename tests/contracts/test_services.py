"""What every service of the control plane promises: one audit event, and nothing to strangers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from django.apps import apps as django_apps

from apps.audit.models import AuditEvent
from apps.common.errors import LensError, NotFound
from tests import factories
from tests.contracts.recipes import RECIPES, public_services
from tests.spooled import spooled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contracts.recipes import Recipe
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]

# Not for people: only the platform itself calls them, so they have no verb a role could carry.
SYSTEM_ONLY = {
    "break_glass_request",
    "idp_prove",
    "domain_mark",
    "organization_create",
    "sandbox_lost",
    "end",
    "record",
}
# It asks the name servers; tests/apps/orgs/test_home_realm.py calls it with a server of its own.
ELSEWHERE = {"domain_verify"}


@pytest.fixture
def acme() -> World:
    return factories.acme()


@pytest.fixture
def globex() -> World:
    return factories.globex()


def call(name: str, on: Any, actor: Any, rows: dict[str, Any]) -> Any:
    """Run one recipe; the part of its name behind a space only tells two recipes apart."""
    service = public_services()[name.partition(" ")[0]]
    return service(on, **rows, **RECIPES[name].plain, actor=actor)


def rows_of(recipe: Recipe, world: World) -> dict[str, Any]:
    return {name: make(world) for name, make in recipe.rows.items()}


def everything() -> dict[str, list[dict[str, Any]]]:
    """Every row of every tenant table, to compare."""
    ours = (model for model in django_apps.get_models() if model.__module__.startswith("apps."))
    return {model.__name__: list(model._default_manager.order_by("pk").values()) for model in ours}


def test_every_service_has_a_recipe() -> None:
    covered = {name.partition(" ")[0] for name in RECIPES}
    assert set(public_services()) - covered == SYSTEM_ONLY | ELSEWHERE


@pytest.mark.parametrize("name", RECIPES)
def test_one_call_leaves_one_event(name: str, acme: World) -> None:
    recipe = RECIPES[name]
    on, rows = recipe.on(acme), rows_of(recipe, acme)
    before = set(AuditEvent.objects.values_list("pk", flat=True))
    call(name, on, acme.admin, rows)
    (event,) = AuditEvent.objects.exclude(pk__in=before)
    assert event.org_id == acme.org.pk
    assert event.principal_name == acme.admin.name
    assert event.result == "success"
    assert event.resource_id
    assert "secret-of-the-recipe" not in str(vars(event))


@pytest.mark.parametrize("name", RECIPES)
def test_a_stranger_finds_nothing(name: str, acme: World, globex: World, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    on, rows = recipe.on(acme), rows_of(recipe, acme)
    before = everything()
    with spooled(tmp_path) as events, pytest.raises(NotFound, match=r"^Not found\.$"):
        call(name, on, globex.admin, rows)
    assert everything() == before
    (event,) = events
    assert (event["result"], event["action"]) == ("denied", "access.refuse")
    assert event["org"] == str(globex.org.pk)


@pytest.mark.parametrize("name", RECIPES)
def test_no_mixture_of_rows_reaches_the_other_organization(
    name: str, acme: World, globex: World
) -> None:
    """Each non-empty choice of a call's rows, taken from the stranger's world."""
    recipe = RECIPES[name]
    ours = {"on": recipe.on(acme), **rows_of(recipe, acme)}
    theirs = {"on": recipe.on(globex), **rows_of(recipe, globex)}
    before = everything()
    for foreign in choices(list(ours)):
        rows = ours | {slot: theirs[slot] for slot in foreign}
        with pytest.raises(LensError):
            call(name, rows.pop("on"), acme.admin, rows)
        assert everything() == before, foreign


def choices(slots: list[str]) -> Iterator[tuple[str, ...]]:
    for size in range(1, len(slots) + 1):
        yield from itertools.combinations(slots, size)


@pytest.mark.parametrize("name", RECIPES)
def test_who_is_no_admin_changes_nothing(name: str, acme: World) -> None:
    recipe = RECIPES[name]
    on, rows = recipe.on(acme), rows_of(recipe, acme)
    before = everything()
    for actor in (acme.auditor, acme.member, acme.outsider):
        with pytest.raises(LensError) as refused:
            call(name, on, actor, rows)
        assert refused.value.status in (403, 404)
        assert everything() == before
