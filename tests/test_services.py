"""The private servers of the tests: usable, strangers refused, and gone afterwards."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import psycopg
import pytest
import redis

from tests import services

pytestmark = pytest.mark.slow  # starts servers
RUN = [sys.executable, "-m", "tests.services", "run", "--"]
SHOW = "import os; print(os.environ['LENS_DATABASE_URL'], os.environ['LENS_REDIS_URL'])"


def are_gone(database_url: str, redis_url: str, seconds: float = 0) -> bool:
    """Whether nobody answers any more, at the latest after so many seconds."""
    ends = time.monotonic() + seconds
    server = database_url.rpartition("/")[0]
    while services._postgresql_answers(server) or services._redis_answers(redis_url):
        if time.monotonic() >= ends:
            return False
        time.sleep(0.1)
    return True


def test_servers_want_their_password_and_end_with_their_context() -> None:
    with services.both() as variables:
        database_url, redis_url = variables["LENS_DATABASE_URL"], variables["LENS_REDIS_URL"]
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with redis.Redis.from_url(redis_url) as client:
            assert client.ping()
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(re.sub(r":[0-9a-f]{32}@", ":wrong@", database_url))
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(re.sub(r":[0-9a-f]{32}@", "", redis_url)).ping()
    assert are_gone(database_url, redis_url)


def test_a_killed_run_leaves_no_server() -> None:
    script = f"{SHOW}; import sys, time; sys.stdout.flush(); time.sleep(60)"
    command = [*RUN, sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:  # noqa: S603  our own
        assert run.stdout
        database_url, redis_url = run.stdout.readline().split()
        run.send_signal(signal.SIGKILL)
        run.stdout.read()  # ends when the command that was run has ended too
    assert are_gone(database_url, redis_url, seconds=20)


def test_the_commands_exit_code_is_ours() -> None:
    code = subprocess.run([*RUN, "sh", "-c", "exit 7"], check=False, timeout=60).returncode  # noqa: S603  our own
    assert code == 7
