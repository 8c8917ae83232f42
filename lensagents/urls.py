"""Every HTTP route of the platform; the admin is last, because its catch-all answers everything.

`apps.orgs.urls` comes before it, and its `/login/` and `/logout/` replace the admin's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.contrib import admin
from django.shortcuts import redirect
from django.urls import include, path, reverse

if TYPE_CHECKING:
    import uuid

    from django.http import HttpRequest, HttpResponse


def explain(_request: HttpRequest, decision_id: uuid.UUID) -> HttpResponse:
    """The link in a refusal: the audit trail at that decision, for whoever may read it there."""
    query = urlencode({"q": decision_id})
    return redirect(f"{reverse('admin:audit_auditevent_changelist')}?{query}")


urlpatterns = [
    path("explain/<uuid:decision_id>", explain, name="explain"),
    path("", include("apps.orgs.urls")),
    path("", admin.site.urls),
]
