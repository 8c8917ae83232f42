"""A caller of the REST API, for tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.test import Client

from tests.apps.admin_support import browser

if TYPE_CHECKING:
    from django.http import HttpResponse

    from tests.factories import World

API = "/api/v1"
CONDITIONAL = ("PUT", "PATCH", "DELETE")


class Api:
    """One caller. A change is sent with `If-Match: *` unless its headers say otherwise."""

    def __init__(self, client: Client, **headers: str) -> None:
        self.client = client
        self.headers = headers

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> HttpResponse:
        """Send JSON; header names are written with underscores."""
        data = body if isinstance(body, (str, bytes)) else "" if body is None else json.dumps(body)
        conditional = {"if-match": "*"} if method in CONDITIONAL else {}
        given = {**self.headers, **headers}
        named = {name.replace("_", "-"): value for name, value in given.items()}
        content_type = named.pop("content-type", "application/json")
        return self.client.generic(  # type: ignore[return-value]  # the stubs' own response type
            method,
            API + path,
            data,
            content_type=content_type,
            headers={**conditional, **named},
        )

    def get(self, path: str, **headers: str) -> HttpResponse:
        """GET."""
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> HttpResponse:
        """POST."""
        return self.ask("POST", path, {} if body is None else body, **headers)


def caller(world: World, name: str) -> Api:
    """One of the world's people by session, or its agent by token."""
    if name == "agent":
        return Api(Client(), authorization=f"Bearer {world.minted.value}")
    return Api(browser(getattr(world, name)))


def read(response: HttpResponse) -> Any:
    """The JSON of an answer."""
    return json.loads(response.content)


def problem(response: HttpResponse) -> dict[str, Any]:
    """The problem document of an error, complete."""
    assert response["Content-Type"] == "application/problem+json", response.content
    found: dict[str, Any] = read(response)
    assert found["status"] == response.status_code
    assert found["type"] == f"urn:lensagents:error:{found['code']}"
    assert found["title"]
    assert found["detail"]
    assert found["instance"].startswith("urn:uuid:")
    return found
