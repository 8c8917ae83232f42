"""Teams and roles from groups, what is given by hand beside them, and when that ends."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from apps.audit.models import AuditEvent
from apps.common import clock
from apps.common.errors import Conflict, Invalid
from apps.orgs import services
from apps.orgs.models import (
    Identity,
    Membership,
    Team,
    User,
    UserSession,
)
from apps.orgs.revision import read_seq
from apps.orgs.selectors import actor_for
from apps.orgs.services.groups import matches
from apps.orgs.services.memberships import user_deprovision
from apps.orgs.sweeps import memberships_expire
from apps.orgs.types import SYSTEM
from tests import factories
from tests.apps.admin_support import form_data, url
from tests.apps.orgs.providers import Tenant, member, signed_in, tenant, twins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apps.orgs.types import Actor
    from tests.factories import World

pytestmark = [pytest.mark.database, pytest.mark.django_db]
ANA = "ana@acme.test"


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenant]:
    """An organization with an admin, a proven domain and groups read from the claim `groups`."""
    for running in twins(tmp_path, monkeypatch, "login.acme.test"):
        one = tenant("acme", running[0])
        one.invite("boss@acme.test", role="admin")
        services.idp_update(one.idp, group_claim="groups", actor=SYSTEM)
        row = services.domain_create(one.idp, domain="acme.test", actor=SYSTEM)
        services.domain_mark(row, reason="a test", actor=SYSTEM)
        yield one


def team(acme: Tenant, slug: str) -> Team:
    return services.team_create(acme.org, slug=slug, name=slug, actor=SYSTEM)


def mapping(acme: Tenant, group: str, slug: str = "", role: str = "member") -> None:
    found = Team.objects.filter(org=acme.org, slug=slug).first()
    into = found or (team(acme, slug) if slug else None)
    services.mapping_create(acme.idp, group=group, team=into, role=role, actor=SYSTEM)


def come(acme: Tenant, *groups: str, sub: str = "ana-sub", email: str = ANA, **claims: Any) -> Any:
    """Sign in in a new browser; the browser."""
    acme.knows(sub, email, groups=list(groups), **claims)
    client = Client()
    client.answer = acme.sign_in(client)  # type: ignore[attr-defined]  # for the test
    return client


def state(acme: Tenant, email: str = ANA) -> tuple[str, list[str]]:
    """The role and the teams that count now."""
    user = User.objects.filter(email=email).first()
    actor = actor_for(user, acme.org) if user else None
    if actor is None:
        return "", []
    return actor.role, sorted(
        Team.objects.filter(pk__in=actor.team_ids).values_list("slug", flat=True)
    )


# ---- from groups


def test_groups_bring_a_person_who_was_not_invited(acme: Tenant) -> None:
    mapping(acme, "sre", "sre")
    mapping(acme, "auditors", role="auditor")
    client = come(acme, "sre", "auditors", "other", name="Ana \u202eAdams\n")
    assert signed_in(client)
    assert state(acme) == ("auditor", ["sre"])
    assert User.objects.get(email=ANA).name == "Ana Adams"
    event = AuditEvent.objects.get(action="membership.create", principal_name="acme login")
    assert event.metadata["changes"]["teams_by_group"] == [[], ["sre"]]


def test_nothing_is_kept_of_a_person_whom_no_group_brings(acme: Tenant) -> None:
    mapping(acme, "sre", "sre")
    before = User.objects.count()
    client = come(acme, "other")
    assert client.answer.status_code == 403
    assert User.objects.count() == before
    assert not Identity.objects.exists()


def test_groups_bring_nobody_without_a_proven_domain(acme: Tenant) -> None:
    """Else a provider could make anybody's address a person here."""
    mapping(acme, "sre", "sre")
    services.domain_delete(acme.idp.domains.get(), actor=SYSTEM)
    assert come(acme, "sre").answer.status_code == 403
    assert not User.objects.filter(email=ANA).exists()


def test_each_sign_in_replaces_what_groups_gave(acme: Tenant) -> None:
    for name in ("sre", "leads"):
        mapping(acme, name, name)
    come(acme, "sre")
    assert state(acme) == ("member", ["sre"])
    before = read_seq()
    come(acme, "leads")
    assert state(acme) == ("member", ["leads"])
    assert read_seq() > before


def test_who_lost_all_groups_is_out_and_so_are_the_sessions(acme: Tenant) -> None:
    mapping(acme, "sre", "sre")
    first = come(acme, "sre")
    assert first.get("/").status_code == 200
    second = come(acme)
    assert second.answer.status_code == 403
    assert state(acme) == ("", [])
    assert first.get("/").status_code == 302
    assert not Membership.objects.filter(user__email=ANA).exists()


def test_what_is_given_by_hand_stays_beside_groups(acme: Tenant) -> None:
    acme.invite(ANA, role="auditor")
    hand = team(acme, "hand")
    services.membership_update(member(acme, ANA).memberships.get(), teams=[hand], actor=SYSTEM)
    mapping(acme, "sre", "sre")
    mapping(acme, "also", "hand")
    come(acme, "sre", "also")
    assert state(acme) == ("auditor", ["hand", "sre"])
    come(acme)
    assert state(acme) == ("auditor", ["hand"])


def test_the_stronger_role_counts(acme: Tenant) -> None:
    acme.invite(ANA, role="member")
    mapping(acme, "admins", role="admin")
    come(acme, "admins")
    assert state(acme)[0] == "admin"
    come(acme)
    assert state(acme)[0] == "member"


def test_an_admin_cannot_take_away_what_a_group_gives(acme: Tenant) -> None:
    mapping(acme, "sre", "sre")
    come(acme, "sre")
    row = member(acme, ANA).memberships.get()
    with pytest.raises(Invalid, match="would come back") as refused:
        services.membership_update(row, teams=[], actor=SYSTEM)
    assert refused.value.field == "teams"


def test_an_emptied_group_leaves_the_last_admin(acme: Tenant) -> None:
    mapping(acme, "admins", role="admin")
    come(acme, "admins")
    boss = Membership.objects.get(user__email="boss@acme.test")
    services.membership_remove(boss, actor=SYSTEM)
    assert signed_in(come(acme))
    assert state(acme)[0] == "admin"


def test_deleted_teams_are_given_to_nobody(acme: Tenant) -> None:
    mapping(acme, "sre", "sre")
    services.team_delete(Team.objects.get(slug="sre"), actor=SYSTEM)
    come(acme, "sre")
    assert state(acme) == ("member", [])


def test_groups_may_come_from_userinfo(acme: Tenant) -> None:
    mapping(acme, "sre", "sre")
    acme.twin.claims = {"groups": None}
    come(acme, "sre")
    assert state(acme) == ("member", ["sre"])


UNREADABLE: dict[str, dict[str, Any]] = {
    "300 groups": {"groups": [f"group {n}" for n in range(300)]},
    "Entra overage": {"groups": None, "_claim_names": {"groups": "src1"}},
    "Entra implicit overage": {"groups": None, "hasgroups": True},
    "a number": {"groups": 7},
    "numbers": {"groups": ["sre", 7]},
    "an object": {"groups": {"sre": True}},
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_claim_that_cannot_be_trusted_is_a_page_and_no_account(acme: Tenant, name: str) -> None:
    mapping(acme, "sre", "sre")
    acme.twin.claims = UNREADABLE[name]
    acme.twin.userinfo = {"groups": None}
    client = come(acme, "sre")
    assert client.answer.status_code == 403
    assert "groups" in client.answer.content.decode()
    assert not User.objects.filter(email=ANA).exists()
    assert not Identity.objects.exists()


def test_two_hundred_groups_are_fine(acme: Tenant) -> None:
    mapping(acme, "sre", "sre")
    come(acme, "sre", *(f"group {n}" for n in range(200)))
    assert state(acme) == ("member", ["sre"])


def test_one_group_as_a_word(acme: Tenant) -> None:
    mapping(acme, "sre", "sre")
    acme.twin.claims = {"groups": "sre"}
    come(acme)
    assert state(acme) == ("member", ["sre"])


@pytest.mark.parametrize(
    ("pattern", "group", "met"),
    [
        ("sre", "sre", True),
        ("sre", "SRE", False),
        ("sre", "sre2", False),
        ("lens-*", "lens-sre", True),
        ("lens-*", "xlens-sre", False),
        ("*-admins", "lens-admins\n", False),
        ("a.b", "axb", False),
        ("[x]*", "[x]y", True),
        ("[x]*", "xy", False),
    ],
)
def test_patterns(pattern: str, group: str, met: bool) -> None:  # noqa: FBT001  a table
    assert matches(pattern, group) is met


@given(st.text(max_size=20).filter(lambda text: "*" not in text), st.text(max_size=20))
def test_a_name_without_a_star_matches_itself_alone(name: str, other: str) -> None:
    assert matches(name, other) is (name == other)


@given(st.text("ab*", max_size=8), st.text("ab\n", max_size=10))
def test_a_pattern_matches_as_a_regular_expression_would(pattern: str, group: str) -> None:
    parts = (re.escape(part) for part in pattern.split("*"))
    expected = re.fullmatch(".*".join(parts), group, re.DOTALL) is not None
    assert matches(pattern, group) is expected


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    """As a regular expression it would not end before the sun does, and hold up everybody."""
    started = time.process_time()
    assert not matches("a*" * 100 + "b", "a" * 255)
    assert time.process_time() - started < 1


def test_a_pattern_gives_no_more_than_member(acme: Tenant) -> None:
    with pytest.raises(Invalid) as refused:
        mapping(acme, "admin*", role="admin")
    assert refused.value.field == "role"


def test_groups_are_replaced_before_they_count(acme: Tenant) -> None:
    """Who left the group and comes in by another organization at the same issuer opens that one
    alone; here the next sign-in asks."""
    mapping(acme, "bosses", "sre", role="admin")
    assert signed_in(come(acme, "bosses"))
    services.domain_delete(acme.idp.domains.get(), actor=SYSTEM)
    other = tenant("globex", acme.twin)
    other.invite(ANA)
    client = come(other)
    actor = client.get("/").wsgi_request.actor
    assert (actor.org_id, actor.role, actor.team_ids) == (other.org.pk, "member", ())
    assert come(acme).answer.status_code == 403
    assert state(acme) == ("", [])


# ---- what is given by hand ends


@pytest.fixture
def world() -> World:
    return factories.acme()


def given_by_hand(world: World, email: str, role: str = "member") -> Membership:
    row = services.user_invite(world.org, email=email, role=role, actor=world.admin)
    return services.membership_update(row, teams=[world.team], actor=world.admin)


def later(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    then = clock.now() + dt.timedelta(days=days)
    monkeypatch.setattr(clock, "now", lambda: then)


def test_a_membership_by_hand_counts_no_day_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before the sweep: whoever asks is told that it is over."""
    row = given_by_hand(world, "guest@people.example")
    assert actor_for(row.user, world.org) is not None
    later(monkeypatch, 91)
    assert actor_for(row.user, world.org) is None
    assert memberships_expire() == 1
    assert not Membership.objects.filter(pk=row.pk).exists()
    assert AuditEvent.objects.filter(action="membership.delete", principal_id="system").count() == 1


def test_the_organization_says_for_how_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    services.organization_update(world.org, manual_days=10, actor=world.admin)
    world.org.refresh_from_db()
    row = given_by_hand(world, "guest@people.example")
    later(monkeypatch, 11)
    assert actor_for(row.user, world.org) is None


def test_renewing_goes_on_from_now(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    row = given_by_hand(world, "guest@people.example")
    later(monkeypatch, 60)
    services.membership_renew(row, actor=world.admin)
    later(monkeypatch, 60)
    actor = actor_for(row.user, world.org)
    assert actor is not None
    assert actor.team_ids == (world.team.pk,)
    assert memberships_expire() == 0


def test_the_group_part_outlives_the_part_by_hand(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.invite(ANA, role="auditor")
    row = member(acme, ANA).memberships.get()
    Membership.objects.filter(pk=row.pk).update(expires_at=clock.now() + dt.timedelta(days=1))
    mapping(acme, "sre", "sre")
    come(acme, "sre")
    later(monkeypatch, 2)
    assert state(acme) == ("member", ["sre"])
    memberships_expire()
    row.refresh_from_db()
    assert (row.role, row.manual_role, row.group_role) == ("member", "", "member")


def test_the_last_admin_does_not_expire(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Membership.objects.get(org=world.org, user_id=world.admin.id)
    Membership.objects.filter(pk=row.pk).update(expires_at=clock.now())
    later(monkeypatch, 1)
    assert memberships_expire() == 1
    assert actor_for(row.user, world.org) is not None
    assert AuditEvent.objects.filter(action="membership.keep").count() == 1


def test_the_last_admin_is_kept_before_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody could come in until the next sweep. Of two whose time ends, one stays."""
    other = given_by_hand(world, "other@people.example", role="admin")
    rows = Membership.objects.filter(org=world.org, manual_role="admin")
    rows.update(expires_at=clock.now() + dt.timedelta(minutes=90))
    assert memberships_expire() == 1
    later(monkeypatch, 1)
    people = (other.user, User.objects.get(pk=world.admin.id))
    assert [bool(actor_for(user, world.org)) for user in people].count(True) == 1
    memberships_expire()
    assert rows.count() == 1
    assert AuditEvent.objects.filter(action="membership.keep").count() == 1


def test_an_admin_whose_time_is_over_is_none_to_count_on(world: World) -> None:
    other = given_by_hand(world, "other@people.example", role="admin")
    Membership.objects.filter(pk=other.pk).update(expires_at=clock.now(), group_role="member")
    last = Membership.objects.get(org=world.org, user_id=world.admin.id)
    with pytest.raises(Conflict, match="last admin"):
        services.membership_remove(last, actor=SYSTEM)


def test_nothing_given_by_hand_cannot_be_renewed(acme: Tenant) -> None:
    mapping(acme, "sre", "sre")
    come(acme, "sre")
    with pytest.raises(Conflict, match="by hand"):
        services.membership_renew(member(acme, ANA).memberships.get(), actor=SYSTEM)


def test_people_say_who_gave_what_and_until_when(acme: Tenant) -> None:
    acme.invite(ANA, role="admin")
    mapping(acme, "sre", "sre")
    client = come(acme, "sre")
    services.user_invite(acme.org, email="bob@acme.test", actor=acting(acme))
    page = client.get(url(Membership, "changelist")).content.decode()
    assert "Group" in page
    assert "Hand, until" in page
    row = Membership.objects.get(user__email="bob@acme.test")
    before = row.expires_at
    client.post(url(Membership, "renew", row.pk))
    row.refresh_from_db()
    assert row.expires_at != before


def test_saving_a_person_whom_a_group_brought_gives_nothing_by_hand(acme: Tenant) -> None:
    acme.invite(ANA, role="admin")
    mapping(acme, "sre", "sre")
    client = come(acme, "sre")
    come(acme, "sre", sub="bob-sub", email="bob@acme.test")
    row = Membership.objects.get(user__email="bob@acme.test")
    page = url(Membership, "change", row.pk)
    hand = team(acme, "hand")
    data = form_data(client.get(page))
    data["member_of"] = [*data["member_of"], str(hand.pk)]
    assert client.post(page, data).status_code == 302
    row.refresh_from_db()
    assert (row.manual_role, row.role) == ("", "member")
    assert state(acme, "bob@acme.test") == ("member", ["hand", "sre"])


def acting(acme: Tenant) -> Actor:
    """Ana as an actor."""
    found = actor_for(member(acme, ANA), acme.org)
    assert found is not None
    return found


# ---- gone


def test_deprovisioning_ends_everything_here_and_nothing_elsewhere(acme: Tenant) -> None:
    mapping(acme, "sre", "sre")
    client = come(acme, "sre")
    user = member(acme, ANA)
    stranger = factories.globex()
    services.user_invite(stranger.org, email=ANA, actor=SYSTEM)
    before = read_seq()
    user_deprovision(user, acme.org, actor=SYSTEM)
    assert read_seq() > before
    assert client.get("/").status_code == 302
    assert UserSession.objects.get(user=user).ended_by == "removed"
    assert actor_for(user, acme.org) is None
    assert actor_for(user, stranger.org) is not None
    event = AuditEvent.objects.get(action="membership.delete")
    assert (event.org_id, event.metadata["sessions_ended"]) == (acme.org.pk, 1)
