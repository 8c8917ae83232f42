"""What a principal sees, and how soon a change is felt."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from apps.common.errors import Invalid
from apps.mcp.catalog import Catalog, _compile, catalog_of
from apps.orgs import services as orgs
from apps.orgs.authentication import authenticate
from apps.policies import services as policies
from apps.policies.documents import PolicyDocument, ToolRuleDoc, document_of
from tests import factories
from tests.apps.mcp.conftest import in_thread

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = pytest.mark.database


@pytest.fixture
def world(db: None) -> World:
    return factories.acme()


def seen(world: World) -> Catalog:
    return _compile(authenticate(world.minted.value))


def with_tools(world: World, *rules: ToolRuleDoc, has_tools: bool = True) -> None:
    document = dataclasses.replace(document_of(world.policy), tools=rules, has_tools=has_tools)
    policies.policy_save(world.org, document=document, policy=world.policy, actor=world.admin)


def test_the_first_rule_that_matches_decides(world: World) -> None:
    with_tools(world, ToolRuleDoc("file_write", "deny"), ToolRuleDoc("file_*"))
    assert list(seen(world).listed) == ["file_list", "file_read"]


@pytest.mark.parametrize("has_tools", [True, False])
def test_a_team_policy_that_says_nothing_hides_all(world: World, *, has_tools: bool) -> None:
    with_tools(world, has_tools=has_tools)
    assert seen(world).listed == {}


def test_every_layer_must_allow(world: World) -> None:
    ceiling = PolicyDocument(
        name="Ceiling",
        kind="ceiling",
        has_domains=False,
        tools=(ToolRuleDoc("shell_*", "deny"), ToolRuleDoc("*")),
    )
    policies.policy_save(world.org, document=ceiling, actor=world.admin)
    own = PolicyDocument(
        name="Bot", kind="agent", agent=world.agent, has_domains=False, tools=(ToolRuleDoc("*_*"),)
    )
    policies.policy_save(world.org, document=own, actor=world.admin)
    catalog = seen(world)
    assert list(catalog.listed) == ["file_list", "file_read", "file_write", "web_fetch"]
    hidden = catalog.why_not("shell_exec")
    assert hidden is not None
    assert (hidden.layer, hidden.allowed) == ("ceiling", False)
    own_layer = catalog.why_not("whoami")
    assert own_layer is not None
    assert own_layer.layer == "agent"
    assert catalog.why_not("no_such_tool") is None


def test_without_a_project_there_is_nothing(world: World) -> None:
    orgs.grant_remove(world.grant, actor=world.admin)
    catalog = seen(world)
    assert catalog.listed == {}
    assert catalog.why_not("whoami") is None


def test_the_grant_of_a_call(world: World) -> None:
    catalog = seen(world)
    assert catalog.grant_for({}).slug == "production"
    assert catalog.grant_for({"project": "production"}).slug == "production"
    with pytest.raises(Invalid):
        catalog.grant_for({"project": "staging"})


@pytest.mark.django_db(transaction=True)
async def test_a_change_is_seen_at_once_in_its_own_process() -> None:
    world = await in_thread(factories.acme)
    principal = await in_thread(authenticate, world.minted.value)
    before = await catalog_of(principal)
    assert await catalog_of(principal) is before
    await in_thread(with_tools, world, ToolRuleDoc("whoami"))
    assert list((await catalog_of(principal)).listed) == ["whoami"]
