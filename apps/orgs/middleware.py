"""Whose organization a request is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import auth
from django.http import HttpResponseNotAllowed
from django.urls import reverse

from apps.common.api_problems import problem
from apps.common.tenancy import edge, scope
from apps.orgs import session
from apps.orgs.models import User
from apps.orgs.selectors import actor_for
from apps.orgs.services.break_glass import break_glass_viewed, operator_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponse

    from apps.orgs.models import BreakGlass, UserSession

API = "/api/"
READING = ("GET", "HEAD", "OPTIONS")


class OrganizationMiddleware:
    """`request.org` and `request.actor`: None for nobody, and for somebody without an organization.

    Both are read anew in each request, so that a removed member is out with the next click. What
    comes after runs in the scope of that organization.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """End a session that is over, then find out who acts where."""
        with edge():
            access = session.operator_access(request)
            if access is not None:
                with scope(access.org_id):
                    return self._as_operator(request, access)
            row = None if session.is_over(request.session) else session.row_of(request)
            if request.user.is_authenticated and row is None:
                auth.logout(request)
            _place(request, row)
            org = request.org  # type: ignore[attr-defined]  # ours, on Django's class
            if org is None:
                return self.get_response(request)
            with scope(org.pk):
                return self.get_response(request)

    def _as_operator(self, request: HttpRequest, access: BreakGlass) -> HttpResponse:
        """Break-glass: read-only, and each request is an event of the organization."""
        actor = operator_of(access)
        request.user = User(email=actor.name, name=actor.name)  # never saved: nobody's account
        request.org = access.org  # type: ignore[attr-defined]  # ours, on Django's class
        request.actor = actor  # type: ignore[attr-defined]  # same
        request.break_glass = access  # type: ignore[attr-defined]  # same
        response: HttpResponse
        if request.method in READING or request.path in _ways_out():
            response = self.get_response(request)
        else:
            response = _read_only(request)
        break_glass_viewed(
            access,
            method=str(request.method),
            path=_seen(request),
            status=response.status_code,
        )
        return response


def _read_only(request: HttpRequest) -> HttpResponse:
    """The refusal of what would change something, in the REST API's own form there."""
    if request.path_info.startswith(API):
        allow = {"Allow": ", ".join(READING)}
        text = "An operator's access is read-only."
        return problem(405, "method_not_allowed", text, headers=allow)
    return HttpResponseNotAllowed(READING)


def _seen(request: HttpRequest) -> str:
    """The page, and what was asked of it; but a provider's answer holds an authorization code."""
    if request.path == reverse("oidc_authentication_callback"):
        return request.path
    return request.get_full_path()


def _ways_out() -> tuple[str, str]:
    """What an operator may post: the end."""
    return reverse("operator_end"), reverse("logout")


def _place(request: HttpRequest, row: UserSession | None) -> None:
    """In the organization whose provider began the session, as long as that is in use."""
    actor = None
    if row is not None and row.idp.working_at is not None:
        with scope(row.org_id):
            actor = actor_for(row.user, row.org)
    request.org = row.org if row and actor else None  # type: ignore[attr-defined]  # ours, on Django's class
    request.actor = actor  # type: ignore[attr-defined]  # same
