"""Policies through the admin: one page, one document, one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from apps.audit.models import AuditEvent
from apps.connections import services as connections
from apps.policies.models import Policy
from tests import factories
from tests.apps.admin_support import browser, errors, form_data, url

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


@pytest.fixture
def page(acme: World) -> str:
    return url(Policy, "change", acme.policy.pk)


def rule(index: int, **values: str) -> dict[str, str]:
    """The fields of a new domain rule."""
    found = {"action": "allow", "agent_credentials": "default", **values}
    return {f"domain_rules-{index}-{name}": value for name, value in found.items()}


def inline_errors(response: Any, prefix: str) -> dict[str, list[str]]:
    """The errors of the form with this prefix."""
    for inline in response.context["inline_admin_formsets"]:
        for form in inline.formset.forms:
            if form.prefix == prefix:
                return dict(form.errors)
    raise AssertionError(prefix)


def test_an_unchanged_page_saves_nothing(acme: World, page: str) -> None:
    client = browser(acme.admin)
    before = AuditEvent.objects.count()
    ids = set(acme.policy.domain_rules.values_list("pk", flat=True))
    assert client.post(page, form_data(client.get(page))).status_code == 302
    acme.policy.refresh_from_db()
    assert acme.policy.version == 1
    assert AuditEvent.objects.count() == before
    assert set(acme.policy.domain_rules.values_list("pk", flat=True)) == ids


def test_a_rule_is_added_before_the_last_with_http_rules(acme: World, page: str) -> None:
    client = browser(acme.admin)
    data = form_data(client.get(page)) | {"domain_rules-TOTAL_FORMS": "3"}
    data |= {"domain_rules-1-position": "9"}
    data |= rule(
        2, position="1", pattern="Tickets.acme.example", http="GET /tickets/** allow\n* deny"
    )
    assert client.post(page, data).status_code == 302
    rows = list(acme.policy.domain_rules.all())
    assert [row.pattern for row in rows] == ["api.github.com", "tickets.acme.example", "*"]
    assert [str(http) for http in rows[1].http_rules.all()] == [
        "GET /tickets/** → allow",
        "* any path → deny",
    ]
    event = AuditEvent.objects.get(action="policy.update")
    assert set(event.metadata["changes"]) == {"domains"}
    text = client.get(page).content.decode()
    assert "GET /tickets/** allow" in text


def test_a_new_rule_without_a_place_goes_to_the_end(acme: World, page: str) -> None:
    client = browser(acme.admin)
    data = form_data(client.get(page)) | {"domain_rules-TOTAL_FORMS": "3"}
    data |= {"domain_rules-1-DELETE": "on"} | rule(2, pattern="api.pagerduty.com")
    assert client.post(page, data).status_code == 302
    assert [row.pattern for row in acme.policy.domain_rules.all()] == [
        "api.github.com",
        "api.pagerduty.com",
    ]


def test_unchanged_lines_keep_their_rules(acme: World, page: str) -> None:
    client = browser(acme.admin)
    data = form_data(client.get(page)) | {"domain_rules-0-http": "GET /a allow\nPOST /a allow"}
    client.post(page, data)
    row = acme.policy.domain_rules.get(pattern="api.github.com")
    before = {http.method: http.pk for http in row.http_rules.all()}
    data = form_data(client.get(page)) | {"domain_rules-0-http": "PUT /a allow\nGET /a allow"}
    assert client.post(page, data).status_code == 302
    after = {http.method: http.pk for http in row.http_rules.all()}
    assert list(after) == ["PUT", "GET"]
    assert after["GET"] == before["GET"]


@pytest.mark.parametrize(
    ("values", "prefix", "field", "words"),
    [
        ({"domain_rules-0-pattern": "not a host"}, "domain_rules-0", "pattern", ""),
        ({"domain_rules-0-pattern": "*.*.com"}, "domain_rules-0", "pattern", ""),
        ({"domain_rules-0-http": "GET tickets allow"}, "domain_rules-0", "http", "Line 1"),
        (
            {"domain_rules-0-http": "GET /ok allow\n\nGET /a/** nope"},
            "domain_rules-0",
            "http",
            "Line 3",
        ),
        ({"domain_rules-0-http": "\nGE{T /a allow"}, "domain_rules-0", "http", "Line 2"),
        ({"domain_rules-0-pattern": "*"}, "domain_rules-1", "pattern", ""),
        ({"tool_rules-0-pattern": "sh ell"}, "tool_rules-0", "pattern", ""),
        ({"bindings-0-pattern": "api.example.com"}, "bindings-0", "pattern", ""),
        ({"bindings-0-pattern": "*.github.com"}, "bindings-0", "pattern", ""),
        ({"bindings-0-injection": "basic"}, "bindings-0", "injection", ""),
        ({"bindings-0-header": "X-Key"}, "bindings-0", "header", ""),
    ],
)
def test_bad_input_is_an_error_at_its_rule(  # noqa: PLR0917  what a parametrised test is given
    acme: World, page: str, values: dict[str, str], prefix: str, field: str, words: str
) -> None:
    client = browser(acme.admin)
    response = client.post(page, form_data(client.get(page)) | {"name": "New"} | values)
    assert response.status_code == 200
    found = inline_errors(response, prefix)
    assert field in found
    assert words in str(found[field])
    acme.policy.refresh_from_db()
    assert (acme.policy.name, acme.policy.version) == ("SRE policy", 1)


def test_a_hidden_rule_is_named_where_it_stands(acme: World, page: str) -> None:
    client = browser(acme.admin)
    data = form_data(client.get(page))
    data |= {"domain_rules-0-position": "5", "domain_rules-1-position": "0"}
    response = client.post(page, data)
    assert "pattern" in inline_errors(response, "domain_rules-0")


def test_somebody_else_saved_in_between(acme: World, page: str) -> None:
    client = browser(acme.admin)
    first = form_data(client.get(page))
    assert client.post(page, first | {"name": "One"}).status_code == 302
    response = client.post(page, first | {"name": "Two"})
    assert "Reload the policy" in str(errors(response))
    acme.policy.refresh_from_db()
    assert acme.policy.name == "One"


def test_a_policy_needs_the_subject_of_its_kind(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Policy, "add")
    data = form_data(client.get(page)) | {"name": "Leads", "kind": "team"}
    assert "team" in errors(client.post(page, data))
    data |= {"team": str(acme.other_team.pk), "agent": str(acme.agent.pk)}
    assert client.post(page, data).status_code == 302
    row = Policy.objects.get(name="Leads")
    assert (row.team, row.agent) == (acme.other_team, None)
    ceiling = {**data, "name": "Ceiling", "kind": "ceiling", "has_tools": ""}
    assert client.post(page, ceiling).status_code == 302
    assert Policy.objects.get(kind="ceiling").team is None
    assert "has a ceiling already" in str(errors(client.post(page, ceiling)))


def test_credentials_and_teams_of_others_are_no_choices(acme: World, page: str) -> None:
    stranger = factories.globex()
    client = browser(acme.admin)
    data = form_data(client.get(page)) | {"bindings-0-credential": str(stranger.credential.pk)}
    response = client.post(page, data)
    assert "credential" in inline_errors(response, "bindings-0")
    add = url(Policy, "add")
    data = form_data(client.get(add)) | {"name": "X", "kind": "team", "team": stranger.team.pk}
    assert "team" in errors(client.post(add, data))


def test_a_binding_outside_the_allowed_teams_is_refused(acme: World, page: str) -> None:
    connections.credential_update(acme.credential, allowed_teams=[], actor=acme.admin)
    client = browser(acme.admin)
    response = client.post(page, form_data(client.get(page)) | {"name": "New"})
    assert "does not allow this team" in str(inline_errors(response, "bindings-0"))


def test_rules_of_another_policy_cannot_be_reached(acme: World, page: str) -> None:
    stranger = factories.globex()
    theirs = stranger.policy.domain_rules.first()
    assert theirs is not None
    client = browser(acme.admin)
    data = form_data(client.get(page)) | {"domain_rules-0-id": str(theirs.pk)}
    client.post(page, data)
    theirs.refresh_from_db()
    assert theirs.policy_id == stranger.policy.pk
    assert acme.policy.domain_rules.count() == 2


def test_a_reader_sees_the_http_rules(acme: World, page: str) -> None:
    client = browser(acme.admin)
    client.post(page, form_data(client.get(page)) | {"domain_rules-0-http": "GET /only allow"})
    for reader in (acme.auditor, acme.member):
        text = browser(reader).get(page).content.decode()
        assert "GET /only allow" in text
        assert "<textarea" not in text
        assert "cursor-move" not in text
        assert "kind ==" not in text, "the theme would ask for a field that is not on the page"


def test_a_large_policy_is_one_form(acme: World, page: str) -> None:
    client = browser(acme.admin)
    data = form_data(client.get(page))
    data |= {"domain_rules-TOTAL_FORMS": "302", "domain_rules-1-position": "900"}
    for index in range(2, 302):
        data |= rule(
            index, position=str(index), pattern=f"host-{index}.example.com", http="* allow"
        )
    assert client.post(page, data).status_code == 302
    assert acme.policy.domain_rules.count() == 302


def test_deleting_is_one_call(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Policy, "delete", acme.policy.pk)
    assert "may do nothing" in client.get(page).content.decode()
    assert client.post(page, {"post": "yes"}).status_code == 302
    assert AuditEvent.objects.filter(action="policy.delete").count() == 1
