"""`/identity-providers`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework import serializers
from rest_framework.decorators import action

from apps.common.api_etags import etag_of
from apps.common.api_fields import Choice, Many, Strict, Text
from apps.orgs import services
from apps.orgs.api.base import Changed, Created, Deleted, Listed, Shown
from apps.orgs.models import IdentityProvider
from apps.orgs.oidc.algorithms import KEY_TYPES
from apps.orgs.selectors import visible
from apps.orgs.services.identity_providers import configured, fingerprint_of, is_proven

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from rest_framework.request import Request
    from rest_framework.response import Response


class IdentityProviderOut(serializers.ModelSerializer[IdentityProvider]):
    """An identity provider, without its secret."""

    algorithms = serializers.ListField(child=serializers.CharField(), read_only=True)
    tested = serializers.SerializerMethodField(
        help_text="Whether a test sign-in has succeeded with these settings."
    )
    waiting_for_test = serializers.SerializerMethodField(
        help_text="Fields whose new value is taken over by the next test sign-in that succeeds."
    )

    class Meta:
        model = IdentityProvider
        fields = (
            "id",
            "name",
            "issuer",
            "client_id",
            "scopes",
            "group_claim",
            "algorithms",
            "working_at",
            "tested",
            "waiting_for_test",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_tested(self, row: IdentityProvider) -> bool:
        """As the service judges it."""
        return is_proven(row)

    def get_waiting_for_test(self, row: IdentityProvider) -> list[str]:
        """Names alone: the values may be secret."""
        return sorted(row.staged)


class _Settings(Strict):
    scopes = Text(max_length=500, required=False, help_text="Words with a space between.")
    group_claim = Text(
        max_length=100,
        required=False,
        allow_blank=True,
        help_text="The claim that holds groups; empty: groups are not read.",
    )
    algorithms = Many(
        child=Choice(choices=list(KEY_TYPES)), required=False, min_length=1, max_length=20
    )


class NewIdentityProvider(_Settings):
    """An identity provider to be."""

    name = Text(max_length=200)
    issuer = Text(max_length=500, help_text="The provider's issuer: an https address.")
    client_id = Text(max_length=255)
    secret = Text(max_length=500, write_only=True, help_text="It cannot be read back.")


class IdentityProviderChange(_Settings):
    """What of an identity provider can change."""

    name = Text(max_length=200, required=False)
    client_id = Text(max_length=255, required=False)
    secret = Text(max_length=500, required=False, write_only=True)


class IdentityProvidersApi(Listed, Shown, Created, Changed, Deleted):
    """Who says who a person is. The client secret goes in and never comes out.

    A provider signs nobody in before an admin's test sign-in, in a browser, has succeeded and it
    was enabled. On one in use, what matters for a sign-in waits for another test.
    """

    resource = "identity-providers"
    noun, one, many = "idp", "an identity provider", "identity providers"
    say = {"enable": "Enable {one}", "disable": "Disable {one}"}
    queryset = IdentityProvider.objects.none()
    serializer_class = IdentityProviderOut
    inputs = {"create": NewIdentityProvider, "partial_update": IdentityProviderChange}

    def visible(self) -> QuerySet[IdentityProvider]:
        return visible(IdentityProvider.objects.all(), self.actor, "idp.view")

    def etag(self, row: IdentityProvider) -> str:
        """A new secret is a new version, although nobody sees it."""
        unseen = {"settings": fingerprint_of(configured(row))}
        return etag_of({**self.shown(row, "retrieve"), **unseen})

    def perform_create(self, values: dict[str, Any]) -> IdentityProvider:
        return services.idp_create(self.org, **values, actor=self.actor)

    def perform_update(self, row: IdentityProvider, values: dict[str, Any]) -> IdentityProvider:
        return services.idp_update(row, **values, actor=self.actor)

    def perform_destroy(self, instance: IdentityProvider) -> None:
        services.idp_delete(instance, actor=self.actor)

    @action(detail=True, methods=["post"])
    def enable(self, _request: Request, **_: Any) -> Response:
        """From now on people come in through it. Refused before a test sign-in has succeeded."""
        return self.one_of(services.idp_enable(self.get_object(), actor=self.actor))

    @action(detail=True, methods=["post"])
    def disable(self, _request: Request, **_: Any) -> Response:
        """Nobody comes in through it any more. Refused for the only way in."""
        return self.one_of(services.idp_disable(self.get_object(), actor=self.actor))
