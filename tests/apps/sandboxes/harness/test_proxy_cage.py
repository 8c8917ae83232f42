"""The cage of the proxies: proved on a process that went through the same door."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apps.sandboxes.harness import landlock, proxy_cage
from tests.apps.sandboxes.harness.conftest import CHECKOUT, CLEAN
from tests.apps.sandboxes.harness.test_lifecycle import processes

if TYPE_CHECKING:
    from tests.apps.sandboxes.harness.conftest import Box, Daemon

# Everything is tried by a child that has gone into the cage; it answers name -> errno's name.
TRY = """
import ctypes, errno, json, os, socket, sys, threading
from pathlib import Path
from apps.sandboxes.harness import proxy_cage, syscalls
spool, secret, diagnosis = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "yes"
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
proxy_cage.close(spool, diagnosis=diagnosis)
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if libc.syscall(*map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), "")
def thread():
    one = threading.Thread(target=lambda: None)
    one.start()
    one.join()
def memory():
    file = os.memfd_create("x")
    os.write(file, b"x")
    assert Path(f"/proc/self/fd/{file}").read_bytes() == b"x"
def listen():
    with socket.socket() as sock:
        sock.listen()
def bind():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
tried = {
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "execveat": lambda: call(322, -100, 0, 0, 0, 0),
    "fork": os.fork,
    "vfork": lambda: call(58),
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "ptrace": lambda: syscalls.call("ptrace", 0, 0, 0, 0),
    "mount": lambda: syscalls.mount("none", "/tmp", "tmpfs"),
    "unshare": lambda: syscalls.unshare(syscalls.CLONE_NEWUSER),
    "keyctl": lambda: call(250, 0, 0, 0, 0, 0),
    "bpf": lambda: call(321, 0, 0, 0),
    "io_uring": lambda: call(425, 1, 0),
    "listen": listen,
    "bind": bind,
    "packet": lambda: socket.socket(17, socket.SOCK_RAW).close(),
    "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
    "vsock": lambda: socket.socket(40, socket.SOCK_STREAM).close(),
    "netlink": lambda: socket.socket(16, socket.SOCK_RAW, 0).close(),
    "sock_diag": lambda: socket.socket(16, socket.SOCK_RAW, 4).close(),
    "read a secret": lambda: Path(secret).read_bytes(),
    "write elsewhere": lambda: Path(secret + ".new").write_bytes(b"x"),
    "list a home": lambda: os.listdir(Path(secret).parent),
    "thread": thread, "memory file": memory,
    "tcp": lambda: socket.socket().close(),
    "unix": lambda: socket.socket(socket.AF_UNIX).close(),
    "audit": lambda: (spool / "event").write_bytes(b"x"),
    "resolver": lambda: Path("/etc/hosts").read_bytes(),
    "look up": lambda: socket.getaddrinfo("localhost", 80),
    "late import": lambda: __import__("wave"),
}
told = {}
for name, action in tried.items():
    try:
        action()
        told[name] = "ok"
    except OSError as error:
        told[name] = errno.errorcode[error.errno]
print(json.dumps(told))
"""
REFUSED = {
    "execve": "EPERM", "execveat": "EPERM", "fork": "EPERM", "vfork": "EPERM", "spawn": "EPERM",
    "ptrace": "EPERM", "mount": "EPERM", "unshare": "EPERM", "keyctl": "EPERM", "bpf": "EPERM",
    "io_uring": "ENOSYS", "listen": "EPERM", "bind": "EPERM", "packet": "EAFNOSUPPORT",
    "raw": "EPERM", "vsock": "EAFNOSUPPORT",
}  # fmt: skip
FILES = {"read a secret": "EACCES", "write elsewhere": "EACCES", "list a home": "EACCES"}
WORKS = ("thread", "memory file", "tcp", "unix", "audit", "resolver", "look up", "late import")


def tried(folder: Path, *, diagnosis: bool) -> dict[str, str]:
    spool, home = folder / "spool", folder / "home"
    for place in (spool, home):
        place.mkdir()
    (home / "key").write_text("secret")
    done = subprocess.run(  # noqa: S603 our own interpreter
        [sys.executable, "-c", TRY, str(spool), str(home / "key"), "yes" if diagnosis else "no"],
        cwd=CHECKOUT, env=CLEAN, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, str] = json.loads(done.stdout)
    return told


@pytest.mark.skipif(sys.platform != "linux", reason="Linux system calls")
def test_what_is_refused_and_what_works(tmp_path: Path) -> None:
    told = tried(tmp_path, diagnosis=False)
    assert {name: told[name] for name in REFUSED} == REFUSED
    assert (told["netlink"], told["sock_diag"]) == ("EAFNOSUPPORT", "EAFNOSUPPORT")
    if landlock.abi():
        assert {name: told[name] for name in FILES} == FILES
    assert {name: told[name] for name in WORKS} == dict.fromkeys(WORKS, "ok")


def test_where_networks_are_shared_only_the_owner_of_a_socket_may_be_asked_for(
    tmp_path: Path,
) -> None:
    told = tried(tmp_path, diagnosis=True)
    assert (told["netlink"], told["sock_diag"]) == ("EPERM", "ok")
    assert {name: told[name] for name in REFUSED} == REFUSED


def report(box: Box) -> dict[str, Any]:
    lines: list[dict[str, Any]] = box.created["report"]
    (line,) = [line for line in lines if line["probe"] == proxy_cage.PROBE]
    return line


def test_a_running_proxy_is_in_it_and_the_report_says_so(daemon: Daemon, box: Box) -> None:
    line = report(box)
    assert line["ok"]
    assert "seccomp" in line["detail"]
    proxies = [
        status
        for pid in processes(daemon)
        if (status := _read(Path(f"/proc/{pid}/status"))).get("Name") == "lens-egress"
    ]
    assert proxies
    for status in proxies:
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["Groups"] == ""
        assert "0" not in status["Uid"].split()
        # Not dumpable: what is in /proc of it belongs to root, not to its user.
        assert Path(f"/proc/{status['Pid']}/environ").stat().st_uid == 0


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_a_proxy_that_is_not_in_it_is_told(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "30"]) as process:
        try:
            line = proxy_cage.probe(process.pid, root=True)
        finally:
            process.kill()
    assert not line["ok"]
    assert "Seccomp is 0" in line["detail"]
    assert not proxy_cage.probe(4_000_000, root=True)["ok"]
