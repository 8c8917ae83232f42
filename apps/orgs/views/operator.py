"""Where a break-glass link leads. What may be seen then is decided as for everybody, by `can`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from apps.common.errors import Denied
from apps.orgs import session
from apps.orgs.services.break_glass import break_glass_end, break_glass_open, operator_of
from apps.orgs.throttle import throttled

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse


@never_cache
@require_GET
def begin(request: HttpRequest) -> HttpResponse:
    """The token stands behind the #, which browsers send to nobody."""
    return render(request, "orgs/operator.html")


@never_cache
@require_POST
@throttled("operator", times=10)
def use_link(request: HttpRequest) -> HttpResponse:
    """Take the token, which may come as the whole link."""
    token = request.POST.get("token", "").strip().rpartition("#")[2]
    try:
        access = break_glass_open(token)
    except Denied as error:
        return render(request, "orgs/operator.html", {"error": error.message}, status=403)
    session.begin_break_glass(request, access)
    return redirect("admin:index")


@never_cache
@require_POST
def end(request: HttpRequest) -> HttpResponse:
    """The operator is done before the time is over."""
    access = session.operator_access(request)
    if access is not None:
        break_glass_end(access, actor=operator_of(access))
    request.session.flush()
    return redirect("login")
