"""One door to a tenant's rows: every page of the admin, as everybody who might try it."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver

from apps.agents import services as agents
from apps.audit.models import AuditEvent, Surface
from apps.audit.services import record
from apps.common import clock
from apps.common.admin import OrgInline, OrgModelAdmin
from apps.common.admin_forms import OrgForm
from apps.connections import services as connections
from apps.jobs.models import Job
from apps.orgs import services as orgs
from apps.orgs.models import IdentityProvider, UserSession
from apps.orgs.types import SYSTEM
from apps.sandboxes.models import Sandbox
from tests import factories
from tests.apps.admin_support import ISSUER, browser, registered, url

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]
VIEWS = ("change", "delete", "history")


@pytest.fixture
def acme() -> World:
    return furnished(factories.acme())


@pytest.fixture
def globex() -> World:
    return furnished(factories.globex())


def furnished(world: World) -> World:
    """With a row of every kind that the factories do not make."""
    org = world.org
    Job.objects.create(org=org, kind="test.job")
    idp = IdentityProvider.objects.create(
        org=org, name="IdP", issuer=ISSUER, client_id="lens", working_at=clock.now()
    )
    orgs.domain_create(idp, domain=f"{org.slug}.example", actor=SYSTEM)
    orgs.mapping_create(idp, group="sre", team=world.team, actor=SYSTEM)
    orgs.invitation_create(org, email="guest@people.example", actor=SYSTEM)
    orgs.break_glass_request(
        org, reason="a test of ours", minutes=5, requested_by="root", actor=SYSTEM
    )
    UserSession.objects.create(
        org=org,
        idp=idp,
        user_id=uuid.UUID(world.outsider.id),
        subject="sub",
        expires_at=clock.now(),
    )
    Sandbox.objects.create(
        org=org,
        key=uuid.uuid4().hex,
        principal_kind="agent",
        principal_id=str(world.agent.pk),
        principal_name="Bot",
        team=world.team,
        project=world.project,
        report=[{"probe": "network", "ok": True, "detail": "only lo"}],
    )
    return world


def rows_of(world: World, model: type[Any]) -> list[Any]:
    """The organization's rows of a model."""
    name = "pk" if model._meta.model_name == "organization" else "org"
    return list(model._default_manager.filter(**{name: world.org.pk}))


def pages(world: World) -> list[str]:
    """Every page of every model admin, for rows of this organization."""
    found = ["/"]
    for model_admin in registered():
        model = model_admin.model
        found += [url(model, "changelist"), url(model, "add")]
        rows = rows_of(world, model)
        assert rows, f"{model} has no row to test with"
        found += [url(model, view, rows[0].pk) for view in VIEWS]
    return found


def detail_pages(world: World) -> list[str]:
    """The pages about one row, and the actions on it."""
    found = [url(m.model, v, rows_of(world, m.model)[0].pk) for m in registered() for v in VIEWS]
    for model_admin in registered():
        row = rows_of(world, model_admin.model)[0]
        found += [url(model_admin.model, name, row.pk) for name in model_admin.actions_detail]
    return found


def test_every_registered_admin_is_built_on_the_scoped_base() -> None:
    assert len(registered()) >= 12
    for model_admin in registered():
        assert isinstance(model_admin, OrgModelAdmin), model_admin
        assert model_admin.noun, model_admin
        assert issubclass(model_admin.form, OrgForm), model_admin
        assert "visible" in type(model_admin).__dict__, model_admin
        for inline in model_admin.inlines:
            assert issubclass(inline, OrgInline), inline
            assert issubclass(inline.form, OrgForm), inline


def test_an_admin_of_ours_that_is_not_scoped_cannot_be_registered() -> None:
    class Loose(admin.ModelAdmin):  # type: ignore[type-arg]  # no parameter at run time
        pass

    with pytest.raises(TypeError, match="OrgModelAdmin"):
        admin.site.register(Job, Loose)


def test_third_party_admins_are_left_out() -> None:
    labels = {m.model._meta.app_label for m in registered()}
    assert labels <= {"orgs", "policies", "connections", "agents", "sandboxes", "audit", "jobs"}
    names = {m.model._meta.model_name for m in registered()}
    assert not {name for name in names if name.startswith("oauth")}


def test_an_admin_opens_every_page(acme: World) -> None:
    client = browser(acme.admin)
    for page in pages(acme):
        response = client.get(page)
        assert response.status_code in (200, 302, 403), page
        if response.status_code == 403:
            assert page.endswith(("/add/", "/delete/")), page


def test_no_page_needs_an_inline_script(acme: World) -> None:
    client = browser(acme.admin)
    for page in pages(acme):
        text = client.get(page).content.decode()
        for tag in re.findall(r"<script[^>]*>", text):
            assert " src=" in tag, (page, tag)
        assert not re.search(r"<[^>]+\son(click|change|load|error|submit)=", text), page


def test_an_auditor_reads_everything_and_changes_nothing(acme: World) -> None:
    client = browser(acme.auditor)
    for model_admin in registered():
        model = model_admin.model
        row = rows_of(acme, model)[0]
        assert client.get(url(model, "changelist")).status_code in (200, 302)
        assert client.get(url(model, "change", row.pk)).status_code == 200
        for page in (url(model, "add"), url(model, "delete", row.pk)):
            assert client.get(page).status_code == 403, page
            assert client.post(page, {"post": "yes"}).status_code == 403, page
        assert client.post(url(model, "change", row.pk), {}).status_code == 403, model
        for name in model_admin.actions_detail:
            page = url(model, name, row.pk)
            assert client.get(page).status_code == 403, page
            assert client.post(page).status_code == 403, page


def test_a_member_without_a_team_sees_no_rows(acme: World) -> None:
    client = browser(acme.outsider)
    for page in detail_pages(acme):
        if "/orgs/organization/" in page:
            continue
        assert client.get(page).status_code in (403, 404), page
        assert client.post(page, {"post": "yes"}).status_code in (403, 404), page


def test_a_member_sees_the_policy_of_the_own_team_and_cannot_change_it(acme: World) -> None:
    client = browser(acme.member)
    page = url(type(acme.policy), "change", acme.policy.pk)
    assert client.get(page).status_code == 200
    assert client.post(page, {}).status_code == 403
    assert client.get(url(type(acme.credential), "changelist")).status_code == 403


def test_what_belongs_to_another_organization_is_absent(acme: World, globex: World) -> None:
    client = browser(globex.admin)
    absent = str(uuid.uuid4())
    for page in detail_pages(acme):
        row = page.split("/")[3]
        for method in (client.get, client.post):
            theirs, none = method(page), method(page.replace(row, absent))
            assert theirs.status_code == none.status_code, page
            assert theirs.status_code in (403, 404), page


def test_lists_hold_rows_of_the_own_organization_only(acme: World, globex: World) -> None:
    client = browser(globex.admin)
    for model_admin in registered():
        response = client.get(url(model_admin.model, "changelist"))
        if response.status_code == 302:
            assert str(acme.org.pk) not in response["Location"]
            continue
        shown = {str(row.pk) for row in response.context["cl"].result_list}
        assert shown
        assert not shown & {str(row.pk) for row in rows_of(acme, model_admin.model)}


def test_nobody_is_sent_to_the_sign_in(acme: World) -> None:
    for page in [*pages(acme), *detail_pages(acme)]:
        for method in (Client().get, Client().post):
            response = method(page)
            assert response.status_code == 302, page
            assert response["Location"].startswith("/login/"), page


def test_somebody_without_an_organization_sees_nothing(acme: World) -> None:
    client = browser(acme.admin)
    IdentityProvider.objects.filter(org=acme.org).update(working_at=None)
    for page in detail_pages(acme):
        assert client.get(page).status_code in (403, 404), page


def test_django_views_that_know_no_tenants_are_gone() -> None:
    names = set(get_resolver().namespace_dict["admin"][1].reverse_dict)
    assert not names & {"password_change", "password_change_done", "view_on_site"}


@pytest.mark.parametrize(
    "query",
    [
        "/agents/agenttoken/?token_hash__startswith=a",
        "/connections/credential/?ciphertext__isnull=0",
        "/orgs/membership/?user__session_salt__startswith=a",
        "/sandboxes/sandbox/?token_hash=x",
        "/agents/agent/?team__credentials__key_id=x",
    ],
)
def test_columns_that_no_filter_offers_cannot_be_guessed_at(acme: World, query: str) -> None:
    assert browser(acme.auditor).get(query).status_code in (302, 400)


def test_lists_cost_the_same_for_many_rows(acme: World) -> None:
    client = browser(acme.admin)
    counts = []
    for number in range(2):
        for index in range(5):
            slug = f"t{number}-{index}"
            team = orgs.team_create(acme.org, slug=slug, name=slug, actor=acme.admin)
            agents.agent_create(acme.org, team=team, slug=slug, name=slug, actor=acme.admin)
            factories.person(acme.org, slug, teams=[team])
        counts.append([queries(client, url(m.model, "changelist")) for m in registered()])
    assert counts[0] == counts[1]


def queries(client: Client, page: str) -> tuple[str, int]:
    """How many queries a page makes."""
    with CaptureQueriesContext(connection) as captured:
        client.get(page)
    return page, len(captured)


def test_bulk_deletion_of_foreign_rows_does_nothing(acme: World, globex: World) -> None:
    client = browser(globex.admin)
    data = {"action": "delete_selected", "_selected_action": [str(acme.team.pk)], "post": "yes"}
    client.post(url(type(acme.team), "changelist"), data)
    acme.team.refresh_from_db()
    assert acme.team.deleted_at is None


def test_bulk_deletion_is_one_service_call_a_row_or_none(acme: World) -> None:
    client = browser(acme.admin)
    free = connections.credential_create(
        acme.org,
        slug="aaa",
        name="Aaa, first in the list",
        value="value",
        allowed_hosts=["api.example.com"],
        actor=acme.admin,
    )
    ids = [str(free.pk), str(acme.credential.pk)]
    data = {"action": "delete_selected", "_selected_action": ids, "post": "yes"}
    response = client.post(url(type(free), "changelist"), data, follow=True)
    complaints = [str(m) for m in response.context["messages"] if m.level_tag == "error"]
    assert "bound by" in complaints[0]
    assert type(free).objects.filter(pk__in=ids).count() == 2
    assert not AuditEvent.objects.filter(action="credential.delete").exists()


def test_the_history_is_the_audit_trail_of_the_row(acme: World) -> None:
    response = browser(acme.admin).get(url(type(acme.team), "history", acme.team.pk))
    assert "team.create" in response.content.decode()


def test_search_never_finds_another_organization(acme: World, globex: World) -> None:
    client = browser(globex.admin)
    response = client.get("/search/", {"s": "github", "extended": "1"})
    assert str(globex.credential.pk) in response.content.decode()
    assert str(acme.credential.pk) not in response.content.decode()
    twice = client.get("/search/", {"s": "sre", "extended": "1"}).content.decode()
    assert twice.count(f"/policies/policy/{globex.policy.pk}/") == 1
    assert browser(acme.outsider).get("/search/", {"s": "github"}).content.count(b"/change/") == 0


def test_a_session_opens_the_organization_it_began_in(acme: World, globex: World) -> None:
    orgs.user_invite(globex.org, email=acme.admin.name, role="auditor", actor=SYSTEM)
    client = browser(acme.admin)
    assert "Globex" not in client.get("/").content.decode()
    page = url(type(globex.team), "change", globex.team.pk)
    assert client.get(page).status_code == 404
    there = replace(acme.admin, org_id=globex.org.pk)
    assert browser(there).get(page).status_code == 200
    assert client.get(url(type(acme.team), "change", acme.team.pk)).status_code == 200


def test_what_an_agent_wrote_is_inert(acme: World) -> None:
    evil = "<script>alert(1)</script>\u202egnp.exe\u200b https://evil.example"
    event = record(
        actor=acme.admin,
        org_id=acme.org.pk,
        surface=Surface.MCP_TOOL,
        action="team.update",
        resource_type="team",
        resource_id=evil,
        result="denied",
        reason=evil,
        metadata={"x-data": evil},
    )
    client = browser(acme.admin)
    for page in ("/", url(AuditEvent, "changelist"), url(AuditEvent, "change", event.pk)):
        text = client.get(page).content.decode()
        assert "alert(1)" in text, page
        assert "<script>alert(1)" not in text, page
        assert "\u202e" not in text, page
        assert "\u200b" not in text, page
        assert 'href="https://evil' not in text, page


def test_what_is_no_value_in_an_address_is_refused(acme: World) -> None:
    """No text of PostgreSQL holds a NUL, and what is ticked is an id."""
    client = browser(acme.admin)
    for model_admin in registered():
        page = url(model_admin.model, "changelist")
        names = [one for one in model_admin.list_filter if isinstance(one, str)]
        for name in ("q", *names, *(f"{name}__exact" for name in names)):
            assert client.get(f"{page}?{name}=a%00b").status_code == 400, (page, name)
        ticked = client.post(page, {"action": "delete_selected", "_selected_action": "no id"})
        assert ticked.status_code == 400 or "delete" not in model_admin.verbs, page
    assert client.get("/search/?s=%00").status_code == 400
    assert client.get("/search/?s=sre").status_code == 200


@pytest.mark.parametrize("where", ["x", "[", "team_changelist", "%ED%A0%80"])
def test_who_is_signed_in_goes_to_an_address_only(where: str, acme: World) -> None:
    response = browser(acme.admin).get(f"/login/?next={where}")
    assert (response.status_code, response["Location"]) == (302, "/")
