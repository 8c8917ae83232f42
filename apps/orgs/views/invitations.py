"""Where an invitation leads: the link is taken, then its person signs in."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from apps.common.errors import Denied
from apps.common.tenancy import edge, scope
from apps.orgs import lookups, session
from apps.orgs.models import IdentityProvider, Invitation
from apps.orgs.services.invitations import invitation_of
from apps.orgs.throttle import throttled

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse


@never_cache
@require_GET
def begin(request: HttpRequest) -> HttpResponse:
    """The token stands behind the #, which browsers send to nobody."""
    return render(request, "orgs/invitation/begin.html")


@never_cache
@require_POST
@throttled("invitation", times=60)
def use_link(request: HttpRequest) -> HttpResponse:
    """Take the token, which may come as the whole link. It is used up by the sign-in, not here."""
    token = request.POST.get("token", "").strip().rpartition("#")[2]
    try:
        invitation = invitation_of(token)
    except Denied as error:
        context = {"error": error.message}
        return render(request, "orgs/invitation/begin.html", context, status=403)
    session.end(request, by="invitation")
    request.session.flush()
    request.session[session.INVITATION] = str(invitation.pk)
    request.session[session.HINT] = invitation.email
    return redirect("invitation_sign_in")


@never_cache
@require_GET
def sign_in(request: HttpRequest) -> HttpResponse:
    """The providers of the organization that invites."""
    chosen = str(request.session.get(session.INVITATION, uuid.UUID(int=0)))
    org_id = lookups.INVITATION_TAKEN.id(chosen)
    if org_id is None:
        return redirect("invitation")
    with edge(), scope(org_id):
        invitation = Invitation.objects.filter(pk=chosen).select_related("org").get()
        providers = IdentityProvider.objects.filter(org=invitation.org, working_at__isnull=False)
        context = {"invitation": invitation, "providers": providers.order_by("name")}
        return render(request, "orgs/invitation/sign_in.html", context)
