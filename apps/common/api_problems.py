"""Every error of the REST API as one document: `application/problem+json` (RFC 9457).

    {"type": "urn:lensagents:error:invalid", "title": "Invalid request", "status": 400,
     "code": "invalid", "detail": "…", "instance": "urn:uuid:…",
     "errors": [{"field": "slug", "message": "…"}]}

`code` is what a program compares, `detail` what a person reads, `instance` what finds the line in
the server's log. What is no error of ours or of the framework's becomes a 500 that says nothing but
that id: the traceback goes to the log.
"""

from __future__ import annotations

import json
import logging
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.core.serializers.json import DjangoJSONEncoder
from django.http import Http404, HttpResponse
from rest_framework import exceptions
from rest_framework.exceptions import APIException

from apps.common.errors import (
    Denied,
    Invalid,
    LensError,
    NotFound,
    RateLimited,
    TooLarge,
    Unauthenticated,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONTENT_TYPE = "application/problem+json"
_log = logging.getLogger(__name__)
_TITLES = {
    400: "Invalid request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict",
    412: "Changed meanwhile",
    413: "Too large",
    415: "Unsupported media type",
    422: "Another request under the same key",
    428: "If-Match needed",
    429: "Too many requests",
    500: "Internal error",
    503: "Unavailable",
}
_FRAMEWORK_CODES = {
    exceptions.MethodNotAllowed: "method_not_allowed",
    exceptions.NotAcceptable: "not_acceptable",
    exceptions.UnsupportedMediaType: "unsupported_media_type",
    exceptions.ParseError: "malformed",
    exceptions.PermissionDenied: "denied",
}


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[dict[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
    **extra: Any,
) -> HttpResponse:
    """One problem document as a response."""
    document = {
        "type": f"urn:lensagents:error:{code}",
        "title": _TITLES.get(status, HTTPStatus(status).phrase),
        "status": status,
        "code": code,
        "detail": detail,
        "instance": f"urn:uuid:{uuid.uuid4()}",
        **({"errors": errors} if errors else {}),
        **extra,
    }
    text = json.dumps(document, cls=DjangoJSONEncoder, ensure_ascii=False)
    response = HttpResponse(text, status=status, content_type=CONTENT_TYPE)
    for name, value in (headers or {}).items():
        response[name] = value
    return response


def problem_of(error: Exception) -> HttpResponse:
    """Any exception as a problem; what is nobody's answer is logged and becomes a 500."""
    if isinstance(error, APIException):
        return _framework(error)
    ours = error if isinstance(error, LensError) else _translated(error)
    return unexpected(error) if ours is None else _ours(ours)


def _translated(error: Exception) -> LensError | None:
    """Django's own complaints as errors of ours."""
    if isinstance(error, Http404):
        return NotFound("Not found.")
    if isinstance(error, PermissionDenied):
        return Denied(str(error) or "Not allowed.")
    if isinstance(error, RequestDataTooBig):
        return TooLarge("The body is too large.")
    if isinstance(error, (BadRequest, SuspiciousOperation)):
        return Invalid("The request cannot be read.", code="malformed")
    return None


def unexpected(error: BaseException | None) -> HttpResponse:
    """A 500; its id stands in the log beside the traceback, and nothing else is told."""
    response = problem(500, "internal", "Something went wrong here. The log has it under this id.")
    instance = json.loads(response.content)["instance"]
    _log.error("unexpected error %s", instance, exc_info=error)
    return response


def _ours(error: LensError) -> HttpResponse:
    data = {key: value for key, value in error.data.items() if key != "field"}
    errors = None
    if isinstance(error, Invalid) and error.field:
        errors = [{"field": error.field, "message": error.message}]
    if error.retryable:
        data["retryable"] = True
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = f'Bearer error="{_bearer_error(error)}"'
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(data.get("retry_after", 60))
    return problem(
        error.status, error.error_code, error.message, errors=errors, headers=headers, **data
    )


def _bearer_error(error: Unauthenticated) -> str:
    """RFC 6750 section 3.1."""
    return "invalid_request" if error.error_code == "token_missing" else "invalid_token"


def _framework(error: APIException) -> HttpResponse:
    if isinstance(error, exceptions.ValidationError):
        errors = list(_flat(error.detail, ""))
        return problem(400, "invalid", _first(errors), errors=errors)
    code = _FRAMEWORK_CODES.get(type(error), "error")
    wait = getattr(error, "wait", None)
    headers = {"Retry-After": str(int(wait) + 1)} if wait else {}
    return problem(error.status_code, code, str(error.detail), headers=headers)


def _flat(detail: Any, at: str) -> Iterator[dict[str, str]]:
    """Nested messages of a serializer as one list; paths look like `domains[0].pattern`."""
    if isinstance(detail, dict):
        for key, value in detail.items():
            yield from _flat(value, _below(at, key))
    elif isinstance(detail, list):
        for index, value in enumerate(detail):
            nested = isinstance(value, (dict, list))
            yield from _flat(value, f"{at}[{index}]" if nested else at)
    else:
        yield {"field": at, "message": str(detail)}


def _below(at: str, key: object) -> str:
    """The path of a key; the framework numbers the items of a list."""
    if key == "non_field_errors":
        return at
    if isinstance(key, int):
        return f"{at}[{key}]"
    return f"{at}.{key}" if at else str(key)


def _first(errors: list[dict[str, str]]) -> str:
    if not errors:
        return "The request is not valid."
    field, message = errors[0]["field"], errors[0]["message"]
    return f"{field}: {message}" if field else message
