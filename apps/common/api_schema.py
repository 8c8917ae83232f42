"""The OpenAPI document, told by the views themselves: see `apps.common.api.ApiView`.

Each operation gets an id, a summary, the errors that it may answer with, and the headers that a
caller must know: `If-Match` where a version is needed, `Idempotency-Key` where a repetition must
not do a thing twice, `ETag` where a version is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter

from apps.common.api_fields import Strict
from apps.common.api_pages import DEFAULT_LIMIT, MAX_LIMIT
from apps.common.api_problems import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "An error, as RFC 9457 has it.",
    "required": ["type", "title", "status", "code", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "description": "A URN that ends in the code."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "What a program compares."},
        "detail": {"type": "string", "description": "What a person reads."},
        "instance": {
            "type": "string",
            "description": "The id of this answer; after a 500 the server's log has it.",
        },
        "errors": {
            "type": "array",
            "description": "Which field is wrong, and what would be right.",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
_ERRORS = {
    400: "The request is not valid; `errors` names the fields.",
    401: "No credential, or one that does not hold.",
    403: "Your role does not allow it.",
    404: "Absent, or not yours: the two look the same.",
    406: "No such representation.",
    409: "The name is taken, or something else stands in the way.",
    412: "It was changed since you read it.",
    413: "The body is too large.",
    415: "The body has a type that is not read here.",
    422: "The idempotency key was used for another request.",
    428: "If-Match is missing.",
    429: "Too many calls; wait for Retry-After.",
    500: "An error of ours; the log has it under `instance`.",
    503: "It cannot be known now who may do what. Try again.",
}
_READ = (400, 401, 403, 404, 406, 429, 500, 503)
_WRITE = (*_READ, 409, 413, 415)
_CONDITIONAL = (412, 428)
_SUMMARIES = {
    "list": "List {many}",
    "create": "Create {one}",
    "retrieve": "Get {one}",
    "partial_update": "Change {one}",
    "update": "Replace {one}",
    "destroy": "Delete {one}",
}
_VERBS = {"retrieve": "get", "partial_update": "update", "update": "replace", "destroy": "delete"}


def add_problem(
    result: dict[str, Any],
    generator: Any,  # noqa: ARG001  the library's signature
    request: Any,  # noqa: ARG001
    public: Any,  # noqa: ARG001
) -> dict[str, Any]:
    """Put the schema that every error refers to into the document."""
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = PROBLEM
    return result


class ApiSchema(AutoSchema):
    """One operation, from what its view declares."""

    view: Any

    def get_operation_id(self) -> str:
        """`teams_list`, `agents_disable`: stable, since generated clients name methods by it."""
        action = self._action
        return f"{self.view.resource}_{_VERBS.get(action, action)}".replace("-", "_")

    def get_tags(self) -> list[str]:
        """One tag a resource."""
        return [self.view.resource]

    def get_summary(self) -> str:
        """What it does, in three words."""
        action = getattr(self.view, "say", {}).get(self._action)
        text = action or _SUMMARIES.get(self._action, self._action.capitalize())
        return str(text).format(many=self.view.many, one=self.view.one)

    def get_description(self) -> str:  # type: ignore[override]  # as the base, not its base
        """What is to be known of the resource, and of this action."""
        handler = getattr(type(self.view), self._action, None)
        own = handler.__doc__ if self._action not in _SUMMARIES and handler else None
        return _paragraphs(own or type(self.view).__doc__ or "")

    def get_auth(self) -> list[dict[str, Any]]:
        """An agent's token, or a signed-in person's session."""
        return [{"agentToken": []}, {"session": []}]

    def get_request_serializer(self) -> Any:
        """The body that the action takes, or None."""
        schema = self.view.documents.get(self._action)
        if schema is not None:
            return {parser.media_type: schema for parser in self.view.get_parsers()}
        return self.view.inputs.get(self._action)

    def get_response_serializers(self) -> Any:
        """The success of the action; its errors are added below."""
        view, action = self.view, self._action
        if action == "destroy":
            return {204: None}
        if action in view.pages:
            return {200: view.page_class(action)}
        return view.responses_of(action)

    def get_override_parameters(self) -> Any:
        """Query and header parameters."""
        return [*self._query(), *self._headers()]

    def _map_serializer_field(self, field: Any, *args: Any, **options: Any) -> Any:
        """With what our own fields refuse."""
        schema = super()._map_serializer_field(field, *args, **options)  # type: ignore[no-untyped-call]
        pattern = getattr(field, "pattern", None)
        return {**schema, "pattern": pattern} if pattern and isinstance(schema, dict) else schema

    def _postprocess_serializer_schema(self, schema: Any, serializer: Any, direction: Any) -> Any:
        """What a body may not have besides its fields."""
        schema = super()._postprocess_serializer_schema(schema, serializer, direction)  # type: ignore[no-untyped-call]
        if isinstance(serializer, Strict):
            schema["additionalProperties"] = False
        return schema

    def _is_list_view(self, serializer: Any = None) -> bool:  # noqa: ARG002  the base's signature
        """Our pages are objects."""
        return False

    def _get_request_body(self, *args: Any, **options: Any) -> Any:
        """A document is never left out."""
        body = super()._get_request_body(*args, **options)  # type: ignore[no-untyped-call]
        if body and self._action in self.view.documents:
            body["required"] = True
        return body

    def _get_response_bodies(self, direction: Any = "response") -> Any:
        answers = super()._get_response_bodies(direction)
        if self.view.is_tagged(self._action):
            for success in answers.keys() & {"200", "201"}:
                answers[success]["headers"] = _etag_header(success)
        for status in self._statuses():
            answers[str(status)] = {
                "description": _ERRORS[status],
                "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
        return answers

    def _statuses(self) -> list[int]:
        if self.method == "GET":
            return list(_READ)
        found = [*_WRITE]
        found += _CONDITIONAL if self.view.is_conditional(self.method) else ()
        found += [422] if self.view.is_repeatable(self._action, self.method) else []
        return sorted(found)

    def _query(self) -> Iterator[Any]:
        asked = self.view.query_of(self._action)
        if asked:
            yield asked
        if self._action not in self.view.pages:
            return
        yield OpenApiParameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
            description="How many at most.",
        )
        yield OpenApiParameter("cursor", str, description="`next` of the page before.")

    def _headers(self) -> Iterator[OpenApiParameter]:
        if self.view.is_conditional(self.method):
            yield OpenApiParameter(
                "If-Match",
                str,
                OpenApiParameter.HEADER,
                required=True,
                description="The ETag of the version that you saw; `*` for any.",
            )
        if self.view.is_repeatable(self._action, self.method):
            yield OpenApiParameter(
                "Idempotency-Key",
                {"type": "string", "minLength": 1, "maxLength": 255},
                OpenApiParameter.HEADER,
                description="Repeat a request under the same key and it is done once.",
            )

    @property
    def _action(self) -> str:
        return str(getattr(self.view, "action", "") or self.method.lower())


def _etag_header(status: str) -> dict[str, Any]:
    etag = {"description": "The version, for If-Match.", "schema": {"type": "string"}}
    location = {"description": "Where the new object is.", "schema": {"type": "string"}}
    return {"ETag": etag, **({"Location": location} if status == "201" else {})}


def _paragraphs(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    return "\n".join(lines)
