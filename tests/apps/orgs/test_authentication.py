"""Bearer tokens: who gets in, who does not and why, and how soon a change is felt."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError, connection

from apps.agents import services as agents
from apps.agents.authentication import AgentTokens
from apps.agents.models import AgentToken
from apps.common import clock, ids
from apps.common.errors import Unauthenticated, Unavailable
from apps.orgs import authentication, revision
from apps.orgs import services as orgs
from apps.orgs.authentication import aauthenticate, authenticate
from apps.orgs.models import Organization, Revision
from apps.orgs.types import SYSTEM
from tests import factories
from tests.spooled import spooled
from tests.tenancy import everywhere

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.factories import World

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


def code_of(bearer: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        authenticate(bearer)
    assert refused.value.status == 401
    assert bearer == "" or bearer not in refused.value.message
    return refused.value.error_code


def test_a_good_token_is_its_agent_in_its_team(acme: World) -> None:
    found = authenticate(acme.minted.value)
    assert (found.kind, found.id, found.team_slug, found.org_slug) == (
        "agent",
        acme.agent.pk,
        "sre",
        "acme",
    )
    assert found.token_id == acme.minted.token.pk
    assert [(grant.slug, grant.role) for grant in found.grants] == [("production", "member")]


def test_a_principal_sees_the_grants_of_its_own_organization_only(acme: World) -> None:
    stranger = factories.globex()
    found = authenticate(stranger.minted.value)
    assert {grant.project_id for grant in found.grants} == {stranger.project.pk}
    assert found.org_id == stranger.org.pk


ENDS: dict[str, Callable[[World], Any]] = {
    "token_revoked": lambda w: agents.token_revoke(w.minted.token, actor=w.admin),
    "token_agent_disabled": lambda w: agents.agent_disable(w.agent, actor=w.admin),
    "token_team_gone": lambda w: orgs.team_delete(w.team, actor=w.admin),
    "token_unknown": lambda w: agents.agent_delete(w.agent, actor=w.admin),
}


@pytest.mark.parametrize("code", ENDS)
def test_each_end_has_its_code_and_is_felt_by_the_next_request(code: str, acme: World) -> None:
    authenticate(acme.minted.value)
    ENDS[code](acme)
    assert code_of(acme.minted.value) == code


def test_the_stranger_is_not_touched_by_our_changes(acme: World) -> None:
    stranger = factories.globex()
    orgs.team_delete(acme.team, actor=acme.admin)
    assert authenticate(stranger.minted.value).id == stranger.agent.pk


def test_a_closed_organization_has_no_tokens(acme: World) -> None:
    Organization.objects.filter(pk=acme.org.pk).update(closed_at=clock.now())
    assert code_of(acme.minted.value) == "token_organization_closed"


@pytest.mark.parametrize("uses_before", [0, 1])
def test_expiry_is_compared_with_the_clock_at_every_use(
    uses_before: int, acme: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = clock.now() + timedelta(seconds=30)
    minted = agents.token_create(acme.agent, name="short", expires_at=at, actor=acme.admin)
    for _ in range(uses_before):
        authenticate(minted.value)
    monkeypatch.setattr(clock, "now", lambda: at - timedelta(microseconds=1))
    authenticate(minted.value)
    monkeypatch.setattr(clock, "now", lambda: at)
    assert code_of(minted.value) == "token_expired"


def test_a_token_that_expired_before_we_ever_saw_it(acme: World) -> None:
    AgentToken.objects.update(expires_at=clock.now())
    assert code_of(acme.minted.value) == "token_expired"


@pytest.mark.parametrize(
    "bearer",
    [
        ids.token("lns"),
        ids.token("lnq"),
        "lns_short",
        "lns_" + "x" * 44,
        " " + ids.token("lns"),
        "hunter2",
        "x" * 1_000_000,
        "lns_" + "é" * 43,
        "lns_" + "\x00" * 43,
    ],
    ids=range(9),
)
def test_what_nobody_knows_is_refused(bearer: str) -> None:
    assert code_of(bearer) == "token_unknown"


def test_no_token_has_its_own_code() -> None:
    assert code_of("") == "token_missing"


def test_the_hash_of_a_token_is_no_token(acme: World) -> None:
    assert code_of(acme.minted.token.token_hash) == "token_unknown"
    assert code_of("lns_" + acme.minted.token.token_hash[:43]) == "token_unknown"


class TestAuditOfRefusals:
    """What the trail says, and what it never says."""

    def test_a_known_token_names_its_owner(self, acme: World, tmp_path: Path) -> None:
        agents.token_revoke(acme.minted.token, actor=acme.admin)
        with spooled(tmp_path) as events:
            code_of(acme.minted.value)
        (event,) = events
        assert event["surface"] == "authentication"
        assert (event["result"], event["status"]) == ("denied", 401)
        assert event["org"] == str(acme.org.pk)
        assert event["principal_name"] == "Bot"
        assert event["metadata"]["code"] == "token_revoked"
        assert acme.minted.value not in str(event)

    def test_an_unknown_token_leaves_the_start_of_its_hash(self, tmp_path: Path) -> None:
        bearer = ids.token("lns")
        with spooled(tmp_path) as events:
            code_of(bearer)
        (event,) = events
        assert event["metadata"] == {
            "code": "token_unknown",
            "sha256_starts": ids.token_hash(bearer)[:12],
        }
        assert bearer[4:] not in str(event)

    def test_a_password_leaves_nothing_of_itself(self, tmp_path: Path) -> None:
        with spooled(tmp_path) as events:
            code_of("hunter2")
        (event,) = events
        assert event["metadata"] == {"code": "token_unknown"}
        assert "hunter2" not in str(event)
        assert ids.token_hash("hunter2")[:12] not in str(event)


class TestOtherProcesses:
    """A change by another process does not tell us: we read the Revision."""

    def revoke_elsewhere(self, world: World) -> None:
        AgentToken.objects.filter(pk=world.minted.token.pk).update(revoked_at=clock.now())
        Revision.objects.filter(pk=1).update(seq=revision.read_seq() + 1)

    def test_it_is_felt_within_a_quarter_of_a_second(self, acme: World) -> None:
        authenticate(acme.minted.value)
        revision.stamp.fresh()
        self.revoke_elsewhere(acme)
        assert authenticate(acme.minted.value).id == acme.agent.pk
        time.sleep(revision.POLL_SECONDS)
        assert code_of(acme.minted.value) == "token_revoked"

    def test_from_memory_no_query_is_made(
        self, acme: World, django_assert_num_queries: Any
    ) -> None:
        authenticate(acme.minted.value)
        revision.stamp.fresh()
        with django_assert_num_queries(0):
            for _ in range(100):
                authenticate(acme.minted.value)

    def test_an_unreadable_revision_refuses_everyone_after_the_lease(
        self, acme: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authenticate(acme.minted.value)

        def away() -> int:
            raise OperationalError("the database is away")

        monkeypatch.setattr(revision.stamp, "_read", away)
        later = time.monotonic() + revision.LEASE_SECONDS
        monkeypatch.setattr(revision.stamp, "_clock", lambda: later - 0.5)
        assert authenticate(acme.minted.value).id == acme.agent.pk
        monkeypatch.setattr(revision.stamp, "_clock", lambda: later + 0.1)
        with pytest.raises(Unavailable) as refused:
            authenticate(acme.minted.value)
        assert refused.value.error_code == "authority_unavailable"

    def test_a_failing_look_up_refuses(self, acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(_: AgentTokens, __: str) -> None:
            raise OperationalError("the database is away")

        monkeypatch.setattr(AgentTokens, "find", away)
        with pytest.raises(Unavailable):
            authenticate(acme.minted.value)


class TestLastUsed:
    """Written, but rarely, and not by the request."""

    @pytest.fixture(autouse=True)
    def forgetful(self) -> None:
        """The same token is in every test: this process has not seen it yet."""
        authentication._last_used._written.clear()

    def stored(self, world: World) -> Any:
        authentication._last_used._writer.submit(lambda: None).result(timeout=10)
        return AgentToken.objects.get(pk=world.minted.token.pk).last_used_at

    def test_once_a_minute(self, acme: World, monkeypatch: pytest.MonkeyPatch) -> None:
        start = clock.now()
        monkeypatch.setattr(clock, "now", lambda: start)
        authenticate(acme.minted.value)
        assert self.stored(acme) == start
        monkeypatch.setattr(clock, "now", lambda: start + timedelta(seconds=59))
        authenticate(acme.minted.value)
        assert self.stored(acme) == start
        minute = start + timedelta(seconds=60)
        monkeypatch.setattr(clock, "now", lambda: minute)
        authenticate(acme.minted.value)
        assert self.stored(acme) == minute

    def test_using_a_token_changes_no_revision(self, acme: World) -> None:
        before = revision.read_seq()
        authenticate(acme.minted.value)
        assert self.stored(acme) is not None
        assert revision.read_seq() == before

    def test_a_database_that_is_away_costs_nothing_but_a_line_in_the_log(
        self, acme: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def away(*_: object) -> None:
            raise OperationalError("the database is away")

        monkeypatch.setattr(AgentTokens, "used", away)
        assert authenticate(acme.minted.value).id == acme.agent.pk
        assert self.stored(acme) is None
        assert str(acme.minted.token.pk) in caplog.text
        assert acme.minted.value not in caplog.text

    def test_it_remembers_a_bounded_number_of_tokens(
        self, acme: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(authentication, "CACHE_SIZE", 0)
        authenticate(acme.minted.value)
        assert not authentication._last_used._written

    def test_a_refused_token_was_not_used(self, acme: World) -> None:
        agents.token_revoke(acme.minted.token, actor=acme.admin)
        code_of(acme.minted.value)
        assert self.stored(acme) is None


class TestEventLoop:
    """The same from asyncio, without ever blocking the loop."""

    async def test_it_answers_the_same(self, acme_async: World) -> None:
        found = await aauthenticate(acme_async.minted.value)
        assert found.id == acme_async.agent.pk
        assert await aauthenticate(acme_async.minted.value) == found
        with pytest.raises(Unauthenticated):
            await aauthenticate(ids.token("lns"))

    async def test_a_slow_database_does_not_stop_the_loop(
        self, acme_async: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        find = AgentTokens.find
        threads = []

        def slow(kind: AgentTokens, digest: str) -> Any:
            threads.append(threading.current_thread())
            time.sleep(0.3)
            return find(kind, digest)

        monkeypatch.setattr(AgentTokens, "find", slow)
        task = asyncio.ensure_future(aauthenticate(acme_async.minted.value))
        longest, last = 0.0, time.monotonic()
        while not task.done():
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert (await task).id == acme_async.agent.pk
        assert longest < 0.2
        assert threading.main_thread() not in threads

    async def test_a_database_that_hangs_refuses_after_the_lease(
        self, acme_async: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        release = threading.Event()
        monkeypatch.setattr(AgentTokens, "find", lambda *_: release.wait(10) and None)
        monkeypatch.setattr(authentication, "LEASE_SECONDS", 0.1)
        try:
            with pytest.raises(Unavailable):
                await aauthenticate(acme_async.minted.value)
        finally:
            release.set()

    @pytest.fixture
    async def acme_async(self) -> World:
        return await asyncio.to_thread(_made_in_thread)


def _made_in_thread() -> World:
    try:
        with everywhere():
            return factories.acme()
    finally:
        connection.close()


def test_a_callers_transaction_is_seen_and_nothing_of_it_is_kept(acme: World) -> None:
    from django.db import transaction  # noqa: PLC0415  used here alone

    authenticate(acme.minted.value)
    with transaction.atomic():
        agents.token_revoke(acme.minted.token, actor=SYSTEM)
        assert code_of(acme.minted.value) == "token_revoked"
        transaction.set_rollback(True)
    assert authenticate(acme.minted.value).id == acme.agent.pk
