"""The vault: what goes in, who may put it there, and that it never comes out by accident."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.core import serializers

from apps.audit.models import AuditEvent
from apps.common.crypto import CryptoError, KeyRing
from apps.common.errors import Conflict, Denied, Invalid, LensError, NotFound
from apps.connections.models import Credential
from apps.connections.services import (
    credential_create,
    credential_delete,
    credential_update,
    credential_value,
)
from apps.orgs import services as orgs
from apps.orgs.models import Team
from apps.policies.services import policy_delete
from tests import factories
from tests.factories import SECRET_VALUE

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


def create(world: World, **changed: Any) -> Credential:
    arguments: dict[str, Any] = {
        "slug": "pagerduty",
        "name": "PagerDuty",
        "value": "pd-secret-value",
        "allowed_hosts": ["api.pagerduty.com"],
        "allowed_teams": [world.team],
        "actor": world.admin,
    }
    return credential_create(world.org, **(arguments | changed))


class TestSealing:
    """At rest."""

    def test_it_opens_to_what_was_stored(self, acme: World) -> None:
        stored = Credential.objects.get(pk=create(acme).pk)
        assert credential_value(stored) == "pd-secret-value"

    def test_the_row_holds_no_trace_of_it(self, acme: World) -> None:
        create(acme)
        assert "pd-secret" not in serializers.serialize("json", Credential.objects.all())
        row = Credential.objects.values().get(slug="pagerduty")
        assert b"pd-secret" not in bytes(row["ciphertext"])
        assert len(bytes(row["iv"])) == 12

    def test_two_sealings_of_one_value_differ(self, acme: World) -> None:
        first, second = create(acme), create(acme, slug="second")
        assert bytes(first.iv) != bytes(second.iv)
        assert bytes(first.ciphertext) != bytes(second.ciphertext)

    def test_a_ciphertext_moved_to_another_row_does_not_open(self, acme: World) -> None:
        stolen, mine = acme.credential, create(acme)
        Credential.objects.filter(pk=mine.pk).update(
            iv=stolen.iv, ciphertext=stolen.ciphertext, key_id=stolen.key_id
        )
        with pytest.raises(CryptoError):
            credential_value(Credential.objects.get(pk=mine.pk))

    def test_a_row_moved_to_another_organization_does_not_open(self, acme: World) -> None:
        stranger = factories.globex()
        Credential.objects.filter(pk=acme.credential.pk).update(org=stranger.org, slug="moved")
        with pytest.raises(CryptoError):
            credential_value(Credential.objects.get(pk=acme.credential.pk))

    def test_after_a_rotation_old_values_open_and_new_ones_use_the_new_key(
        self, acme: World, settings: Any
    ) -> None:
        old: KeyRing = settings.LENS_KEY_RING
        settings.LENS_KEY_RING = KeyRing([b"n" * 32, b"tests-only-tests-only-tests-only"])
        assert credential_value(acme.credential) == SECRET_VALUE
        assert create(acme).key_id == settings.LENS_KEY_RING.primary != old.primary


class TestNothingLeaks:
    """Events, errors and logs."""

    def test_events_say_that_it_changed_only(self, acme: World) -> None:
        row = create(acme)
        credential_update(row, value="pd-second-value", actor=acme.admin)
        events = AuditEvent.objects.filter(resource_type="credential", resource_id=str(row.pk))
        texts = [str(vars(event)) for event in events]
        assert len(texts) == 2
        assert not any("pd-se" in text for text in texts)
        assert events.latest("id").metadata["changes"] == {"value": "changed"}

    @pytest.mark.parametrize(
        "value",
        [
            "",
            " ghp_abcdef",
            "ghp_abcdef\n",
            "ghp_abc\r\nX-Evil: 1",
            "ghp_abc\x00def",
            "ghp_abc\x7fdef",
            "ghp_abc\tdef",
            "ghp_äbcdef",
            "ghp_abc\u200bdef",
            "ghp_abcdef" * 2_000,
        ],
        ids=range(10),
    )
    def test_a_value_that_no_header_can_carry_is_refused_unquoted(
        self, value: str, acme: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        before = AuditEvent.objects.count()
        with pytest.raises(Invalid) as refused:
            create(acme, value=value)
        assert refused.value.field == "value"
        assert "ghp_" not in refused.value.message + str(refused.value.data) + caplog.text
        assert AuditEvent.objects.count() == before
        assert not Credential.objects.filter(slug="pagerduty").exists()


class TestFields:
    """Bad input names its field and the remedy."""

    @pytest.mark.parametrize(
        ("changed", "field", "says"),
        [
            ({"slug": "PagerDuty"}, "slug", "Lower-case"),
            ({"name": ""}, "name", "blank"),
            ({"kind": "magic"}, "kind", "basic, static"),
            ({"username": "bob"}, "username", "choose basic"),
            ({"kind": "basic"}, "username", "needs a user name"),
            ({"kind": "basic", "username": "a:b"}, "username", "without a colon"),
            ({"kind": "basic", "username": "a\nb"}, "username", "visible ASCII"),
            ({"allowed_hosts": []}, "allowed_hosts", "at least one host"),
            ({"allowed_hosts": ["a.com", "https://b.com"]}, "allowed_hosts[1]", "host only"),
            ({"allowed_hosts": ["*"]}, "allowed_hosts[0]", "Name the hosts"),
            ({"allowed_hosts": ["*:443"]}, "allowed_hosts[0]", "Name the hosts"),
            ({"allowed_hosts": ["10.0.0.0/8"]}, "allowed_hosts[0]", "range"),
            ({"allowed_hosts": ["0.0.0.0/0"]}, "allowed_hosts[0]", "range"),
            ({"allowed_hosts": ["*.com"]}, "allowed_hosts[0]", "Anybody"),
            ({"allowed_hosts": ["*.com:8443"]}, "allowed_hosts[0]", "Anybody"),
            ({"allowed_hosts": ["*.co.uk"]}, "allowed_hosts[0]", "Anybody"),
            ({"allowed_hosts": ["*.com.br"]}, "allowed_hosts[0]", "Anybody"),
            ({"allowed_hosts": ["*.amazonaws.com"]}, "allowed_hosts[0]", "amazonaws.com"),
            ({"allowed_hosts": ["*.s3.amazonaws.com"]}, "allowed_hosts[0]", "amazonaws.com"),
            ({"allowed_hosts": ["x.s3.amazonaws.com"]}, "allowed_hosts[0]", "amazonaws.com"),
            ({"allowed_hosts": ["*.github.io"]}, "allowed_hosts[0]", "github.io"),
            ({"allowed_hosts": ["*.GitHub.io"]}, "allowed_hosts[0]", "github.io"),
            ({"allowed_hosts": ["*.windows.net"]}, "allowed_hosts[0]", "windows.net"),
            ({"allowed_hosts": ["a..b"]}, "allowed_hosts[0]", "empty label"),
            ({"allowed_hosts": [f"h{n}.example.com" for n in range(101)]}, "allowed_hosts", "100"),
        ],
        ids=str,
    )
    def test_refused(self, changed: dict[str, Any], field: str, says: str, acme: World) -> None:
        before = AuditEvent.objects.count(), Credential.objects.count()
        with pytest.raises(Invalid, match=says) as refused:
            create(acme, **changed)
        assert refused.value.field == field
        assert (AuditEvent.objects.count(), Credential.objects.count()) == before

    @pytest.mark.parametrize(
        "hosts",
        [
            ["api.github.com"],
            ["*.pagerduty.com"],
            ["*.example.co.uk"],
            ["a.example.com:8443"],
            ["me.github.io"],
        ],
    )
    def test_accepted(self, hosts: list[str], acme: World) -> None:
        assert create(acme, allowed_hosts=hosts).allowed_hosts == hosts

    def test_hosts_said_twice_are_kept_once_in_their_order(self, acme: World) -> None:
        assert create(acme, allowed_hosts=["b.com", "a.com", "b.com"]).allowed_hosts == [
            "b.com",
            "a.com",
        ]

    def test_a_slug_in_use_is_a_conflict(self, acme: World) -> None:
        create(acme)
        with pytest.raises(Conflict, match="pagerduty"):
            create(acme)

    def test_a_user_name_and_password(self, acme: World) -> None:
        row = create(acme, kind="basic", username="svc-agents")
        assert (row.username, credential_value(row)) == ("svc-agents", "pd-secret-value")
        with pytest.raises(Invalid) as refused:
            credential_update(row, username="", actor=acme.admin)
        assert refused.value.field == "username"


class TestUpdates:
    """None keeps."""

    def test_a_rename_keeps_the_value_and_the_rest(self, acme: World) -> None:
        row = create(acme)
        credential_update(row, name="Pager", actor=acme.admin)
        stored = Credential.objects.get(pk=row.pk)
        assert (stored.name, credential_value(stored)) == ("Pager", "pd-secret-value")
        assert bytes(stored.iv) == bytes(row.iv)
        assert stored.allowed_hosts == ["api.pagerduty.com"]
        assert list(stored.allowed_teams.all()) == [acme.team]

    def test_a_new_value_has_a_new_time(self, acme: World) -> None:
        row = create(acme)
        credential_update(row, value="pd-second-value", actor=acme.admin)
        stored = Credential.objects.get(pk=row.pk)
        assert credential_value(stored) == "pd-second-value"
        assert stored.value_set_at > row.value_set_at

    def test_only_an_organization_admin_lets_it_into_urls(self, acme: World) -> None:
        mine = create(acme, project=acme.project, allowed_teams=[], actor=acme.project_admin)
        with pytest.raises(Invalid, match="organization admin") as refused:
            credential_update(mine, allow_in_url=True, actor=acme.project_admin)
        assert refused.value.field == "allow_in_url"
        new = {"slug": "second", "project": acme.project, "allowed_teams": []}
        with pytest.raises(Invalid, match="organization admin"):
            create(acme, **new, allow_in_url=True, actor=acme.project_admin)
        credential_update(mine, allow_in_url=True, actor=acme.admin)
        assert Credential.objects.get(pk=mine.pk).allow_in_url
        # It stays when others save the form, and anybody who may change it can forbid it again.
        credential_update(mine, name="X", allow_in_url=True, actor=acme.project_admin)
        credential_update(mine, allow_in_url=False, actor=acme.project_admin)
        assert not Credential.objects.get(pk=mine.pk).allow_in_url

    def test_nothing_changed_leaves_no_event(self, acme: World) -> None:
        row = create(acme)
        before = AuditEvent.objects.count()
        credential_update(
            row,
            name=row.name,
            allowed_hosts=row.allowed_hosts,
            allowed_teams=[acme.team],
            actor=acme.admin,
        )
        assert AuditEvent.objects.count() == before

    def test_a_refused_update_leaves_everything(self, acme: World) -> None:
        row = create(acme)
        with pytest.raises(Invalid):
            credential_update(
                row, name="X", value="pd-second", allowed_hosts=["*"], actor=acme.admin
            )
        stored = Credential.objects.get(pk=row.pk)
        assert (stored.name, credential_value(stored)) == ("PagerDuty", "pd-secret-value")

    def test_teams_of_another_organization_are_no_teams(self, acme: World) -> None:
        stranger = factories.globex()
        for teams in ([stranger.team], [acme.team, stranger.team]):
            with pytest.raises(Invalid) as refused:
                credential_update(acme.credential, allowed_teams=teams, actor=acme.admin)
            assert refused.value.field == "allowed_teams"

    def test_a_deleted_team_is_no_team_but_does_not_stand_in_the_way(self, acme: World) -> None:
        row = create(acme, allowed_teams=[acme.team, acme.other_team])
        orgs.team_delete(acme.other_team, actor=acme.admin)
        credential_update(row, allowed_teams=row.allowed_teams.all(), actor=acme.admin)
        credential_update(row, allowed_teams=[acme.team], actor=acme.admin)
        with pytest.raises(Invalid):
            credential_update(row, allowed_teams=[acme.other_team], actor=acme.admin)


class TestDeleting:
    """Not under a policy that binds it."""

    def test_a_bound_one_names_the_policy(self, acme: World) -> None:
        with pytest.raises(Conflict, match="SRE policy"):
            credential_delete(acme.credential, actor=acme.admin)
        assert Credential.objects.filter(pk=acme.credential.pk).exists()
        assert not AuditEvent.objects.filter(action="credential.delete").exists()
        policy_delete(acme.policy, actor=acme.admin)
        credential_delete(acme.credential, actor=acme.admin)
        assert not Credential.objects.filter(pk=acme.credential.pk).exists()


class TestProjectAdmins:
    """They edit their own project's credentials, and those alone."""

    def test_they_manage_their_project(self, acme: World) -> None:
        row = create(acme, project=acme.project, actor=acme.project_admin)
        credential_update(row, value="pd-second-value", actor=acme.project_admin)
        credential_delete(row, actor=acme.project_admin)

    @pytest.mark.parametrize("project", ["other_project", "none", "stranger"])
    def test_nothing_else(self, project: str, acme: World) -> None:
        choices = {
            "other_project": acme.other_project,
            "none": None,
            "stranger": factories.globex().project,
        }
        with pytest.raises(LensError) as refused:
            create(acme, project=choices[project], actor=acme.project_admin)
        assert isinstance(refused.value, NotFound | Denied)

    def test_organization_wide_credentials_do_not_exist_for_them(self, acme: World) -> None:
        row = create(acme)
        for call in (
            lambda: credential_update(row, name="X", actor=acme.project_admin),
            lambda: credential_delete(row, actor=acme.project_admin),
        ):
            with pytest.raises(NotFound):
                call()

    def test_they_allow_teams_of_the_project_only(self, acme: World) -> None:
        ungranted = orgs.team_create(acme.org, slug="third", name="Third", actor=acme.admin)
        own = {"project": acme.project, "actor": acme.project_admin}
        assert create(acme, allowed_teams=[acme.team], **own)
        with pytest.raises(Invalid, match="no grant on the project"):
            create(acme, slug="second", allowed_teams=[ungranted], **own)
        # What an organization admin allowed stays allowed when a project admin edits the rest.
        row = Credential.objects.get(slug="pagerduty")
        credential_update(row, allowed_teams=[acme.team, ungranted], actor=acme.admin)
        credential_update(
            row, name="X", allowed_teams=[acme.team, ungranted], actor=acme.project_admin
        )
        assert set(row.allowed_teams.all()) == {acme.team, ungranted}

    def test_members_and_auditors_change_nothing(self, acme: World) -> None:
        for actor in (acme.member, acme.auditor, acme.outsider):
            with pytest.raises(LensError):
                credential_update(acme.credential, value="mine-now", actor=actor)
        assert credential_value(acme.credential) == SECRET_VALUE


def test_a_deleted_project_takes_no_credentials(acme: World) -> None:
    orgs.project_delete(acme.other_project, actor=acme.admin)
    acme.other_project.refresh_from_db()
    with pytest.raises(NotFound):
        create(acme, project=acme.other_project)


def test_the_test_ring_is_not_the_default_one() -> None:
    assert isinstance(settings.LENS_KEY_RING, KeyRing)
    assert Team.objects.count() == 0
