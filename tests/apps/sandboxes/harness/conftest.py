"""A real sandboxd per test session, and sandboxes in it: nothing here is simulated."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from apps.policies import codec
from apps.policies.types import BUNDLE_FORMAT, Action, Bundle, DomainRule, Layer, LayerKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKOUT = Path(__file__).resolve().parents[4]
CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
SECRET = "seen-by-nobody-c0ffee"  # in the environment that sandboxd is started with
START_SECONDS = 60.0


def bundle(version: int = 1, *hosts: str) -> dict[str, Any]:
    """A policy of one team that allows `hosts`."""
    rules = tuple(DomainRule(f"r{n}", host, Action.ALLOW) for n, host in enumerate(hosts))
    layer = Layer(LayerKind.TEAM, "team", "team", domains=rules)
    value: dict[str, Any] = json.loads(codec.encode(Bundle(BUNDLE_FORMAT, version, (layer,))))
    return value


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("sandboxd", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


@dataclass
class Daemon:
    """One sandboxd in a folder of its own."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "sandboxd.sock"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """One request on a connection of its own: (status, decoded body)."""
        connection = _Connection(self.socket)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def create(self, **values: Any) -> Box:
        """A sandbox; the values go into the request."""
        box = str(uuid.uuid4())
        request = {"id": box, "token": "lnsb_test", "bundle": bundle(), "identity": {}, **values}
        status, answer = self.call("POST", "/v1/sandboxes", request)
        assert status == 201, answer
        return Box(self, request["id"], answer)

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(30)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def log(self) -> str:
        return (self.folder / "log").read_text()


@dataclass
class Result:
    """What a command did."""

    raw: dict[str, Any]
    out: bytes = field(init=False)
    err: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.out = base64.b64decode(self.raw["stdout"])
        self.err = base64.b64decode(self.raw["stderr"])

    @property
    def code(self) -> int | None:
        value: int | None = self.raw["exit_code"]
        return value

    @property
    def text(self) -> str:
        return self.out.decode().strip()


@dataclass
class Box:
    """One sandbox."""

    daemon: Daemon
    id: str
    created: dict[str, Any]

    def post(self, operation: str, **body: Any) -> tuple[int, dict[str, Any]]:
        return self.daemon.call("POST", f"/v1/sandboxes/{self.id}/{operation}", body)

    def run(self, command: str, **values: Any) -> Result:
        """A shell command that at least starts."""
        status, answer = self.post("exec", command=command, **values)
        assert status == 200, answer
        return Result(answer)

    def python(self, code: str, **values: Any) -> Result:
        """A Python program on standard input."""
        source = base64.b64encode(code.encode()).decode()
        return self.run("exec /usr/bin/python3 -I -", stdin=source, **values)

    def write(self, path: str, content: bytes, **values: Any) -> tuple[int, dict[str, Any]]:
        encoded = base64.b64encode(content).decode()
        return self.post("files/write", path=path, content=encoded, **values)

    def show(self) -> dict[str, Any]:
        return self.daemon.call("GET", f"/v1/sandboxes/{self.id}")[1]

    def delete(self) -> None:
        status, answer = self.daemon.call("DELETE", f"/v1/sandboxes/{self.id}")
        assert status == 200, answer


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether `condition` comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def program(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run Python in the checkout with a clean environment; its output, whatever its end."""
    return subprocess.run(  # noqa: S603 our own interpreter
        [sys.executable, *arguments],
        cwd=CHECKOUT, env=CLEAN, capture_output=True, check=False, timeout=120,
    )  # fmt: skip


def open_descriptors(pid: int | str = "self") -> int:
    """How many descriptors a process has."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def start(folder: Path, *, module: tuple[str, ...] | None = None, **settings: Any) -> Daemon:
    """Start a sandboxd (or `module`, which becomes one); `settings` go into its configuration."""
    (folder / "run").mkdir(exist_ok=True)
    module = module or ("apps.sandboxes.harness.sandboxd",)
    (folder / "run").chmod(0o711)
    config = {
        "socket": str(folder / "run" / "sandboxd.sock"),
        "spool_root": str(folder / "spool"),
        "broker_socket": str(folder / "run" / "broker.sock"),
        **settings,
    }
    path = folder / "sandboxd.json"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", *module, "--config", str(path)]
    environment = {**CLEAN, "LENS_TEST_SECRET": SECRET}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 our own interpreter and module
            command, cwd=CHECKOUT, env=environment, stdin=subprocess.PIPE, stderr=log
        )
    daemon = Daemon(folder, process)
    assert until(lambda: answers(daemon) or process.poll() is not None, START_SECONDS)
    assert process.poll() is None, daemon.log()
    return daemon


def answers(daemon: Daemon) -> bool:
    try:
        return daemon.call("GET", "/v1/health")[0] == 200
    except OSError:
        return False


def cannot(reason: str) -> NoReturn:
    """Skip a test of the cage, or fail it where LENS_REQUIRE_ISOLATION says that it must run."""
    if os.environ.get("LENS_REQUIRE_ISOLATION") == "1":  # noqa: TID251 the test run's own switch
        pytest.fail(f"isolation is required here: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def isolation() -> None:
    """Skip where no sandbox can be had, unless LENS_REQUIRE_ISOLATION says that it must."""
    found = program("-m", "apps.sandboxes.harness.preflight")
    if found.returncode == 0 and os.geteuid() == 0:
        return
    told = found.stdout.decode() or found.stderr.decode()
    cannot(f"no isolation (as root) on this host: {told}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path that the proxies' users can pass (pytest's own cannot)."""
    place = Path(tempfile.mkdtemp(prefix="lens-test-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def daemon(isolation: None) -> Iterator[Daemon]:
    """One sandboxd for the whole session."""
    place = Path(tempfile.mkdtemp(prefix="lens-test-"))
    place.chmod(0o711)
    running = start(place)
    yield running
    code = running.stop()
    shutil.rmtree(place)
    assert code == 0


@pytest.fixture(scope="session")
def box(daemon: Daemon) -> Iterator[Box]:
    """One sandbox for the probes that change nothing that another probe looks at."""
    shared = daemon.create()
    yield shared
    shared.delete()


@pytest.fixture
def fresh(daemon: Daemon) -> Iterator[Box]:
    """A sandbox for one test."""
    own = daemon.create()
    yield own
    own.delete()


@pytest.fixture
def own_daemon(isolation: None, folder: Path) -> Iterator[Daemon]:
    """A sandboxd for one test, which may break it."""
    running = start(folder)
    yield running
    running.stop()
