"""From rows to bundles: what gets in, what does not, and when a bundle is made again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from apps.agents import services as agents
from apps.connections import services as connections
from apps.orgs import revision
from apps.orgs import services as orgs
from apps.policies import codec
from apps.policies.compiler import compile_bundle, layer_from
from apps.policies.core.check import bundle_problems
from apps.policies.core.decide import decide
from apps.policies.documents import (
    BindingDoc,
    DomainRuleDoc,
    PolicyDocument,
    document_of,
)
from apps.policies.models import Policy
from apps.policies.services import policy_delete, policy_save
from apps.policies.types import Action, ConnectRequest, HttpRequest, LayerKind, ToolRequest
from tests import factories
from tests.apps.policies.support import full_document

if TYPE_CHECKING:
    from apps.policies.types import Bundle, Decision
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


def bundle_of(world: World, **changed: Any) -> Bundle:
    arguments = {
        "org_id": world.org.pk,
        "team_id": world.team.pk,
        "project_id": world.project.pk,
        "agent_id": world.agent.pk,
    }
    return compile_bundle(**(arguments | changed))


def get(bundle: Bundle, host: str = "api.github.com") -> Decision:
    return decide(bundle, HttpRequest("https", host, 443, "GET", "/repos/a/b"))


def ceiling(world: World, *rules: DomainRuleDoc) -> None:
    document = PolicyDocument(name="Ceiling", kind="ceiling", domains=rules, has_tools=False)
    policy_save(world.org, document=document, actor=world.admin)


def test_the_team_policy_decides(acme: World) -> None:
    bundle = bundle_of(acme)
    decision = get(bundle)
    assert decision.allowed
    assert decision.binding is not None
    assert decision.binding.credential_id == str(acme.credential.pk)
    assert get(bundle, "evil.example.com").action is Action.DENY
    assert decide(bundle, ToolRequest("shell_exec")).allowed


def test_it_is_valid_and_travels(acme: World) -> None:
    policy_save(acme.org, document=full_document(acme), policy=acme.policy, actor=acme.admin)
    bundle = bundle_of(acme)
    assert bundle_problems(bundle) == []
    assert codec.decode(codec.encode(bundle)) == bundle


def test_it_never_carries_a_secret(acme: World) -> None:
    assert factories.SECRET_VALUE.encode() not in codec.encode(bundle_of(acme))


def test_layers_come_from_the_ceiling_down(acme: World) -> None:
    ceiling(acme, DomainRuleDoc("*"))
    agent = PolicyDocument(
        name="Bot", kind="agent", agent=acme.agent, domains=(DomainRuleDoc("*"),)
    )
    policy_save(acme.org, document=agent, actor=acme.admin)
    kinds = [layer.kind for layer in bundle_of(acme).layers]
    assert kinds == [LayerKind.CEILING, LayerKind.TEAM, LayerKind.AGENT]
    assert [layer.kind for layer in bundle_of(acme, agent_id=None).layers] == kinds[:2]


def test_a_ceiling_takes_away(acme: World) -> None:
    ceiling(acme, DomainRuleDoc("pypi.org"))
    decision = get(bundle_of(acme))
    assert (decision.action, decision.layer) == (Action.DENY, LayerKind.CEILING)


def test_a_section_that_is_absent_is_none_and_an_empty_one_is_empty(acme: World) -> None:
    document = replace(document_of(acme.policy), has_tools=False, tools=(), domains=())
    policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)
    layer = layer_from(Policy.objects.get(pk=acme.policy.pk))
    assert (layer.domains, layer.tools) == ((), None)


def test_the_decision_names_the_row(acme: World) -> None:
    rule = get(bundle_of(acme)).rule
    assert rule == str(acme.policy.domain_rules.get(pattern="api.github.com").pk)


class TestNothingAttachedDenies:
    """A bundle without a team layer allows nothing."""

    def denies(self, bundle: Bundle) -> None:
        assert bundle.layers == ()
        assert bundle.bindings == ()
        assert not get(bundle).allowed
        assert not decide(bundle, ConnectRequest("api.github.com", 443)).allowed
        assert not decide(bundle, ToolRequest("whoami")).allowed

    def test_without_a_policy(self, acme: World) -> None:
        policy_delete(acme.policy, actor=acme.admin)
        self.denies(bundle_of(acme))

    def test_without_a_grant(self, acme: World) -> None:
        self.denies(bundle_of(acme, project_id=acme.other_project.pk))
        orgs.grant_remove(acme.grant, actor=acme.admin)
        self.denies(bundle_of(acme))

    def test_of_a_deleted_team(self, acme: World) -> None:
        orgs.team_delete(acme.team, actor=acme.admin)
        self.denies(bundle_of(acme))

    def test_of_a_deleted_project(self, acme: World) -> None:
        orgs.project_delete(acme.project, actor=acme.admin)
        self.denies(bundle_of(acme))

    @pytest.mark.parametrize("foreign", ["org_id", "team_id", "project_id"])
    def test_over_two_organizations(self, foreign: str, acme: World) -> None:
        theirs = factories.globex()
        keys = {
            "org_id": theirs.org.pk,
            "team_id": theirs.team.pk,
            "project_id": theirs.project.pk,
        }
        self.denies(bundle_of(acme, **{foreign: keys[foreign]}))


def test_a_strangers_agent_policy_is_not_asked(acme: World) -> None:
    theirs = factories.globex()
    document = PolicyDocument(name="Bot", kind="agent", agent=theirs.agent)
    policy_save(theirs.org, document=document, actor=theirs.admin)
    assert get(bundle_of(acme, agent_id=theirs.agent.pk)).allowed


class TestBindings:
    """Only those whose credential may be used here."""

    def test_credentials_of_another_project_stay_there(self, acme: World) -> None:
        orgs.grant_set(acme.team, acme.other_project, actor=acme.admin)
        assert bundle_of(acme).bindings
        assert bundle_of(acme, project_id=acme.other_project.pk).bindings == ()

    def test_credentials_of_the_organization_serve_every_project(self, acme: World) -> None:
        orgs.grant_set(acme.team, acme.other_project, actor=acme.admin)
        wide = connections.credential_create(
            acme.org,
            slug="wide",
            name="Wide",
            value="wide-secret",
            allowed_hosts=["api.github.com"],
            allowed_teams=[acme.team],
            actor=acme.admin,
        )
        document = replace(document_of(acme.policy), bindings=(BindingDoc(wide, "api.github.com"),))
        policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)
        for project in (acme.project, acme.other_project):
            (binding,) = bundle_of(acme, project_id=project.pk).bindings
            assert binding.credential_id == str(wide.pk)

    def test_a_team_that_is_no_longer_allowed_loses_it(self, acme: World) -> None:
        connections.credential_update(acme.credential, allowed_teams=[], actor=acme.admin)
        assert bundle_of(acme).bindings == ()

    def test_hosts_that_are_no_longer_allowed_get_nothing(self, acme: World) -> None:
        connections.credential_update(
            acme.credential, allowed_hosts=["uploads.github.com"], actor=acme.admin
        )
        decision = get(bundle_of(acme))
        assert decision.allowed
        assert decision.binding is None


@pytest.mark.django_db(transaction=True)
class TestCache:
    """One bundle object as long as nothing changes."""

    def test_the_same_object_until_something_changes(self, acme: World) -> None:
        first = bundle_of(acme)
        assert bundle_of(acme) is first
        agents.agent_disable(acme.agent, actor=acme.admin)
        second = bundle_of(acme)
        assert second is not first
        assert second.version > first.version
        assert second.version == revision.read_seq()

    def test_a_saved_policy_counts_at_once(self, acme: World) -> None:
        assert get(bundle_of(acme)).allowed
        document = replace(document_of(acme.policy), domains=(DomainRuleDoc("*", "deny"),))
        policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)
        assert not get(bundle_of(acme)).allowed

    def test_from_memory_no_query_is_made(
        self, acme: World, django_assert_num_queries: Any
    ) -> None:
        bundle_of(acme)
        revision.stamp.fresh()
        with django_assert_num_queries(0):
            bundle_of(acme)


def test_the_platforms_own_names_are_refused_before_every_rule(acme: World, settings: Any) -> None:
    settings.LENS_PLATFORM_HOSTS = ("lens.example.com",)
    document = replace(document_of(acme.policy), domains=(DomainRuleDoc("*"),))
    policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)
    bundle = bundle_of(acme)
    assert get(bundle, "lens.example.com").layer is LayerKind.BUILTIN
    assert not get(bundle, "lens.example.com").allowed
    assert get(bundle, "other.example.com").allowed
