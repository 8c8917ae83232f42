"""Private PostgreSQL and Redis for tests: free loopback ports, a temporary folder, nothing left.

    python -m tests.services run -- pytest -m database

runs a command with both, and with the variables that make the test settings use them. In tests, use
the context managers. Both servers refuse strangers by a random password, and end with the process
that started them, however it ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import redis
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 15.0
MISSING: Final = 4
PREFIX: Final = "lens-service-"

_PR_SET_PDEATHSIG: Final = 1


class ServiceError(Exception):
    """A server is not installed or does not start; the text says what would help."""


@contextmanager
def postgresql() -> Iterator[str]:
    """A private PostgreSQL without durability; yields `postgresql://…/lens`."""
    binaries = _postgresql_binaries()
    with _folder() as folder:
        password, port = secrets.token_hex(16), _free_port()
        _initdb(binaries, folder, password)
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": "100",
            "shared_buffers": "64MB",
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [binaries / "postgres", "-D", folder / "data", "-p", str(port), *settings]
        url = f"postgresql://lens:{password}@127.0.0.1:{port}"
        with _server(command, folder, death=signal.SIGINT) as alive:
            _wait_until(partial(_postgresql_answers, url), alive, folder)
            create_database(url, "lens")
            yield f"{url}/lens"


@contextmanager
def redis_server() -> Iterator[str]:
    """A private Redis without persistence; yields `redis://…/0`."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise ServiceError("redis-server is not installed (Debian: apt-get install redis-server)")
    with _folder() as folder:
        password, port = secrets.token_hex(16), _free_port()
        config = folder / "redis.conf"
        config.write_text(
            f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\n'
            f"dir {folder}\n"
        )
        _give(config)
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        with _server([binary, config], folder, death=signal.SIGTERM) as alive:
            _wait_until(partial(_redis_answers, url), alive, folder)
            yield url


@contextmanager
def both() -> Iterator[dict[str, str]]:
    """Both servers; yields the variables for a child's environment."""
    with postgresql() as database_url, redis_server() as redis_url:
        yield {
            "LENS_TEST_DATABASE": "postgres",
            "LENS_REDIS_URL": redis_url,
            **create_roles(database_url),
        }


def create_roles(url: str, *, apart: bool = False) -> dict[str, str]:
    """The three roles of an installation on a private server; the variables with their URLs.

    The database of `url` becomes the owner's. For tests alone the application may become the other
    two by SET ROLE, and never is them without: then a test and the code it tests see one
    transaction. `apart` makes them as an installation has them.
    """
    password = secrets.token_hex(16)
    with psycopg.connect(url, autocommit=True) as connection:
        for role, more in (("owner", "CREATEDB"), ("system", ""), ("app", "NOINHERIT")):
            name, secret = sql.Identifier(f"lens_{role}"), sql.Literal(password)
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}").format(name, sql.SQL(more), secret)
            )
        if not apart:
            connection.execute("GRANT lens_owner, lens_system TO lens_app")
        name = sql.Identifier(url.rpartition("/")[2])
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO lens_owner").format(name))
    where = url.rpartition("@")[2]
    return {
        variable: f"postgresql://lens_{role}:{password}@{where}"
        for variable, role in (
            ("LENS_DATABASE_URL", "app"),
            ("LENS_DATABASE_SYSTEM_URL", "system"),
            ("LENS_DATABASE_OWNER_URL", "owner"),
        )
    }


def create_database(url: str, name: str) -> str:
    """Create an empty database on the server of `url`; returns its URL."""
    server = url if url.count("/") == 2 else url.rpartition("/")[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return f"{server}/{name}"


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment and `extra`, for a child."""
    return {**os.environ, **extra}  # noqa: TID251  handed on, not read


def _postgresql_binaries() -> Path:
    """Where `initdb` is: on PATH, or the newest version where Debian puts them."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    if not versions:
        raise ServiceError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return versions[-1].parent


def _version(initdb: Path) -> int:
    number = initdb.parts[-3]
    return int(number) if number.isdigit() else 0


def _initdb(binaries: Path, folder: Path, password: str) -> None:
    secret = folder / "password"
    secret.write_text(password)
    _give(secret)
    data = folder / "data"
    command: list[Any] = [
        binaries / "initdb",
        "-D",
        data,
        "-U",
        "lens",
        "--pwfile",
        secret,
        "--no-sync",
    ]
    done: subprocess.CompletedProcess[bytes] = subprocess.run(  # noqa: S603  a fixed command
        [*command, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8"],
        check=False,
        capture_output=True,
        cwd=folder,
        **_identity(),
    )
    secret.unlink()
    if done.returncode:
        raise ServiceError(f"initdb failed: {done.stderr.decode(errors='replace')[-500:]}")


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder that the servers' user owns, locked as long as we live."""
    _clear_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (folder / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _give(folder)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear_abandoned() -> None:
    """Remove the folders of runs that were killed; their servers ended with them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < START_SECONDS:
                continue  # perhaps not locked yet
            with (folder / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)


def _account() -> pwd.struct_passwd | None:
    """Whom servers run as when we are root, which PostgreSQL refuses; None for ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServiceError("there is no unprivileged user to run PostgreSQL as")


def _identity() -> dict[str, Any]:
    account = _account()
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _give(path: Path) -> None:
    account = _account()
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)


@contextmanager
def _server(
    command: list[Any], folder: Path, *, death: signal.Signals
) -> Iterator[Callable[[], bool]]:
    """Run a server; yields a function that says whether it lives. `death` ends it in order."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  a fixed command
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
            preexec_fn=partial(_die_with_parent, death),  # noqa: PLW1509  only one system call
            **_identity(),
        )
        try:
            yield lambda: process.poll() is None
        finally:
            _end(process, death)


def _die_with_parent(death: signal.Signals) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(death), 0, 0, 0)


def _end(process: subprocess.Popen[bytes], death: signal.Signals) -> None:
    if process.poll() is not None:
        return
    process.send_signal(death)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)


def _wait_until(answers: Callable[[], bool], alive: Callable[[], bool], folder: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while not answers():
        if not alive() or time.monotonic() > ends:
            log = (folder / "log").read_text(errors="replace")
            raise ServiceError(f"a server did not start: {log[-500:]}")
        time.sleep(0.05)


def _postgresql_answers(url: str) -> bool:
    try:
        psycopg.connect(f"{url}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _redis_answers(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_timeout=2)
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False
    finally:
        client.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(arguments: list[str]) -> int:
    """`run -- command…`: run the command with both servers; its exit code, 4 without servers."""
    if arguments[:2] != ["run", "--"] or len(arguments) < 3:
        print("usage: python -m tests.services run -- command…", file=sys.stderr)  # noqa: T201
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        try:
            variables = stack.enter_context(both())
        except ServiceError as error:
            print(error, file=sys.stderr)  # noqa: T201
            return MISSING
        child = subprocess.Popen(  # noqa: S603  the caller's own command
            arguments[2:],
            env=environment(variables),
            preexec_fn=partial(_die_with_parent, signal.SIGTERM),  # noqa: PLW1509  one system call
        )
        stack.callback(_end, child, signal.SIGTERM)
        return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
