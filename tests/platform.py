"""A real platform for tests, demo and benchmarks: `manage.py up` in a process of its own.

    with running_platform() as platform:
        httpx.get(f"{platform.url}/login/")

The data folder is temporary unless one is given, the port is free, and the process is stopped by
its id, whatever happened.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 180.0
STOP_SECONDS = 8.0


class PlatformError(Exception):
    """It did not start; the text holds what it printed."""


@dataclass
class RunningPlatform:
    """A started platform."""

    process: subprocess.Popen[bytes]
    url: str
    data_dir: Path
    log: Path

    def output(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text(errors="replace")

    def setup_link(self) -> str:
        """The set-up link of a first start."""
        found = re.search(r"http\S+/setup/#\S+", self.output())
        if found is None:
            raise PlatformError(f"no set-up link in:\n{self.output()}")
        return found.group()

    def manage(self, *arguments: str) -> str:
        """Run another `manage.py` command on the same data folder; its output."""
        done = subprocess.run(  # noqa: S603  our own interpreter
            [sys.executable, str(ROOT / "manage.py"), *arguments],
            env=environment({"LENS_DATA_DIR": str(self.data_dir)}),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise PlatformError(done.stdout + done.stderr)
        return done.stdout

    def shell(self, code: str) -> str:
        """Run Python on its data, where all organizations are seen; its output."""
        begin = "from apps.common import tenancy; at = tenancy.system('a test'); at.__enter__()"
        return self.manage("shell", "-c", f"{begin}\n{code}")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_platform(
    *,
    data_dir: Path | None = None,
    port: int | None = None,
    env: Mapping[str, str] | None = None,
    arguments: tuple[str, ...] = (),
) -> Iterator[RunningPlatform]:
    """Start, wait until ready, and stop at the end. `env` adds `LENS_…` variables."""
    folder = data_dir or crossable_folder()
    number = port or free_port()
    try:
        platform = _start(folder, number, dict(env or {}), arguments)
        try:
            _wait(platform)
            yield platform
        finally:
            stop(platform.process)
    finally:
        if data_dir is None:
            shutil.rmtree(folder, ignore_errors=True)


def stop(process: subprocess.Popen[bytes]) -> int:
    """End it as Ctrl-C would, and kill what does not listen; the exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(STOP_SECONDS)


def _start(
    folder: Path, port: int, env: dict[str, str], arguments: tuple[str, ...]
) -> RunningPlatform:
    log = folder / "up.log"
    command = [sys.executable, str(ROOT / "manage.py"), "up", "--data-dir", str(folder)]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  our own interpreter
            [*command, "--port", str(port), *arguments],
            env=environment(env),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return RunningPlatform(process, f"http://127.0.0.1:{port}", folder, log)


def _wait(platform: RunningPlatform) -> None:
    deadline = time.monotonic() + START_SECONDS
    answer = "none"
    while time.monotonic() < deadline:
        if platform.process.poll() is not None:
            raise PlatformError(f"it ended:\n{platform.output()}")
        with contextlib.suppress(httpx.TransportError):
            ready = httpx.get(f"{platform.url}/readyz", timeout=5)
            if ready.status_code == 200:
                return
            answer = ready.text
        time.sleep(0.1)
    platform.process.send_signal(signal.SIGUSR1)
    time.sleep(1)
    waited = f"not ready after {START_SECONDS:.0f} s, last answer {answer}"
    raise PlatformError(f"{waited}:\n{platform.output()}")


def environment(extra: dict[str, str]) -> dict[str, str]:
    """This environment without what the tests' own settings are chosen by."""
    kept = {
        name: value
        for name, value in os.environ.items()  # noqa: TID251  handed on, not read
        if not name.startswith("LENS_") and name != "DJANGO_SETTINGS_MODULE"
    }
    return kept | extra


def crossable_folder() -> Path:
    """A temporary folder that the sandbox host's users can pass through."""
    folder = Path(tempfile.mkdtemp(prefix="lens-"))
    folder.chmod(0o711)
    return folder
