"""What to register at an identity provider: our addresses, and the steps at the usual ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.template.loader import render_to_string
from django.urls import reverse

if TYPE_CHECKING:
    from django.http import HttpRequest

    from apps.orgs.models import Organization


def guide(request: HttpRequest, org: Organization) -> str:
    """The addresses and the step lists, as HTML without anything that somebody typed."""
    context = {
        "redirect_uri": request.build_absolute_uri(reverse("oidc_authentication_callback")),
        "sign_out_uri": request.build_absolute_uri(reverse("logout_done")),
        "logout_uri": request.build_absolute_uri(reverse("oidc_logout")),
        "login_uri": request.build_absolute_uri(reverse("login_organization", args=[org.slug])),
    }
    return render_to_string("orgs/guide.html", context)
