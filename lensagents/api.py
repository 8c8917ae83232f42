"""The routes of the REST API, `/api/v1/`, its document and its page.

Which resources there are is said here and nowhere else: a test walks this list.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import include, path
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from rest_framework.routers import SimpleRouter

from apps.agents.api import AgentsApi, TokensApi
from apps.connections.api import CredentialsApi
from apps.orgs.api.audit import AuditEventsApi
from apps.orgs.api.grants import GrantsApi
from apps.orgs.api.identity_providers import IdentityProvidersApi
from apps.orgs.api.invitations import InvitationsApi
from apps.orgs.api.memberships import MembershipsApi
from apps.orgs.api.organizations import OrganizationsApi, WhoamiApi
from apps.orgs.api.projects import ProjectsApi
from apps.orgs.api.teams import TeamsApi
from apps.policies.api import PoliciesApi
from apps.sandboxes.api import SandboxesApi

if TYPE_CHECKING:
    from django.http import HttpRequest

RESOURCES: list[Any] = [
    OrganizationsApi,
    TeamsApi,
    ProjectsApi,
    GrantsApi,
    MembershipsApi,
    InvitationsApi,
    IdentityProvidersApi,
    AgentsApi,
    TokensApi,
    CredentialsApi,
    AuditEventsApi,
    PoliciesApi,
    SandboxesApi,
]

router = SimpleRouter(trailing_slash=False, use_regex_path=False)
for view in RESOURCES:
    router.register(view.resource, view, basename=view.resource)
routes: list[Any] = [
    path("whoami", WhoamiApi.as_view({"get": "retrieve"}), name="whoami"),
    *router.urls,
]


@functools.cache
def document() -> bytes:
    """The OpenAPI document. It is made of code alone, so it is the same for everybody."""
    under = [path("api/v1/", include(routes))]
    generator: Any = SchemaGenerator  # the library's methods carry no types
    made = generator(patterns=under).get_schema(request=None, public=True)
    return json.dumps(made, indent=1).encode()


@require_safe
def openapi(_request: HttpRequest) -> HttpResponse:
    """The document for tools: no sign-in, since it holds nothing of any organization."""
    return HttpResponse(document(), content_type="application/vnd.oai.openapi+json")


@require_safe
@login_required
def docs(request: HttpRequest) -> HttpResponse:
    """The document as a page on which requests can be tried, with the session's rights."""
    return render(request, "api/docs.html", {"version": settings.SPECTACULAR_SETTINGS["VERSION"]})


urlpatterns = [
    path("openapi.json", openapi, name="openapi"),
    path("docs", docs, name="api-docs"),
    *routes,
]
