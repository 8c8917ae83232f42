"""The REST API as a whole: each operation for each kind of caller, and what all of them promise."""

from __future__ import annotations

import ast
import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from django.core.cache import cache
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from openapi_spec_validator import validate

from apps.audit.models import AuditEvent
from apps.common.ids import token, token_hash
from apps.orgs import services
from apps.orgs.models import IdempotentRequest, Membership, User
from apps.orgs.services.setup import OPERATOR
from lensagents.api import document, routes
from tests import factories
from tests.apps.admin_support import browser
from tests.apps.api_support import API, Api, caller, problem
from tests.contracts.api_cases import ACTORS, CASES, CHANGES_NOTHING, invitation_of, sandbox_of
from tests.contracts.test_services import everything

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.http import HttpResponse

    from tests.contracts.api_cases import Case
    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT: dict[str, Any] = json.loads(document())
WRITES = {"save", "create", "bulk_create", "get_or_create", "update_or_create", "bulk_update"}


def operations() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(operation id, method, path, operation) of the document."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield operation["operationId"], method, path, operation


METHODS = {name: method.upper() for name, method, _, _ in operations()}


@pytest.fixture
def acme() -> World:
    return furnished(factories.acme())


@pytest.fixture
def globex() -> World:
    return furnished(factories.globex())


def furnished(world: World) -> World:
    """With a sandbox and a provider."""
    cache.clear()
    sandbox_of(world)
    invitation_of(world)
    browser(world.admin)
    return world


def send(api: Api, name: str, case: Case, world: World) -> HttpResponse:
    """The case, against the objects of this world."""
    return api.ask(METHODS[name], case.path(world), case.body(world) if case.body else None)


def stored() -> dict[str, list[dict[str, Any]]]:
    """Every row but those that reading may write."""
    found = everything()
    for model in ("AuditEvent", "Revision", "UserSession"):
        found.pop(model, None)
    for model, use in (("AgentToken", "last_used_at"), ("User", "last_login")):
        for row in found[model]:
            row.pop(use)
    return found


def test_every_operation_has_a_case() -> None:
    assert set(METHODS) == set(CASES)


def test_every_route_is_in_the_document() -> None:
    """Django's own list of routes against the document's paths."""
    named = (str(route.pattern).replace("<uuid:pk>", "{id}") for route in routes)
    shown = {re.sub(r"<int:(\w+)>", r"{\1}", pattern) for pattern in named}
    documented = {path.removeprefix(f"{API}/") for path in DOCUMENT["paths"]}
    assert shown == documented


@pytest.mark.parametrize("name", CASES)
def test_each_caller_gets_what_its_role_allows(name: str, acme: World) -> None:
    case, before = CASES[name], stored()
    events = set(AuditEvent.objects.values_list("pk", flat=True))
    for actor in ACTORS:
        with undone():
            response = send(caller(acme, actor), name, case, acme)
            assert response.status_code == case.expected(actor), (actor, response.content)
            left = list(AuditEvent.objects.exclude(pk__in=events))
            refused = response.status_code >= 400
            if METHODS[name] == "GET" or refused or name in CHANGES_NOTHING:
                assert left == [], actor
                assert stored() == before, actor
                continue
            (event,) = left
            assert (event.org_id, event.result) == (acme.org.pk, "success")
            named = acme.agent.name if actor == "agent" else api_name(acme, actor)
            assert event.principal_name == named
            assert "secret-of-the-case" not in str(vars(event)) + response.content.decode()


@contextmanager
def undone() -> Iterator[None]:
    """What happens inside has not happened afterwards."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def api_name(world: World, actor: str) -> str:
    return str(getattr(world, actor).name)


@pytest.mark.parametrize("name", CASES)
def test_a_stranger_finds_nothing_of_it(name: str, acme: World, globex: World) -> None:
    """Somebody of another organization with our ids in path and body: absent, and not told."""
    case, ours = CASES[name], own_ids(acme)
    path, body = case.path(acme), case.body(acme) if case.body else None
    absent = re.sub(r"[0-9a-f-]{36}", "019a0000-0000-7000-8000-000000000000", path)
    before = stored()
    for kind in ("admin", "project_admin", "agent"):
        stranger = caller(globex, kind)
        with undone():
            response = stranger.ask(METHODS[name], path, body)
            text = response.content.decode()
            assert not [key for key in ours if key in text and key not in path]
            assert "acme" not in text.lower()
            if absent != path:
                assert response.status_code == 404
                assert problem(response)["detail"] == "Not found."
                other = stranger.ask(METHODS[name], absent, body)
                assert without_instance(other) == without_instance(response)
            if response.status_code >= 400:
                assert stored() == before


def own_ids(world: World) -> set[str]:
    return {
        str(row["id"])
        for rows in everything().values()
        for row in rows
        if isinstance(row.get("id"), UUID) and row.get("org_id", row["id"]) == world.org.pk
    } | {str(actor.id) for actor in (world.admin, world.member)}


def without_instance(response: HttpResponse) -> dict[str, Any]:
    return {**problem(response), "instance": ""}


@pytest.mark.parametrize("name", CASES)
def test_without_a_credential_there_is_nothing(name: str, acme: World) -> None:
    sandbox = sandbox_of(acme)
    value = token("lnsb")
    sandbox.token_hash = token_hash(value)
    sandbox.state = "ready"
    sandbox.save()
    operator = User.objects.create(email="operator@example.com", is_operator=True)
    unplaced = Client()
    unplaced.force_login(operator)
    strangers = {
        "token_missing": [Api(Client()), Api(Client(), authorization="Basic bGVuczpsZW5z")],
        "token_unknown": [
            Api(Client(), authorization="Bearer lns_" + "x" * 43),
            Api(Client(), authorization="Bearer x"),
        ],
        "token_audience": [Api(Client(), authorization=f"Bearer {value}")],
    }
    before = stored()
    for code, callers in strangers.items():
        for api in callers:
            response = send(api, name, CASES[name], acme)
            assert response.status_code == 401, response.content
            assert problem(response)["code"] == code
            assert response["WWW-Authenticate"].startswith("Bearer")
    assert send(Api(unplaced), name, CASES[name], acme).status_code == 401
    assert stored() == before


def test_an_operator_reads_what_an_auditor_reads_and_changes_nothing(acme: World) -> None:
    """Break-glass: each read is an event, and what would change something is refused."""
    token_of = services.break_glass_request(
        acme.org, reason="Case 4711.", minutes=30, requested_by="root", actor=OPERATOR
    ).token
    client = Client()
    client.post("/operator/open/", {"token": f"http://testserver/operator/#{token_of}"})
    operator, before = Api(client), stored()
    for name, case in CASES.items():
        seen = AuditEvent.objects.filter(action="break_glass.view").count()
        response = send(operator, name, case, acme)
        if METHODS[name] == "GET":
            assert response.status_code == case.expected("auditor"), (name, response.content)
        else:
            assert (response.status_code, problem(response)["code"]) == (405, "method_not_allowed")
        assert AuditEvent.objects.filter(action="break_glass.view").count() == seen + 1
    assert stored() == before


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method != "GET"])
def test_a_session_needs_the_csrf_token(name: str, acme: World) -> None:
    client = browser(acme.admin)
    client.handler.enforce_csrf_checks = True
    before = stored()
    response = send(Api(client), name, CASES[name], acme)
    assert (response.status_code, problem(response)["code"]) == (403, "csrf_failed")
    assert stored() == before


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x", "a/b"])
def test_a_session_survives_any_content_type(kind: str, acme: World) -> None:
    """Looking for the CSRF token must not read the body as a form."""
    client = browser(acme.admin)
    client.handler.enforce_csrf_checks = True
    client.cookies["lens_csrf"] = "x" * 32
    path = f"/agents/{acme.agent.pk}/disable"
    headers = {"x-csrftoken": "x" * 32, "content-type": kind}
    assert Api(client).ask("POST", path, "no form", **headers).status_code == 200
    path = f"/sandboxes/{sandbox_of(acme).pk}/stop"
    assert Api(client).ask("POST", path, "no form", **headers).status_code == 415


def test_the_document_is_valid_and_complete() -> None:
    validate(DOCUMENT)
    names = [name for name, *_ in operations()]
    assert len(names) == len(set(names)) >= 49
    for name, method, path, operation in operations():
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["security"], name
        errors = {status for status in operation["responses"] if status >= "400"}
        assert {"400", "401", "403", "404", "406", "429", "500", "503"} <= errors, name
        headers = {found["name"] for found in operation.get("parameters", ())}
        if method in ("put", "patch", "delete"):
            assert "If-Match" in headers, name
            assert {"412", "428"} <= errors, name
        if method == "post" and not path.endswith(("/validate", "/diff", "/simulate")):
            assert "Idempotency-Key" in headers, name
        for status in errors:
            assert list(operation["responses"][status]["content"]) == ["application/problem+json"]


def test_the_document_is_the_same_for_everybody(acme: World) -> None:
    for client in (Client(), browser(acme.admin)):
        response = client.get(f"{API}/openapi.json")
        assert response.status_code == 200
        assert response.content == document()
    assert "acme" not in document().decode()


def api_modules() -> list[Path]:
    found = [*ROOT.glob("apps/*/api.py"), *ROOT.glob("apps/*/api/*.py")]
    return [*found, ROOT / "apps/common/api.py"]


@pytest.mark.parametrize("path", api_modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_view_writes_nothing_by_itself(path: Path) -> None:
    """Changes go through services: no view calls a writing method of rows or managers."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in WRITES, (node.lineno, node.func.attr)
            if node.func.attr in ("delete", "update"):
                holder = node.func.value
                assert not isinstance(holder, (ast.Call, ast.Attribute)), node.lineno


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("_list")])
def test_a_list_asks_the_database_as_often_for_one_row_as_for_many(name: str, acme: World) -> None:
    admin = caller(acme, "admin")
    many_of_everything(acme)
    path = CASES[name].path(acme)
    counted = []
    for limit in (1, 200):
        cache.clear()
        with CaptureQueriesContext(connection) as queries:
            assert admin.ask("GET", f"{path}?limit={limit}").status_code == 200
        counted.append(len(queries))
    assert counted[0] == counted[1] < 30


def many_of_everything(world: World) -> None:
    admin = caller(world, "admin")
    for name in ("teams", "projects", "memberships", "invitations", "agents", "credentials"):
        case = CASES[f"{name}_create"]
        assert case.body is not None
        for _ in range(3):
            answer = admin.ask("POST", f"/{name}", case.body(world))
            assert answer.status_code == 201, answer.content
    person = Membership.objects.filter(org=world.org, teams=None).exclude(role="admin").first()
    assert person is not None
    body = {"teams": [str(world.team.pk), str(world.other_team.pk)]}
    assert admin.ask("PATCH", f"/memberships/{person.pk}", body).status_code == 200


def test_nothing_is_kept_without_a_key(acme: World) -> None:
    caller(acme, "admin").ask("POST", "/teams", {"slug": "x", "name": "X"})
    assert not IdempotentRequest.objects.exists()
