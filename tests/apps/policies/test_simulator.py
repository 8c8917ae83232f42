"""The simulator: the enforcers' own answers, shown to those who may see them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from apps.agents import services as agents
from apps.common.errors import Denied, Invalid, NotFound
from apps.connections import services as connections
from apps.orgs import services as orgs
from apps.policies.compiler import compile_bundle
from apps.policies.core.asking import answer, asked
from apps.policies.documents import DomainRuleDoc, PolicyDocument, ToolRuleDoc, document_of
from apps.policies.services import policy_delete, policy_save
from apps.policies.simulator import Outcome, Query, Question, simulate
from tests import factories
from tests.apps.policies.support import counts

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]

GITHUB = Question(method="GET", url="https://api.github.com/repos")


@pytest.fixture
def acme() -> World:
    return factories.acme()


def ask(world: World, question: Question = GITHUB, **changed: Any) -> Outcome:
    actor = changed.pop("actor", world.admin)
    query = Query(team=world.team, questions=[question], **changed)
    (found,) = simulate(world.org, query, actor=actor)
    return found.now


def test_it_is_the_decision_of_the_enforcers_bundle(acme: World) -> None:
    bundle = compile_bundle(org_id=acme.org.pk, team_id=acme.team.pk, project_id=acme.project.pk)
    decision = answer(bundle, asked("GET", GITHUB.url))
    found = ask(acme)
    assert (found.action, found.rule, found.reason) == ("allow", decision.rule, decision.reason)
    assert (found.layer, found.layer_name, found.rule_text) == (
        "team",
        "SRE policy",
        "1. api.github.com allow",
    )
    assert (found.credential, found.strips_credentials, found.path) == ("GitHub", True, "/repos")


def test_denials_say_what_was_passed_over(acme: World) -> None:
    found = ask(acme, Question(method="GET", url="https://example.com/"))
    assert (found.action, found.rule_text) == ("deny", "2. * deny")
    assert [(one.layer, one.rule) for one in found.passed_over] == [
        ("team", "1. api.github.com allow")
    ]


@pytest.mark.parametrize(
    ("question", "action", "layer", "rule"),
    [
        (Question(tool="shell_exec"), "allow", "team", None),
        (Question(tool="bad tool"), "deny", "builtin", "tool-name"),
        (Question(method="CONNECT", url="api.github.com:443"), "allow", "team", None),
        (Question(method="CONNECT", url="api.github.com:22"), "deny", "team", None),
        (Question(method="WEBSOCKET", url="wss://api.github.com/"), "deny", "team", None),
        (Question(method="GET", url="http://169.254.169.254/"), "deny", "builtin", "address"),
        (replace(GITHUB, addresses=("10.0.0.1",)), "deny", "builtin", "address"),
        (replace(GITHUB, addresses=("140.82.112.3",)), "allow", "team", None),
        (Question(method="GET", url="https://127.1/"), "deny", "proxy", "authority"),
        (Question(method="get", url="https://api.github.com/"), "deny", "proxy", "request_line"),
        (Question(method="GET", url="api.github.com"), "deny", "proxy", "target_form"),
    ],
    ids=str,
)
def test_questions(
    question: Question, action: str, layer: str, rule: str | None, acme: World
) -> None:
    found = ask(acme, question)
    assert (found.action, found.layer) == (action, layer)
    assert rule in (None, found.rule)


class TestWho:
    def test_an_agent_has_a_layer_more(self, acme: World) -> None:
        document = PolicyDocument(
            "Bot", kind="agent", agent=acme.agent, domains=(DomainRuleDoc("pypi.org"),)
        )
        policy_save(acme.org, document=document, actor=acme.admin)
        assert ask(acme).action == "allow"
        found = ask(acme, agent=acme.agent)
        assert (found.action, found.layer) == ("deny", "agent")

    def test_a_project_that_the_team_may_not_work_in(self, acme: World) -> None:
        found = ask(acme, project=acme.other_project)
        assert (found.action, found.layer) == ("deny", "grant")
        assert "Staging" in found.reason
        orgs.grant_remove(acme.grant, actor=acme.admin)
        assert ask(acme).layer == "grant"

    def test_a_credential_of_another_project_is_not_injected(self, acme: World) -> None:
        orgs.grant_set(acme.team, acme.other_project, actor=acme.admin)
        assert ask(acme, project=acme.project).credential == "GitHub"
        assert ask(acme, project=acme.other_project).credential == ""

    def test_a_team_without_a_policy(self, acme: World) -> None:
        policy_delete(acme.policy, actor=acme.admin)
        assert "no team policy" in ask(acme).reason

    def test_agents_and_projects_of_others(self, acme: World) -> None:
        stranger = factories.globex()
        lead = agents.agent_create(
            acme.org, team=acme.other_team, slug="lead", name="Lead", actor=acme.admin
        )
        for changed in ({"agent": stranger.agent}, {"agent": lead}, {"project": stranger.project}):
            with pytest.raises(Invalid):
                ask(acme, **changed)

    @pytest.mark.parametrize(("tier", "count"), [("night", 1), ("api", 0), ("api", 201)])
    def test_bounds(self, tier: str, count: int, acme: World) -> None:
        query = Query(team=acme.team, questions=[GITHUB] * count, tier=tier)
        with pytest.raises(Invalid):
            simulate(acme.org, query, actor=acme.admin)


class TestAccess:
    def test_those_who_may_view_the_policy(self, acme: World) -> None:
        for actor in (acme.admin, acme.auditor, acme.member):
            assert ask(acme, actor=actor).action == "allow"
        for actor in (acme.outsider, factories.globex().admin):
            with pytest.raises(NotFound):
                ask(acme, actor=actor)

    def test_also_when_the_team_has_no_policy(self, acme: World) -> None:
        policy_delete(acme.policy, actor=acme.admin)
        assert ask(acme, actor=acme.member).action == "deny"
        with pytest.raises(NotFound):
            ask(acme, actor=acme.outsider)

    def test_a_team_of_another_organization(self, acme: World) -> None:
        query = Query(team=factories.globex().team, questions=[GITHUB])
        with pytest.raises(NotFound):
            simulate(acme.org, query, actor=acme.admin)

    def test_layers_that_one_may_not_view_are_not_listed(self, acme: World) -> None:
        ceiling = PolicyDocument(
            "C",
            kind="ceiling",
            has_tools=False,
            domains=(DomainRuleDoc("secret.example.com", "deny"), DomainRuleDoc("*")),
        )
        policy_save(acme.org, document=ceiling, actor=acme.admin)
        assert any("secret" in one.rule for one in ask(acme).passed_over)
        assert not any("secret" in one.rule for one in ask(acme, actor=acme.member).passed_over)

    def test_it_changes_nothing(self, acme: World) -> None:
        before = counts()
        ask(acme)
        assert counts() == before


class TestDraft:
    def both(
        self, world: World, draft: PolicyDocument, question: Question = GITHUB, **who: Any
    ) -> tuple[str, str]:
        query = Query(team=world.team, questions=[question], **who)
        (found,) = simulate(world.org, query, actor=world.admin, draft=draft)
        assert found.draft is not None
        assert found.differs is (found.now.action != found.draft.action)
        return found.now.action, found.draft.action

    def test_now_and_with_this_draft(self, acme: World) -> None:
        draft = replace(document_of(acme.policy), domains=(DomainRuleDoc("*", "ask"),))
        assert self.both(acme, draft) == ("allow", "ask")

    def test_what_is_answered_is_what_comes_of_saving_it(self, acme: World) -> None:
        spare = connections.credential_create(
            acme.org, slug="spare", name="Spare", value="x", project=acme.other_project,
            allowed_hosts=["api.github.com"], allowed_teams=[acme.team], actor=acme.admin,
        )  # fmt: skip
        document = document_of(acme.policy)
        draft = replace(
            document,
            bindings=(replace(document.bindings[0], credential=spare, id=None), *document.bindings),
        )
        query = Query(team=acme.team, questions=[GITHUB], project=acme.project)
        (before,) = simulate(acme.org, query, actor=acme.admin, draft=draft)
        policy_save(acme.org, document=draft, policy=acme.policy, actor=acme.admin)
        (after,) = simulate(acme.org, query, actor=acme.admin)
        assert before.draft is not None
        assert before.draft.credential == after.now.credential == "GitHub"

    def test_a_first_policy_and_a_first_ceiling(self, acme: World) -> None:
        ceiling = PolicyDocument("C", kind="ceiling", domains=(), has_tools=False)
        assert self.both(acme, ceiling) == ("allow", "deny")
        agent = PolicyDocument("B", kind="agent", agent=acme.agent, has_domains=False, tools=())
        tool = Question(tool="whoami")
        assert self.both(acme, agent, tool) == ("allow", "allow")
        assert self.both(acme, agent, tool, agent=acme.agent) == ("allow", "deny")
        draft = replace(document_of(acme.policy), tools=(ToolRuleDoc("file_*"),))
        policy_delete(acme.policy, actor=acme.admin)
        assert self.both(acme, draft) == ("deny", "allow")

    def test_a_draft_of_another_team_changes_nothing(self, acme: World) -> None:
        draft = PolicyDocument("L", team=acme.other_team, domains=())
        assert self.both(acme, draft) == ("allow", "allow")

    def test_for_those_who_may_change_policies(self, acme: World) -> None:
        draft = document_of(acme.policy)
        query = Query(team=acme.team, questions=[GITHUB])
        for actor in (acme.member, acme.auditor):
            with pytest.raises((Denied, NotFound)):
                simulate(acme.org, query, actor=actor, draft=draft)


def test_answers_as_plain_data(acme: World) -> None:
    query = Query(team=acme.team, questions=[GITHUB])
    (found,) = simulate(acme.org, query, actor=acme.admin)
    plain = found.as_obj()
    assert plain["request"] == "GET https://api.github.com/repos"
    assert plain["draft"] is None
    assert set(plain["now"]) >= {"action", "layer", "rule", "reason", "passed_over"}
