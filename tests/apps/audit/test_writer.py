"""From the spool to rows: once each, nothing lost, nothing believed."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from django.db import OperationalError

from apps.audit import sources
from apps.audit import writer as writing
from apps.audit.bulk import insert_new
from apps.audit.models import AuditEvent
from apps.audit.spool import Spool
from apps.audit.writer import AuditWriter
from apps.common import clock
from apps.common.ids import uuid7
from apps.orgs.models import Organization

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def org() -> Organization:
    return Organization.objects.create(slug="acme", name="Acme Corp")


@pytest.fixture
def stranger() -> Organization:
    return Organization.objects.create(slug="globex", name="Globex")


def an_event(org: Organization | None, **columns: Any) -> dict[str, Any]:
    return {
        "id": str(uuid7()),
        "at": clock.now().isoformat(),
        "org": str(org.pk) if org else None,
        "surface": "forward_proxy",
        "action": "egress.request",
        "result": "denied",
        "status": 403,
        "principal_kind": "agent",
        "metadata": {"host": "evil.test"},
        **columns,
    }


def stored(root: Path, *, again: bool = True) -> list[AuditEvent]:
    """Run the writer until nothing is left; every row but gaps."""
    writer = AuditWriter(root)
    while writer.step():
        pass
    if again:
        assert AuditWriter(root).step() == 0
    return list(AuditEvent.objects.exclude(action="audit.gap").order_by("id"))


def segment(root: Path, *lines: bytes, producer: str = "control") -> Path:
    """A finished segment with these raw lines."""
    path = root / producer / f"{uuid7()}.ndjson"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def test_an_emitted_event_becomes_a_row_with_every_column(
    tmp_path: Path, org: Organization
) -> None:
    event = an_event(
        org,
        duration_ms=1.5,
        team=str(uuid.uuid4()),
        team_slug="sre",
        chain=["parent"],
        tier="api",
        resource_type="host",
        resource_id="evil.test:443",
        reason="no rule allows it",
        decision_id="d1",
    )
    Spool(tmp_path / "control").emit(event)
    (row,) = stored(tmp_path)
    assert str(row.pk) == event["id"]
    assert row.org_id == org.pk
    assert row.at == dt.datetime.fromisoformat(event["at"])
    assert (row.duration_ms, row.team_slug, row.chain, row.status) == (1.5, "sre", ["parent"], 403)
    assert row.metadata == {"host": "evil.test"}


def test_an_open_segment_is_read_while_it_grows_and_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "control")
    for count in (1, 2, 3):
        spool.emit(an_event(None))
        assert len(stored(tmp_path)) == count
    assert list((tmp_path / "control").iterdir())


def test_a_segment_of_a_dead_producer_is_taken_over_and_deleted(tmp_path: Path) -> None:
    path = segment(tmp_path, json.dumps(an_event(None)).encode())
    path = path.rename(path.with_suffix(".ndjson.open"))
    assert len(stored(tmp_path)) == 1
    assert not path.exists()


def test_a_finished_segment_is_deleted_only_after_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = segment(tmp_path, json.dumps(an_event(None)).encode())
    writer = AuditWriter(tmp_path)

    def away(*_: object, **__: object) -> None:
        raise OperationalError("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(writing, "insert_new", away)
        with pytest.raises(OperationalError):
            writer.step()
    assert path.exists()
    assert len(stored(tmp_path)) == 1
    assert not path.exists()


def test_killed_before_the_offset_was_saved_it_stores_nothing_twice(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "control")
    for _ in range(50):
        spool.emit(an_event(None))
    assert len(stored(tmp_path)) == 50
    for offset in (tmp_path / ".writer" / "offsets").iterdir():
        offset.unlink()
    assert len(stored(tmp_path)) == 50


def test_the_same_id_twice_in_a_batch_is_one_row(tmp_path: Path) -> None:
    line = json.dumps(an_event(None)).encode()
    segment(tmp_path, line, line)
    assert len(stored(tmp_path)) == 1


BAD: dict[str, Any] = {
    "id": "no-uuid",
    "at": "yesterday",
    "org": 7,
    "surface": "moon",
    "result": "perhaps",
    "action": "Drop Table",
    "status": -1,
    "duration_ms": "fast",
    "chain": "parent",
    "metadata": [1],
    "principal_kind": "x" * 17,
    "tier": "<b>",
    "team": "sre",
    "reason": 5,
    "decision_id": "d" * 65,
}


@pytest.mark.parametrize("column", sorted(BAD))
def test_a_bad_column_is_put_aside_and_counted(
    tmp_path: Path, org: Organization, column: str
) -> None:
    bad = json.dumps({**an_event(org), column: BAD[column]}).encode()
    segment(tmp_path, bad, json.dumps(an_event(org)).encode())
    assert len(stored(tmp_path)) == 1
    gap = AuditEvent.objects.get(action="audit.gap")
    assert gap.metadata["lost"] == 1
    assert column in gap.metadata["cause"]
    (aside,) = (tmp_path / ".quarantine").iterdir()
    assert json.loads(aside.read_text())["reason"] in gap.metadata["cause"]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"\x00" * 300_000,
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b'{"status":NaN}',
        b"x" * 1_000_000,
        b'{"id":' + b"9" * 50_000 + b"}",
    ],
    ids=lambda line: line[:8].hex(),
)
def test_what_is_no_event_holds_nobody_up(tmp_path: Path, line: bytes) -> None:
    good = json.dumps(an_event(None)).encode()
    segment(tmp_path, good, line, json.dumps(an_event(None)).encode())
    assert len(stored(tmp_path)) == 2
    assert sum(g.metadata["lost"] for g in AuditEvent.objects.filter(action="audit.gap")) >= 1


def test_a_torn_last_line_is_counted(tmp_path: Path) -> None:
    path = segment(tmp_path, json.dumps(an_event(None)).encode())
    path.write_bytes(path.read_bytes() + json.dumps(an_event(None)).encode()[:80])
    assert len(stored(tmp_path)) == 1
    assert AuditEvent.objects.filter(action="audit.gap").count() == 1


def test_text_that_a_database_refuses_is_made_storable(tmp_path: Path, org: Organization) -> None:
    hostile = "a\x00b\ud800c"
    event = an_event(org, reason=hostile, resource_id=hostile, metadata={hostile: [hostile]})
    segment(tmp_path, json.dumps(event).encode())
    (row,) = stored(tmp_path)
    assert row.reason == "ab\ufffdc"
    assert row.metadata == {"ab\ufffdc": ["ab\ufffdc"]}


def test_an_organization_that_does_not_exist_is_put_aside(tmp_path: Path) -> None:
    segment(tmp_path, json.dumps({**an_event(None), "org": str(uuid.uuid4())}).encode())
    assert stored(tmp_path) == []
    assert AuditEvent.objects.get().metadata["cause"] == "put aside: no such organization"


def test_a_sandbox_speaks_for_its_own_organization_only(
    tmp_path: Path, org: Organization, stranger: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, unknown = uuid7(), uuid7()
    monkeypatch.setattr(sources, "_resolvers", [{mine: org.pk}.get])
    for producer in (mine, unknown):
        lines = [json.dumps(an_event(who)).encode() for who in (org, stranger, None)]
        segment(tmp_path, *lines, producer=str(producer))
    (row,) = stored(tmp_path)
    assert row.org_id == org.pk
    gaps = AuditEvent.objects.filter(action="audit.gap")
    assert {(gap.org_id, gap.metadata["lost"]) for gap in gaps} == {(org.pk, 2), (None, 3)}


def test_links_and_pipes_in_a_producers_folder_are_left_alone(
    tmp_path: Path, org: Organization
) -> None:
    secret = tmp_path / "elsewhere"
    secret.write_text(json.dumps(an_event(org)) + "\n")
    root = tmp_path / "spool"
    folder = root / "control"
    folder.mkdir(parents=True)
    (folder / f"{uuid7()}.ndjson").symlink_to(secret)
    os.mkfifo(folder / f"{uuid7()}.ndjson")
    (folder / f"{uuid7()}.ndjson").mkdir()
    (root / "linked").symlink_to(tmp_path)
    (folder / "notes.txt").write_text("x")
    assert stored(root) == []
    assert secret.exists()


def test_one_loud_producer_does_not_starve_the_others(tmp_path: Path) -> None:
    for _ in range(3):
        lines = [json.dumps(an_event(None, principal_id="loud")).encode() for _ in range(3_000)]
        segment(tmp_path, *lines, producer="a-loud")
    segment(tmp_path, json.dumps(an_event(None, principal_id="quiet")).encode(), producer="b-quiet")
    writer = AuditWriter(tmp_path)
    for _ in range(3):
        writer.step()
    assert AuditEvent.objects.filter(principal_id="quiet").exists()


def test_of_two_writers_one_writes(tmp_path: Path) -> None:
    first, second = AuditWriter(tmp_path), AuditWriter(tmp_path)
    assert first._spools.claim()
    assert not second._spools.claim()
    first._spools.release()
    assert second._spools.claim()
    second._spools.release()


def test_empty_folders_of_dead_sandboxes_go(tmp_path: Path) -> None:
    old, young, control = (tmp_path / name for name in (str(uuid7()), str(uuid7()), "control"))
    for folder in (old, young, control):
        folder.mkdir()
    hour_ago = time.time() - 3600
    for folder in (old, control):
        os.utime(folder, (hour_ago, hour_ago))
    AuditWriter(tmp_path)._spools.tidy()
    assert not old.exists()
    assert young.exists()
    assert control.exists()


@pytest.mark.slow  # waits for a thread that polls
@pytest.mark.django_db(transaction=True)
def test_the_thread_makes_events_visible_within_two_seconds(tmp_path: Path) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=AuditWriter(tmp_path).run, args=(stop,))
    thread.start()
    spool = Spool(tmp_path / "control")
    try:
        worst = 0.0
        for count in range(1, 6):
            began = time.monotonic()
            spool.emit(an_event(None))
            while AuditEvent.objects.count() < count and time.monotonic() < began + 10:
                time.sleep(0.02)
            worst = max(worst, time.monotonic() - began)
        spool.emit(an_event(None))
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert worst < 2.0
    assert AuditEvent.objects.count() == 6  # what came last was drained


@pytest.mark.slow  # waits for a thread that polls
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("error", [OperationalError("away"), RuntimeError("a bug"), OSError("io")])
def test_the_thread_outlives_every_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failures = [error, error]

    def insert(rows: list[AuditEvent]) -> None:
        if failures:
            raise failures.pop()
        insert_new(rows)

    monkeypatch.setattr(writing, "insert_new", insert)
    Spool(tmp_path / "control").emit(an_event(None))
    stop = threading.Event()
    thread = threading.Thread(target=AuditWriter(tmp_path).run, args=(stop,))
    thread.start()
    try:
        ends = time.monotonic() + 15
        while not AuditEvent.objects.exists() and time.monotonic() < ends:
            time.sleep(0.05)
    finally:
        stop.set()
        thread.join(20)
    assert AuditEvent.objects.count() == 1
