"""Policies over the REST API: documents in and out, versions, and what they would decide."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache

from apps.common.plain_yaml import load_yaml
from apps.policies.models import Policy
from tests import factories
from tests.apps.api_support import Api, caller, problem, read
from tests.apps.common.test_plain_yaml import LAUGHS

if TYPE_CHECKING:
    from django.http import HttpResponse

    from tests.factories import World

pytestmark = [pytest.mark.django_db, pytest.mark.database]
YAML = "application/yaml"
LEADS = """\
kind: team
team: leads
name: Leads policy
domains:
  - pattern: api.example.com
    action: allow
    http:
      - {method: GET, path: /v1/**, action: allow}
  - {pattern: "*", action: deny}
tools:
  - {pattern: shell_*, action: deny}
  - {pattern: "*", action: allow}
tests:
  - {method: POST, url: https://api.example.com/v1/x, expect: deny}
"""


@pytest.fixture
def acme() -> World:
    cache.clear()
    return factories.acme()


@pytest.fixture
def admin(acme: World) -> Api:
    return caller(acme, "admin")


def send(api: Api, path: str, text: str, method: str = "POST", **headers: str) -> HttpResponse:
    return api.ask(method, path, text, content_type=YAML, **headers)


def field(response: HttpResponse) -> str:
    return str(problem(response)["errors"][0]["field"])


def test_what_is_exported_can_be_applied_again(acme: World, admin: Api) -> None:
    made = send(admin, "/policies", LEADS)
    assert made.status_code == 201, made.content
    path = f"/policies/{read(made)['id']}"
    exported = admin.get(path, accept=YAML)
    assert exported["Content-Type"].startswith(YAML)
    assert exported["ETag"] == made["ETag"]
    text = exported.content.decode()
    assert load_yaml(text) == read(admin.get(path))["document"] == {"format": 1, **load_yaml(LEADS)}
    for answer in (
        send(admin, "/policies/apply", text),
        send(admin, path, text, "PUT", if_match=made["ETag"]),
    ):
        assert (answer.status_code, read(answer)["version"]) == (200, 1), answer.content
    stranger = caller(factories.globex(), "admin")
    theirs = send(stranger, "/policies/apply", text)
    assert theirs.status_code == 200
    assert read(stranger.get(f"/policies/{read(theirs)['id']}"))["document"] == load_yaml(text)


def test_json_and_yaml_say_the_same(admin: Api) -> None:
    one = send(admin, "/policies/validate", LEADS)
    other = admin.post("/policies/validate", load_yaml(LEADS))
    assert one.status_code == other.status_code == 200
    assert read(one) == read(other)
    assert read(one)["valid"] is True
    assert [test["passed"] for test in read(one)["tests"]] == [True]


@pytest.mark.parametrize("path", ["/policies", "/policies/apply", "/policies/validate"])
def test_a_bomb_costs_nothing(path: str, admin: Api) -> None:
    started = time.process_time()
    for bomb in (LAUGHS, "a: &a [*a]", "[" * 50_000, "- " * 5_000, "a: !!python/object:x {}"):
        response = send(admin, path, bomb)
        assert (response.status_code, problem(response)["code"]) == (400, "malformed")
    assert send(admin, path, "a: " + "x" * 1_000_000).status_code == 413
    assert time.process_time() - started < 5
    assert Policy.objects.count() == 1


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("tools:", "tool:", "tool"),
        ("    http:", "    host: x\n    http:", "domains[0].host"),
        ("path: /v1/**", "paths: /v1/**", "domains[0].http[0].paths"),
        ("action: deny}\ntools", "action: maybe}\ntools", "domains[1].action"),
        ("team: leads", "team: nobody", "team"),
        ("kind: team", "kind: project", "kind"),
        ("name: Leads policy", "name: [x]", "name"),
        ("pattern: api.example.com", "pattern: 'not a host'", "domains[0].pattern"),
        ("name: Leads policy", "name: Leads policy\nname: Twice", "name"),
    ],
)
def test_an_error_names_its_path(old: str, new: str, named: str, admin: Api) -> None:
    text = LEADS.replace(old, new, 1)
    assert text != LEADS
    for path in ("/policies", "/policies/apply"):
        response = send(admin, path, text)
        assert response.status_code == 400, response.content
        assert field(response) == named
    assert Policy.objects.count() == 1


def test_without_a_body_there_is_nothing_to_check(admin: Api) -> None:
    for path in ("/policies", "/policies/apply", "/policies/validate", "/policies/diff"):
        for body in ("", "[]", '"x"', "null"):
            assert admin.post(path, body).status_code == 400


def test_a_check_says_what_a_save_would(admin: Api) -> None:
    hidden = LEADS.replace('"*", action: deny', '"api.example.com", action: deny')
    review = read(send(admin, "/policies/validate", hidden))
    assert review["valid"] is False
    assert review["problems"][0]["field"].startswith("domains[1]")
    saved = send(admin, "/policies/apply", hidden)
    assert saved.status_code == 400
    assert field(saved).startswith("domains[1]")


def test_a_document_replaces_the_one_that_was_seen(acme: World, admin: Api) -> None:
    path = f"/policies/{acme.policy.pk}"
    seen = admin.get(path)
    document = read(seen)["document"]
    renamed = {**document, "name": "Renamed"}
    assert admin.ask("PUT", path, renamed, if_match="").status_code == 428
    changed = admin.ask("PUT", path, renamed, if_match=seen["ETag"])
    assert (changed.status_code, read(changed)["version"]) == (200, 2)
    assert changed["ETag"] == admin.get(path)["ETag"]
    late = admin.ask("PUT", path, {**document, "name": "Late"}, if_match=seen["ETag"])
    assert (late.status_code, problem(late)["code"]) == (412, "changed")
    moved = admin.ask("PUT", path, {**renamed, "team": "leads"}, if_match="*")
    assert moved.status_code == 400
    assert admin.ask("PUT", path, [], if_match="*").status_code == 400


def test_applying_over_a_version_that_was_not_seen(acme: World, admin: Api) -> None:
    document = read(admin.get(f"/policies/{acme.policy.pk}"))["document"]
    renamed = {**document, "name": "Renamed"}
    assert admin.post("/policies/apply?version=0", renamed).status_code == 409
    assert admin.post("/policies/apply?version=1", renamed).status_code == 200
    assert admin.post("/policies/apply?version=1", document).status_code == 409
    assert admin.post("/policies/apply?version=x", document).status_code == 400


def test_versions_are_kept_compared_and_brought_back(acme: World, admin: Api) -> None:
    path = f"/policies/{acme.policy.pk}"
    first = read(admin.get(path))["document"]
    narrower = {**first, "tools": [{"pattern": "shell_*", "action": "deny"}, *first["tools"]]}
    compared = read(admin.post("/policies/diff", narrower))
    assert [(one["op"], one["section"]) for one in compared["changes"]] == [("added", "tools")]
    assert admin.post("/policies/apply?reason=No%20shells", narrower).status_code == 200
    listed = read(admin.get(f"{path}/versions"))
    assert [(one["number"], one["reason"]) for one in listed["items"]] == [
        (2, "No shells"),
        (1, ""),
    ]
    assert "document" not in listed["items"][0]
    assert read(admin.get(f"{path}/versions?limit=1"))["next"]
    old = load_yaml(admin.get(f"{path}/versions/1", accept=YAML).content.decode())
    assert old == read(admin.get(f"{path}/versions/1"))["document"]
    assert read(admin.get(f"{path}/changes?old=1"))["changes"] == compared["changes"]
    for missing in (f"{path}/versions/3", f"{path}/versions/{10**30}", f"{path}/changes?old=3"):
        assert admin.get(missing).status_code == 404
    assert admin.get(f"{path}/changes").status_code == 400
    back = admin.post(f"{path}/rollback", {"number": 1, "reason": "They need shells"})
    assert (back.status_code, read(back)["version"]) == (200, 3), back.content
    assert read(admin.get(path))["document"] == first
    assert read(admin.get(f"{path}/versions"))["items"][0]["restored_from"] == 1
    assert admin.post(f"{path}/rollback", {"number": 9}).status_code == 404


def test_failing_tests_stop_what_widens(admin: Api) -> None:
    send(admin, "/policies/apply", LEADS)
    wider = LEADS.replace("method: GET", 'method: "*"')
    response = send(admin, "/policies/apply", wider)
    found = problem(response)
    assert (response.status_code, found["code"]) == (409, "policy_tests_failed")
    assert found["failing"]


def ask(api: Api, world: World, requests: list[dict[str, Any]], **more: Any) -> HttpResponse:
    body = {"team": str(world.team.pk), "requests": requests, **more}
    return api.post("/policies/simulate", body)


def test_what_would_be_decided(acme: World, admin: Api) -> None:
    requests: list[dict[str, Any]] = [
        {"tool": "shell_exec"},
        {"method": "GET", "url": "https://api.github.com/user"},
        {"method": "GET", "url": "https://example.com/"},
        {"method": "CONNECT", "url": "api.github.com:443"},
        {"method": "GET", "url": "https://api.github.com/", "addresses": ["169.254.169.254"]},
    ]
    draft = {"kind": "team", "team": "sre", "name": "Draft", "domains": [], "tools": []}
    response = ask(admin, acme, requests, agent="bot", project=str(acme.project.pk), draft=draft)
    assert response.status_code == 200, response.content
    answers = read(response)["answers"]
    assert [one["now"]["action"] for one in answers] == ["allow", "allow", "deny", "allow", "deny"]
    assert {one["draft"]["action"] for one in answers} == {"deny"}
    assert answers[1]["now"]["layer"] == "team"
    assert all(one["now"]["reason"] for one in answers)
    member = ask(caller(acme, "member"), acme, requests[:1])
    assert read(member)["answers"][0]["draft"] is None
    assert ask(caller(acme, "member"), acme, requests[:1], draft=draft).status_code == 403


@pytest.mark.parametrize(
    "request_",
    [{}, {"tool": "x", "method": "GET"}, {"method": "GET"}, {"url": "https://x.example"}, 5],
)
def test_a_question_that_cannot_be_asked(request_: Any, acme: World, admin: Api) -> None:
    response = ask(admin, acme, [request_])
    assert response.status_code == 400
    assert field(response).startswith("requests[0]")


def test_questions_are_bounded(acme: World, admin: Api) -> None:
    assert field(ask(admin, acme, [])) == "requests"
    assert field(ask(admin, acme, [{"tool": "x"}] * 201)) == "requests"
    assert field(ask(admin, acme, [{"tool": "x"}], agent="nobody")) == "agent"
    assert field(ask(admin, acme, [{"tool": "x"}], team=str(acme.org.pk))) == "team"


def test_yaml_where_no_document_is(acme: World, admin: Api) -> None:
    assert send(admin, "/policies/simulate", "team: x").status_code == 415
    assert send(admin, "/teams", "slug: x").status_code == 415
    assert admin.get("/policies", accept=YAML).status_code == 406
    assert admin.get("/teams", accept=YAML).status_code == 406


def test_whether_another_team_has_an_agent_is_not_told(acme: World) -> None:
    """`project_admin` is in the other team: an agent of this one is as absent as none."""
    said = set()
    for slug in (acme.agent.slug, "none"):
        asked = {"team": str(acme.other_team.pk), "agent": slug, "requests": [{"tool": "web"}]}
        response = caller(acme, "project_admin").post("/policies/simulate", asked)
        assert field(response) == "agent"
        said.add(problem(response)["detail"].replace(slug, "…"))
    assert len(said) == 1
