"""Signing in and out. The round trip is mozilla-django-oidc's; with whom, and who may, is ours.

A sign-in begins with a link and not with a form, since the content policy lets forms lead to this
host only, and a browser applies that to the redirect which follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods
from django.views.generic import View
from mozilla_django_oidc.views import OIDCAuthenticationCallbackView, OIDCAuthenticationRequestView

from apps.common.errors import Denied, Invalid, LensError
from apps.common.tenancy import edge, scope
from apps.orgs import lookups, session
from apps.orgs.access import can, require
from apps.orgs.models import IdentityProvider
from apps.orgs.oidc import flow as flows
from apps.orgs.oidc.client import client_for
from apps.orgs.oidc.errors import SignInError, bad_answer
from apps.orgs.oidc.flow import Flow, Purpose
from apps.orgs.services import sign_in as services
from apps.orgs.services.domains import domain_name
from apps.orgs.services.identity_providers import configured, fingerprint_of
from apps.orgs.throttle import throttled

if TYPE_CHECKING:
    import uuid

    from django.http import HttpRequest, HttpResponse

    from apps.orgs.types import Actor

MANY = 30
_LIBRARY_SETTINGS = {
    "OIDC_USE_NONCE": True,
    "OIDC_USE_PKCE": True,
    "OIDC_NONCE_SIZE": 43,
    "OIDC_STATE_SIZE": 43,
}


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@throttled("login", times=300)
def login(request: HttpRequest, slug: str = "") -> HttpResponse:
    """Where everybody without a session arrives, and who wants to work in another organization;
    works without JavaScript.

    Whoever types an e-mail address is sent to the provider of its domain. Nothing here depends on
    whether the person exists.
    """
    onward, here = safe_next(request), getattr(request, "org", None)
    wanted = slug or request.GET.get("organization", "").strip().lower()
    email = request.POST.get("email", "").strip() if request.method == "POST" else ""
    if here is not None and not email and wanted in ("", here.slug):
        return redirect(onward or "/")
    providers = home_of(email) if email else _ways(wanted)
    if email:
        request.session[session.HINT] = email if providers else ""
    context = {
        "next": onward,
        "signed_in": request.user if request.user.is_authenticated else None,
        "here": here,
        "asked": wanted,
        "email": email,
        "providers": providers if wanted or email or len(providers) == 1 else [],
        "must_choose": not wanted and (bool(email) or len(providers) > 1),
        "is_set_up": bool(providers) or bool(lookups.PROVIDERS_IN_USE.all()),
    }
    return render(request, "orgs/login.html", context)


def home_of(email: str) -> list[IdentityProvider]:
    """The provider in use that vouches for the address's domain; at most one."""
    try:
        name = domain_name(email.rpartition("@")[2])
    except Invalid:
        return []
    found = (_working(org_id, pk=idp) for org_id, idp in lookups.DOMAIN.all(name))
    return [idp for rows in found for idp in rows]


def safe_next(request: HttpRequest) -> str:
    """Where to go afterwards: a path on this host, or nothing."""
    wanted = request.GET.get("next", "") or request.POST.get("next", "")
    host = {request.get_host()}
    fine = url_has_allowed_host_and_scheme(wanted, host, require_https=request.is_secure())
    return wanted if fine and wanted.startswith("/") else ""  # else a redirect takes it for a name


def refused(
    request: HttpRequest,
    refusal: SignInError,
    idp: IdentityProvider | None,
    purpose: Purpose = Purpose.SIGN_IN,
) -> HttpResponse:
    """Audit a refusal and say it; the admin who tests is told the details."""
    services.sign_in_refused(idp, refusal)
    context = {
        "message": refusal.message,
        "no_access": refusal.code == services.NO_ACCESS,
        "detail": refusal.detail if purpose is Purpose.TEST else "",
        "tested": idp if purpose is Purpose.TEST else None,
        "in_setup": session.in_setup(request),
    }
    return render(request, "orgs/refused.html", context, status=403)


def _ways(slug: str) -> list[IdentityProvider]:
    """The providers of the organization with this short name; of all, where none is named."""
    if not slug:
        found = (_working(org_id, pk=idp) for org_id, idp, _ in lookups.PROVIDERS_IN_USE.all())
        return [idp for rows in found for idp in rows]
    org_id = lookups.ORGANIZATION.id(slug)
    return _working(org_id) if org_id else []


def _working(org_id: uuid.UUID, **narrow: object) -> list[IdentityProvider]:
    """Providers in use of one organization."""
    with edge(), scope(org_id):
        rows = IdentityProvider.objects.filter(
            org=org_id, working_at__isnull=False, org__closed_at=None
        )
        return list(rows.filter(**narrow).select_related("org").order_by("name")[:MANY])


class Departure(OIDCAuthenticationRequestView):
    """Sends the browser to a provider, with state, nonce and PKCE."""

    def __init__(self, **kwargs: Any) -> None:
        """The library reads one global provider here."""
        View.__init__(self, **kwargs)
        self.scopes = ""
        self.extra: dict[str, str] = {}

    def get_settings(self, attr: str, *args: Any) -> Any:
        """Ours, so that no deployment can switch a check off."""
        own = {"OIDC_RP_SCOPES": self.scopes, "OIDC_AUTH_REQUEST_EXTRA_PARAMS": self.extra}
        return {**_LIBRARY_SETTINGS, **own}.get(attr, args[0] if args else None)

    def leave(self, request: HttpRequest, idp: IdentityProvider, purpose: Purpose) -> HttpResponse:
        """Begin a flow with this provider; a page that says so when it is away."""
        if purpose is not Purpose.SIGN_IN:
            idp = configured(idp)
        invitation = str(request.session.get(session.INVITATION, ""))
        flow = Flow(idp, purpose, safe_next(request), fingerprint_of(idp), invitation)
        self.scopes = idp.scopes
        if purpose is Purpose.SIGN_IN and (hint := request.session.get(session.HINT)):
            self.extra = {"login_hint": hint}
        if purpose is not Purpose.SIGN_IN:
            # Else the provider may answer from a session, and no password, key or policy is tried.
            self.extra = {"prompt": "login"}
        try:
            endpoints = client_for(idp).endpoints
        except SignInError as refusal:
            return refused(request, refusal, idp, purpose)
        self.OIDC_OP_AUTH_ENDPOINT = endpoints.authorization_endpoint
        self.OIDC_RP_CLIENT_ID = idp.client_id
        response = super().get(request)
        query = urlsplit(response.url).query
        state = parse_qs(query)["state"][-1]
        flows.remember(request.session, state, flow)
        return response  # type: ignore[no-any-return]  # an untyped library


@method_decorator([never_cache, throttled("sign-in", times=600, each=300)], name="dispatch")
class SignInView(Departure):
    """To an organization's own, working provider."""

    def get(self, request: HttpRequest, idp: uuid.UUID) -> HttpResponse:
        """A GET: it changes nothing but this browser's own session."""
        org_id = lookups.PROVIDER.id(idp)
        for row in _working(org_id, pk=idp) if org_id else []:
            return self.leave(request, row, Purpose.SIGN_IN)
        raise Http404


@method_decorator([never_cache, throttled("sign-in", times=600, each=300)], name="dispatch")
class TestView(Departure):
    """To a provider that an admin tests, in use or not, with what waits for the test."""

    def get(self, request: HttpRequest, idp: uuid.UUID) -> HttpResponse:
        """A GET, as every sign-in; somebody else's provider is as absent as none."""
        actor: Actor | None = getattr(request, "actor", None)
        row = IdentityProvider.objects.filter(pk=idp).first() if actor else None
        if actor is None or row is None or not can(actor, "idp.view", row).visible:
            raise Http404
        try:
            require(actor, "idp.update", row)
        except Denied as error:
            raise PermissionDenied(error.message) from None
        return self.leave(request, row, Purpose.TEST)


@method_decorator([never_cache, throttled("callback", times=600)], name="dispatch")
class ArrivalView(OIDCAuthenticationCallbackView):
    """Where every provider sends the browser back to."""

    flow: Flow

    def get(self, request: HttpRequest) -> HttpResponse:
        """Find the flow that this browser left with, then let the library and the backend judge."""
        known = None
        try:
            self.flow = known = flows.recall(request.session, request.GET.get("state", ""))
            self._check_answer(request)
            self._check_tester(request)
            request.oidc_flow = known  # type: ignore[attr-defined]  # for the backend
            with edge(), scope(known.idp.org_id):
                return self._arrive(request)
        except SignInError as refusal:
            if known is None:
                return refused(request, refusal, None)
            return refused(request, refusal, known.idp, known.purpose)

    def _arrive(self, request: HttpRequest) -> HttpResponse:
        """What a service refuses, such as to whom another was quicker, is a refused sign-in."""
        try:
            return super().get(request)  # type: ignore[no-any-return]  # an untyped library
        except LensError as error:
            raise SignInError(
                "not_completed",
                "The sign-in could not be completed, so nobody was signed in. Try again; if it"
                " happens again, tell your administrator.",
                detail=error.message,
            ) from None

    def login_success(self) -> HttpResponse:
        """A new session, and on to where the person wanted to go."""
        if self.flow.purpose is not Purpose.TEST:
            session.begin(self.request, self.user, self.flow.idp, self.request.oidc_arrival)
            return HttpResponseRedirect(self.flow.next_url or "/")
        messages.success(
            self.request, f"The test sign-in through {self.flow.idp.name} worked: you are known."
        )
        return redirect("admin:orgs_identityprovider_change", self.flow.idp.pk)

    def login_failure(self) -> HttpResponse:
        """Not reached by a provider that answers as it should."""
        raise bad_answer("there is no code in it")

    def _check_tester(self, request: HttpRequest) -> None:
        """A test is an admin's, also when it comes back."""
        actor = getattr(request, "actor", None)
        test = self.flow.purpose is Purpose.TEST
        if test and not can(actor, "idp.update", self.flow.idp).allowed:
            flows.forget(request.session, request.GET["state"])
            raise SignInError("not_an_admin", "Only an admin of the organization may test this.")

    def _check_answer(self, request: HttpRequest) -> None:
        """An answer of another provider (RFC 9207), or one that is an error, uses the state up."""
        issuer, error = request.GET.get("iss"), request.GET.get("error")
        if issuer in (None, self.flow.idp.issuer) and not error and request.GET.get("code"):
            return
        flows.forget(request.session, request.GET["state"])
        if error:
            raise SignInError(
                "provider_refused",
                "The identity provider did not let you in, or you cancelled.",
                detail=f"the provider answered with the error {error[:60]}",
            )
        raise bad_answer("it comes from another issuer, or without a code", code="issuer_mismatch")
