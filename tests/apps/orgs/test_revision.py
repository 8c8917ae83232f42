"""The Revision: what is trusted, for how long, and what happens when it cannot be read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from django.db import OperationalError, connection, transaction

from apps.common.errors import Unavailable
from apps.orgs import revision
from apps.orgs.models import Revision
from apps.orgs.revision import LEASE_SECONDS, POLL_SECONDS, Stamp, StampedCache

if TYPE_CHECKING:
    from collections.abc import Callable


class Source:
    """A number that can move or fail, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.seq = 1
        self.time = 100.0
        self.reads = 0
        self.broken = False

    def read(self) -> int:
        self.reads += 1
        if self.broken:
            raise OperationalError("the database is away")
        return self.seq

    def clock(self) -> float:
        return self.time


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def stamp(source: Source) -> Stamp:
    return Stamp(source.read, clock=source.clock)


def test_nothing_is_known_before_the_first_reading(stamp: Stamp, source: Source) -> None:
    assert stamp.known() is None
    assert source.reads == 0


def test_one_reading_serves_a_quarter_of_a_second(stamp: Stamp, source: Source) -> None:
    assert stamp.current() == 1
    source.seq = 2
    source.time += POLL_SECONDS * 0.99
    assert (stamp.current(), stamp.known(), source.reads) == (1, 1, 1)
    source.time += POLL_SECONDS * 0.02
    assert stamp.known() is None
    assert (stamp.current(), source.reads) == (2, 2)


def test_the_age_counts_from_before_the_reading(source: Source) -> None:
    def slow() -> int:
        source.time += POLL_SECONDS
        return source.seq

    stamp = Stamp(slow, clock=source.clock)
    stamp.current()
    assert stamp.known() is None


def test_forgetting_makes_the_next_call_read(stamp: Stamp, source: Source) -> None:
    stamp.current()
    source.seq = 2
    stamp.forget()
    assert stamp.current() == 2


@pytest.mark.django_db  # after a failure the connection is looked at
def test_a_short_outage_passes_and_a_long_one_refuses(stamp: Stamp, source: Source) -> None:
    stamp.current()
    source.broken = True
    source.time += LEASE_SECONDS * 0.99
    assert stamp.current() == 1
    source.time += LEASE_SECONDS * 0.02
    with pytest.raises(Unavailable) as refused:
        stamp.current()
    assert refused.value.error_code == "authority_unavailable"
    assert refused.value.status == 503


@pytest.mark.django_db  # after a failure the connection is looked at
def test_an_outage_does_not_prolong_itself(stamp: Stamp, source: Source) -> None:
    """Each failed reading is tried again at once: only a success counts as knowledge."""
    stamp.current()
    source.broken = True
    source.time += POLL_SECONDS
    stamp.current()
    assert stamp.known() is None
    source.broken, source.seq = False, 5
    assert stamp.current() == 5


@pytest.mark.django_db  # after a failure the connection is looked at
def test_a_process_that_never_read_it_refuses(stamp: Stamp, source: Source) -> None:
    source.broken = True
    with pytest.raises(Unavailable):
        stamp.current()


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
class TestCache:
    """Values under a number."""

    @pytest.fixture
    def cache(self, stamp: Stamp) -> StampedCache[str]:
        return StampedCache(2, stamp=stamp)

    def test_a_value_holds_while_the_number_stands(
        self, cache: StampedCache[str], source: Source
    ) -> None:
        loads: list[int] = []

        def load(seq: int) -> str:
            loads.append(seq)
            return f"at {seq}"

        assert cache.get("key", load) == "at 1"
        assert cache.get("key", load) == cache.peek("key") == "at 1"
        source.seq = 2
        source.time += POLL_SECONDS
        assert cache.peek("key") is None
        assert cache.get("key", load) == "at 2"
        assert loads == [1, 2]

    def test_a_change_while_loading_loads_again(
        self, cache: StampedCache[str], source: Source
    ) -> None:
        """Half of an old state and half of a new one is never kept, nor given out."""

        def load(seq: int) -> str:
            if seq == 1:
                source.seq = 2
            return f"at {seq}"

        assert cache.get("key", load) == "at 2"

    def test_a_number_that_never_stands_still_refuses(
        self, cache: StampedCache[str], source: Source
    ) -> None:
        def load(_: int) -> str:
            source.seq += 1
            return "torn"

        with pytest.raises(Unavailable):
            cache.get("key", load)
        assert cache.peek("key") is None

    def test_the_least_used_value_goes_first(self, cache: StampedCache[str]) -> None:
        for key in ("a", "b"):
            cache.get(key, lambda _: "value")
        cache.peek("a")
        cache.get("c", lambda _: "value")
        assert [cache.peek(key) for key in ("a", "b", "c")] == ["value", None, "value"]

    def test_what_load_raises_is_not_kept(self, cache: StampedCache[str]) -> None:
        def fail(_: int) -> str:
            raise LookupError

        with pytest.raises(LookupError):
            cache.get("key", fail)
        assert cache.get("key", lambda _: "value") == "value"

    def test_inside_a_transaction_nothing_is_kept(self, cache: StampedCache[str]) -> None:
        with transaction.atomic():
            assert cache.get("key", lambda _: "uncommitted") == "uncommitted"
        assert cache.peek("key") is None
        assert cache.get("key", lambda _: "committed") == "committed"


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
class TestBump:
    """The number in the database."""

    def test_it_counts_from_nothing(self) -> None:
        assert revision.read_seq() == 0
        revision.bump()
        revision.bump()
        assert revision.read_seq() == 2
        assert Revision.objects.count() == 1

    def test_what_is_rolled_back_did_not_happen(self) -> None:
        revision.bump()
        with transaction.atomic():
            revision.bump()
            transaction.set_rollback(True)
        assert revision.read_seq() == 1

    def test_this_process_knows_at_once(self) -> None:
        before = revision.stamp.fresh()
        revision.bump()
        assert revision.stamp.current() == before + 1

    @pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no server to lose")
    def test_a_connection_that_died_is_replaced(self) -> None:
        """A thread that only ever reads the number gets over a restart of the database."""
        stamp = Stamp()
        connection.ensure_connection()
        connection.connection.close()
        with pytest.raises(Unavailable):
            stamp.current()
        assert stamp.current() == 0

    def test_parallel_changes_all_count(self) -> None:
        def change() -> None:
            with transaction.atomic():
                revision.bump()

        run_in_threads(change, count=4)
        assert revision.read_seq() == 4


def run_in_threads(work: Callable[[], None], *, count: int) -> None:
    """Run `work` in so many threads, each with a connection of its own that it closes."""

    def task() -> None:
        try:
            work()
        finally:
            connection.close()

    threads = [threading.Thread(target=task) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
