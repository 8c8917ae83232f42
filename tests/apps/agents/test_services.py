"""Agents and tokens: shown once, stored as a hash, ended at once."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.core import serializers

from apps.agents import services
from apps.agents.models import Agent, AgentToken
from apps.audit.models import AuditEvent
from apps.common import clock
from apps.common.errors import Conflict, Invalid, NotFound, Unauthenticated
from apps.common.ids import token_hash
from apps.orgs import services as orgs
from apps.orgs.authentication import authenticate
from apps.orgs.revision import read_seq
from apps.orgs.types import SYSTEM
from tests import factories

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


class TestTokens:
    """`lns_…`."""

    def test_the_value_is_in_the_answer_and_nowhere_else(self, acme: World) -> None:
        minted = services.token_create(acme.agent, name="CI", actor=acme.admin)
        assert minted.value.startswith("lns_")
        assert len(minted.value) == 47
        secret = minted.value.removeprefix("lns_")[4:]
        stored = serializers.serialize("json", [*AgentToken.objects.all()])
        events = "".join(str(vars(event)) for event in AuditEvent.objects.all())
        for text in (stored, events, repr(minted), str(minted.token), repr(vars(minted.token))):
            assert secret not in text
        assert minted.token.token_hash == token_hash(minted.value)
        assert minted.value.startswith(minted.token.hint)

    def test_two_tokens_differ(self, acme: World) -> None:
        values = {
            services.token_create(acme.agent, name="CI", actor=acme.admin).value for _ in range(3)
        }
        assert len(values) == 3

    def test_an_expiry_lies_ahead(self, acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
        now = clock.now()
        monkeypatch.setattr(clock, "now", lambda: now)
        for past in (now, now - timedelta(days=1)):
            with pytest.raises(Invalid, match="past") as refused:
                services.token_create(acme.agent, name="CI", expires_at=past, actor=acme.admin)
            assert refused.value.field == "expires_at"
        later = now + timedelta(seconds=1)
        minted = services.token_create(acme.agent, name="CI", expires_at=later, actor=acme.admin)
        assert AgentToken.objects.get(pk=minted.token.pk).expires_at == later

    def test_a_time_without_zone_is_refused_as_input(self, acme: World) -> None:
        naive = (clock.now() + timedelta(days=1)).replace(tzinfo=None)
        with pytest.raises(Invalid) as refused:
            services.token_create(acme.agent, name="CI", expires_at=naive, actor=acme.admin)
        assert refused.value.field == "expires_at"

    def test_a_name_is_needed(self, acme: World) -> None:
        with pytest.raises(Invalid) as refused:
            services.token_create(acme.agent, name="", actor=acme.admin)
        assert refused.value.field == "name"

    def test_revoking_is_for_ever_and_once(self, acme: World) -> None:
        services.token_revoke(acme.minted.token, actor=acme.admin)
        first = AgentToken.objects.get(pk=acme.minted.token.pk).revoked_at
        before = AuditEvent.objects.count(), read_seq()
        services.token_revoke(acme.minted.token, actor=acme.admin)
        assert AgentToken.objects.get(pk=acme.minted.token.pk).revoked_at == first
        assert (AuditEvent.objects.count(), read_seq()) == before
        with pytest.raises(Unauthenticated):
            authenticate(acme.minted.value)

    def test_revoking_one_leaves_the_others(self, acme: World) -> None:
        second = services.token_create(acme.agent, name="CI", actor=acme.admin)
        services.token_revoke(acme.minted.token, actor=acme.admin)
        assert authenticate(second.value).token_id == second.token.pk

    @pytest.mark.parametrize("why", ["disabled", "team"])
    def test_an_agent_that_cannot_act_gets_none(self, why: str, acme: World) -> None:
        if why == "disabled":
            services.agent_disable(acme.agent, actor=acme.admin)
        else:
            orgs.team_delete(acme.team, actor=acme.admin)
        before = AgentToken.objects.count()
        with pytest.raises(Conflict, match="first"):
            services.token_create(acme.agent, name="CI", actor=acme.admin)
        assert AgentToken.objects.count() == before

    def test_the_platform_alone_mints_for_managed_agents(self, acme: World) -> None:
        managed = services.agent_create(
            acme.org, team=acme.team, slug="m", name="M", kind="managed", actor=acme.admin
        )
        with pytest.raises(Conflict):
            services.token_create(managed, name="CI", actor=acme.admin)
        assert services.token_create(managed, name="CI", actor=SYSTEM).value


class TestAgents:
    """Who they are and where they belong."""

    @pytest.mark.parametrize(
        ("changed", "field"),
        [({"slug": "Bot"}, "slug"), ({"name": ""}, "name"), ({"kind": "rogue"}, "kind")],
    )
    def test_bad_input_names_its_field(
        self, changed: dict[str, Any], field: str, acme: World
    ) -> None:
        arguments: dict[str, Any] = {"team": acme.team, "slug": "new", "name": "New"}
        with pytest.raises(Invalid) as refused:
            services.agent_create(acme.org, **(arguments | changed), actor=acme.admin)
        assert refused.value.field == field
        assert Agent.objects.filter(org=acme.org).count() == 1

    def test_a_slug_in_use_is_a_conflict(self, acme: World) -> None:
        with pytest.raises(Conflict, match="bot"):
            services.agent_create(
                acme.org, team=acme.team, slug="bot", name="Bot", actor=acme.admin
            )

    def test_a_team_must_be_ours_and_alive(self, acme: World) -> None:
        orgs.team_delete(acme.other_team, actor=acme.admin)
        acme.other_team.refresh_from_db()
        for team in (acme.other_team, factories.globex().team):
            with pytest.raises(Invalid) as refused:
                services.agent_update(acme.agent, team=team, actor=acme.admin)
            assert refused.value.field == "team"

    def test_in_another_team_it_is_another_principal(self, acme: World) -> None:
        services.agent_update(acme.agent, team=acme.other_team, actor=acme.admin)
        found = authenticate(acme.minted.value)
        assert found.team_slug == "leads"
        assert [grant.role for grant in found.grants] == ["admin"]

    def test_disabling_and_enabling(self, acme: World) -> None:
        for _ in range(2):
            services.agent_disable(acme.agent, actor=acme.admin)
        with pytest.raises(Unauthenticated):
            authenticate(acme.minted.value)
        for _ in range(2):
            services.agent_enable(acme.agent, actor=acme.admin)
        assert authenticate(acme.minted.value).id == acme.agent.pk
        actions = AuditEvent.objects.filter(resource_id=str(acme.agent.pk))
        assert [event.action for event in actions.order_by("id")] == [
            "agent.create",
            "agent.disable",
            "agent.enable",
        ]

    def test_deleting_takes_tokens_and_leaves_the_trail(self, acme: World) -> None:
        services.agent_delete(acme.agent, actor=acme.admin)
        assert not AgentToken.objects.filter(org=acme.org).exists()
        event = AuditEvent.objects.get(action="agent.delete")
        assert (event.metadata["name"], event.metadata["tokens_gone"]) == ("Bot", 1)
        with pytest.raises(NotFound):
            services.agent_update(acme.agent, name="X", actor=acme.admin)
