"""`kill -9` of what does the jobs: none is lost, in both modes, with real brokers and databases."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis

from tests import services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow  # starts, kills and restarts whole processes

JOBS = 150
KILLS = 3
PYTHON = sys.executable
CHILD = "tests.apps.jobs.child"
MAIN = ["-c", f"import sys; from {CHILD} import main; main(*sys.argv[1:])"]


def finished(log: Path) -> set[int]:
    """The numbers of the jobs that came to their end."""
    if not log.exists():
        return set()
    words = [line.split() for line in log.read_text().splitlines()]
    return {int(number) for event, number, _ in words if event == "end"}


def has_finished(log: Path, count: int) -> bool:
    return len(finished(log)) >= count


def wait_for(ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until `ready`; fail with `what` after `seconds`."""
    ends = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < ends, what
        time.sleep(0.02)


@contextmanager
def process(arguments: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child with a pipe to its stdin, killed in the end whatever happened."""
    child = subprocess.Popen(  # noqa: S603  our own interpreter
        [PYTHON, *arguments], env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait(10)
        assert child.stdin
        child.stdin.close()


def run(arguments: list[str], env: dict[str, str]) -> None:
    command = [PYTHON, *arguments]
    done = subprocess.run(  # noqa: S603  our own interpreter
        command, env=env, check=False, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def overlaps(log: Path) -> list[int]:
    """Jobs that came to their end in one process after another one had started them too."""
    started: dict[int, list[str]] = {}
    bad = []
    for line in log.read_text().splitlines():
        event, number, pid = line.split()
        runs = started.setdefault(int(number), [])
        if event == "start":
            runs.append(pid)
        elif runs[-1] != pid or runs.count(pid) > 1:
            bad.append(int(number))
    return bad


def test_embedded_a_killed_process_loses_no_job(tmp_path: Path) -> None:
    log = tmp_path / "log"
    env = services.environment(
        {
            "DJANGO_SETTINGS_MODULE": "lensagents.settings.embedded",
            "LENS_DATA_DIR": str(tmp_path / "data"),
        }
    )
    run(["manage.py", "migrate", "--verbosity", "0"], env)
    run([*MAIN, str(log), "enqueue", str(JOBS)], env)
    for kill in range(KILLS):
        with process([*MAIN, str(log), "work"], env) as child:
            goal = (kill + 1) * JOBS // (KILLS + 2)
            wait_for(partial(has_finished, log, goal), 120, "no progress")
            child.send_signal(signal.SIGKILL)
            child.wait(10)
    assert len(finished(log)) < JOBS
    with process([*MAIN, str(log), "work"], env) as child:
        wait_for(lambda: len(finished(log)) == JOBS, 120, "a job was lost")
        wait_for(lambda: sqlite_states(tmp_path) == {"done": JOBS}, 30, "a row does not say done")
        assert child.stdin
        child.stdin.close()
        assert child.wait(20) == 0  # and it ends in order when asked to
    assert overlaps(log) == []


def sqlite_states(folder: Path) -> dict[str, int]:
    """How many job rows are in which state."""
    database = sqlite3.connect(f"file:{folder / 'data' / 'db.sqlite3'}?mode=ro", uri=True)
    try:
        return dict(database.execute("SELECT state, count(*) FROM jobs_job GROUP BY state"))
    finally:
        database.close()


def test_server_killed_workers_lose_no_job(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ExitStack() as stack:
        env = services.environment(
            stack.enter_context(services.both())
            | {
                "DJANGO_SETTINGS_MODULE": "tests.apps.jobs.child_settings",
                "TMPDIR": str(tmp_path),  # a killed process leaves its data folder behind
            }
        )
        run(["manage.py", "migrate", "--verbosity", "0"], env)
        stack.enter_context(process(["-m", "celery", "-A", CHILD, "beat"], env))
        worker = ["-m", "celery", "-A", CHILD, "worker", "--pool", "threads", "-c", "2"]
        worker += ["--without-mingle", "--without-gossip"]
        workers = [stack.enter_context(process(worker, env)) for _ in range(2)]
        run([*MAIN, str(log), "enqueue", str(JOBS)], env)
        for kill in range(KILLS):
            goal = (kill + 1) * JOBS // (KILLS + 2)
            wait_for(partial(has_finished, log, goal), 120, "no progress")
            victim = workers.pop(random.randrange(2))  # noqa: S311  any of them
            victim.send_signal(signal.SIGKILL)
            victim.wait(10)
            workers.append(stack.enter_context(process(worker, env)))
        with redis.Redis.from_url(env["LENS_REDIS_URL"]) as broker:
            broker.delete("celery")  # every bell that waits is lost
        wait_for(lambda: len(finished(log)) == JOBS, 120, "a job was lost")
        url = env["LENS_DATABASE_SYSTEM_URL"]
        wait_for(lambda: postgres_states(url) == {"done": JOBS}, 30, "a row does not say done")
    starts = Counter(line.split()[1] for line in log.read_text().splitlines() if "start" in line)
    assert sum(starts.values()) <= JOBS + KILLS * 2  # only what a killed thread held ran again
    assert overlaps(log) == []


def postgres_states(url: str) -> dict[Any, Any]:
    """How many job rows are in which state."""
    with psycopg.connect(url) as database:
        rows = database.execute("SELECT state, count(*) FROM jobs_job GROUP BY state")
        return dict(rows.fetchall())
