"""The REST API's base for tenant resources: who calls, which rows, and a repetition done once.

`initial()` finds the caller; `answer()` is the one place around each handler, where the
organization is opened. A view names its noun; `can` and the app's selector decide the rest.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from rest_framework.response import Response

from apps.common.api import ApiView
from apps.common.api_throttle import count_call
from apps.common.errors import Denied, Invalid, NotFound
from apps.common.tenancy import edge, scope
from apps.orgs import idempotency
from apps.orgs.access import can, can_somewhere, require
from apps.orgs.api.callers import Caller, caller_of
from apps.orgs.models import Organization
from apps.orgs.refusals import access_refused

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from django.db.models import Model, QuerySet
    from django.http.response import HttpResponseBase
    from rest_framework.request import Request

    from apps.orgs.types import Actor

KEPT_HEADERS = ("ETag", "Location")
REPLAYED = "Idempotency-Replayed"


class OrgView(ApiView):
    """A resource of the caller's organization.

    `noun` is the first half of its verbs. `secret_once` names actions whose answer shows a value
    that is shown once.
    """

    noun: ClassVar[str]
    secret_once: ClassVar[frozenset[str]] = frozenset()
    caller: Caller
    org: Organization

    @property
    def actor(self) -> Actor:
        """Who acts."""
        return self.caller.actor

    def visible(self) -> QuerySet[Any]:
        """The rows that the caller may see: a selector of the app."""
        raise NotImplementedError

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Find the caller before anything else is looked at, and count the call."""
        self.caller = caller_of(request._request)  # noqa: SLF001  the framework's documented name
        actor = self.caller.actor
        count_call(f"{actor.kind}-{actor.id}", limit=settings.API_CALLS_PER_MINUTE)
        super().initial(request, *args, **kwargs)

    def answer(self, handler: Callable[[], HttpResponseBase]) -> HttpResponseBase:
        """Open the organization, and do the handler; under an idempotency key only once."""
        with edge(), scope(self.caller.org_id):
            self.org = Organization.objects.get(pk=self.caller.org_id)
            return self._answer(handler)

    def _answer(self, handler: Callable[[], HttpResponseBase]) -> HttpResponseBase:
        header = self.request.headers.get("Idempotency-Key")
        if header is None or not self.is_repeatable(self.action, self.request.method or ""):
            return handler()
        return self._once(idempotency.checked_key(header), handler)

    def _once(self, key: str, handler: Callable[[], HttpResponseBase]) -> HttpResponseBase:
        claim = idempotency.claim(self.org.pk, self.actor, key, self._fingerprint())
        if isinstance(claim, idempotency.Kept):
            headers = {**claim.headers, REPLAYED: "true"}
            body = json.loads(claim.body) if claim.body else None
            return Response(body, status=claim.status, headers=headers)
        try:
            with transaction.atomic():
                response = handler()
                self._keep(claim, response)
        except BaseException:
            claim.release()
            raise
        return response

    def _keep(self, claim: idempotency.Claim, response: HttpResponseBase) -> None:
        headers = {name: response[name] for name in KEPT_HEADERS if name in response}
        data = None if self.action in self.secret_once else getattr(response, "data", None)
        body = "" if data is None else json.dumps(data, cls=DjangoJSONEncoder)
        claim.keep(response.status_code, headers, body)

    def _fingerprint(self) -> str:
        """A body of JSON counts as what it says; another one, which is long to read, as it is."""
        request = self.request
        body = request.stream.getvalue() if request.stream else b""
        with suppress(ValueError, RecursionError):
            body = json.dumps(json.loads(body), sort_keys=True).encode()
        about = (request.method or "", request.get_full_path())
        return idempotency.fingerprint_of(*(text.encode() for text in about), body)

    # Rows.

    def list_rows(self) -> QuerySet[Any]:
        """The rows of the list; Denied to whom no role of theirs shows any."""
        self.allow("view")
        return self.visible()

    def get_object(self) -> Any:
        """The row of the address, as far as the caller may see it; NotFound otherwise."""
        return self.row(self.visible(), self.kwargs["pk"])

    def row(self, found: QuerySet[Any], key: uuid.UUID) -> Any:
        """One of these rows; absent, another organization's and hidden look the same."""
        row = found.filter(pk=key).first()
        if row is None or not can(self.actor, f"{self.noun}.view", row).allowed:
            raise NotFound("Not found.")
        return row

    def named(self, found: QuerySet[Any], key: uuid.UUID | None, field: str) -> Any:
        """The row that a body or query names; Invalid where it is not to be seen. None stays."""
        if key is None:
            return None
        row = found.filter(pk=key).first()
        if row is None:
            raise Invalid("There is no such object.", field=field)
        return row

    def named_all(self, found: QuerySet[Any], keys: list[uuid.UUID] | None, field: str) -> Any:
        """The rows that a body names; Invalid where one is not to be seen. None stays."""
        if keys is None:
            return None
        rows: list[Model] = list(found.filter(pk__in=keys))
        if len(rows) != len(set(keys)):
            raise Invalid("One of these objects does not exist.", field=field)
        return rows

    def allow(self, verb: str) -> None:
        """Raise Denied unless some role of the caller, on whatever object, carries the verb."""
        name = f"{self.noun}.{verb}"
        access = can_somewhere(self.actor, name, self.org)
        if not access.allowed:
            access_refused(self.actor, name, "", access.reason)
            raise Denied(f"Your role does not allow this ({name}).", verb=name)


class Listed(OrgView):
    """With a list."""

    def filtered(self, found: QuerySet[Any], query: dict[str, Any]) -> QuerySet[Any]:
        """The rows that the query asks for: each filter names a column."""
        return found.filter(**query)

    def list(self, _request: Request) -> Response:
        """One page of the rows that the caller may see, newest first."""
        rows = self.list_rows()
        return self.page(self.filtered(rows, self.query()))


class Shown(OrgView):
    """With one object."""

    def retrieve(self, _request: Request, **_: Any) -> Response:
        """One object, with its ETag."""
        return self.one_of(self.get_object())


class Created(OrgView):
    """With creation."""

    def perform_create(self, values: dict[str, Any]) -> Any:
        """Call the service; the new row."""
        raise NotImplementedError

    def create(self, _request: Request) -> Response:
        """A new object."""
        self.allow("create")
        values = self.body()
        try:
            row = self.perform_create(values)
        except NotFound as refused:
            # The caller sees the collection; what is hidden is the right to add to it here.
            raise Denied(f"Your role does not allow this ({self.noun}.create).") from refused
        return self.one_of(row, status=201)


class Changed(OrgView):
    """With a change of some fields."""

    def perform_update(self, row: Any, values: dict[str, Any]) -> Any:
        """Call the service; the row as it is then."""
        raise NotImplementedError

    def partial_update(self, _request: Request, **_: Any) -> Response:
        """Change the fields that are given."""
        row = self.get_object()
        require(self.actor, f"{self.noun}.update", row)
        with transaction.atomic(), self.changing(row):
            changed = self.perform_update(row, self.body())
        return self.one_of(changed)


class Deleted(OrgView):
    """With deletion."""

    def perform_destroy(self, instance: Any) -> Any:
        """Call the service."""
        raise NotImplementedError

    def destroy(self, _request: Request, **_: Any) -> Response:
        """Delete it."""
        row = self.get_object()
        require(self.actor, f"{self.noun}.delete", row)
        with transaction.atomic(), self.changing(row):
            self.perform_destroy(row)
        return Response(status=204)
