"""Saving policies: whole or not at all, with errors that name the field, and no lost update."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection

from apps.agents import services as agents
from apps.audit.models import AuditEvent
from apps.common.errors import Conflict, Invalid, NotFound
from apps.common.tenancy import scope
from apps.orgs import services as orgs
from apps.policies.documents import (
    DomainRuleDoc,
    HttpRuleDoc,
    PolicyDocument,
    ToolRuleDoc,
    document_of,
)
from apps.policies.models import Policy
from apps.policies.services import policy_delete, policy_save
from tests import factories
from tests.apps.policies.support import counts, full_document, without_ids

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


class TestRoundTrip:
    """What is saved is what is read."""

    def test_everything_comes_back_in_order(self, acme: World) -> None:
        document = full_document(acme)
        saved = policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)
        assert without_ids(document_of(saved.policy)) == document
        assert saved.policy.version == 2

    def test_saving_what_was_read_changes_nothing(self, acme: World) -> None:
        policy_save(acme.org, document=full_document(acme), policy=acme.policy, actor=acme.admin)
        policy = Policy.objects.get(pk=acme.policy.pk)
        before = counts()
        saved = policy_save(acme.org, document=document_of(policy), policy=policy, actor=acme.admin)
        assert (counts(), saved.policy.version) == (before, policy.version)

    def test_rules_keep_their_ids_over_an_edit(self, acme: World) -> None:
        first = document_of(acme.policy)
        moved = replace(
            first, domains=(DomainRuleDoc("pypi.org"), *first.domains), tools=first.tools
        )
        policy_save(acme.org, document=moved, policy=acme.policy, actor=acme.admin)
        second = document_of(Policy.objects.get(pk=acme.policy.pk))
        assert [rule.id for rule in second.domains[1:]] == [rule.id for rule in first.domains]
        assert second.domains[0].id not in {rule.id for rule in first.domains}
        assert [rule.id for rule in second.tools] == [rule.id for rule in first.tools]

    def test_an_id_of_another_policy_is_not_taken_over(self, acme: World) -> None:
        stranger = document_of(factories.globex().policy)
        mine = document_of(acme.policy)
        forged = replace(
            mine,
            description="Forged.",
            domains=tuple(
                replace(rule, id=other.id)
                for rule, other in zip(mine.domains, stranger.domains, strict=True)
            ),
            tools=(replace(mine.tools[0], id=mine.domains[0].id), ToolRuleDoc("x", "allow")),
        )
        policy_save(acme.org, document=forged, policy=acme.policy, actor=acme.admin)
        assert {rule.id for rule in document_of(acme.policy).domains}.isdisjoint(
            rule.id for rule in stranger.domains
        )
        theirs = Policy.objects.get(pk=factories_policy(stranger))
        assert document_of(theirs).domains == stranger.domains

    def test_the_event_shows_the_lines_that_changed(self, acme: World) -> None:
        document = replace(document_of(acme.policy), tools=())
        policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)
        event = AuditEvent.objects.get(action="policy.update")
        assert event.metadata["changes"] == {"tools": [["* allow"], []]}
        assert (event.team_slug, event.metadata["version"]) == ("sre", 2)


def factories_policy(document: PolicyDocument) -> Any:
    """The key of the policy that a document was read from."""
    assert document.team is not None
    return document.team.policy.pk


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"domains": [DomainRuleDoc("https://x.com")]}, "domains[0].pattern", "host only"),
    ({"domains": [DomainRuleDoc("")]}, "domains[0].pattern", "any host"),
    ({"domains": [DomainRuleDoc("a.com"), DomainRuleDoc("b c")]}, "domains[1].pattern", "b c"),
    ({"domains": [DomainRuleDoc("a*.com")]}, "domains[0].pattern", "stands alone"),
    ({"domains": [DomainRuleDoc("x" * 300 + ".com")]}, "domains[0].pattern", "longer"),
    ({"domains": [DomainRuleDoc("a.com", "maybe")]}, "domains[0].action", "maybe"),
    ({"domains": [DomainRuleDoc("a.com", "approve")]}, "domains[0].action", "`ask`"),
    ({"domains": [DomainRuleDoc("a.com", "direct")]}, "domains[0].pattern", "its port"),
    (
        {"domains": [DomainRuleDoc("a.com", agent_credentials="sell")]},
        "domains[0].agent_credentials",
        "sell",
    ),
    (
        {"domains": [DomainRuleDoc("a.com", http=(HttpRuleDoc(), HttpRuleDoc("get", "/x")))]},
        "domains[0].http[1].method",
        "capitals",
    ),
    (
        {"domains": [DomainRuleDoc("a.com", http=(HttpRuleDoc("GET", "no-slash"),))]},
        "domains[0].http[0].path",
        "starts with",
    ),
    (
        {"domains": [DomainRuleDoc("a.com", http=(HttpRuleDoc("GET", "/a/../b"),))]},
        "domains[0].http[0].path",
        "dot segment",
    ),
    (
        {"domains": [DomainRuleDoc("a.com", http=(HttpRuleDoc("GET", "/" + "x" * 600),))]},
        "domains[0].http[0].path",
        "500",
    ),
    (
        {"domains": [DomainRuleDoc("a.com", http=(HttpRuleDoc("X" * 20),))]},
        "domains[0].http[0].method",
        "16",
    ),
    (
        {"domains": [DomainRuleDoc("*", "deny"), DomainRuleDoc("a.com")]},
        "domains[1]",
        r"\*",
    ),
    (
        {
            "domains": [
                DomainRuleDoc("a.com", http=(HttpRuleDoc("*"), HttpRuleDoc("GET", "/x", "deny")))
            ]
        },
        "domains[0].http[1]",
        "GET /x",
    ),
    ({"domains": [DomainRuleDoc("a.com")] * 501}, "domains", "501"),
    ({"domains": [DomainRuleDoc("a.com", http=(HttpRuleDoc(),) * 401)] * 5}, "domains", "2005"),
    (
        {"domains": [DomainRuleDoc("a.com", http=(HttpRuleDoc(),) * 501)]},
        "domains[0].http",
        "500",
    ),
    ({"tools": [ToolRuleDoc("bad tool")]}, "tools[0].pattern", "letters, digits"),
    ({"tools": [ToolRuleDoc("x" * 65)]}, "tools[0].pattern", "64"),
    ({"tools": [ToolRuleDoc("*", "direct")]}, "tools[0].action", "allow"),
    ({"tools": [ToolRuleDoc("*", "approve")]}, "tools[0].action", "approve"),
    ({"tools": [ToolRuleDoc("*"), ToolRuleDoc("shell_*", "deny")]}, "tools[1]", r"\*"),
    ({"name": ""}, "name", "blank"),
    ({"name": "x" * 300}, "name", "200"),
    ({"has_domains": False}, "domains", "does not govern"),
    ({"has_tools": False}, "tools", "does not govern"),
]


@pytest.mark.parametrize(("changed", "field", "says"), REFUSED, ids=range(len(REFUSED)))
@pytest.mark.parametrize("new", ["new", "over one"])
def test_bad_input_names_its_field_and_leaves_nothing(
    changed: dict[str, Any], field: str, says: str, new: str, acme: World
) -> None:
    base = without_ids(document_of(acme.policy))
    policy: Policy | None = acme.policy
    if new == "new":
        base, policy = replace(base, team=acme.other_team, bindings=()), None
    changed = {key: tuple(v) if isinstance(v, list) else v for key, v in changed.items()}
    before = counts()
    with pytest.raises(Invalid, match=says) as refused:
        policy_save(acme.org, document=replace(base, **changed), policy=policy, actor=acme.admin)
    assert refused.value.field == field
    assert counts() == before


def test_a_hidden_rule_is_refused_with_the_sentence_of_the_core(acme: World) -> None:
    document = PolicyDocument(
        name="X",
        team=acme.other_team,
        domains=(DomainRuleDoc("*.github.com", "deny"), DomainRuleDoc("api.github.com")),
    )
    with pytest.raises(Invalid) as refused:
        policy_save(acme.org, document=document, actor=acme.admin)
    assert refused.value.field == "domains[1]"
    assert refused.value.data["hidden_by"] == "domains[0]"
    assert "api.github.com" in refused.value.message
    assert "*.github.com" in refused.value.message


class TestSubjects:
    """Whose policy it is."""

    def document(self, **changed: Any) -> PolicyDocument:
        return replace(PolicyDocument(name="X", domains=(DomainRuleDoc("a.com"),)), **changed)

    def test_a_second_policy_of_a_team_is_a_conflict(self, acme: World) -> None:
        with pytest.raises(Conflict, match="SRE has a policy already"):
            policy_save(acme.org, document=self.document(team=acme.team), actor=acme.admin)

    def test_a_second_ceiling_is_a_conflict(self, acme: World) -> None:
        policy_save(acme.org, document=self.document(kind="ceiling"), actor=acme.admin)
        with pytest.raises(Conflict, match="ceiling already"):
            policy_save(acme.org, document=self.document(kind="ceiling"), actor=acme.admin)
        stranger = factories.globex()
        policy_save(stranger.org, document=self.document(kind="ceiling"), actor=stranger.admin)

    def test_kind_and_subject_must_fit(self, acme: World) -> None:
        for changed, field in (
            ({}, "team"),
            ({"kind": "agent"}, "agent"),
            ({"kind": "ceiling", "team": acme.other_team}, "team"),
            ({"team": acme.other_team, "agent": acme.agent}, "agent"),
            ({"kind": "world"}, "kind"),
        ):
            with pytest.raises(Invalid) as refused:
                policy_save(acme.org, document=self.document(**changed), actor=acme.admin)
            assert refused.value.field == field

    def test_it_never_moves_to_another_team(self, acme: World) -> None:
        document = replace(document_of(acme.policy), team=acme.other_team)
        with pytest.raises(Invalid, match="stays with its team"):
            policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)

    def test_deleted_teams_get_none(self, acme: World) -> None:
        orgs.team_delete(acme.other_team, actor=acme.admin)
        acme.other_team.refresh_from_db()
        with pytest.raises(Invalid, match="no such team"):
            policy_save(acme.org, document=self.document(team=acme.other_team), actor=acme.admin)

    def test_an_agent_policy_goes_with_its_agent(self, acme: World) -> None:
        document = self.document(kind="agent", agent=acme.agent)
        policy = policy_save(acme.org, document=document, actor=acme.admin).policy
        agents.agent_delete(acme.agent, actor=acme.admin)
        assert not Policy.objects.filter(pk=policy.pk).exists()

    def test_an_organization_that_is_not_the_policys_finds_nothing(self, acme: World) -> None:
        stranger = factories.globex()
        with pytest.raises(NotFound):
            policy_save(
                stranger.org,
                document=document_of(acme.policy),
                policy=acme.policy,
                actor=acme.admin,
            )


class TestWarnings:
    """Rules that a layer above makes moot."""

    def test_a_team_rule_under_a_ceiling(self, acme: World) -> None:
        ceiling = PolicyDocument(
            name="Ceiling",
            kind="ceiling",
            has_tools=False,
            domains=(DomainRuleDoc("*.github.com", "deny"), DomainRuleDoc("*")),
        )
        saved = policy_save(acme.org, document=ceiling, actor=acme.admin)
        assert len(saved.warnings) == 1
        assert saved.warnings[0].startswith("SRE policy: ")
        assert "api.github.com" in saved.warnings[0]
        team = replace(document_of(acme.policy), description="New.")
        again = policy_save(acme.org, document=team, policy=acme.policy, actor=acme.admin)
        assert len(again.warnings) == 1
        assert "api.github.com" in again.warnings[0]

    def test_an_agent_rule_under_its_team(self, acme: World) -> None:
        document = PolicyDocument(
            name="Bot", kind="agent", agent=acme.agent, domains=(DomainRuleDoc("pypi.org"),)
        )
        saved = policy_save(acme.org, document=document, actor=acme.admin)
        assert len(saved.warnings) == 1
        assert "pypi.org" in saved.warnings[0]

    def test_none_where_everything_has_an_effect(self, acme: World) -> None:
        document = replace(document_of(acme.policy), description="New.")
        saved = policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)
        assert saved.warnings == ()


class TestVersions:
    """Two editors of one policy."""

    def test_the_second_to_save_is_told(self, acme: World) -> None:
        seen = document_of(acme.policy)
        policy_save(
            acme.org,
            document=replace(seen, description="Mine."),
            policy=acme.policy,
            actor=acme.admin,
        )
        fresh = Policy.objects.get(pk=acme.policy.pk)
        before = counts()
        with pytest.raises(Conflict, match="version 2 while you edited version 1"):
            policy_save(
                acme.org,
                document=replace(seen, description="Theirs."),
                policy=fresh,
                actor=acme.admin,
            )
        assert counts() == before

    def test_without_a_version_the_row_in_hand_counts(self, acme: World) -> None:
        stale = Policy.objects.get(pk=acme.policy.pk)
        document = without_ids(document_of(acme.policy))
        policy_save(
            acme.org,
            document=replace(document, description="Mine."),
            policy=acme.policy,
            actor=acme.admin,
        )
        with pytest.raises(Conflict):
            policy_save(
                acme.org,
                document=replace(document, description="Theirs."),
                policy=stale,
                actor=acme.admin,
            )

    @pytest.mark.django_db(transaction=True)
    def test_of_parallel_saves_one_wins_and_nothing_is_mixed(self) -> None:
        acme = factories.acme()
        seen = without_ids(document_of(acme.policy))
        results: list[object] = []

        def save(number: int) -> None:
            host = f"h{number}.example.com"
            document = replace(seen, domains=(DomainRuleDoc(host),), tools=(), version=1)
            try:
                with scope(acme.org.pk):
                    saved = policy_save(
                        acme.org, document=document, policy=acme.policy, actor=acme.admin
                    )
                results.append(saved)
            except Conflict as error:
                results.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert len(results) == 4
        assert sum(isinstance(result, Conflict) for result in results) == 3
        policy = Policy.objects.get(pk=acme.policy.pk)
        assert policy.version == 2
        assert policy.domain_rules.count() == 1


def test_deleting_leaves_the_team_without_any_right(acme: World) -> None:
    policy_delete(acme.policy, actor=acme.admin)
    assert counts()[:5] == (0, 0, 0, 0, 0)
    event = AuditEvent.objects.get(action="policy.delete")
    assert event.metadata["changes"]["domains"] == [["api.github.com allow", "* deny"], None]
