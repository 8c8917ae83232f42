"""From creation to the last trace: what begins, what is left (nothing), and what a crash leaves."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apps.sandboxes.harness import preflight
from tests.apps.sandboxes.harness.conftest import (
    Box,
    Daemon,
    bundle,
    open_descriptors,
    start,
    until,
)
from tests.apps.sandboxes.harness.kinds import own_users

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.isolation

USERS = range(200_000, 301_000)  # sandboxes and proxies


def processes(daemon: Daemon) -> set[int]:
    """sandboxd, its fork servers, and all below them."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if stat[0] != "Z":
                parents[int(folder.name)] = int(stat[1])
    found = {daemon.process.pid}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found & set(parents)
        found |= more


def standing(daemon: Daemon) -> set[int]:
    """Its processes, but for the one that waits to become the next sandbox's proxy."""
    found = processes(daemon)
    spare = {pid for pid in found if proc_file(pid, "comm").strip() == "lens-spare"}
    assert len(spare) <= 1
    return found - spare


def namespaces(pids: Iterable[int]) -> set[str]:
    """The network namespaces of some processes."""
    found = set()
    for pid in pids:
        try:
            found.add(str(Path(f"/proc/{pid}/ns/net").readlink()))
        except OSError:
            continue
    return found


def groups(daemon: Daemon) -> list[str]:
    """The control groups below this sandboxd's."""
    name = preflight.instance_name(daemon.socket)
    return [
        str(p) for base in Path("/sys/fs/cgroup").rglob(name) for p in base.iterdir() if p.is_dir()
    ]


def host_mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_the_report_of_a_new_sandbox(box: Box) -> None:
    assert box.created["isolation"] == "namespace"
    report = {line["probe"]: line for line in box.created["report"]}
    assert all(line["ok"] for line in report.values())
    assert {"no_route_ipv4", "no_metadata_ipv4", "no_capabilities", "seccomp", "landlock"} <= set(
        report
    )
    assert 0 < box.created["created_ms"] < 5000
    assert box.show()["state"] == "ready"


def test_health_names_every_layer(daemon: Daemon) -> None:
    status, answer = daemon.call("GET", "/v1/health")
    assert (status, answer["isolation"], answer["remedy"]) == (200, "namespace", "")
    assert {layer["state"] for layer in answer["layers"]} == {"active"}


@pytest.mark.slow  # fifty sandboxes, one after the other
def test_fifty_lives_leave_nothing(own_daemon: Daemon) -> None:
    """No process, mount, namespace, control group, file or descriptor."""
    first = own_daemon.create()
    first.delete()
    pids, mounts = standing(own_daemon), host_mounts()
    before = {pid: open_descriptors(pid) for pid in pids}
    net = namespaces(pids)
    for _ in range(50):
        box = own_daemon.create()
        box.run("sleep 100 >/dev/null 2>&1 & setsid sleep 100 >/dev/null 2>&1 & echo x > /tmp/x")
        assert len(namespaces(processes(own_daemon)) - net) == 1
        box.delete()
    assert until(lambda: standing(own_daemon) == pids)
    assert host_mounts() == mounts
    assert namespaces(processes(own_daemon)) == net
    assert groups(own_daemon) == []
    assert list(own_daemon.spool.iterdir()) == []
    # Fewer is no leak: the first look may have met the connection of the call before it.
    assert until(lambda: all(open_descriptors(pid) <= before[pid] for pid in pids))
    assert own_daemon.call("GET", "/v1/sandboxes")[1] == {"sandboxes": []}


def test_stopping_ends_everything(own_daemon: Daemon) -> None:
    boxes = [own_daemon.create() for _ in range(3)]
    boxes[0].run("sleep 100 >/dev/null 2>&1 &")
    pids = processes(own_daemon)
    assert own_daemon.stop() == 0
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert groups(own_daemon) == []
    assert sorted(p.name for p in own_daemon.folder.iterdir()) == [
        "log",
        "run",
        "sandboxd.json",
        "spool",
    ]
    assert list((own_daemon.folder / "run").iterdir()) == []


def test_a_killed_sandboxd_takes_everything_with_it(own_daemon: Daemon) -> None:
    """No handler runs: closed sockets end every process, and the next start sweeps the groups."""
    box = own_daemon.create()
    box.run("sleep 100 >/dev/null 2>&1 & setsid sleep 100 >/dev/null 2>&1 &")
    pids = processes(own_daemon)
    assert len(pids) >= 6
    own_daemon.process.kill()
    own_daemon.process.wait(10)
    assert until(lambda: not any(alive(pid) for pid in pids))
    again = start(own_daemon.folder)
    try:
        assert groups(again) == []
        assert again.create().run("echo 1").text == "1"
    finally:
        assert again.stop() == 0
    assert groups(again) == []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_spare_proxy_that_has_ended_is_replaced(own_daemon: Daemon) -> None:
    own_daemon.create().delete()
    assert until(lambda: len(named(own_daemon, "lens-spare")) == 1)
    for pid in named(own_daemon, "lens-spare"):
        os.kill(pid, signal.SIGKILL)
        assert until(lambda pid=pid: not alive(pid))  # type: ignore[misc]
    assert own_daemon.create().run("echo 1").text == "1"


@pytest.mark.parametrize("name", ["lens-forker", "lens-zygote"])
def test_without_a_fork_server_sandboxd_stops(own_daemon: Daemon, name: str) -> None:
    own_daemon.create()
    pids = processes(own_daemon)
    (server,) = named(own_daemon, name)
    os.kill(server, signal.SIGKILL)
    assert own_daemon.process.wait(20) == 1
    assert until(lambda: not any(alive(pid) for pid in pids))
    assert "fork server has ended" in own_daemon.log()


def named(daemon: Daemon, name: str) -> set[int]:
    """The processes of a sandboxd that go by a name."""
    return {p for p in processes(daemon) if proc_file(p, "comm").strip() == name}


def proc_file(pid: int, name: str) -> str:
    """A file of a process, "" when it has gone meanwhile."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def init_and_proxy(box: Box) -> tuple[int, int]:
    """(pid 1, proxy) of a sandbox: by its control group, and by the proxy's user."""
    user = 100_000 + int(box.run("id -u").text)
    (init,) = (
        p
        for p in named(box.daemon, "lens-init")
        if box.id in proc_file(p, "cgroup") and is_first(p)
    )
    (proxy,) = (
        p for p in named(box.daemon, "lens-egress") if f"Uid:\t{user}\t" in proc_file(p, "status")
    )
    return init, proxy


def is_first(pid: int) -> bool:
    """Whether it is process 1 of a namespace; its children have its name for a moment."""
    status = proc_file(pid, "status")
    return status.partition("NSpid:")[2].partition("\n")[0].endswith("\t1")


@pytest.mark.parametrize("which", [0, 1], ids=["pid 1", "proxy"])
def test_a_sandbox_without_its_init_or_proxy_is_over(daemon: Daemon, which: int) -> None:
    """Fail closed: nothing of it runs on, and calls say so."""
    box = daemon.create()
    pair = init_and_proxy(box)
    os.kill(pair[which], signal.SIGKILL)
    assert until(lambda: box.show()["state"] == "failed")
    assert box.show()["reason"] == ("init_ended", "proxy_ended")[which]
    assert until(lambda: not alive(pair[0]) and not alive(pair[1]))
    status, answer = box.post("exec", command="true")
    assert (status, answer["error"]) == (409, "sandbox_over")  # nothing was begun
    assert box.post("files/list")[1]["error"] == "sandbox_over"
    use = daemon.call("GET", "/v1/activity")[1]["sandboxes"][box.id]
    assert (use["state"], use["reason"]) == ("failed", box.show()["reason"])
    assert daemon.call("PUT", f"/v1/sandboxes/{box.id}/bundle", bundle(2))[0] == 409
    box.delete()
    assert daemon.call("GET", f"/v1/sandboxes/{box.id}")[0] == 404
    daemon.create().delete()


def test_a_proxy_that_hangs_ends_its_sandbox(daemon: Daemon) -> None:
    box = daemon.create()
    _, proxy = init_and_proxy(box)
    os.kill(proxy, signal.SIGSTOP)
    status, answer = daemon.call("PUT", f"/v1/sandboxes/{box.id}/bundle", bundle(2))
    assert (status, answer["error"]) == (503, "sandbox_failed")
    assert until(lambda: box.show()["state"] == "failed")
    assert until(lambda: not alive(proxy))
    box.delete()


def test_deleting_cuts_a_running_command(daemon: Daemon) -> None:
    box = daemon.create()
    answers: list[tuple[int, dict[str, Any]]] = []
    thread = threading.Thread(target=lambda: answers.append(box.post("exec", command="sleep 60")))
    thread.start()
    assert until(lambda: "sleep" in box.run("ps ax").text)
    box.delete()
    thread.join(10)
    status, answer = answers[0]
    assert (status, answer["error"]) == (409, "sandbox_stopped")
    box.delete()  # once more is no error


def test_a_new_policy_reaches_a_running_sandbox(fresh: Box) -> None:
    probe = "curl -sS -o /dev/null -w '%{http_connect}' https://api.example.com/"
    assert fresh.run(probe).text == "403"
    path = f"/v1/sandboxes/{fresh.id}/bundle"
    status, answer = fresh.daemon.call("PUT", path, bundle(7, "api.example.com"))
    assert (status, answer) == (200, {"applied": 7})
    status, answer = fresh.daemon.call("PUT", path, bundle(3))
    assert (status, answer["error"]) == (400, "bundle_refused")
    status, answer = fresh.daemon.call("PUT", path, {"format": 99})
    assert (status, answer["error"]) == (400, "bundle_refused")
    assert fresh.post("cut") == (200, {"id": fresh.id})


def test_a_new_policy_changes_the_environment_of_the_next_command(fresh: Box) -> None:
    """A tool that insists on a token starts; what it finds is no secret."""
    insists = 'test -n "$GITHUB_TOKEN" || { echo "set GITHUB_TOKEN"; exit 4; }; echo $GITHUB_TOKEN'
    assert fresh.run(insists).code == 4
    path = f"/v1/sandboxes/{fresh.id}/bundle"
    bound = {
        **bundle(7, "api.github.com"),
        "bindings": [
            {
                "id": "b1",
                "credential_id": "c1",
                "credential_name": "GitHub",
                "pattern": "api.github.com",
                "injection": "bearer",
                "allowed_hosts": ["api.github.com"],
                "env_name": "GITHUB_TOKEN",
                "sentinel": "lens-sentinel-github",
            }
        ],
    }
    assert fresh.daemon.call("PUT", path, bound)[0] == 200
    assert fresh.run(insists).text == "lens-sentinel-github"
    assert fresh.run("echo $GITHUB_TOKEN", env={"GITHUB_TOKEN": "own"}).text == "own"
    refused = {**bound, "version": 8, "bindings": [{**bound["bindings"][0], "env_name": "PATH"}]}
    assert fresh.daemon.call("PUT", path, refused)[0] == 400
    assert fresh.run(insists).text == "lens-sentinel-github"
    assert fresh.daemon.call("PUT", path, bundle(9))[0] == 200
    assert fresh.run(insists).code == 4


def test_activity_tells_who_is_in_use(daemon: Daemon, fresh: Box) -> None:
    def seen() -> dict[str, Any]:
        status, answer = daemon.call("GET", "/v1/activity")
        assert status == 200
        found: dict[str, Any] = answer["sandboxes"][fresh.id]
        return found

    assert seen() == {"state": "ready", "reason": "", "jobs": 0, "quiet_ms": None}
    thread = threading.Thread(target=lambda: fresh.run("sleep 1"))
    thread.start()
    assert until(lambda: seen()["jobs"] == 1)
    assert seen()["quiet_ms"] == 0
    thread.join(10)
    assert until(lambda: seen()["jobs"] == 0)
    quiet = seen()["quiet_ms"]
    assert until(lambda: seen()["quiet_ms"] > quiet)
    fresh.run("true")
    assert seen()["quiet_ms"] < 1000


def test_a_bundle_that_is_none_makes_no_sandbox(daemon: Daemon) -> None:
    before = standing(daemon)
    request = {"id": "bad-bundle", "token": "t", "bundle": {"format": 99}, "identity": {}}
    status, answer = daemon.call("POST", "/v1/sandboxes", request)
    assert (status, answer["error"]) == (400, "bundle_refused")
    assert until(lambda: standing(daemon) == before)
    assert daemon.call("GET", "/v1/sandboxes/bad-bundle")[0] == 404


def test_the_same_id_twice(daemon: Daemon, box: Box) -> None:
    request = {"id": box.id, "token": "t", "bundle": bundle(), "identity": {}}
    status, answer = daemon.call("POST", "/v1/sandboxes", request)
    assert (status, answer["error"]) == (409, "sandbox_exists")


def test_creations_at_once_have_users_of_their_own(daemon: Daemon) -> None:
    boxes: list[Box] = []
    threads = [threading.Thread(target=lambda: boxes.append(daemon.create())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({box.run("id -u").text for box in boxes}) == 4
    for box in boxes:
        box.delete()


def test_creations_at_once_know_their_own_processes(daemon: Daemon) -> None:
    """The end of one sandbox's proxy ends that sandbox and no other."""
    boxes: list[Box] = []
    threads = [threading.Thread(target=lambda: boxes.append(daemon.create())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    while boxes:
        box = boxes.pop()
        os.kill(init_and_proxy(box)[1], signal.SIGKILL)
        assert until(lambda box=box: box.show()["state"] == "failed")  # type: ignore[misc]
        assert all(other.show()["state"] == "ready" for other in boxes)
        box.delete()


def test_a_host_with_no_room_says_so(isolation: None, folder: Path) -> None:
    small = start(folder, max_sandboxes=1)
    try:
        box = small.create()
        request = {"id": "second", "token": "t", "bundle": bundle(), "identity": {}}
        status, answer = small.call("POST", "/v1/sandboxes", request)
        assert (status, answer["error"]) == (503, "too_many")
        box.delete()
        small.create().delete()
    finally:
        assert small.stop() == 0


def test_where_isolation_is_impossible_nothing_is_made(isolation: None, folder: Path) -> None:
    """Never a sandbox with less: the answer is a refusal that names the remedy."""
    daemon = start(folder, force_unavailable="a test says so")
    try:
        assert daemon.call("GET", "/v1/health")[1]["isolation"] == "unavailable"
        request = {"id": "x", "token": "t", "bundle": bundle(), "identity": {}}
        status, answer = daemon.call("POST", "/v1/sandboxes", request)
        assert (status, answer["error"]) == (503, "isolation_unavailable")
        assert "a test says so" in answer["remedy"]
        assert daemon.call("GET", "/v1/sandboxes")[1] == {"sandboxes": []}
        assert until(lambda: len(processes(daemon)) == 3)
    finally:
        assert daemon.stop() == 0


def test_root_without_control_groups_has_limits_per_user(isolation: None, folder: Path) -> None:
    """And the report names what that does not give."""
    # The limit counts all that a user runs, so nobody else may run something as that user.
    daemon = start(folder, use_cgroups=False, **own_users())
    try:
        box = daemon.create(limits={"pids": 40})
        missing = {line["probe"] for line in box.created["report"] if not line["ok"]}
        assert missing == {"memory_limit", "group_per_command"}
        late = box.run("setsid sleep 600 & trap '' TERM; sleep 600", timeout_ms=500)
        assert late.raw["timed_out"] is True
        assert until(lambda: box.run("ps ax | grep -c '[s]leep 600'").text == "0")
        # Ends when it may not fork any more.
        bomb = box.run("for i in $(seq 99); do sleep 600 & done; wait", timeout_ms=30_000)
        assert b"fork" in bomb.err
    finally:
        assert daemon.stop() == 0


def test_the_parents_end_ends_it(isolation: None, folder: Path) -> None:
    """A parent that dropped its privileges cannot signal us: it closes our standard input."""
    daemon = start(folder, stop_on_stdin_eof=True)
    daemon.create()
    pids = processes(daemon)
    assert daemon.process.stdin is not None
    daemon.process.stdin.close()
    assert daemon.process.wait(5) == 0
    assert until(lambda: not any(alive(pid) for pid in pids))


def test_the_audit_folder_is_the_proxys_and_then_the_writers(own_daemon: Daemon) -> None:
    box = own_daemon.create()
    place = own_daemon.spool / box.id
    status = place.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (300_000, 0, 0o2770)
    box.run("curl -sS https://api.example.com/")
    box.delete()
    assert place.stat().st_uid == 0
    segments = list(place.iterdir())
    assert len(segments) == 1
    assert b"api.example.com" in segments[0].read_bytes()


def test_the_proxy_has_given_up_everything(box: Box) -> None:
    _, proxy = init_and_proxy(box)
    status = Path(f"/proc/{proxy}/status").read_text()
    for line in ("NoNewPrivs:\t1", *(f"Cap{s}:\t{0:016x}" for s in ("Prm", "Eff", "Bnd", "Amb"))):
        assert line in status
    assert re.search(r"^Groups:\t\s*$", status, re.MULTILINE)
    assert Path(f"/proc/{proxy}/environ").stat().st_uid == 0  # not dumpable


def test_process_1_keeps_four_capabilities_and_its_filters(box: Box) -> None:
    init, _ = init_and_proxy(box)
    status = Path(f"/proc/{init}/status").read_text()
    kept = (1 << 5) | (1 << 6) | (1 << 7) | (1 << 8)  # KILL, SETGID, SETUID, SETPCAP
    for line in (f"CapEff:\t{kept:016x}", f"CapBnd:\t{kept:016x}", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in status
    for name in ("net", "mnt", "pid", "ipc", "uts", "cgroup"):
        outside, inside = Path("/proc/self/ns", name), Path(f"/proc/{init}/ns", name)
        assert inside.readlink() != outside.readlink()


def test_strangers_are_turned_away(own_daemon: Daemon) -> None:
    """By file mode, and when that is gone by the kernel's word on who is calling."""
    assert own_daemon.socket.stat().st_mode & 0o777 == 0o600
    own_daemon.socket.chmod(0o666)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setresuid(54_321, 54_321, 54_321)
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(own_daemon.socket))
        client.settimeout(5)
        try:
            client.sendall(b"GET /v1/health HTTP/1.1\r\n\r\n")
            os.write(write_end, b"got " + client.recv(100))
        except OSError as error:
            os.write(write_end, type(error).__name__.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    told = os.read(read_end, 200)
    os.close(read_end)
    os.close(write_end)
    assert told in (b"got ", b"ConnectionResetError", b"BrokenPipeError")
    assert own_daemon.call("GET", "/v1/health")[0] == 200
