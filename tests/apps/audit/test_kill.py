"""`kill -9` of producers and of the writer: every promised event is stored, and once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

from tests import services

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # starts and kills whole processes

PRODUCERS = 3
WRITER_KILLS = 3
CHILD = [
    sys.executable,
    "-c",
    "import sys; from tests.apps.audit.child import main; main(*sys.argv[1:])",
]


def start(
    stack: ExitStack, env: dict[str, str], *arguments: str, out: Path
) -> subprocess.Popen[bytes]:
    """A child whose output goes to a file, killed at the end in any case."""
    with out.open("wb") as file:
        child = subprocess.Popen([*CHILD, *arguments], env=env, stdout=file)  # noqa: S603  our own interpreter
    stack.callback(child.wait, 10)
    stack.callback(child.kill)
    return child


def kill(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait(10)


def promised(out: Path, tag: str) -> set[str]:
    """What a producer said it had emitted; its last, unfinished line promises nothing."""
    whole, _, _ = out.read_text().rpartition("\n")
    return {f"{tag}-{number}" for number in whole.split()}


def rows(database: Path, what: str) -> list[Any]:
    """One column or aggregate of all events."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as connection:
        query = f"SELECT {what} FROM audit_auditevent"  # noqa: S608  written here
        return [row[0] for row in connection.execute(query)]


def test_no_promised_event_is_lost_and_none_is_stored_twice(tmp_path: Path) -> None:
    data = tmp_path / "data"
    database = data / "db.sqlite3"
    env = services.environment(
        {"DJANGO_SETTINGS_MODULE": "lensagents.settings.embedded", "LENS_DATA_DIR": str(data)}
    )
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, env=env, check=True, timeout=120)  # noqa: S603  our own interpreter
    with ExitStack() as stack:
        producers = {
            f"p{n}": start(
                stack, env, "emit", str(data / "spool" / f"p{n}"), f"p{n}", out=tmp_path / f"p{n}"
            )
            for n in range(PRODUCERS)
        }
        for _ in range(WRITER_KILLS):
            writer = start(stack, env, "write", out=tmp_path / "writer")
            before = rows(database, "count(*)")[0]
            ends = time.monotonic() + 120
            while rows(database, "count(*)")[0] < before + 1_000:
                assert time.monotonic() < ends, "the writer stores nothing"
                time.sleep(0.05)
            kill(writer)
        for child in producers.values():
            kill(child)
        expected = set.union(*(promised(tmp_path / tag, tag) for tag in producers))
        start(stack, env, "write", out=tmp_path / "writer")
        ends = time.monotonic() + 120
        while list((data / "spool").glob("p*/*.ndjson*")):
            assert time.monotonic() < ends, "segments of dead producers are left over"
            time.sleep(0.1)
        stored = [row for row in rows(database, "resource_id") if row[0] == "p"]
    assert len(expected) > 3_000
    assert expected - set(stored) == set()
    assert len(stored) == len(set(stored))
