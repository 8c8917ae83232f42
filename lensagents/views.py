"""Pages that belong to no app."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_safe

if TYPE_CHECKING:
    import uuid

    from django.http import HttpRequest, HttpResponse


@require_safe
def explain(_request: HttpRequest, decision_id: uuid.UUID) -> HttpResponse:
    """Where the link in a denial leads: the audit event of that decision, for who may read it.

    Nothing is looked up here: the audit page asks for a sign-in and shows one organization's rows.
    """
    page = reverse("admin:audit_auditevent_changelist")
    return redirect(f"{page}?{urlencode({'q': str(decision_id)})}")
