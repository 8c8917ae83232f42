"""Agents and tokens through the admin."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from apps.agents import services
from apps.agents.models import Agent, AgentToken
from apps.audit.models import AuditEvent
from apps.common import clock
from apps.common.ids import token_hash
from apps.orgs.authentication import authenticate
from tests import factories
from tests.apps.admin_support import browser, errors, form_data, url

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]
TOKEN = re.compile(r"lns_[\w-]{43}")


@pytest.fixture
def acme() -> World:
    return factories.acme()


def test_an_agent_is_created_and_changed(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Agent, "add")
    data = form_data(client.get(page)) | {"name": "CI", "slug": "ci", "team": acme.team.pk}
    assert client.post(page, data).status_code == 302
    agent = Agent.objects.get(slug="ci")
    page = url(Agent, "change", agent.pk)
    data = form_data(client.get(page)) | {"team": str(acme.other_team.pk)}
    assert client.post(page, data).status_code == 302
    agent.refresh_from_db()
    assert agent.team == acme.other_team
    assert "slug" in errors(client.post(url(Agent, "add"), data | {"slug": "Ci"}))


def test_a_token_is_shown_once_and_works(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Agent, "mint", acme.agent.pk)
    assert "lns_" not in client.get(page).content.decode()
    response = client.post(page, {"name": "laptop", "lifetime": "30"})
    values = set(TOKEN.findall(response.content.decode()))
    assert len(values) == 1
    value = values.pop()
    assert "no-store" in response["Cache-Control"]
    assert "claude mcp add" in response.content.decode()
    token = AgentToken.objects.get(token_hash=token_hash(value))
    assert token.expires_at is not None
    assert 29 <= (token.expires_at - clock.now()).days <= 30
    assert authenticate(value).id == acme.agent.pk
    for view in (page, url(Agent, "change", acme.agent.pk), url(AgentToken, "changelist")):
        assert value not in client.get(view).content.decode()
    assert value not in str(list(AuditEvent.objects.values()))


def test_minting_needs_a_name_and_an_enabled_agent(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Agent, "mint", acme.agent.pk)
    assert "required" in client.post(page, {"name": "", "lifetime": ""}).content.decode()
    services.agent_disable(acme.agent, actor=acme.admin)
    assert client.post(page, {"name": "x", "lifetime": ""}).status_code == 403
    assert AgentToken.objects.filter(agent=acme.agent).count() == 1


def test_revoking_asks_first(acme: World) -> None:
    def revoked() -> bool:
        return not AgentToken.objects.filter(pk=acme.minted.token.pk, revoked_at=None).exists()

    client = browser(acme.admin)
    page = url(AgentToken, "revoke", acme.minted.token.pk)
    assert "never comes back" in client.get(page).content.decode()
    assert not revoked()
    assert client.post(page).status_code == 302
    assert revoked()
    assert client.get(page).status_code == 403


def test_revoking_in_bulk_reaches_the_own_organization_only(acme: World) -> None:
    stranger = factories.globex()
    ids = [str(acme.minted.token.pk), str(stranger.minted.token.pk)]
    data = {"action": "revoke_selected", "_selected_action": ids}
    browser(acme.auditor).post(url(AgentToken, "changelist"), data)
    assert AgentToken.objects.filter(revoked_at=None).count() == 2
    browser(acme.admin).post(url(AgentToken, "changelist"), data)
    assert list(AgentToken.objects.filter(revoked_at=None)) == [stranger.minted.token]


def test_the_kill_switch_and_back(acme: World) -> None:
    client = browser(acme.admin)
    disable, enable = (url(Agent, view, acme.agent.pk) for view in ("disable", "enable"))
    assert client.get(enable).status_code == 403
    assert client.post(disable).status_code == 302
    acme.agent.refresh_from_db()
    assert acme.agent.disabled_at is not None
    assert client.post(enable).status_code == 302
    acme.agent.refresh_from_db()
    assert acme.agent.disabled_at is None


def test_forged_teams_are_no_choices(acme: World) -> None:
    stranger = factories.globex()
    client = browser(acme.admin)
    page = url(Agent, "change", acme.agent.pk)
    data = form_data(client.get(page)) | {"team": str(stranger.team.pk)}
    assert "team" in errors(client.post(page, data))


def test_actions_on_another_organizations_agent_are_absent(acme: World) -> None:
    stranger = factories.globex()
    client = browser(acme.admin)
    for view in ("mint", "disable", "enable"):
        page = url(Agent, view, stranger.agent.pk)
        assert client.post(page, {"name": "x", "lifetime": ""}).status_code in (403, 404)
    assert AgentToken.objects.filter(agent=stranger.agent).count() == 1


def test_deleting_says_what_else_happens(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Agent, "delete", acme.agent.pk)
    assert "1 token is refused" in client.get(page).content.decode()
    assert client.post(page, {"post": "yes"}).status_code == 302
    assert not Agent.objects.filter(pk=acme.agent.pk).exists()
