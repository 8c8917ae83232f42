"""The spool: one write an event, nothing raised, what is lost is counted."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.audit.spool import MAX_EVENT_BYTES, Spool, encode_event

if TYPE_CHECKING:
    from pathlib import Path

EVENT = {"org": None, "surface": "forward_proxy", "action": "egress.request", "result": "denied"}


def lines(folder: Path) -> list[dict[str, Any]]:
    """All events in all segments, oldest segment first."""
    text = "".join(path.read_text() for path in sorted(folder.glob("*.ndjson*")))
    return [json.loads(line) for line in text.splitlines()]


def test_an_event_is_one_line_with_an_id_and_a_time(tmp_path: Path) -> None:
    Spool(tmp_path / "p").emit(EVENT)
    (event,) = lines(tmp_path / "p")
    assert event.items() >= EVENT.items()
    assert event["id"]
    assert event["at"].endswith("+00:00")


def test_an_open_segment_is_locked_and_readable_by_its_group(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        spool = Spool(tmp_path)
    finally:
        os.umask(before)
    (segment,) = tmp_path.iterdir()
    assert segment.name.endswith(".ndjson.open")
    assert segment.stat().st_mode & 0o777 == 0o640
    with segment.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    spool.close()
    (segment,) = tmp_path.iterdir()
    assert segment.suffix == ".ndjson"


def test_full_segments_are_renamed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_segment_bytes=500)
    for _ in range(20):
        spool.emit(EVENT)
    assert len(list(tmp_path.glob("*.ndjson"))) > 3
    assert len(lines(tmp_path)) == 20


def test_no_thread_loses_a_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_segment_bytes=20_000)

    def shout() -> None:
        for _ in range(200):
            spool.emit(EVENT)

    threads = [threading.Thread(target=shout) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({event["id"] for event in lines(tmp_path)}) == 1600


def test_over_the_cap_events_are_counted_and_told_when_there_is_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_total_bytes=4_000)
    for _ in range(100):
        spool.emit({**EVENT, "org": "a0000000-0000-4000-8000-000000000001", "org_slug": "acme"})
    kept = len(lines(tmp_path))
    assert spool.dropped == 100 - kept > 0
    for path in tmp_path.glob("*.ndjson"):
        path.unlink()  # as the writer does
    deadline = time.monotonic() + 10
    while spool._gaps and time.monotonic() < deadline:
        time.sleep(0.05)
    (gap,) = [event for event in lines(tmp_path) if event["action"] == "audit.gap"]
    assert gap["metadata"]["lost"] == spool.dropped
    assert gap["org_slug"] == "acme"
    assert gap["surface"] == "forward_proxy"
    assert gap["result"] == "error"
    spool.emit(EVENT)
    assert lines(tmp_path)[-1]["action"] == "egress.request"


def test_a_full_disk_tears_no_line_and_raises_nothing(tmp_path: Path) -> None:
    """A file size limit makes the kernel cut a write short, as a full disk does."""
    spool = Spool(tmp_path)
    spool.emit(EVENT)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, hard))
    try:
        for _ in range(5):
            spool.emit(EVENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(lines(tmp_path)) == 1
    assert spool.dropped == 5
    spool.emit(EVENT)
    first, gap, last = lines(tmp_path)
    assert gap["metadata"]["lost"] == 5
    assert gap["metadata"]["cause"] == "disk full or failing"
    assert first["action"] == last["action"] == "egress.request"


def test_a_folder_that_cannot_be_made_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "p")
    spool.emit(EVENT)
    spool.close()
    assert spool.dropped == 1


@pytest.mark.parametrize("wrong", [object(), float("nan"), {1, 2}, "\ud800"])
def test_what_json_cannot_hold_is_counted(tmp_path: Path, wrong: object) -> None:
    spool = Spool(tmp_path)
    spool.emit({**EVENT, "metadata": {"x": wrong}})
    spool.emit(EVENT)
    if wrong == "\ud800":  # JSON escapes it; the writer replaces it
        assert spool.dropped == 0
    else:
        assert [event["action"] for event in lines(tmp_path)] == ["audit.gap", "egress.request"]


def test_a_flood_of_organizations_keeps_a_handful_of_counters(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "p", max_total_bytes=10)
    for n in range(1_000):
        spool.emit({**EVENT, "org": f"org-{n}"})
    assert spool.dropped == 1_000
    assert len(spool._gaps) <= 65
    assert sum(gap.count for gap in spool._gaps.values()) == 1_000
    spool.close()


def test_platform_tokens_never_reach_the_disk(tmp_path: Path) -> None:
    token = "lnsb_" + "A-z_9" * 8 + "xyz"
    Spool(tmp_path).emit({**EVENT, "reason": token, "metadata": {"url": f"/{token}?q"}})
    assert token not in str(lines(tmp_path))


@given(st.dictionaries(st.text(max_size=20), st.text(), max_size=5), st.text())
def test_an_encoded_event_is_one_bounded_line(metadata: dict[str, str], reason: str) -> None:
    line = encode_event({**EVENT, "metadata": metadata, "reason": reason})
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert len(line) <= MAX_EVENT_BYTES


@pytest.mark.parametrize("column", ["metadata", "reason"])
def test_a_large_event_keeps_its_identity(column: str) -> None:
    value: Any = {"body": "x" * 100_000} if column == "metadata" else "x" * 100_000
    event = json.loads(encode_event({**EVENT, "principal_id": "p1", column: value}))
    assert event["principal_id"] == "p1"
    assert event["metadata"]["truncated"] is True


def test_after_a_fork_the_child_has_its_own_segment(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from apps.audit.spool import Spool\n"
        "spool = Spool(pathlib.Path(sys.argv[1])); spool.emit({'who': 'parent'})\n"
        "child = os.fork()\n"
        "spool.emit({'who': 'child' if child == 0 else 'parent'})\n"
        "os._exit(0) if child == 0 else os.waitpid(child, 0)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, timeout=30)  # noqa: S603  our own interpreter
    texts = sorted(path.read_text().count("parent") for path in tmp_path.iterdir())
    assert texts == [0, 2]


@pytest.mark.slow  # starts an interpreter and kills it
def test_what_was_emitted_survives_kill_9(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from apps.audit.spool import Spool\n"
        "spool = Spool(pathlib.Path(sys.argv[1]))\n"
        "for n in range(10**9):\n"
        "    spool.emit({'n': n})\n"
        "    print(n, flush=True)\n"
    )
    child = subprocess.Popen(  # noqa: S603  our own interpreter
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for _ in range(2_000):
        acknowledged = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split()
    child.wait(10)
    child.stdout.close()
    acknowledged = int(rest[-1]) if rest else acknowledged
    numbers = [event["n"] for event in lines(tmp_path)]
    assert numbers[: acknowledged + 1] == list(range(acknowledged + 1))
