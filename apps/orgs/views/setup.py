"""The set-up: from a single-use link to an organization whose first admin has signed in.

Everything but the first page needs a set-up session, which belongs to no person. All of it closes
for good when a sign-in through an organization's own provider has succeeded. For an organization
that has lost its provider the operator opens the last step again.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any

from django.http import Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from apps.common.errors import LensError
from apps.common.tenancy import scope
from apps.orgs import devidp, session
from apps.orgs.forms import AdminForm, OrganizationForm, ProviderForm
from apps.orgs.guide import guide
from apps.orgs.models import IdentityProvider
from apps.orgs.oidc.flow import Purpose
from apps.orgs.oidc.metadata import discover
from apps.orgs.services import setup as services
from apps.orgs.services.identity_providers import idp_create, idp_create_development, idp_update
from apps.orgs.throttle import throttled
from apps.orgs.views.sign_in import Departure

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

    from apps.orgs.models import Organization

    View = Callable[..., HttpResponseBase]


def in_setup(view: View) -> View:
    """Decorator: a set-up session, and a set-up (or a recovery) that is still open; else the way to
    begin."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        recovered = session.recovered_organization(request)
        if not session.in_setup(request) or (recovered is None and services.is_finished()):
            return redirect("setup")
        org = _unfinished(request)
        with scope(org.pk) if org else nullcontext():
            return view(request, *args, **kwargs)

    return never_cache(guarded)


@never_cache
@require_GET
def begin(request: HttpRequest) -> HttpResponse:
    """Where the link leads. Its token stands behind the #, which browsers send to nobody."""
    return render(request, "orgs/setup/begin.html", {"finished": services.is_finished()})


@never_cache
@require_POST
@throttled("setup-link", times=10)
def use_link(request: HttpRequest) -> HttpResponse:
    """Take the token, which may come as the whole link."""
    token = request.POST.get("token", "").strip().rpartition("#")[2]
    try:
        link = services.setup_link_use(token)
    except LensError as error:
        context = {"error": error.message, "finished": services.is_finished()}
        return render(request, "orgs/setup/begin.html", context, status=403)
    session.begin_setup(request, link)
    return redirect("setup_sign_in" if link.org_id else "setup_organization")


@in_setup
@require_http_methods(["GET", "POST"])
def organization(request: HttpRequest) -> HttpResponse:
    """The organization and its first admin."""
    if _unfinished(request) is not None:
        return redirect("setup_sign_in")
    form = OrganizationForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            org, _ = services.setup_organization(**form.cleaned_data)
            with scope(org.pk):
                _connect_development(org)
            return redirect("setup_sign_in")
        except LensError as error:
            form.refuse(error)
    return render(request, "orgs/setup/organization.html", {"form": form})


@in_setup
@require_http_methods(["GET", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """Connect a provider, and prove it by signing in."""
    org = _organization(request)
    form = ProviderForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            _connect(org, form.cleaned_data)
            return redirect("setup_sign_in")
        except LensError as error:
            form.refuse(error)
    return _sign_in_page(request, org, form, AdminForm())


@in_setup
@require_POST
def admin(request: HttpRequest) -> HttpResponse:
    """Correct the first admin's address, before it is bound to an account."""
    org, form = _organization(request), AdminForm(request.POST)
    if session.recovered_organization(request) is not None:
        raise Http404
    if form.is_valid():
        try:
            services.setup_admin_change(org, email=form.cleaned_data["email"])
            return redirect("setup_sign_in")
        except LensError as error:
            form.refuse(error)
    return _sign_in_page(request, org, ProviderForm(), form)


@method_decorator([in_setup, throttled("sign-in", times=600, each=300)], name="dispatch")
class ProveView(Departure):
    """To a provider of the unfinished organization, for the sign-in that opens it."""

    def get(self, request: HttpRequest, idp: uuid.UUID) -> HttpResponse:
        """A GET, as every sign-in."""
        row = get_object_or_404(IdentityProvider, pk=idp, org=_organization(request))
        return self.leave(request, row, Purpose.SETUP)


def _unfinished(request: HttpRequest) -> Organization | None:
    return session.recovered_organization(request) or services.unfinished_organization()


def _organization(request: HttpRequest) -> Organization:
    org = _unfinished(request)
    if org is None:
        raise Http404
    return org


def _sign_in_page(
    request: HttpRequest, org: Organization, form: ProviderForm, admin_form: AdminForm
) -> HttpResponse:
    running = devidp.running_origin()
    providers = IdentityProvider.objects.filter(org=org).order_by("created_at")
    context = {
        "org": org,
        "recovered": session.recovered_organization(request),
        "admin": services.first_admin(org),
        # A development provider of an earlier start may have had another port.
        "providers": [idp for idp in providers if not idp.is_development or idp.issuer == running],
        "guide": guide(request, org),
        "form": form,
        "admin_form": admin_form,
    }
    return render(request, "orgs/setup/sign_in.html", context)


def _connect(org: Organization, data: dict[str, str]) -> None:
    """Ask the provider who it is, then keep it; the same issuer again corrects what is known."""
    issuer, name, client_id = data["issuer"], data["name"], data["client_id"]
    secret, actor = data["client_secret"], services.SETUP
    discover(issuer, fresh=True)
    known = IdentityProvider.objects.filter(org=org, issuer=issuer).first()
    if known is None:
        idp_create(org, name=name, issuer=issuer, client_id=client_id, secret=secret, actor=actor)
    else:
        idp_update(known, name=name, client_id=client_id, secret=secret, actor=actor)


def _connect_development(org: Organization) -> None:
    """Beside the embedded default there is a provider already."""
    issuer = devidp.running_origin()
    if issuer:
        idp_create_development(org, issuer=issuer, actor=services.SETUP)
