"""The base of every view of the REST API: what comes in, what goes out, and what an error is.

Rules.
1. A view translates: it reads a body, calls one service, shows the row. It decides nothing.
2. `answer()` is the one place around a handler; a subclass opens there what the handler needs.
3. Every error is a problem document (`api_problems`), also one of the framework's.
4. A change names the version that it changes (`changing`), and the service compares.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, cast

from django.views.decorators.csrf import csrf_exempt
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from apps.common import rows
from apps.common.api_bodies import MAX_BODY_BYTES, JsonParser, JsonRenderer
from apps.common.api_etags import compare, etag_of, wanted_tags
from apps.common.api_pages import page_of
from apps.common.api_problems import problem_of
from apps.common.api_schema import ApiSchema
from apps.common.errors import Invalid, NotFound, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.http.response import HttpResponseBase

    from apps.common.api_fields import Strict

    Serializers = dict[str, type[serializers.BaseSerializer[Any]]]

CONDITIONAL_METHODS = frozenset({"PUT", "PATCH", "DELETE"})


class ApiRequest(Request):
    """A request whose body is read once, up to the bound, whatever its length claims to be."""

    def _load_stream(self) -> None:
        # The framework trusts Content-Length, and reads nothing where it is absent (chunked).
        body = self._request.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")
        self._stream: io.BytesIO | None = io.BytesIO(body) if body else None  # type: ignore[assignment]  # the stubs forget None


class ApiView(GenericViewSet[Any]):
    """A resource: its words, its serializers by action, and how its rows are shown.

    `inputs` maps an action to what its body must be (`documents`: a schema, where the app checks
    the body by itself), `asks` to its query, `outputs` to what it shows when that is not
    `serializer_class`, `statuses` to a status other than the usual one. `filters` is the query of
    the list, `pages` names the lists, `pages_by` is "id" or a time column. `volatile` fields change
    by mere use and are no part of the ETag. `pure` actions change nothing, though they are POST.
    """

    resource: ClassVar[str]
    one: ClassVar[str]
    many: ClassVar[str]
    say: ClassVar[dict[str, str]] = {}
    inputs: ClassVar[Serializers] = {}
    outputs: ClassVar[Serializers] = {}
    statuses: ClassVar[dict[str, int]] = {"create": 201}
    documents: ClassVar[dict[str, dict[str, Any]]] = {}
    filters: ClassVar[type[Strict] | None] = None
    asks: ClassVar[dict[str, type[Strict]]] = {}
    pages: ClassVar[frozenset[str]] = frozenset({"list"})
    volatile: ClassVar[frozenset[str]] = frozenset()
    pages_by: ClassVar[str] = "id"
    pure: ClassVar[frozenset[str]] = frozenset()

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()
    parser_classes = [JsonParser]
    renderer_classes = [JsonRenderer]
    http_method_names = ["get", "head", "post", "put", "patch", "delete"]
    lookup_value_converter = "uuid"
    schema = ApiSchema()

    def initialize_request(self, request: HttpRequest, *_args: Any, **_kwargs: Any) -> Request:
        """The framework's request, with a bound on the body."""
        self.action = self.action_map.get((request.method or "").lower(), "")
        return ApiRequest(
            request,
            parsers=self.get_parsers(),
            negotiator=self.get_content_negotiator(),
            parser_context=self.get_parser_context(request),
        )

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """As the framework's, with `answer()` around the handler."""
        self.args, self.kwargs = args, kwargs
        self.request = self.initialize_request(request, *args, **kwargs)
        self.headers = self.default_response_headers
        try:
            self.initial(self.request, *args, **kwargs)
            response = self.answer(lambda: self._handler()(self.request, *args, **kwargs))
        except Exception as error:  # noqa: BLE001  the edge: every error becomes an answer
            response = problem_of(error)
        shaped = cast("Response", response)  # a problem is a plain response, which is allowed here
        self.response = self.finalize_response(self.request, shaped, *args, **kwargs)
        self.response["Cache-Control"] = "no-store"
        return self.response

    def answer(self, handler: Callable[[], HttpResponseBase]) -> HttpResponseBase:
        """Run the handler; a subclass surrounds it."""
        return handler()

    def _handler(self) -> Callable[..., HttpResponseBase]:
        method = (self.request.method or "").lower()
        known = method if method in self.http_method_names else "http_method_not_allowed"
        handler: Callable[..., HttpResponseBase]
        handler = getattr(self, known, self.http_method_not_allowed)
        return handler

    # What comes in.

    def body(self) -> dict[str, Any]:
        """The body of this action, checked."""
        return self.checked(self.inputs[self.action], self.request.data)

    def checked(
        self, serializer: type[serializers.BaseSerializer[Any]], data: Any, **options: Any
    ) -> dict[str, Any]:
        """Data as the serializer reads it; raises the framework's ValidationError."""
        found = serializer(data=data, context=self.get_serializer_context(), **options)
        found.is_valid(raise_exception=True)
        return dict(found.validated_data)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """As the framework's; and what is in the query is there once, and known."""
        super().initial(request, *args, **kwargs)
        if self.action:
            self._check_names()

    def _check_names(self) -> None:
        wanted = self.query_of(self.action)
        known = set(wanted().fields) if wanted else set()
        known |= {"cursor", "limit"} if self.action in self.pages else set()
        for name, values in self.request.query_params.lists():
            if name not in known:
                raise Invalid("There is no such parameter here.", field=name[:100])
            if len(values) > 1:
                raise Invalid("This is there twice.", field=name)

    def query(self) -> dict[str, Any]:
        """The query of this action, checked; cursor and limit are the page's."""
        given = {
            name: value
            for name, value in self.request.query_params.items()
            if name not in ("cursor", "limit")
        }
        wanted = self.query_of(self.action)
        return self.checked(wanted, given) if wanted else {}

    def query_of(self, action: str) -> type[Strict] | None:
        """What the action may be asked with."""
        return self.filters if action == "list" else self.asks.get(action)

    # What goes out.

    def output_of(self, action: str) -> type[serializers.BaseSerializer[Any]] | None:
        """How the action shows its result."""
        return self.outputs.get(action, self.serializer_class)

    def status_of(self, action: str) -> int:
        """The status of success."""
        return self.statuses.get(action, 200)

    def responses_of(self, action: str) -> dict[Any, Any]:
        """Status (and media type) to what is shown, for the document."""
        return {self.status_of(action): self.output_of(action)}

    def page_class(self, action: str) -> type[serializers.BaseSerializer[Any]]:
        """A page of a list, for the document."""
        shown = self.output_of(action)
        assert shown is not None  # noqa: S101  a list shows something
        fields = {
            "items": shown(many=True),
            "next": serializers.CharField(
                allow_null=True, help_text="The `cursor` of the next page; null at the end."
            ),
        }
        name = shown.__name__.removesuffix("Out")
        return type(f"{name}Page", (serializers.Serializer,), fields)

    def shown(self, row: Any, action: str = "") -> dict[str, Any]:
        """The row as this API shows it."""
        serializer = self.output_of(action or self.action)
        assert serializer is not None  # noqa: S101  asked for by actions that show a row
        return dict(serializer(row, context=self.get_serializer_context()).data)

    def page(self, found: QuerySet[Any]) -> Response:
        """One page of these rows."""
        asked = self.request.query_params
        page = page_of(
            found,
            cursor=asked.get("cursor"),
            limit=asked.get("limit"),
            by=self.pages_by,
        )
        items = [self.shown(row) for row in page.rows]
        return Response({"items": items, "next": page.following})

    def one_of(self, row: Any, *, status: int = 200, **extra: Any) -> Response:
        """A row with its ETag; a new one also says where it is."""
        headers = {"ETag": self.etag(row)}
        if status == 201:
            headers["Location"] = f"{self.request.path}/{row.pk}"
        return Response({**self.shown(row), **extra}, status=status, headers=headers)

    def etag(self, row: Any) -> str:
        """The version of a row."""
        return etag_of(self.shown(row, "retrieve"), without=self.volatile)

    # Which version.

    @contextmanager
    def changing(self, row: Any) -> Iterator[None]:
        """Around the service that changes the row: it must be the version that If-Match names."""
        wanted = wanted_tags(self.request.headers.get("If-Match", ""))
        with rows.expecting(row, lambda found: compare(wanted, self.etag(found))):
            yield

    # What the document says of it.

    def is_tagged(self, action: str, /) -> bool:
        """Whether its answer is one row of this resource."""
        return action in ("create", "retrieve", "partial_update", "update")

    def is_conditional(self, method: str) -> bool:
        """Whether the method needs If-Match."""
        return method in CONDITIONAL_METHODS

    def is_repeatable(self, action: str, method: str) -> bool:
        """Whether an Idempotency-Key counts."""
        return method == "POST" and action not in self.pure


@csrf_exempt  # whose refusal would be a page
def no_route(_request: HttpRequest, *_args: Any, **_kwargs: Any) -> HttpResponse:
    """What is under the API's path and is no route of it."""
    return problem_of(NotFound("There is no such resource."))
