"""Bindings of saved policies: never wider than the credential's owner allows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from apps.audit.models import AuditEvent
from apps.common.errors import Invalid
from apps.connections import services as connections
from apps.policies.compiler import compile_bundle
from apps.policies.documents import BindingDoc, PolicyDocument, document_of
from apps.policies.services import policy_save
from tests import factories
from tests.apps.policies.support import counts, without_ids

if TYPE_CHECKING:
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


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

    @pytest.mark.parametrize("pattern", ["s3.amazonaws.com", "*.amazonaws.com", "s3.api.aws:443"])
    def test_no_static_secret_for_aws(self, pattern: str, acme: World) -> None:
        """Also where the credential was saved before its hosts were held to this."""
        type(acme.credential).objects.update(allowed_hosts=["*.amazonaws.com", "*.api.aws"])
        error = self.refused(acme, BindingDoc(acme.credential, pattern))
        assert error.field == "bindings[0].pattern"
        assert "signed requests only" in error.message

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
