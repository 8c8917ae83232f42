"""What a host is told: the table, and the remedy that fits the cause."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from apps.sandboxes.harness import preflight
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
def test_a_container_without_rights_is_refused_with_a_remedy() -> None:
    done = program("-c", CONTAINER)
    assert done.returncode == 1, done.stderr.decode()
    answer = json.loads(done.stdout)
    assert answer["isolation"] == "unavailable"
    assert "Operation not permitted" in answer["remedy"]
    states = {layer["name"]: layer["state"] for layer in answer["layers"]}
    assert states["network namespace"] == "missing"
    assert states["no capabilities, no_new_privs"] == "missing"


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Kernel settings of another host, and a user that is not root there."""
    found = {name.replace("__", "/"): value for name, value in values.items()}
    monkeypatch.setattr(preflight, "_setting", lambda path: found.get(path, ""))
    monkeypatch.setattr(preflight, "is_rootless", lambda: True)


def test_user_namespaces_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, user__max_user_namespaces="0")
    told = preflight.remedy("user namespace", 28, "x")
    assert "sudo sysctl -w user.max_user_namespaces=15000" in told
    settings(monkeypatch, kernel__unprivileged_userns_clone="0")
    told = preflight.remedy("user namespace", 1, "x")
    assert "sudo sysctl -w kernel.unprivileged_userns_clone=1" in told


def test_apparmor(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, kernel__apparmor_restrict_unprivileged_userns="1")
    told = preflight.remedy("user namespace", 1, "x")
    assert "kernel.apparmor_restrict_unprivileged_userns=0" in told
    assert "userns," in told
    assert str(Path(sys.executable).resolve()) in told


def test_a_container_and_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch)
    monkeypatch.setattr(preflight, "_container", lambda: "docker run --cap-add SYS_ADMIN")
    assert "docker run" in preflight.remedy("namespaces", 1, "x")
    monkeypatch.setattr(preflight, "_container", lambda: "")
    assert "step namespaces (errno 1)" in preflight.remedy("namespaces", 1, "x")


def test_another_machine() -> None:
    assert "Linux on x86_64 or aarch64" in preflight.remedy("machine", 0, "x")
