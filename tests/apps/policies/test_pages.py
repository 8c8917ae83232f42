"""The pages beside a policy's form, and the form before it is saved."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from django.urls import reverse

from apps.audit.models import AuditEvent
from apps.policies.documents import (
    DomainRuleDoc,
    ExpectationDoc,
    PolicyDocument,
    ToolRuleDoc,
    document_of,
)
from apps.policies.documents_io import parse, to_yaml
from apps.policies.models import Policy, PolicyVersion
from apps.policies.questions import parse_questions
from apps.policies.services import policy_save
from tests import factories
from tests.apps.admin_support import browser, errors, form_data, url
from tests.apps.policies.support import counts

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]
EVIL = "<script>alert(1)</script>\u202egnp"


@pytest.fixture
def acme() -> World:
    return factories.acme()


@pytest.fixture
def page(acme: World) -> str:
    return url(Policy, "change", acme.policy.pk)


def at(name: str, *args: Any) -> str:
    return reverse(f"admin:policies_policy_{name}", args=args)


def text_of(response: Any) -> str:
    assert response.status_code == 200, response.status_code
    return str(response.content.decode())


def notes(response: Any, prefix: str, field: str = "pattern") -> list[tuple[str, str]]:
    """What stands below an input."""
    for inline in response.context["inline_admin_formsets"]:
        for form in inline.formset.forms:
            if form.prefix == prefix:
                return list(form.fields[field].widget.notes)
    raise AssertionError(prefix)


class TestForm:
    def test_it_shows_the_layers_with_links(self, acme: World, page: str) -> None:
        ceiling = policy_save(
            acme.org,
            document=PolicyDocument("The ceiling", kind="ceiling", domains=(DomainRuleDoc("*"),)),
            actor=acme.admin,
        ).policy
        agent = policy_save(
            acme.org,
            document=PolicyDocument("The bot's", kind="agent", agent=acme.agent),
            actor=acme.admin,
        ).policy
        found = browser(acme.admin).get(page).context["chain"]
        assert [row.pk for row, _ in found["above"]] == [ceiling.pk]
        assert [row.pk for row, _ in found["below"]] == [agent.pk]
        above = browser(acme.admin).get(url(Policy, "change", agent.pk)).context["chain"]["above"]
        assert [row.pk for row, _ in above] == [ceiling.pk, acme.policy.pk]
        assert browser(acme.member).get(page).context["chain"]["above"] == []

    def test_rules_without_effect_say_so_in_their_place(self, acme: World, page: str) -> None:
        ceiling = PolicyDocument(
            "C",
            kind="ceiling",
            has_tools=False,
            domains=(DomainRuleDoc("*.github.com", "deny"), DomainRuleDoc("*")),
        )
        policy_save(acme.org, document=ceiling, actor=acme.admin)
        ((look, text),) = notes(browser(acme.admin).get(page), "domain_rules-0")
        assert look == "warn"
        assert "has no effect" in text

    def test_a_member_is_told_nothing_of_layers_that_only_readers_see(
        self, acme: World, page: str
    ) -> None:
        agent = PolicyDocument(
            "Bot",
            kind="agent",
            agent=acme.agent,
            has_domains=False,
            tools=(ToolRuleDoc("file_*"),),
            tests=(ExpectationDoc("allow", tool="secret_tool"),),
        )
        policy_save(acme.org, document=agent, actor=acme.admin, reason="To come.")
        assert "secret_tool" in text_of(browser(acme.auditor).get(page))
        assert "secret_tool" not in text_of(browser(acme.member).get(page))

    def test_check_looks_at_the_draft_and_saves_nothing(self, acme: World, page: str) -> None:
        client = browser(acme.admin)
        data = form_data(client.get(page)) | {"_check": "1", "domain_rules-0-pattern": "localhost"}
        data |= {"bindings-TOTAL_FORMS": "1", "bindings-0-DELETE": "on"}
        before = counts(), AuditEvent.objects.count()
        response = client.post(page, data)
        assert "Checked, not saved" in text_of(response)
        assert ("warn" in dict(notes(response, "domain_rules-0"))) is True
        assert response.context["previewed"]
        assert (counts(), AuditEvent.objects.count()) == before
        assert form_data(response)["domain_rules-0-pattern"] == "localhost"

    def test_check_shows_every_problem_at_its_rule(self, acme: World, page: str) -> None:
        client = browser(acme.admin)
        data = form_data(client.get(page)) | {"_check": "1"}
        data |= {
            "domain_rules-0-pattern": "a b",
            "domain_rules-0-http": "GET /a allow\nGE{ /b allow",
        }
        data |= {"bindings-0-pattern": "*.github.com"}
        response = client.post(page, data)
        text = text_of(response)
        assert "Cannot be saved" in text
        assert "Line 2" in text
        assert "outside the hosts" in text

    def test_a_new_policy_can_be_checked(self, acme: World) -> None:
        client = browser(acme.admin)
        page = url(Policy, "add")
        data = form_data(client.get(page)) | {"name": "X", "kind": "team", "_check": "1"}
        response = client.post(page, data | {"team": str(acme.other_team.pk)})
        assert "Checked, not saved" in text_of(response)
        assert not Policy.objects.filter(team=acme.other_team).exists()
        assert "team" in errors(client.post(page, data))

    def test_the_draft_is_simulated_beside_what_is_saved(self, acme: World, page: str) -> None:
        client = browser(acme.admin)
        data = form_data(client.get(page)) | {
            "_simulate": "1",
            "domain_rules-0-action": "ask",
            "sim-tier": "api",
            "sim-requests": "GET https://api.github.com/\nTOOL shell_exec",
        }
        before = counts()
        (first, second) = client.post(page, data).context["answers"]
        assert (first.now.action, first.draft.action, first.differs) == ("allow", "ask", True)
        assert (second.now.action, second.draft.action) == ("allow", "allow")
        assert counts() == before
        response = client.post(page, data | {"sim-requests": "nonsense"})
        assert response.context["answers"] is None
        assert "Line 1" in text_of(response)

    def test_tests_are_rows_of_the_form(self, acme: World, page: str) -> None:
        client = browser(acme.admin)
        data = form_data(client.get(page)) | {"tests-TOTAL_FORMS": "2"}
        for index, (asks, expect) in enumerate(
            (("GET https://api.github.com/x", "allow"), ("tool shell_exec", "deny"))
        ):
            values = {"asks": asks, "expect": expect, "agent": "", "tier": "", "note": "why"}
            data |= {f"tests-{index}-{name}": value for name, value in values.items()}
        response = client.post(page, data | {"reason": "First tests."})
        assert response.status_code == 302, errors(response)
        first, second = acme.policy.tests.all()
        assert (first.method, first.url, second.tool) == (
            "GET",
            "https://api.github.com/x",
            "shell_exec",
        )
        shown = client.get(page)
        assert notes(shown, "tests-0", "asks")[0][0] == "good"
        assert notes(shown, "tests-1", "asks")[0][0] == "bad"
        refused = client.post(page, form_data(shown) | {"name": "Renamed"})
        assert "say why" in str(errors(refused)["reason"])
        widening = form_data(shown) | {"domain_rules-1-action": "allow"}
        assert "lets more through" in str(errors(client.post(page, widening)))
        bad = client.post(page, form_data(shown) | {"tests-0-asks": "GET example.com"})
        assert "Nobody can ask" in text_of(bad)

    def test_a_reader_sees_tests_and_no_buttons(self, acme: World, page: str) -> None:
        document = replace(
            document_of(acme.policy), tests=(ExpectationDoc("allow", tool="whoami", note=EVIL),)
        )
        policy_save(acme.org, document=document, policy=acme.policy, actor=acme.admin)
        text = text_of(browser(acme.auditor).get(page))
        assert "TOOL whoami" in text
        assert "_check" not in text
        assert EVIL not in text

    def test_of_two_people_who_save_at_once_the_second_is_told(
        self, acme: World, page: str
    ) -> None:
        client = browser(acme.admin)
        first = form_data(client.get(page))
        other = first | {"domain_rules-1-action": "ask", "tool_rules-0-pattern": "file_*"}
        assert client.post(page, first | {"domain_rules-0-action": "ask"}).status_code == 302
        before = counts(), PolicyVersion.objects.count()
        assert "Reload the policy" in str(errors(client.post(page, other)))
        assert (counts(), PolicyVersion.objects.count()) == before


class TestSimulate:
    QUESTIONS = "GET https://api.github.com/\nGET https://<b>.example/\nTOOL shell_exec"

    def test_for_everybody_who_may_view_it(self, acme: World) -> None:
        for actor in (acme.admin, acme.auditor, acme.member):
            client = browser(actor)
            assert "Simulate" in text_of(client.get(at("simulate", acme.policy.pk)))
            data = {"sim-tier": "api", "sim-requests": self.QUESTIONS, "sim-agent": acme.agent.pk}
            response = client.post(at("simulate", acme.policy.pk), data)
            actions = [one.now.action for one in response.context["answers"]]
            assert actions == ["allow", "deny", "allow"]
            assert "<b>.example" not in text_of(response)

    def test_a_ceiling_is_asked_for_a_team(self, acme: World) -> None:
        ceiling = policy_save(
            acme.org,
            document=PolicyDocument("C", kind="ceiling", has_tools=False, domains=()),
            actor=acme.admin,
        ).policy
        data = {"sim-tier": "api", "sim-requests": self.QUESTIONS, "sim-team": acme.team.pk}
        response = browser(acme.admin).post(at("simulate", ceiling.pk), data)
        assert [one.now.action for one in response.context["answers"]] == ["deny", "deny", "allow"]
        theirs = data | {"sim-team": factories.globex().team.pk}
        assert (
            browser(acme.admin).post(at("simulate", ceiling.pk), theirs).context["answers"] is None
        )

    @pytest.mark.parametrize(
        "changed",
        [
            {"sim-requests": ""},
            {"sim-requests": "GET"},
            {"sim-requests": "GET https://a.x/\n" * 201},
            {"sim-addresses": "not an address"},
            {"sim-tier": "night"},
            {"sim-agent": "0"},
        ],
        ids=str,
    )
    def test_bad_questions_stand_at_their_field(self, changed: dict[str, str], acme: World) -> None:
        data = {"sim-tier": "api", "sim-requests": self.QUESTIONS, **changed}
        response = browser(acme.admin).post(at("simulate", acme.policy.pk), data)
        assert response.context["answers"] is None
        assert list(response.context["sim_form"].errors) == [next(iter(changed))[4:]]


class TestVersions:
    @pytest.fixture
    def policy(self, acme: World) -> Policy:
        document = replace(
            document_of(acme.policy), domains=(DomainRuleDoc("a.example.com"),), bindings=()
        )
        return policy_save(
            acme.org, document=document, policy=acme.policy, actor=acme.admin, reason=EVIL[:25]
        ).policy

    def test_they_are_listed_and_compared(self, acme: World, policy: Policy) -> None:
        response = browser(acme.auditor).get(at("versions", policy.pk))
        text = text_of(response)
        assert "+  a.example.com allow" in text
        assert EVIL[:25] not in text
        assert "Roll back" not in text.partition("<tbody>")[2]
        same = browser(acme.admin).get(at("versions", policy.pk), {"old": "2", "new": "1"})
        assert "-  a.example.com allow" in text_of(same)
        assert "no such version" in text_of(
            browser(acme.admin).get(at("versions", policy.pk), {"old": "1", "new": "77"})
        )

    def test_rolling_back_asks_first_and_why(self, acme: World, policy: Policy) -> None:
        client = browser(acme.admin)
        page = at("rollback", policy.pk, 1)
        response = client.get(page)
        assert "-  a.example.com allow" in text_of(response)
        seen = response.context["form"].initial["seen_version"]
        assert client.post(page, {"seen_version": seen, "reason": "Oops."}).status_code == 302
        policy.refresh_from_db()
        assert policy.version == 3
        assert policy.domain_rules.count() == 2
        late = client.post(page, {"seen_version": seen, "reason": "Again."})
        assert "Reload the policy" in text_of(late)
        assert client.get(at("rollback", policy.pk, 77)).status_code == 302

    def test_for_admins_only(self, acme: World, policy: Policy) -> None:
        page = at("rollback", policy.pk, 1)
        for actor in (acme.auditor, acme.member):
            assert browser(actor).get(page).status_code == 403
            assert browser(actor).post(page, {"seen_version": 2}).status_code == 403


class TestFiles:
    def test_what_is_exported_is_imported(self, acme: World) -> None:
        client = browser(acme.admin)
        response = client.get(at("export", acme.policy.pk))
        assert response["Content-Disposition"] == 'attachment; filename="team-sre.policy.yaml"'
        text = response.content.decode()
        assert text == to_yaml(document_of(acme.policy))
        changed = text.replace("SRE policy", "Renamed")
        done = client.post(at("import"), {"document": changed, "reason": "By hand."})
        assert done.status_code == 302
        acme.policy.refresh_from_db()
        assert (acme.policy.name, acme.policy.version) == ("Renamed", 2)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("{", "YAML"),
            ("kind: team\nteam: sre\nname: X\ndomain: []", "domain: There is no such key"),
            ("kind: team\nteam: nope\nname: X", "team: There is no team"),
            ("a: &a [1]\nb: *a", "Anchors"),
        ],
    )
    def test_what_cannot_be_imported_says_why(self, text: str, says: str, acme: World) -> None:
        response = browser(acme.admin).post(at("import"), {"document": text})
        assert says in str(response.context["form"].errors)

    def test_for_those_who_may(self, acme: World) -> None:
        for actor in (acme.auditor, acme.member):
            assert browser(actor).get(at("import")).status_code == 403
            assert browser(actor).post(at("import"), {"document": "x"}).status_code == 403
        assert (
            parse(browser(acme.member).get(at("export", acme.policy.pk)).content)["team"] == "sre"
        )


@pytest.mark.parametrize("name", ["simulate", "versions", "export"])
def test_what_one_may_not_see_is_absent(name: str, acme: World) -> None:
    stranger = browser(factories.globex().admin)
    for client in (browser(acme.outsider), stranger):
        for method in (client.get, client.post):
            assert method(at(name, acme.policy.pk)).status_code in (403, 404)
    assert stranger.get(at("rollback", acme.policy.pk, 1)).status_code == 404


def test_questions_as_lines() -> None:
    found = parse_questions("\n get https://a.x/ \ntool whoami\nCONNECT a.x:1\n")
    assert [one.line for one in found] == ["GET https://a.x/", "TOOL whoami", "CONNECT a.x:1"]
    with pytest.raises(ValueError, match="Line 2"):
        parse_questions("GET https://a.x/\nGET\n")
