"""The same code for an ordinary user: a user namespace first, limits by rlimits."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.apps.sandboxes.harness.conftest import CHECKOUT, CLEAN, Daemon, answers, cannot, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.isolation, pytest.mark.usefixtures("isolation")]

# Loaded as root, since the checkout may be root's alone; everything then runs as the user.
LAUNCH = """
import os, sys
from apps.sandboxes.harness import sandboxd
from apps.proxy.egress import main
import apps.proxy.egress.tls.ca
os.setgroups([]); os.setresgid(54321, 54321, 54321); os.setresuid(54321, 54321, 54321)
sys.argv = ["sandboxd", "--config", sys.argv[1]]
sys.exit(sandboxd.main())
"""


@pytest.fixture
def rootless(folder: Path) -> Iterator[Daemon]:
    (folder / "run").mkdir()
    config = {
        "socket": str(folder / "run" / "sandboxd.sock"),
        "spool_root": str(folder / "spool"),
        "broker_socket": str(folder / "run" / "broker.sock"),
        "control_uid": 54_321,
        "control_gid": 54_321,
    }
    path = folder / "sandboxd.json"
    path.write_text(json.dumps(config))
    for place in (folder, folder / "run", path):
        place.chmod(0o777)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 our own interpreter
            [sys.executable, "-c", LAUNCH, str(path)], cwd=CHECKOUT, env=CLEAN, stderr=log
        )
    daemon = Daemon(folder, process)
    assert until(lambda: answers(daemon) or process.poll() is not None, 60)
    yield daemon
    assert daemon.stop() == 0


def test_a_rootless_sandbox(rootless: Daemon) -> None:
    health = rootless.call("GET", "/v1/health")[1]
    if health["isolation"] == "unavailable":
        cannot(f"no user namespaces for ordinary users here: {health['remedy']}")
    states = {layer["name"]: layer["state"] for layer in health["layers"]}
    assert states["network namespace"] == states["seccomp"] == "active"
    assert states["user of its own"] == "missing"
    box = rootless.create(limits={"pids": 64})
    missing = {line["probe"] for line in box.created["report"] if not line["ok"]}
    assert missing == {"user_of_its_own", "memory_limit", "group_per_command"}
    told = box.run("id -u; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status").text
    assert told.startswith("200000\n")
    assert "CapBnd:\t0000000000000000" in told
    assert "Seccomp:\t2" in told
    assert box.write("file", b"content")[0] == 200
    assert box.run("cat file; curl -s -o /dev/null -w %{http_connect} https://a.example").text == (
        "content403"
    )
    for path in ("/proc/1/environ", "/proc/1/mem", "/proc/1/root", "/proc/1/fd/0"):
        assert box.run(f"head -c1 {path} >/dev/null").code != 0
    late = box.run("setsid sleep 600 & trap '' TERM; sleep 600", timeout_ms=500)
    assert late.raw["timed_out"] is True
    assert box.run("ps ax | grep -c '[s]leep 600'").text == "0"
    bomb = box.run("for i in $(seq 200); do sleep 5 & done; wait", timeout_ms=3000)
    assert b"fork" in bomb.err
    assert box.run("echo usable").text == "usable"
    box.delete()
