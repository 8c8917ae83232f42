"""Signing out: here, at the provider (RP-Initiated Logout 1.0), and by the provider (Back-Channel
Logout 1.0).

A page of ours stands between our form and the provider, since the content policy lets forms lead to
this host only, and a browser applies that to the redirect which follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.contrib import auth
from django.http import JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from apps.common.tenancy import edge, scope
from apps.orgs import lookups, session
from apps.orgs.models import IdentityProvider, User
from apps.orgs.oidc import logout as tokens
from apps.orgs.oidc.client import client_for
from apps.orgs.oidc.errors import SignInError
from apps.orgs.services import sign_in as services
from apps.orgs.services.sessions import logout_hint, sessions_end_by_provider
from apps.orgs.throttle import throttled
from apps.orgs.views import operator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.http import HttpRequest, HttpResponse

    from apps.orgs.models import UserSession


@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    """End this session here, then let the browser end it at the provider too, if that can be."""
    if session.operator_access(request) is not None:
        return operator.end(request)
    row = session.row_of(request)
    onward = _at_provider(request, row) if row else ""
    if isinstance(request.user, User):
        org_id = row.org_id if row else None
        with edge(), scope(org_id):
            services.sign_out(request.user, org_id)
    session.end(request, by="sign-out")
    auth.logout(request)
    if not onward or row is None:
        return redirect("login")
    page = render(request, "orgs/signed_out.html", {"onward": onward, "idp": row.idp})
    page["Referrer-Policy"] = "no-referrer"
    page["Cache-Control"] = "no-store"
    return page


@never_cache
@require_safe
def done(request: HttpRequest) -> HttpResponse:
    """Where the provider sends the browser back to."""
    return render(request, "orgs/signed_out.html")


@csrf_exempt
@require_POST
@throttled("logout-token", times=600)
@edge()
def by_provider(request: HttpRequest) -> HttpResponse:
    """A provider ends sessions that it began. It proves itself by the token alone."""
    token = request.POST.get("logout_token", "")
    held: list[bool] = []
    try:
        # Each by itself: another organization may have connected the same issuer and client.
        held = [_ends(token, idp) for idp in _addressed(*tokens.addressed_to(token))]
    except SignInError as refusal:
        services.logout_refused(None, refusal)
    answer = JsonResponse({})
    if not any(held):
        answer = JsonResponse({"error": "invalid_request"}, status=400)
    answer["Cache-Control"] = "no-store"
    return answer


def _ends(token: str, idp: IdentityProvider) -> bool:
    """End the sessions that a logout token names at this provider; False when it does not hold."""
    with scope(idp.org_id):
        try:
            claims = tokens.verified(token, idp)
        except SignInError as refusal:
            services.logout_refused(idp, refusal)
            return False
        sessions_end_by_provider(idp, claims)
    return True


def _addressed(issuer: str, audience: set[str]) -> Iterator[IdentityProvider]:
    """The providers with this issuer to whom one of these client IDs belongs."""
    for org_id, key in lookups.PROVIDERS_AT.all(issuer):
        with scope(org_id):
            rows = IdentityProvider.objects.filter(
                pk=key, client_id__in=audience, org__closed_at=None
            )
            found = rows.select_related("org").first()
        if found is not None:
            yield found


def _at_provider(request: HttpRequest, row: UserSession) -> str:
    """Where the provider ends its own session; "" when it has no such place, or is away."""
    if row.idp.is_development:  # it asks anew each time
        return ""
    try:
        end = client_for(row.idp).endpoints.end_session_endpoint
    except SignInError:
        return ""
    if not end:
        return ""
    query = {
        "client_id": row.idp.client_id,
        "post_logout_redirect_uri": request.build_absolute_uri(reverse("logout_done")),
    }
    hint = logout_hint(row)
    query |= {"id_token_hint": hint} if hint else {}
    return f"{end}{'&' if '?' in end else '?'}{urlencode(query)}"
