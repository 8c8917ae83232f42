"""How services write rows: complaints become errors of ours, races become conflicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction

from apps.common import rows
from apps.common.errors import Conflict, Invalid, NotFound
from apps.orgs.models import Organization, Team
from tests import factories

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]
TAKEN = "Taken. Choose another."


@pytest.fixture
def acme() -> World:
    return factories.acme()


def test_the_first_complaint_is_told_with_its_field(acme: World) -> None:
    with pytest.raises(Invalid) as refused:
        rows.insert(Team(org=acme.org, slug="NO", name=""), taken=TAKEN)
    assert refused.value.field in ("slug", "name")


def test_a_name_in_use_is_a_conflict(acme: World) -> None:
    with pytest.raises(Conflict, match=TAKEN):
        rows.insert(Team(org=acme.org, slug="sre", name="x"), taken=TAKEN)


def test_a_lost_race_is_the_same_conflict_and_the_transaction_goes_on(
    acme: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both callers passed the check; the database tells the slower one."""
    monkeypatch.setattr(Team, "full_clean", lambda _: None)
    with transaction.atomic():
        with pytest.raises(Conflict, match=TAKEN):
            rows.insert(Team(org=acme.org, slug="sre", name="x"), taken=TAKEN)
        assert Team.objects.filter(org=acme.org).count() == 2


def test_an_update_writes_what_differs_and_says_so(acme: World) -> None:
    before = acme.team.updated_at
    changes = rows.update(acme.team, {"name": "New", "description": ""})
    assert changes == {"name": ("SRE", "New")}
    stored = Team.objects.get(pk=acme.team.pk)
    assert stored.name == "New"
    assert stored.updated_at > before


def test_an_update_that_changes_nothing_asks_no_query(
    acme: World, django_assert_num_queries: pytest.FixtureRequest
) -> None:
    with django_assert_num_queries(0):  # type: ignore[operator]  # pytest-django's own fixture
        assert rows.update(acme.team, {"name": "SRE"}) == {}


def test_a_bad_update_is_refused_before_the_database(acme: World) -> None:
    with pytest.raises(Invalid) as refused:
        rows.update(acme.team, {"name": ""})
    assert refused.value.field == "name"
    assert Team.objects.get(pk=acme.team.pk).name == "SRE"


def test_a_row_that_is_gone_is_not_found(acme: World) -> None:
    spare = Organization(slug="spare", name="Spare")
    with pytest.raises(NotFound):
        rows.locked(spare)


def test_given_leaves_out_what_was_not_said() -> None:
    assert rows.given(name="x", team=None, empty="", no=False) == {
        "name": "x",
        "empty": "",
        "no": False,
    }


def test_a_complaint_about_the_whole_row_has_no_field() -> None:
    error = ValidationError({"__all__": ["It does not fit."]})
    translated = rows._translated(error, TAKEN)
    assert isinstance(translated, Invalid)
    assert (translated.message, translated.field) == ("It does not fit.", "")
