"""`/identity-providers`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework import serializers

from apps.common.api_fields import Strict, Text
from apps.orgs.api.base import Changed, Created, Listed, Shown
from apps.orgs.models import IdentityProvider
from apps.orgs.selectors import visible
from apps.orgs.services.identity_providers import idp_create, idp_update

if TYPE_CHECKING:
    from django.db.models import QuerySet


class IdentityProviderOut(serializers.ModelSerializer[IdentityProvider]):
    """An identity provider, without its secret."""

    class Meta:
        model = IdentityProvider
        fields = ("id", "name", "issuer", "client_id", "working_at", "created_at", "updated_at")
        read_only_fields = fields


class NewIdentityProvider(Strict):
    """An identity provider to be."""

    name = Text(max_length=200)
    issuer = Text(max_length=500)
    client_id = Text(max_length=255)
    secret = Text(max_length=2_000, write_only=True)


class IdentityProviderChange(Strict):
    """What of an identity provider can change."""

    name = Text(max_length=200, required=False)
    client_id = Text(max_length=255, required=False)
    secret = Text(max_length=2_000, required=False, write_only=True)


class IdentityProvidersApi(Listed, Shown, Created, Changed):
    """Who says who a person is. The client secret goes in and never comes out.

    A provider signs nobody in before a sign-in through it has succeeded (`working_at`).
    """

    resource = "identity-providers"
    noun, one, many = "idp", "an identity provider", "identity providers"
    queryset = IdentityProvider.objects.none()
    serializer_class = IdentityProviderOut
    inputs = {"create": NewIdentityProvider, "partial_update": IdentityProviderChange}

    def visible(self) -> QuerySet[IdentityProvider]:
        return visible(IdentityProvider.objects.all(), self.actor, "idp.view")

    def perform_create(self, values: dict[str, Any]) -> IdentityProvider:
        return idp_create(self.org, **values, actor=self.actor)

    def perform_update(self, row: IdentityProvider, values: dict[str, Any]) -> IdentityProvider:
        kept = {"name": row.name, "client_id": row.client_id}
        return idp_update(row, **{**kept, **values}, actor=self.actor)
