"""Who calls the REST API, as an actor of the control plane.

Rules.
1. A bearer token counts before a session. What it may do follows `can`, as for a person.
2. An agent acts in its one team, with that team's roles on projects and no role in the
   organization: a token is never organization admin.
3. A sandbox's token opens the platform's data plane for one project and nothing here: it is refused
   as if it were no token.
4. A session acts as its person, and needs the CSRF token for what changes something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.http import QueryDict
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.datastructures import MultiValueDict

from apps.common.errors import Denied, Unauthenticated
from apps.common.ids import token_hash
from apps.orgs.authentication import authenticate
from apps.orgs.refusals import Refusal, token_refused
from apps.orgs.types import Actor, Principal, PrincipalKind

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from django.http import HttpRequest

SAFE_METHODS = frozenset({"GET", "HEAD"})
_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller: who acts, in which organization, and by which kind of credential."""

    actor: Actor
    org_id: uuid.UUID
    by: str


def caller_of(request: HttpRequest) -> Caller:
    """Who calls. Raises Unauthenticated (401), Denied (403: CSRF) or Unavailable (503)."""
    header = request.headers.get("Authorization")
    if header is not None:
        return _by_token(header)
    actor = getattr(request, "actor", None)
    if actor is None or actor.org_id is None:
        raise Unauthenticated(
            "Send an agent's token as “Authorization: Bearer lns_…”, or sign in.",
            code="token_missing",
        )
    _check_csrf(request)
    return Caller(actor, actor.org_id, "session")


def _by_token(header: str) -> Caller:
    scheme, token = header[: len(_SCHEME)], header[len(_SCHEME) :].strip()
    if scheme.lower() != _SCHEME:
        raise Unauthenticated("Only the Bearer scheme is known here.", code="token_missing")
    principal = authenticate(token)
    acts = ACTORS.get(principal.kind)
    if acts is None:
        raise _wrong_audience(principal, token)
    return Caller(acts(principal), principal.org_id, "token")


def _wrong_audience(principal: Principal, token: str) -> Unauthenticated:
    refusal = Refusal(
        "token_audience",
        "This token is not for the REST API.",
        {
            "org": str(principal.org_id),
            "org_slug": principal.org_slug,
            "team": str(principal.team_id),
            "team_slug": principal.team_slug,
            "principal_kind": principal.kind,
            "principal_id": str(principal.id),
            "principal_name": principal.name,
        },
    )
    token_refused(refusal, token_hash(token))
    return Unauthenticated(refusal.message, code=refusal.code)


def _agent(principal: Principal) -> Actor:
    return Actor(
        kind=principal.kind,
        id=str(principal.id),
        name=principal.name,
        org_id=principal.org_id,
        project_roles=tuple((grant.project_id, grant.role) for grant in principal.grants),
        team_ids=(principal.team_id,),
    )


# Which kinds of principal have this API among their audiences, and as whom they act.
ACTORS: dict[PrincipalKind, Callable[[Principal], Actor]] = {PrincipalKind.AGENT: _agent}


class _Csrf(CsrfViewMiddleware):
    """Django's check, for views that it would pass over; its reason instead of its page."""

    def _reject(self, request: HttpRequest, reason: str) -> Any:  # noqa: ARG002  the base's name
        return reason


def _check_csrf(request: HttpRequest) -> None:
    if request.method in SAFE_METHODS:
        return
    # The token comes in the header: a body is not read as a form on the way.
    request._post, request._files = QueryDict(), MultiValueDict()  # type: ignore[attr-defined]  # noqa: SLF001  Django's own
    check = _Csrf(lambda _: None)  # type: ignore[arg-type]  # it is never called
    check.process_request(request)
    reason = check.process_view(request, None, (), {})  # type: ignore[arg-type]  # no view needed
    if reason:
        raise Denied(
            "A session needs the CSRF token in the header X-CSRFToken for what changes something.",
            code="csrf_failed",
        )
