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
from apps.connections import services as connections
from apps.orgs import services as orgs
from apps.orgs.revision import read_seq
from apps.policies.compiler import compile_bundle
from apps.policies.documents import (
    BindingDoc,
    DomainRuleDoc,
    HttpRuleDoc,
    PolicyDocument,
    ToolRuleDoc,
    document_of,
)
from apps.policies.models import CredentialBinding, DomainRule, HttpRule, Policy, ToolRule
from apps.policies.services import policy_delete, policy_save
from tests import factories

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


def counts() -> tuple[int, ...]:
    tables = (Policy, DomainRule, HttpRule, ToolRule, CredentialBinding, AuditEvent)
    return (*(table.objects.count() for table in tables), read_seq())


def full_document(world: World) -> PolicyDocument:
    """One of everything."""
    return PolicyDocument(
        name="Everything",
        team=world.team,
        description="All sections.",
        domains=(
            DomainRuleDoc(
                "api.github.com",
                agent_credentials="keep",
                http=(
                    HttpRuleDoc("GET", "/repos/**"),
                    HttpRuleDoc("*", "/repos/acme/*", "ask"),
                    HttpRuleDoc("DELETE", "", "deny"),
                ),
            ),
            DomainRuleDoc("db.example.com:5432", "direct"),
            DomainRuleDoc("*.example.com", "ask"),
            DomainRuleDoc("*", "deny"),
        ),
        tools=(ToolRuleDoc("shell_*"), ToolRuleDoc("*", "deny")),
        bindings=(
            BindingDoc(
                world.credential,
                "api.github.com",
                injection="header",
                method="GET",
                path="/repos/**",
                header="X-Token",
                template="token {value}",
                env_name="GITHUB_TOKEN",
            ),
        ),
    )


def without_ids(document: PolicyDocument) -> PolicyDocument:
    return replace(
        document,
        version=None,
        domains=tuple(
            replace(rule, id=None, http=tuple(replace(http, id=None) for http in rule.http))
            for rule in document.domains
        ),
        tools=tuple(replace(rule, id=None) for rule in document.tools),
        bindings=tuple(replace(binding, id=None) for binding in document.bindings),
    )


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


class TestBindings:
    """Never wider than the credential's owner allows."""

    def save(self, world: World, binding: BindingDoc) -> None:
        document = replace(without_ids(document_of(world.policy)), bindings=(binding,))
        policy_save(world.org, document=document, policy=world.policy, actor=world.admin)

    def refused(self, world: World, binding: BindingDoc) -> Invalid:
        before = counts()
        with pytest.raises(Invalid) as refused:
            self.save(world, binding)
        assert counts() == before
        return refused.value

    @pytest.mark.parametrize(
        "pattern",
        ["*.github.com", "github.com", "api.github.com.evil.com", "*", "api.github.com:8443"],
    )
    def test_outside_its_hosts(self, pattern: str, acme: World) -> None:
        error = self.refused(acme, BindingDoc(acme.credential, pattern))
        assert error.field == "bindings[0].pattern"

    def test_outside_its_hosts_says_which_are_inside(self, acme: World) -> None:
        error = self.refused(acme, BindingDoc(acme.credential, "example.com"))
        assert "`api.github.com`" in error.message

    def test_outside_its_teams(self, acme: World) -> None:
        connections.credential_update(
            acme.credential, allowed_teams=[acme.other_team], actor=acme.admin
        )
        error = self.refused(acme, BindingDoc(acme.credential, "api.github.com", method="GET"))
        assert error.field == "bindings[0].credential"
        assert "does not allow this team" in error.message

    def test_a_strangers_credential_does_not_exist(self, acme: World) -> None:
        stranger = factories.globex()
        error = self.refused(acme, BindingDoc(stranger.credential, "api.github.com"))
        assert (error.field, error.message) == (
            "bindings[0].credential",
            "There is no such credential.",
        )

    @pytest.mark.parametrize(
        ("changed", "field"),
        [
            ({"injection": "basic"}, "injection"),
            ({"injection": "magic"}, "injection"),
            ({"header": "X-Token"}, "header"),
            ({"injection": "header", "template": "{value}"}, "header"),
            ({"injection": "header", "header": "X-Token"}, "template"),
            ({"injection": "header", "header": "X Token", "template": "{value}"}, "header"),
            ({"injection": "header", "header": "Host", "template": "{value}"}, "header"),
            (
                {"injection": "header", "header": "Transfer-encoding", "template": "{value}"},
                "header",
            ),
            ({"injection": "header", "header": "X", "template": "{value}\r\nY: z"}, "template"),
            ({"injection": "header", "header": "X", "template": "{value}{value}"}, "template"),
            ({"method": "get"}, "method"),
            ({"env_name": "github_token"}, "env_name"),
            ({"env_name": "SSL_CERT_FILE"}, "env_name"),
            ({"path": "repos"}, "path"),
            ({"parameter": "key"}, "parameter"),
            ({"injection": "query", "parameter": "key"}, "injection"),
            ({"injection": "uri_placeholder", "parameter": "LENS_TOKEN"}, "injection"),
        ],
        ids=str,
    )
    def test_a_bad_injection(self, changed: dict[str, Any], field: str, acme: World) -> None:
        error = self.refused(acme, BindingDoc(acme.credential, "api.github.com", **changed))
        assert error.field == f"bindings[0].{field}"

    @pytest.mark.parametrize(
        ("injection", "parameter", "field"),
        [
            ("query", "key", ""),
            ("uri_placeholder", "LENS_TOKEN", ""),
            ("query", "", "parameter"),
            ("query", "a&b", "parameter"),
            ("uri_placeholder", "", "parameter"),
            ("uri_placeholder", "{token}", "parameter"),
        ],
    )
    def test_a_credential_that_may_go_into_urls(
        self, injection: str, parameter: str, field: str, acme: World
    ) -> None:
        connections.credential_update(acme.credential, allow_in_url=True, actor=acme.admin)
        binding = BindingDoc(
            acme.credential, "api.github.com", injection=injection, parameter=parameter
        )
        if field:
            assert self.refused(acme, binding).field == f"bindings[0].{field}"
            return
        document = replace(factories.document(acme.team, acme.credential), bindings=(binding,))
        saved = policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)
        (kept,) = document_of(saved.policy).bindings
        assert (kept.injection, kept.parameter) == (injection, parameter)
        bundle = compile_bundle(
            org_id=acme.org.pk, team_id=acme.team.pk, project_id=acme.project.pk
        )
        assert bundle.bindings[0].parameter == parameter

    def test_commands_find_a_sentinel(self, acme: World) -> None:
        binding = BindingDoc(acme.credential, "api.github.com", env_name="GITHUB_TOKEN")
        self.save(acme, binding)
        bundle = compile_bundle(
            org_id=acme.org.pk, team_id=acme.team.pk, project_id=acme.project.pk
        )
        (found,) = bundle.bindings
        assert (found.env_name, found.sentinel) == (
            "GITHUB_TOKEN",
            f"lens-sentinel-{acme.credential.slug}",
        )
        event = AuditEvent.objects.filter(action="policy.update").latest("at")
        assert event.metadata["changes"]["bindings"][1][0].endswith(" in GITHUB_TOKEN")

    def test_a_variable_holds_one_sentinel(self, acme: World) -> None:
        first = BindingDoc(acme.credential, "api.github.com", method="GET", env_name="TOKEN")
        document = replace(
            without_ids(document_of(acme.policy)), bindings=(first, replace(first, method="POST"))
        )
        with pytest.raises(Invalid, match="Binding 1 sets TOKEN already") as refused:
            policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)
        assert refused.value.field == "bindings[1].env_name"

    def test_only_team_policies_bind(self, acme: World) -> None:
        document = PolicyDocument(
            name="Ceiling",
            kind="ceiling",
            bindings=(BindingDoc(acme.credential, "api.github.com"),),
        )
        with pytest.raises(Invalid, match="Only a team policy") as refused:
            policy_save(acme.org, document=document, actor=acme.admin)
        assert refused.value.field == "bindings"


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
                results.append(
                    policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)
                )
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
