"""Idempotency keys and versions under concurrency: done once, and nobody's change is lost."""

from __future__ import annotations

import json
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import cache
from django.db import connection, transaction

from apps.agents.models import AgentToken
from apps.audit.models import AuditEvent
from apps.common import clock
from apps.common.errors import Conflict
from apps.orgs import idempotency, services
from apps.orgs.models import IdempotentRequest, Team
from apps.orgs.tasks import forget_idempotency_keys
from tests import factories
from tests.apps.api_support import Api, caller, problem, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpResponse

    from tests.factories import World

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]
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


def together(works: list[Callable[[], Any]]) -> list[Any]:
    """All at once, each in a thread with a connection of its own; what they returned."""
    answers: list[Any] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> None:
        try:
            start.wait(timeout=30)
            answers.append(work())
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(answers) == len(works)
    return answers


def test_a_repetition_gets_the_answer_of_before(acme: World, admin: Api) -> None:
    first = admin.post("/teams", NEW, idempotency_key='"one"')
    assert first.status_code == 201
    events = AuditEvent.objects.count()
    for key in ('"one"', "one"):
        again = admin.post("/teams", NEW, idempotency_key=key)
        assert (again.status_code, again.content) == (201, first.content)
        assert (again["ETag"], again["Location"]) == (first["ETag"], first["Location"])
        assert again["Idempotency-Replayed"] == "true"
    assert AuditEvent.objects.count() == events
    assert Team.objects.filter(org=acme.org, slug="new").count() == 1


def test_the_same_key_with_another_request_is_a_mistake(admin: Api) -> None:
    admin.post("/teams", NEW, idempotency_key="one")
    other = admin.post("/teams", {**NEW, "slug": "other"}, idempotency_key="one")
    assert code(other) == (422, "key_reused")
    assert code(admin.post("/projects", NEW, idempotency_key="one")) == (422, "key_reused")


def test_the_order_of_keys_in_a_body_does_not_matter(admin: Api) -> None:
    admin.post("/teams", '{"slug": "new", "name": "New"}', idempotency_key="one")
    again = admin.post("/teams", '{"name":"New","slug":"new"}', idempotency_key="one")
    assert again.status_code == 201


def test_a_body_that_its_sender_may_not_send_is_not_read(acme: World) -> None:
    """With a key it was, before anybody was refused: two seconds for a megabyte of empty lines."""
    agent, started = caller(acme, "agent"), time.process_time()
    kind = {"content_type": "application/yaml", "idempotency_key": "one"}
    for body in ("\n" * 900_000, "[" * 900_000):
        assert code(agent.post("/policies/apply", body, **kind)) == (403, "denied")
    assert time.process_time() - started < 1


def test_documents_are_compared_as_they_are(admin: Api) -> None:
    kind = {"content_type": "application/yaml", "idempotency_key": "one"}
    text = "kind: ceiling\nname: Acme\n"
    first = admin.post("/policies/apply", text, **kind)
    assert first.status_code == 200
    again = admin.post("/policies/apply", text, **kind)
    assert (again.content, again["Idempotency-Replayed"]) == (first.content, "true")
    assert code(admin.post("/policies/apply", f"{text}\n", **kind)) == (422, "key_reused")


def test_a_key_belongs_to_its_principal(acme: World, admin: Api) -> None:
    stranger = caller(factories.globex(), "admin")
    second = services.user_invite(acme.org, email="b@acme.example", role="admin", actor=acme.admin)
    assert second
    assert admin.post("/teams", NEW, idempotency_key="one").status_code == 201
    answer = stranger.post("/teams", NEW, idempotency_key="one")
    assert answer.status_code == 201
    assert "Idempotency-Replayed" not in answer


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "a b", '"a', "ä", "a\\"])
def test_what_is_no_key(key: str, admin: Api) -> None:
    response = admin.post("/teams", NEW, idempotency_key=key)
    assert response.status_code == 400
    assert problem(response)["errors"][0]["field"] == "Idempotency-Key"


def test_a_refused_request_may_be_corrected_under_its_key(admin: Api) -> None:
    refused = admin.post("/teams", {"slug": "No", "name": "New"}, idempotency_key="one")
    assert refused.status_code == 400
    assert not IdempotentRequest.objects.exists()
    assert admin.post("/teams", NEW, idempotency_key="one").status_code == 201


def test_an_error_of_ours_leaves_neither_claim_nor_change(
    acme: World, admin: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: idempotency.Claim, *_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(idempotency.Claim, "keep", fails)
    assert admin.post("/teams", NEW, idempotency_key="one").status_code == 500
    assert not IdempotentRequest.objects.exists()
    assert not Team.objects.filter(org=acme.org, slug="new").exists()


def test_while_one_is_at_work_others_are_told(acme: World, admin: Api) -> None:
    print_of = idempotency.fingerprint_of(
        b"POST", b"/api/v1/teams", json.dumps(NEW, sort_keys=True).encode()
    )
    claim = idempotency.claim(acme.org.pk, acme.admin, "one", print_of)
    assert isinstance(claim, idempotency.Claim)
    response = admin.post("/teams", NEW, idempotency_key="one")
    assert code(response) == (409, "key_in_use")
    claim.release()
    assert admin.post("/teams", NEW, idempotency_key="one").status_code == 201


def test_a_claim_whose_worker_died_is_taken_over(acme: World) -> None:
    died = idempotency.claim(acme.org.pk, acme.admin, "one", "print")
    assert isinstance(died, idempotency.Claim)
    with pytest.raises(Conflict):
        idempotency.claim(acme.org.pk, acme.admin, "one", "print")
    IdempotentRequest.objects.update(updated_at=clock.now() - timedelta(minutes=2))
    second = idempotency.claim(acme.org.pk, acme.admin, "one", "print")
    assert isinstance(second, idempotency.Claim)
    with pytest.raises(Conflict):
        create_and_keep(acme, died)
    assert not Team.objects.filter(slug="new").exists()
    second.keep(201, {}, "{}")


@transaction.atomic
def create_and_keep(acme: World, claim: idempotency.Claim) -> None:
    services.team_create(acme.org, **NEW, actor=acme.admin)
    claim.keep(201, {}, "{}")


def test_many_at_once_make_one(acme: World) -> None:
    callers = [caller(acme, "admin") for _ in range(5)]
    answers = together(
        [lambda api=api: api.post("/teams", NEW, idempotency_key="one") for api in callers]  # type: ignore[misc]
    )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {201, 409}
    assert 201 in statuses
    made = {read(answer)["id"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    assert Team.objects.filter(org=acme.org, slug="new").count() == 1


def test_a_key_ends_after_a_day(acme: World, admin: Api) -> None:
    admin.post("/teams", NEW, idempotency_key="one")
    row = IdempotentRequest.objects.get()
    assert row.expires_at - row.created_at == pytest.approx(
        timedelta(hours=24), abs=timedelta(minutes=1)
    )
    IdempotentRequest.objects.update(expires_at=clock.now())
    other = admin.post("/teams", {**NEW, "slug": "other"}, idempotency_key="one")
    assert other.status_code == 201
    IdempotentRequest.objects.update(expires_at=clock.now())
    forget_idempotency_keys()
    assert not IdempotentRequest.objects.exists()


def test_a_value_that_is_shown_once_is_not_kept(acme: World, admin: Api) -> None:
    body = {"agent": str(acme.agent.pk), "name": "CI 2"}
    first = admin.post("/tokens", body, idempotency_key="one")
    minted = read(first)
    row = IdempotentRequest.objects.get()
    assert minted["value"] not in str(vars(row))
    assert row.body == ""
    again = admin.post("/tokens", body, idempotency_key="one")
    assert code(again) == (409, "value_shown_once")
    assert problem(again)["resource"] == f"/api/v1/tokens/{minted['id']}"
    assert "delete" in problem(again)["detail"]
    assert AgentToken.objects.filter(agent=acme.agent).count() == 2
    assert "value" not in read(admin.get(f"/tokens/{minted['id']}"))


def test_a_secret_in_a_request_is_neither_kept_nor_guessable(acme: World, admin: Api) -> None:
    body = {**NEW, "value": "hunter2", "allowed_hosts": ["api.example.com"]}
    response = admin.post("/credentials", body, idempotency_key="one")
    assert response.status_code == 201, response.content
    row = IdempotentRequest.objects.get()
    assert "hunter2" not in response.content.decode() + str(vars(row))
    parts = [b"POST", b"/api/v1/credentials", json.dumps(body, sort_keys=True).encode()]
    assert row.fingerprint == idempotency.fingerprint_of(*parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django.conf.settings.SECRET_KEY", "another")
        assert row.fingerprint != idempotency.fingerprint_of(*parts)


# Versions.


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_of_two_who_saw_the_same_version_one_wins(method: str, acme: World) -> None:
    """The comparison is made under the row's lock: whoever comes second is told."""
    path = f"/teams/{acme.team.pk}"
    callers = [caller(acme, "admin") for _ in range(4)]
    seen = callers[0].get(path)["ETag"]

    def change(api: Api, number: int) -> Any:
        return api.ask(method, path, {"name": f"Name {number}"}, if_match=seen)

    answers = together(
        [lambda api=api, n=n: change(api, n) for n, api in enumerate(callers)]  # type: ignore[misc]
    )
    lost = 412 if method == "PATCH" else 404
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == (200 if method == "PATCH" else 204)
    assert set(statuses[1:]) <= {lost, 412}
    events = AuditEvent.objects.filter(resource_id=str(acme.team.pk), surface="admin_change")
    assert events.exclude(action="team.create").count() == 1


def test_a_change_between_the_look_and_the_lock_is_seen(
    acme: World, admin: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody changes the row after the view has read it, before the service locks it."""
    path = f"/teams/{acme.team.pk}"
    seen = admin.get(path)["ETag"]
    update = services.team_update

    def late(row: Team, **values: Any) -> Team:
        Team.objects.filter(pk=row.pk).update(name="Meanwhile")
        return update(row, **values)

    monkeypatch.setattr(services, "team_update", late)
    response = admin.ask("PATCH", path, {"name": "Mine"}, if_match=seen)
    assert code(response) == (412, "changed")
