"""What the REST API's base promises of every route; shown on teams."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache
from django.test import Client, RequestFactory, override_settings

from apps.common import rows
from apps.common.api_bodies import MAX_BODY_BYTES
from apps.common.errors import Unavailable
from apps.common.plain_yaml import MAX_DEPTH
from apps.orgs import services
from apps.orgs.models import Team
from lensagents import views
from tests import factories
from tests.apps.api_support import API, Api, caller, problem, read

if TYPE_CHECKING:
    from django.http import HttpResponse

    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]
NEW = {"slug": "new", "name": "New"}


@pytest.fixture
def acme() -> World:
    cache.clear()
    return factories.acme()


@pytest.fixture
def admin(acme: World) -> Api:
    return caller(acme, "admin")


def code(response: HttpResponse) -> tuple[int, str]:
    return response.status_code, problem(response)["code"]


def fields(response: HttpResponse) -> list[str]:
    return [error["field"] for error in problem(response)["errors"]]


# Errors.

ODD = ["/teams/%0A", "/%C2%8C%C3%AE", "/%C2%85", "/%E2%80%A8"]


@pytest.mark.parametrize(
    "path", ["", "/", "/nothing", "/teams/", "/teams/x", "/teams/1/2", "/%00", *ODD]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_route_is_a_problem_for_everybody(path: str, method: str, admin: Api) -> None:
    for api in (admin, Api(Client()), Api(Client(enforce_csrf_checks=True))):
        assert code(api.ask(method, path)) == (404, "not_found")


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v2/teams", "/api/v1x"])
def test_what_is_beside_the_api_is_a_problem_too(path: str) -> None:
    assert code(Client().get(path)) == (404, "not_found")  # type: ignore[arg-type]  # the stubs


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_another_method_is_named_with_those_there_are(method: str, admin: Api) -> None:
    response = admin.ask(method, "/teams")
    assert code(response) == (405, "method_not_allowed")
    assert response["Allow"] == "GET, HEAD, POST"


def test_a_representation_that_there_is_not(admin: Api) -> None:
    assert code(admin.get("/teams", accept="text/html")) == (406, "not_acceptable")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "x", "a/b;c"])
def test_a_body_of_another_type(kind: str, admin: Api) -> None:
    response = admin.post("/teams", "slug=x", content_type=kind)
    assert code(response) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "body", ["{", '{"a": NaN}', '"\\', b"\xff", "[" * 100_000, '{"a":' * 5_000, "1" * 5_000]
)
def test_what_is_no_json(body: str | bytes, admin: Api) -> None:
    assert code(admin.post("/teams", body))[0] == 400


def test_a_body_nests_only_so_deep(admin: Api) -> None:
    body = {"slug": "x", "name": "[" * MAX_DEPTH, "deep": None}
    assert code(admin.post("/teams", body))[0] == 400
    deep: Any = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    assert code(admin.post("/teams", {"deep": deep})) == (400, "malformed")


def test_a_body_has_a_bound_whatever_its_length_says(acme: World, admin: Api) -> None:
    large = '{"slug": "' + "x" * MAX_BODY_BYTES + '"}'
    assert code(admin.post("/teams", large)) == (413, "too_large")
    request: Any = RequestFactory().post(f"{API}/teams", large, content_type="application/json")
    request.actor, request._dont_enforce_csrf_checks = acme.admin, True
    del request.META["CONTENT_LENGTH"]  # as a chunked body comes
    from apps.orgs.api.teams import TeamsApi  # noqa: PLC0415  views need the settings

    view: Any = TeamsApi.as_view({"post": "create"})
    assert code(view(request)) == (413, "too_large")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([], [""]),
        ('"x"', [""]),
        ("5", [""]),
        ("null", [""]),
        ({}, ["slug", "name"]),
        ({**NEW, "colour": "red", "a b": 1}, ["a b", "colour"]),
        ({**NEW, "name": 5}, ["name"]),
        ({**NEW, "name": None}, ["name"]),
        ({**NEW, "name": " \t"}, ["name"]),
        ({**NEW, "name": "a\x00b"}, ["name"]),
        ({**NEW, "name": "\x1b[31m"}, ["name"]),
        ({**NEW, "name": "x" * 201}, ["name"]),
        ({**NEW, "slug": "No Slug"}, ["slug"]),
        ({**NEW, "slug": "a\n"}, ["slug"]),
    ],
)
def test_an_error_names_the_field(body: Any, named: list[str], admin: Api) -> None:
    response = admin.post("/teams", body if body != [] else "[]")
    assert code(response) == (400, "invalid")
    assert fields(response) == named


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/teams", {"\ud800": 1}),
        ("POST", "/teams", {**NEW, "name": "\udfff"}),
        ("POST", "/memberships", {"email": "a@b.example", "role": "\ud800"}),
        ("POST", "/policies/validate", {"\ud800": "\ud800"}),
        ("POST", "/policies/apply", {"kind": "team", "name": "x", "\ud800": 1}),
        ("POST", "/policies/diff", {"domains": [{"\ud800": "\ud800"}]}),
    ],
)
def test_half_a_letter_is_refused_and_not_repeated(
    method: str, path: str, body: Any, admin: Api
) -> None:
    """It has no UTF-8: an answer that repeats it could not be sent."""
    assert code(admin.ask(method, path, body)) == (400, "malformed")
    whole = {**NEW, "name": "\U0001f600 \\ud83d"}
    assert read(admin.post("/teams", json.dumps(whole)))["name"] == whole["name"]


def test_a_list_is_counted_before_its_items_are_looked_at(acme: World) -> None:
    """An agent may ask: a third of a million complaints took 20 s and 400 MB."""
    agent, started = caller(acme, "agent"), time.process_time()
    questions: list[Any]
    for questions in ([{}] * 200_000, [{"addresses": [0] * 200_000}]):
        body: dict[str, Any] = {"team": str(acme.team.pk), "requests": questions}
        response = agent.post("/policies/simulate", body)
        assert code(response) == (400, "invalid")
        assert len(response.content) < 1_000
    assert time.process_time() - started < 5


@pytest.mark.parametrize("value", ["yes", 1, "true", None])
def test_a_flag_is_true_or_false(value: Any, acme: World, admin: Api) -> None:
    response = admin.ask("PATCH", f"/organizations/{acme.org.pk}", {"allow_degraded": value})
    assert fields(response) == ["allow_degraded"]


def test_a_nested_error_says_where(acme: World, admin: Api) -> None:
    path = f"/credentials/{acme.credential.pk}"
    body = {"allowed_hosts": ["api.github.com", 5], "allowed_teams": ["x"]}
    response = admin.ask("PATCH", path, body)
    assert fields(response) == ["allowed_hosts[1]", "allowed_teams[0]"]
    response = admin.ask("PATCH", path, {"allowed_hosts": ["*.github.io"]})
    assert fields(response)[0].startswith("allowed_hosts")


def test_an_error_of_ours_tells_an_id_and_nothing_else(
    admin: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("the secret reason")

    monkeypatch.setattr(services, "team_create", fails)
    with caplog.at_level(logging.ERROR):
        response = admin.post("/teams", NEW)
    found = problem(response)
    assert (response.status_code, found["code"]) == (500, "internal")
    assert "secret reason" not in response.content.decode()
    assert "Traceback" not in response.content.decode()
    (record,) = [record for record in caplog.records if found["instance"] in record.getMessage()]
    assert record.exc_info
    assert "secret reason" in str(record.exc_info[1])


def test_an_error_outside_a_view_is_a_problem_too(admin: Api) -> None:
    with override_settings(ALLOWED_HOSTS=["elsewhere.example"]):
        assert code(admin.get("/teams")) == (400, "malformed")
    request = RequestFactory().get(f"{API}/teams")
    assert code(views.server_error(request)) == (500, "internal")
    page = views.server_error(RequestFactory().get("/"))
    assert (page.status_code, page["Content-Type"]) == (500, "text/html; charset=utf-8")


def test_while_nobody_knows_who_may_what_everyone_is_refused(
    acme: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> None:
        raise Unavailable("Not now.", code="authority_unavailable")

    monkeypatch.setattr("apps.orgs.api.callers.authenticate", away)
    response = caller(acme, "agent").get("/teams")
    assert code(response) == (503, "authority_unavailable")
    assert problem(response)["retryable"] is True


def test_a_principal_has_so_many_calls_a_minute(acme: World, admin: Api) -> None:
    agent = caller(acme, "agent")
    with override_settings(API_CALLS_PER_MINUTE=3):
        for _ in range(3):
            assert admin.get("/teams").status_code == 200
        response = admin.get("/teams")
        assert code(response) == (429, "rate_limited")
        assert 0 < int(response["Retry-After"]) <= 60
        assert agent.get("/teams").status_code == 200


def test_no_answer_is_kept_by_a_cache(admin: Api) -> None:
    for path in ("/teams", "/teams/x", "/whoami"):
        response = admin.get(path)
        assert response.get("Cache-Control", "no-store") == "no-store"
    assert admin.get("/whoami")["Cache-Control"] == "no-store"


# Pages.


def walk(api: Api, path: str, limit: int) -> list[str]:
    """Every id of a list, page by page."""
    found, cursor = [], ""
    while True:
        page = read(api.get(f"{path}?limit={limit}{cursor}"))
        found += [item["id"] for item in page["items"]]
        assert len(page["items"]) <= limit
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


@pytest.mark.parametrize("limit", [1, 3, 200])
def test_pages_hold_every_row_once_newest_first(limit: int, acme: World, admin: Api) -> None:
    for number in range(7):
        services.team_create(acme.org, slug=f"t{number}", name="T", actor=acme.admin)
    own = Team.objects.filter(org=acme.org).order_by("-id").values_list("pk", flat=True)
    assert walk(admin, "/teams", limit) == [str(key) for key in own]
    events = walk(admin, "/audit-events", limit)
    assert len(events) == len(set(events)) > 20


def test_a_row_that_comes_or_goes_moves_no_other(acme: World, admin: Api) -> None:
    for number in range(4):
        services.team_create(acme.org, slug=f"t{number}", name="T", actor=acme.admin)
    first = read(admin.get("/teams?limit=3"))
    services.team_create(acme.org, slug="late", name="Late", actor=acme.admin)
    services.team_delete(Team.objects.get(pk=first["items"][2]["id"]), actor=acme.admin)
    rest = read(admin.get(f"/teams?limit=3&cursor={first['next']}"))
    shown = [item["slug"] for item in first["items"] + rest["items"]]
    assert shown == ["t3", "t2", "t1", "t0", "leads", "sre"]


@pytest.mark.parametrize(
    "query",
    [
        *("cursor=x", "cursor=%00", "cursor=" + "A" * 21, "cursor=" + "A" * 23, "cursor=é"),
        *("limit=0", "limit=201", "limit=-1", "limit=x", "limit=1e2", "limit=%D9%A1"),
        *("limit=" + "9" * 5_000, "nothing=1", "slug=sre", "limit=", "cursor=", "format=xml"),
    ],
)
def test_a_query_that_cannot_be_read(query: str, admin: Api) -> None:
    response = admin.get(f"/teams?{query}")
    assert code(response) == (400, "invalid")
    assert fields(response) == [query.partition("=")[0]]


def test_a_parameter_is_there_once_and_known_everywhere(acme: World, admin: Api) -> None:
    assert fields(admin.get("/teams?limit=1&limit=2")) == ["limit"]
    for path in (f"/teams/{acme.team.pk}", "/whoami"):
        assert fields(admin.get(f"{path}?limit=1")) == ["limit"]
    assert fields(admin.post("/teams?dry_run=1", NEW)) == ["dry_run"]


def test_a_cursor_of_another_order_is_none(admin: Api) -> None:
    cursor = read(admin.get("/teams?limit=1"))["next"]
    assert fields(admin.get(f"/audit-events?cursor={cursor}")) == ["cursor"]
    cursor = read(admin.get("/audit-events?limit=1"))["next"]
    assert fields(admin.get(f"/teams?cursor={cursor}")) == ["cursor"]
    beyond = "_" * 32
    assert fields(admin.get(f"/audit-events?cursor={beyond}")) == ["cursor"]


# Versions.


def test_a_change_names_the_version_that_it_changes(acme: World, admin: Api) -> None:
    path = f"/teams/{acme.team.pk}"
    seen = admin.get(path)["ETag"]
    assert re.fullmatch(r'"[\w-]{24}"', seen)
    changed = admin.ask("PATCH", path, {"name": "One"}, if_match=seen)
    assert changed.status_code == 200
    assert changed["ETag"] == admin.get(path)["ETag"] != seen
    for method, body in (("PATCH", {"name": "Two"}), ("DELETE", None)):
        assert code(admin.ask(method, path, body, if_match=seen)) == (412, "changed")
        assert code(admin.ask(method, path, body, if_match="")) == (428, "condition_needed")
        assert code(admin.ask(method, path, body, if_match=f"W/{changed['ETag']}")) == (
            412,
            "changed",
        )
        assert code(admin.ask(method, path, body, if_match="x"))[0] == 400
        assert code(admin.ask(method, path, body, if_match='"' + "x" * 2_000 + '"'))[0] == 400
    assert Team.objects.get(pk=acme.team.pk).name == "One"
    several = f'"other", {changed["ETag"]}'
    assert admin.ask("PATCH", path, {"name": "Two"}, if_match=several).status_code == 200
    assert admin.ask("PATCH", path, {"name": "Three"}, if_match="*").status_code == 200
    assert admin.ask("DELETE", path, if_match="*").status_code == 204
    assert code(admin.ask("DELETE", path, if_match="*")) == (404, "not_found")


def test_what_changes_beside_the_row_is_a_new_version(acme: World, admin: Api) -> None:
    """Teams of a person, the value of a credential: the row itself stays as it is."""
    credential = f"/credentials/{acme.credential.pk}"
    seen = admin.get(credential)["ETag"]
    assert admin.ask("PATCH", credential, {"value": "a new one"}).status_code == 200
    assert admin.get(credential)["ETag"] != seen
    person = next(
        item
        for item in read(admin.get("/memberships"))["items"]
        if item["user"]["email"] == acme.member.name
    )
    path = f"/memberships/{person['id']}"
    seen = admin.get(path)["ETag"]
    assert admin.ask("PATCH", path, {"teams": []}, if_match=seen).status_code == 200
    assert code(admin.ask("PATCH", path, {"teams": []}, if_match=seen)) == (412, "changed")


def test_use_is_no_change(acme: World, admin: Api) -> None:
    path = f"/tokens/{acme.minted.token.pk}"
    before = admin.get(path)
    caller(acme, "agent").get("/whoami")
    assert admin.get(path)["ETag"] == before["ETag"]


def test_a_service_that_locks_nothing_is_found_out(acme: World) -> None:
    with pytest.raises(RuntimeError, match="locked"), rows.expecting(acme.team, lambda _: None):
        pass
