"""Pages that belong to no app."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.shortcuts import redirect
from django.urls import reverse
from django.views import defaults
from django.views.decorators.http import require_safe

from apps.common.api_problems import problem, unexpected

if TYPE_CHECKING:
    import uuid

    from django.http import HttpRequest, HttpResponse


API = "/api/"


@require_safe
def explain(_request: HttpRequest, decision_id: uuid.UUID) -> HttpResponse:
    """Where the link in a denial leads: the audit event of that decision, for who may read it.

    Nothing is looked up here: the audit page asks for a sign-in and shows one organization's rows.
    """
    page = reverse("admin:audit_auditevent_changelist")
    return redirect(f"{page}?{urlencode({'q': str(decision_id)})}")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """What the framework refuses before any view: a problem document for the REST API."""
    if request.path_info.startswith(API):
        return problem(400, "malformed", "The request cannot be read.")
    return defaults.bad_request(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """An error outside any view of the REST API, which answers for its own."""
    if request.path_info.startswith(API):
        return unexpected(sys.exc_info()[1])
    return defaults.server_error(request)
