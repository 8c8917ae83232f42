"""Credentials through the admin: what goes in never comes out."""

from __future__ import annotations

from typing import Any

import pytest

from apps.audit.models import AuditEvent
from apps.connections.models import Credential
from apps.connections.services import credential_value
from tests import factories
from tests.apps.admin_support import browser, errors, form_data, url
from tests.factories import SECRET_VALUE, World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


def filled(world: World, **values: Any) -> dict[str, Any]:
    """A complete form for a new credential."""
    return {
        "name": "PagerDuty",
        "slug": "pagerduty",
        "project": str(world.project.pk),
        "kind": "static",
        "value": "pd-secret",
        "allowed_hosts": "api.pagerduty.com\n\n *.pagerduty.example \n",
        "allowed_teams": [str(world.team.pk)],
        **values,
    }


def test_a_credential_is_stored_and_its_value_shown_nowhere(acme: World) -> None:
    client = browser(acme.admin)
    assert client.post(url(Credential, "add"), filled(acme)).status_code == 302
    row = Credential.objects.get(slug="pagerduty")
    assert credential_value(row) == "pd-secret"
    assert row.allowed_hosts == ["api.pagerduty.com", "*.pagerduty.example"]
    for view in (url(Credential, "change", row.pk), url(Credential, "history", row.pk)):
        assert "pd-secret" not in client.get(view).content.decode()
    assert "pd-secret" not in str(list(AuditEvent.objects.values()))


def test_an_admin_lets_it_into_urls(acme: World) -> None:
    page = url(Credential, "change", acme.credential.pk)
    client = browser(acme.admin)
    data = form_data(client.get(page)) | {"value": "", "allow_in_url": "on"}
    assert client.post(page, data).status_code == 302
    acme.credential.refresh_from_db()
    assert acme.credential.allow_in_url


def test_an_empty_value_keeps_the_stored_one(acme: World) -> None:
    client = browser(acme.admin)
    page = url(Credential, "change", acme.credential.pk)
    response = client.get(page)
    assert SECRET_VALUE not in response.content.decode()
    assert "Set on 20" in response.content.decode()
    data = form_data(response)
    assert "value" not in data
    assert client.post(page, data | {"name": "GitHub bot", "value": ""}).status_code == 302
    acme.credential.refresh_from_db()
    assert credential_value(acme.credential) == SECRET_VALUE
    assert acme.credential.name == "GitHub bot"
    assert client.post(page, data | {"value": "ghp_new"}).status_code == 302
    acme.credential.refresh_from_db()
    assert credential_value(acme.credential) == "ghp_new"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"slug": "PagerDuty"}, "slug"),
        ({"allowed_hosts": "*"}, "allowed_hosts"),
        ({"allowed_hosts": "api.pagerduty.com\n*.github.io"}, "allowed_hosts"),
        ({"allowed_hosts": "s3.eu-north-1.amazonaws.com"}, "allowed_hosts"),
        ({"allowed_hosts": "not a host"}, "allowed_hosts"),
        ({"allowed_hosts": " \n "}, "allowed_hosts"),
        ({"value": ""}, "value"),
        ({"value": "two\x01lines"}, "value"),
        ({"kind": "nonsense"}, "kind"),
        ({"kind": "basic", "username": ""}, "username"),
        ({"kind": "basic", "username": "a:b"}, "username"),
    ],
)
def test_bad_input_is_an_error_at_its_field(
    acme: World, values: dict[str, str], field: str
) -> None:
    response = browser(acme.admin).post(url(Credential, "add"), filled(acme, **values))
    assert response.status_code == 200
    assert field in errors(response)
    assert not Credential.objects.filter(slug="pagerduty").exists()


def test_a_refused_form_does_not_return_the_value(acme: World) -> None:
    response = browser(acme.admin).post(url(Credential, "add"), filled(acme, allowed_hosts="*"))
    assert "pd-secret" not in response.content.decode()


def test_forged_ids_of_another_organization_are_refused(acme: World) -> None:
    stranger = factories.globex()
    values = {"project": str(stranger.project.pk), "allowed_teams": [str(stranger.team.pk)]}
    response = browser(acme.admin).post(url(Credential, "add"), filled(acme, **values))
    assert set(errors(response)) == {"project", "allowed_teams"}


def test_a_project_admin_works_on_the_own_project_only(acme: World) -> None:
    client = browser(acme.project_admin)
    page = url(Credential, "change", acme.credential.pk)
    assert client.get(page).status_code == 200
    whole = filled(acme, project="", allowed_teams=[])
    assert client.post(url(Credential, "add"), whole).status_code == 200
    assert not Credential.objects.filter(slug="pagerduty").exists()
    other = filled(acme, project=str(acme.other_project.pk), allowed_teams=[])
    assert "project" in errors(client.post(url(Credential, "add"), other))
    own = filled(acme, allowed_teams=[])
    assert client.post(url(Credential, "add"), own).status_code == 302


def test_an_auditor_reads_everything_but_the_value(acme: World) -> None:
    text = browser(acme.auditor).get(url(Credential, "change", acme.credential.pk)).content.decode()
    assert "api.github.com" in text
    assert 'name="value"' not in text
    assert SECRET_VALUE not in text


def test_a_bound_credential_is_not_deleted(acme: World) -> None:
    page = url(Credential, "delete", acme.credential.pk)
    response = browser(acme.admin).post(page, {"post": "yes"}, follow=True)
    assert "bound by SRE policy" in response.content.decode()
    assert Credential.objects.filter(pk=acme.credential.pk).exists()
