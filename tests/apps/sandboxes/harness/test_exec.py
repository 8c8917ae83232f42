"""Commands: their output, their limits, and the end of everything that they started."""

from __future__ import annotations

import base64
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.apps.sandboxes.harness.conftest import SECRET, Result, open_descriptors, until

if TYPE_CHECKING:
    from tests.apps.sandboxes.harness.conftest import Box, Daemon

pytestmark = pytest.mark.isolation

MEBIBYTE = 1024 * 1024


def inside(box: Box, pattern: str) -> bool:
    """Whether a process of this sandbox's user has `pattern` in its command line."""
    uid = int(box.run("id -u").text)
    for folder in Path("/proc").iterdir():
        try:
            ours = folder.name.isdigit() and folder.stat().st_uid == uid
            if ours and pattern.encode() in (folder / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


def peak_memory(daemon: Daemon) -> int:
    """The most that sandboxd ever had resident, in bytes."""
    for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError


def test_a_command_and_its_streams(box: Box) -> None:
    result = box.run("echo out; echo err >&2; exit 3")
    assert (result.out, result.err, result.code) == (b"out\n", b"err\n", 3)
    assert result.raw["stdout_bytes"] == 4
    assert result.raw["timed_out"] is False
    assert result.raw["duration_ms"] > 0


def test_a_signal_is_told_as_one(box: Box) -> None:
    result = box.run("kill -TERM $$")
    assert (result.code, result.raw["signal"]) == (None, 15)


def test_binary_output_and_input_pass_unchanged(box: Box) -> None:
    blob = bytes(range(256)) * 64
    encoded = base64.b64encode(blob).decode()
    assert box.run("cat", stdin=encoded).out == blob


def test_without_input_standard_input_is_the_null_device(box: Box) -> None:
    assert box.run("readlink /proc/self/fd/0; cat").text == "/dev/null"


def test_working_directory(box: Box) -> None:
    box.run("mkdir -p /workspace/sub")
    assert box.run("pwd", workdir="/workspace/sub").text == "/workspace/sub"
    assert box.run("pwd").text == "/workspace"
    status, answer = box.post("exec", command="pwd", workdir="/workspace/absent")
    assert (status, answer["error"]) == (400, "workdir_not_found")


def test_environment_is_ours_and_holds_no_secret(daemon: Daemon) -> None:
    box = daemon.create(env={"PROJECT": "p"})
    try:
        told = box.run("env -0; cat /proc/self/environ", env={"STEP": "s", "PROJECT": "q"}).out
        names = dict(item.split(b"=", 1) for item in told.split(b"\0") if b"=" in item)
        assert names[b"STEP"] == b"s"
        assert names[b"PROJECT"] == b"q"
        assert names[b"HOME"] == b"/workspace"
        for name in (b"HTTP_PROXY", b"HTTPS_PROXY", b"http_proxy", b"https_proxy"):
            assert names[name] == b"http://127.0.0.1:18080"
        assert names[b"NO_PROXY"] == names[b"no_proxy"] == b""
        assert names[b"SSL_CERT_FILE"] == b"/etc/lens/ca.pem"
        assert names[b"NODE_EXTRA_CA_CERTS"] == b"/etc/lens/sandbox-ca.pem"
        assert SECRET.encode() not in told
        assert b"lnsb_" not in told
    finally:
        box.delete()


def test_the_authority_is_trusted_and_only_its_certificate_is_inside(box: Box) -> None:
    alone = box.run("cat /etc/lens/sandbox-ca.pem").text
    assert alone.count("BEGIN CERTIFICATE") == 1
    assert "PRIVATE" not in box.run("cat /etc/lens/*.pem").text
    assert box.run("cat /etc/ssl/certs/ca-certificates.crt").text.endswith(alone)


def test_output_beyond_the_limit_is_counted_and_not_kept(daemon: Daemon, box: Box) -> None:
    box.run("true")
    before = peak_memory(daemon)
    command = "head -c 104857600 /dev/zero; head -c 3000000 /dev/zero >&2"
    result = box.run(command, max_output_bytes=1000)
    assert (len(result.out), result.raw["stdout_bytes"]) == (1000, 100 * MEBIBYTE)
    assert (len(result.err), result.raw["stderr_bytes"]) == (1000, 3_000_000)
    assert peak_memory(daemon) - before < 16 * MEBIBYTE


def test_a_deadline_ends_the_whole_tree(fresh: Box) -> None:
    """Children, children of another session, orphans, and those that ignore SIGTERM."""
    command = (
        "trap '' TERM HUP; sleep 4001 & setsid sleep 4002 & "
        "(setsid sh -c 'trap \"\" TERM; sleep 4003 & sleep 4004' & ) ; "
        "echo begun; sleep 4005"
    )
    started = time.monotonic()
    result = fresh.run(command, timeout_ms=700)
    assert time.monotonic() - started < 5
    assert result.raw["timed_out"] is True
    assert result.raw["signal"] == 9
    assert result.text == "begun"
    assert until(lambda: not inside(fresh, "sleep\x00400"), 3)
    assert fresh.run("echo usable").text == "usable"


def test_a_deadline_spares_what_other_commands_run(fresh: Box) -> None:
    fresh.run("sleep 5001 >/dev/null 2>&1 &")
    other: list[Result] = []
    thread = threading.Thread(target=lambda: other.append(fresh.run("sleep 2; echo done")))
    thread.start()
    assert fresh.run("sleep 5002", timeout_ms=300).raw["timed_out"] is True
    thread.join(20)
    assert other[0].text == "done"
    assert inside(fresh, "5001")
    assert until(lambda: not inside(fresh, "5002"), 3)


def test_a_background_server_lives_on_and_can_be_ended_later(fresh: Box) -> None:
    """Also: its hold on the output does not keep the command from ending."""
    started = time.monotonic()
    server = "/usr/bin/python3 -I -m http.server 8080 --bind 127.0.0.1 2>/dev/null"
    fresh.run(f"{server} & echo $! > /tmp/pid")
    assert time.monotonic() - started < 5
    probe = "curl -sS --noproxy '*' --retry 20 --retry-connrefused --retry-delay 0 -o /dev/null"
    assert fresh.run(f"{probe} -w '%{{http_code}}' http://127.0.0.1:8080/").text == "200"
    assert fresh.run("kill $(cat /tmp/pid)").code == 0
    assert until(lambda: not inside(fresh, "http.server"), 3)


def test_commands_see_and_end_each_other(fresh: Box) -> None:
    fresh.run("sleep 7001 >/dev/null 2>&1 &")
    assert "sleep 7001" in fresh.run("ps ax").text
    assert fresh.run("pkill -f 'sleep 700[1]'").code == 0
    assert until(lambda: not inside(fresh, "7001"), 3)


def test_commands_run_side_by_side(box: Box) -> None:
    """Each ends only when all have begun."""
    results: list[Result] = []
    all_here = "until [ $(ls /tmp/side-* | wc -l) = 8 ]; do sleep 0.05; done"
    threads = [
        threading.Thread(
            target=lambda n=n: results.append(
                box.run(f"touch /tmp/side-{n}; {all_here}; echo {n}", timeout_ms=25_000)
            )
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(r.text for r in results) == [str(n) for n in range(8)]


def test_a_fork_bomb_is_stopped_and_the_sandbox_stays_usable(daemon: Daemon) -> None:
    box = daemon.create(limits={"pids": 48})
    try:
        bomb = (
            "import os, time\nfailed = 0\n"
            "for _ in range(100):\n"
            "    try:\n        pid = os.fork()\n"
            "    except BlockingIOError:\n        failed += 1; continue\n"
            "    if pid == 0:\n        os.setsid(); time.sleep(600)\n"
            "print(failed, flush=True)\ntime.sleep(600)"
        )
        result = box.python(bomb, timeout_ms=4000)
        assert result.raw["timed_out"] is True
        assert 50 <= int(result.text) <= 70
        assert box.run("echo usable").text == "usable"
        assert box.run("ps ax | wc -l").code == 0
    finally:
        box.delete()


def _told_of_the_limit(status: int, answer: dict[str, Any]) -> bool:
    """No process for the command, or none for what the command's shell wanted to start."""
    if status == 503:
        return bool(answer["error"] == "process_limit")
    result = Result(answer)
    return result.code != 0 and b"fork" in result.err


def test_at_the_process_limit_the_caller_is_told(daemon: Daemon) -> None:
    box = daemon.create(limits={"pids": 20})
    try:
        box.run("for i in $(seq 30); do sleep 30 >/dev/null 2>&1 & done", timeout_ms=5000)
        answers: list[tuple[int, dict[str, Any]]] = []
        threads = [
            threading.Thread(target=lambda: answers.append(box.post("exec", command="sleep 1.5")))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert any(_told_of_the_limit(*answer) for answer in answers), answers
    finally:
        box.delete()


def test_too_much_memory_ends_the_process_not_the_sandbox(daemon: Daemon) -> None:
    box = daemon.create(limits={"memory_bytes": 96 * MEBIBYTE})
    try:
        result = box.python(f"x = bytearray({200 * MEBIBYTE})\nx[::4096] = b'1' * len(x[::4096])")
        assert result.raw["signal"] == 9
        assert result.raw["timed_out"] is False
        assert box.python(f"x = bytearray({20 * MEBIBYTE}); print(1)").text == "1"
        assert box.run("cat /proc/self/oom_score_adj").text == "900"
        for _ in range(3):  # pages of files count too, and ending their writer frees none
            box.run("head -c 200000000 /dev/zero > /workspace/big")
            assert box.run("rm -f /workspace/big; echo usable").text == "usable"
    finally:
        box.delete()


def test_full_disks_are_told_and_can_be_emptied(daemon: Daemon) -> None:
    box = daemon.create(limits={"workspace_bytes": 4 * MEBIBYTE, "workspace_inodes": 64})
    try:
        full = box.run("head -c 9000000 /dev/zero > /workspace/big")
        assert full.code != 0
        assert b"No space" in full.err
        status, answer = box.write("more", b"x" * 100_000)
        assert (status, answer["error"]) == (413, "no_space")
        assert box.run("ls -A /workspace").text == "big"  # no half-written file is left
        box.run("rm /workspace/big")
        assert box.write("more", b"x" * 100_000)[0] == 200
        inodes = box.run("for i in $(seq 100); do : > /workspace/f$i || exit 5; done")
        assert inodes.code != 0
        assert b"No space" in inodes.err
    finally:
        box.delete()


def test_tmp_and_shared_memory_are_bounded(daemon: Daemon) -> None:
    box = daemon.create(limits={"tmp_bytes": 2 * MEBIBYTE, "shm_bytes": 2 * MEBIBYTE})
    try:
        for place in ("/tmp", "/dev/shm"):  # noqa: S108 the sandbox's own
            result = box.run(f"head -c 9000000 /dev/zero > {place}/big")
            assert b"No space" in result.err
    finally:
        box.delete()


def test_a_caller_that_hangs_up_ends_its_command(fresh: Box) -> None:
    body = b'{"command": "sleep 6001"}'
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(fresh.daemon.socket))
        head = f"POST /v1/sandboxes/{fresh.id}/exec HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        assert until(lambda: inside(fresh, "6001"), 5)
    assert until(lambda: not inside(fresh, "6001"), 5)


def test_an_agent_that_kills_all_of_its_user_keeps_its_sandbox(fresh: Box) -> None:
    """The child that waits for the next job is among the dead, and is replaced."""
    for _ in range(3):
        fresh.run("sleep 0.2; kill -9 -1")
        assert fresh.run("echo usable").text == "usable"
    assert fresh.show()["state"] == "ready"


def test_nobody_hears_a_signal_from_outside(fresh: Box) -> None:
    """Signals to process 1 from inside do nothing; the sandbox lives."""
    fresh.run("for s in 1 2 3 9 15 17 19; do kill -$s 1; done")
    assert fresh.run("echo usable").text == "usable"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "command"),
        ({"command": 5}, "command"),
        ({"command": "a\0b"}, "command"),
        ({"command": "\ud800"}, "command"),
        ({"command": "x", "timeout_ms": 0}, "timeout_ms"),
        ({"command": "x", "timeout_ms": 1_200_001}, "timeout_ms"),
        ({"command": "x", "timeout_ms": True}, "timeout_ms"),
        ({"command": "x", "max_output_bytes": -1}, "max_output_bytes"),
        ({"command": "x", "stdin": "***"}, "stdin"),
        ({"command": "x", "env": {"A=B": "c"}}, "env"),
        ({"command": "x", "env": {"A": 1}}, "env"),
        ({"command": "x", "env": []}, "command"),
    ],
)
def test_wrong_values_are_named(box: Box, body: dict[str, object], field: str) -> None:
    status, answer = box.post("exec", **body)
    if body.get("env") == []:
        assert status == 200  # an empty list is what some encoders make of an empty object
        return
    assert (status, answer["field"]) == (400, field)


def test_a_command_at_and_over_the_longest(box: Box) -> None:
    filler = "#" * (128 * 1024 - 1 - len("echo 1"))
    assert box.run("echo 1 " + filler[1:]).text == "1"
    status, answer = box.post("exec", command="echo 1  " + filler)
    assert (status, answer["error"]) == (413, "too_large")


def test_no_descriptor_of_sandboxd_is_left_open(box: Box, daemon: Daemon) -> None:
    pid = daemon.process.pid
    box.run("true")
    before = open_descriptors(pid)
    for _ in range(20):
        box.run("echo x; echo y >&2", stdin="YQ==")
        box.post("exec", command="true", workdir="/nowhere")
    assert open_descriptors(pid) <= before + 1
