"""Puts the organization and the acting person on each request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import auth

from apps.orgs import session
from apps.orgs.models import User
from apps.orgs.selectors import actor_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponse


class OrganizationMiddleware:
    """`request.org` and `request.actor`: None for nobody, and for somebody without an organization.

    Both are read anew in each request, so that a removed member is out with the next click.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """End a session that is too old, then find out who acts where."""
        if request.user.is_authenticated and _is_over(request):
            auth.logout(request)
        _place(request)
        return self.get_response(request)


def _is_over(request: HttpRequest) -> bool:
    return session.is_over(request.session) or session.row_of(request) is None


def _place(request: HttpRequest) -> None:
    org = actor = None
    if isinstance(request.user, User) and request.user.is_authenticated:
        rows = session.organizations_open(request)
        chosen = str(request.session.get(session.ORG))
        org = rows.filter(pk=chosen).first() or rows.first()
        actor = actor_for(request.user, org) if org else None
    request.org = org if actor else None  # type: ignore[attr-defined]  # ours, on Django's class
    request.actor = actor  # type: ignore[attr-defined]  # same
