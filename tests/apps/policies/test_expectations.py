"""Policy tests: what blocks a save, what only needs a reason, and what is merely said."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from apps.agents import services as agents
from apps.audit.models import AuditEvent
from apps.common.errors import Conflict, Denied, Invalid, NotFound
from apps.policies.documents import (
    DomainRuleDoc,
    ExpectationDoc,
    HttpRuleDoc,
    PolicyDocument,
    ToolRuleDoc,
    document_of,
)
from apps.policies.documents_io import to_obj
from apps.policies.models import Policy
from apps.policies.services import policy_save
from apps.policies.validation import policy_validate
from tests import factories
from tests.apps.policies.support import counts

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]

GITHUB = ExpectationDoc("allow", method="GET", url="https://api.github.com/repos")
OTHERS = ExpectationDoc("deny", method="GET", url="https://example.com/")


@pytest.fixture
def acme() -> World:
    return factories.acme()


def save(world: World, reason: str = "", **changed: Any) -> Any:
    """Change the team's policy."""
    policy = Policy.objects.get(pk=world.policy.pk)
    document = replace(document_of(policy), **changed)
    return policy_save(
        world.org, document=document, policy=policy, actor=world.admin, reason=reason
    )


def blocked(world: World, **changed: Any) -> Conflict:
    before = counts()
    with pytest.raises(Conflict) as refused:
        save(world, reason="Whatever.", **changed)
    assert counts() == before
    assert refused.value.error_code == "policy_tests_failed"
    return refused.value


class TestSaving:
    def test_passing_tests_let_anything_through(self, acme: World) -> None:
        wider = (*document_of(acme.policy).domains[:1], DomainRuleDoc("pypi.org"))
        save(acme, tests=(GITHUB, OTHERS), domains=wider)
        assert document_of(Policy.objects.get(pk=acme.policy.pk)).tests[0].url == GITHUB.url

    def test_a_failing_test_blocks_what_widens(self, acme: World) -> None:
        save(acme, tests=(OTHERS,))
        error = blocked(acme, domains=(DomainRuleDoc("*"),))
        (failing,) = error.data["failing"]
        assert (failing["field"], failing["found"], failing["expected"]) == (
            "tests[0]",
            "allow",
            "deny",
        )
        assert error.data["widens"][0]["field"] == "domains[0]"
        assert "https://example.com/" in error.message

    def test_also_one_that_failed_before(self, acme: World) -> None:
        save(acme, tests=(replace(OTHERS, expect="allow"),), reason="To come.")
        blocked(acme, domains=(DomainRuleDoc("pypi.org"),), bindings=())

    def test_what_only_takes_away_needs_a_reason(self, acme: World) -> None:
        save(acme, tests=(GITHUB,))
        narrower: dict[str, Any] = {"domains": (DomainRuleDoc("*", "deny"),)}
        before = counts()
        with pytest.raises(Invalid, match="only takes away") as refused:
            save(acme, **narrower)
        assert refused.value.field == "reason"
        assert counts() == before
        saved = save(acme, reason="GitHub was breached.", **narrower)
        assert "A test fails" in saved.warnings[0]
        event = AuditEvent.objects.filter(action="policy.update").latest("at")
        assert event.metadata["reason"] == "GitHub was breached."
        assert event.metadata["widens"] is False
        assert event.metadata["failing_tests"] == [
            "anybody: GET https://api.github.com/repos is allow"
        ]

    def test_a_new_policy_that_fails_is_not_made(self, acme: World) -> None:
        document = PolicyDocument(
            "Leads", team=acme.other_team, domains=(DomainRuleDoc("*"),), tests=(OTHERS,)
        )
        before = counts()
        with pytest.raises(Conflict):
            policy_save(acme.org, document=document, actor=acme.admin)
        assert counts() == before

    def test_tools_tiers_and_agents(self, acme: World) -> None:
        agent = PolicyDocument(
            "Bot", kind="agent", agent=acme.agent, has_domains=False, tools=(ToolRuleDoc("file_*"),)
        )
        policy_save(acme.org, document=agent, actor=acme.admin)
        save(
            acme,
            tests=(
                ExpectationDoc("allow", tool="shell_exec"),
                ExpectationDoc("deny", tool="shell_exec", agent="bot"),
                ExpectationDoc("allow", tool="file_read", agent="bot", tier="background"),
            ),
        )

    def test_an_agent_that_is_gone_fails_its_test_and_blocks_no_narrowing(
        self, acme: World
    ) -> None:
        save(acme, tests=(replace(GITHUB, agent="bot"),))
        agents.agent_delete(acme.agent, actor=acme.admin)
        error = blocked(acme, domains=(DomainRuleDoc("*"),))
        assert "no agent “bot”" in error.message
        save(acme, reason="Narrower.", domains=())

    def test_websockets_and_tunnels(self, acme: World) -> None:
        rules = (
            DomainRuleDoc("a.x", http=(HttpRuleDoc("WEBSOCKET", "/live"),)),
            DomainRuleDoc("d.x:443", "direct"),
        )
        tests = (
            ExpectationDoc("allow", method="WEBSOCKET", url="wss://a.x/live"),
            ExpectationDoc("deny", method="GET", url="https://a.x/live"),
            ExpectationDoc("direct", method="GET", url="https://d.x/"),
            ExpectationDoc("direct", method="CONNECT", url="d.x:443"),
        )
        save(acme, domains=rules, bindings=(), tests=tests)


class TestOtherDocuments:
    def test_a_ceilings_save_says_which_teams_tests_fail(self, acme: World) -> None:
        save(acme, tests=(GITHUB,))
        ceiling = PolicyDocument(
            "C", kind="ceiling", has_tools=False, domains=(DomainRuleDoc("pypi.org"),)
        )
        saved = policy_save(acme.org, document=ceiling, actor=acme.admin)
        assert any(
            text.startswith("SRE policy: its test fails: anybody: GET") for text in saved.warnings
        )

    def test_a_ceilings_own_tests_name_whom_they_are_for(self, acme: World) -> None:
        ceiling = PolicyDocument("C", kind="ceiling", domains=(DomainRuleDoc("*"),))
        for test, field in (
            (GITHUB, "tests[0].team"),
            (replace(GITHUB, team="sre", agent="bot"), "tests[0].team"),
        ):
            with pytest.raises(Invalid) as refused:
                policy_save(acme.org, document=replace(ceiling, tests=(test,)), actor=acme.admin)
            assert refused.value.field == field
        tests = (replace(GITHUB, team="sre"), replace(OTHERS, agent="bot"))
        policy_save(acme.org, document=replace(ceiling, tests=tests), actor=acme.admin)

    def test_an_agents_test_under_its_teams_save(self, acme: World) -> None:
        agent = PolicyDocument(
            "Bot", kind="agent", agent=acme.agent, domains=(DomainRuleDoc("*"),), tests=(GITHUB,)
        )
        policy_save(acme.org, document=agent, actor=acme.admin)
        saved = save(acme, domains=(), bindings=())
        assert any(text.startswith("Bot: its test fails") for text in saved.warnings)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"url": ""}, "tool"),
        ({"tool": "whoami"}, "tool"),
        ({"expect": "approve"}, "expect"),
        ({"expect": "yes"}, "expect"),
        ({"tier": "night"}, "tier"),
        ({"method": "get"}, "method"),
        ({"url": "a.x/path"}, "url"),
        ({"url": "https://127.1/"}, "url"),
        ({"team": "sre"}, "team"),
        ({"tool": "whoami", "url": ""}, "method"),
        ({"tool": "whoami", "url": "", "method": "", "expect": "ask"}, "expect"),
        ({"url": "https://a.x/" + "a" * 2_000}, "url"),
        ({"note": "x" * 201}, "note"),
    ],
    ids=str,
)
def test_a_test_that_cannot_be_asked(changed: dict[str, Any], field: str, acme: World) -> None:
    before = counts()
    with pytest.raises(Invalid) as refused:
        save(acme, tests=(GITHUB, replace(OTHERS, **changed)))
    assert refused.value.field == f"tests[1].{field}"
    assert counts() == before


@pytest.mark.parametrize("changed", [{"note": "Never at night"}, {"team": "", "agent": "sre"}])
def test_whatever_changes_in_a_test_is_saved(changed: dict[str, Any], acme: World) -> None:
    """Also what its sentence does not tell; and the event says what it was."""
    agents.agent_create(acme.org, team=acme.team, slug="sre", name="Same", actor=acme.admin)
    first = replace(OTHERS, team="sre")
    ceiling = PolicyDocument("Acme", kind="ceiling", domains=(DomainRuleDoc("*"),), has_tools=False)
    made = policy_save(
        acme.org,
        document=replace(ceiling, tests=(replace(first, expect="deny"),)),
        actor=acme.admin,
    ).policy
    document = replace(document_of(made), tests=(replace(first, **changed),))
    saved = policy_save(acme.org, document=document, policy=made, actor=acme.admin).policy
    assert saved.version == 2
    (test,) = document_of(saved).tests
    assert {name: getattr(test, name) for name in changed} == changed
    event = AuditEvent.objects.filter(action="policy.update").latest("at")
    old, new = event.metadata["changes"]["tests"]
    assert old != new


def test_too_many(acme: World) -> None:
    with pytest.raises(Invalid, match="At most 200 tests") as refused:
        save(acme, tests=(OTHERS,) * 201)
    assert refused.value.field == "tests"


class TestValidation:
    def plain(self, world: World, **changed: Any) -> dict[str, Any]:
        return {**to_obj(document_of(world.policy)), **changed}

    def test_it_says_everything_and_changes_nothing(self, acme: World) -> None:
        before = counts()
        plain = self.plain(
            acme,
            domains=[{"pattern": "*", "action": "allow"}],
            tests=[{"method": "GET", "url": "https://example.com/", "expect": "deny"}],
        )
        found = policy_validate(acme.org, document=plain, actor=acme.admin).as_obj()
        assert found["valid"]
        assert [test["passed"] for test in found["tests"]] == [False]
        assert found["widens"]
        assert counts() == before

    def test_all_problems_at_once(self, acme: World) -> None:
        plain = self.plain(
            acme,
            domains=[
                {"pattern": "a b", "action": "allow"},
                {"pattern": "*", "action": "direct"},
            ],
            bindings=[{"credential": "github", "pattern": "*"}],
        )
        found = policy_validate(acme.org, document=plain, actor=acme.admin)
        assert [problem.field for problem in found.problems] == [
            "domains[0].pattern",
            "domains[1].pattern",
            "bindings[0].pattern",
        ]

    def test_hidden_and_moot_rules_name_their_place(self, acme: World) -> None:
        rules = [{"pattern": "*", "action": "deny"}, {"pattern": "a.x", "action": "allow"}]
        found = policy_validate(
            acme.org, document=self.plain(acme, domains=rules, bindings=[]), actor=acme.admin
        )
        assert [problem.field for problem in found.problems] == ["domains[1]"]
        moot = [{"pattern": "a.x", "action": "allow"}, {"pattern": "localhost", "action": "allow"}]
        found = policy_validate(
            acme.org, document=self.plain(acme, domains=moot, bindings=[]), actor=acme.admin
        )
        assert [warning.field for warning in found.warnings] == ["domains[1]"]

    def test_what_cannot_be_read(self, acme: World) -> None:
        found = policy_validate(acme.org, document={"kind": "team"}, actor=acme.admin)
        assert [problem.field for problem in found.problems] == ["name"]

    def test_for_those_who_could_save_it(self, acme: World) -> None:
        for actor in (acme.member, acme.auditor):
            with pytest.raises((Denied, NotFound)):
                policy_validate(acme.org, document=self.plain(acme), actor=actor)
