"""What a host is told: the table, and the remedy that fits the cause."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from apps.sandboxes.harness import config, remedies
from tests.apps.sandboxes.harness.conftest import program

COMMAND = ("-m", "apps.sandboxes.harness.preflight")
# A container as most are: no right to unshare, and a filter that says EPERM.
CONTAINER = """
import os, sys
from apps.sandboxes.harness import preflight, seccomp, syscalls, zygote
from apps.proxy.egress import main
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(seccomp.build())
os.setgroups([]); os.setresgid(54321, 54321, 54321); os.setresuid(54321, 54321, 54321)
sys.argv = ["preflight", "--json"]
sys.exit(preflight.main())
"""


@pytest.mark.isolation
@pytest.mark.usefixtures("isolation")
def test_the_table_of_this_host() -> None:
    done = program(*COMMAND)
    text = done.stdout.decode()
    assert text.endswith("isolation: namespace\n")
    for layer in ("network namespace", "seccomp", "landlock", "memory limit", "egress proxy"):
        assert layer in text
    as_json = program(*COMMAND, "--json")
    assert json.loads(as_json.stdout)["isolation"] == "namespace"


@pytest.mark.isolation
@pytest.mark.usefixtures("isolation")
def test_a_container_without_rights_gets_degraded_sandboxes_at_most_and_a_remedy() -> None:
    done = program("-c", CONTAINER)
    assert done.returncode == 3, done.stderr.decode()
    answer = json.loads(done.stdout)
    assert answer["isolation"] == "degraded"
    assert "Operation not permitted" in answer["remedy"]
    layers = {layer["name"]: layer for layer in answer["layers"]}
    for mode in ("namespace", "owner-rules"):
        assert layers[f"mode {mode}"]["state"] == "missing"
        assert layers[f"mode {mode}"]["remedy"] in answer["remedy"]
    assert layers["mode degraded"]["state"] == layers["seccomp"]["state"] == "active"
    assert layers["network namespace"]["state"] == "missing"
    assert "Run sandboxd as root" in layers["user of its own"]["remedy"]


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Kernel settings of another host, and a user that is not root there."""
    found = {name.replace("__", "/"): value for name, value in values.items()}
    monkeypatch.setattr(remedies, "_setting", lambda path: found.get(path, ""))
    monkeypatch.setattr(remedies, "is_rootless", lambda: True)


def test_user_namespaces_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, user__max_user_namespaces="0")
    told = remedies.of(config.NAMESPACE, "user namespace", 28, "x")
    assert "sudo sysctl -w user.max_user_namespaces=15000" in told
    settings(monkeypatch, kernel__unprivileged_userns_clone="0")
    told = remedies.of(config.NAMESPACE, "user namespace", 1, "x")
    assert "sudo sysctl -w kernel.unprivileged_userns_clone=1" in told


def test_apparmor(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, kernel__apparmor_restrict_unprivileged_userns="1")
    told = remedies.of(config.NAMESPACE, "user namespace", 1, "x")
    assert "kernel.apparmor_restrict_unprivileged_userns=0" in told
    assert "userns," in told
    assert str(Path(sys.executable).resolve()) in told


def test_a_container_and_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch)
    monkeypatch.setattr(remedies, "_container", lambda: "docker run --cap-add SYS_ADMIN")
    assert "docker run" in remedies.of(config.NAMESPACE, "namespaces", 1, "x")
    monkeypatch.setattr(remedies, "_container", lambda: "")
    assert "step namespaces (errno 1)" in remedies.of(config.NAMESPACE, "namespaces", 1, "x")


def test_another_machine() -> None:
    assert "Linux on x86_64 or aarch64" in remedies.of(config.NAMESPACE, "machine", 0, "x")


# As root of a plain container, in a process table of its own: a kill by user reaches no further.
CONTAINED = """
import os, subprocess, sys
from apps.sandboxes.harness import config, preflight, syscalls
from tests.apps.sandboxes.harness import launch
launch.own_network()
syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
if pid := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
syscalls.mount("proc", "/proc", "proc")
there = config.Config(*[config.Path("/")] * 3)
running = [
    subprocess.Popen(["/bin/sleep", "60"], user=uid, group=uid)
    for uid in (there.sandbox_uid_base, there.sandbox_uid_base + there.max_sandboxes - 1)
]
kept = launch._OF_CONTAINERS
syscalls.drop_bounding(c for c in syscalls.ALL_CAPABILITIES if c not in kept)
syscalls.set_capabilities(kept)
code = preflight.main()
print("ended:", [process.poll() for process in running], flush=True)
os._exit(code)
"""


@pytest.mark.isolation
@pytest.mark.usefixtures("isolation")
def test_asking_a_container_ends_nothing_of_a_sandboxd_that_runs_there() -> None:
    """What is built to find out is ended by its user, which must be no running sandbox's."""
    done = program("-c", CONTAINED)
    told = done.stdout.decode()
    assert "ended: [None, None]" in told, (told, done.stderr)
    assert "mode degraded" in told
