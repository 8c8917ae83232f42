"""The packet rules, as the kernel keeps them: real packets of real users in a network of ours."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from apps.sandboxes.harness import owner_rules
from apps.sandboxes.harness.owner_rules import Rules, RulesError
from tests.apps.sandboxes.harness import launch
from tests.apps.sandboxes.harness.conftest import CHECKOUT, CLEAN, cannot, program
from tests.apps.sandboxes.harness.kinds import require_rules_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RULES = Rules(70_000, 71_000, 18_100, 3, allowed=(0,))
AGENT, NEIGHBOUR, PROXY, STRANGER = 70_000, 70_001, 71_000, 12_345
OUTSIDE, METADATA, RESOLVER = "1.1.1.1", "169.254.169.254", "127.0.0.53"
OUTSIDE_6, METADATA_6 = "2606:4700::1111", "fd00:ec2::254"
OWN_4, OWN_6 = ("127.0.0.1", 18_100), ("::1", 18_100)
NEIGHBOURS = ("127.0.0.1", 18_101)
SERVERS = (
    OWN_4, OWN_6, NEIGHBOURS, ("127.0.0.1", 22), ("::1", 22), ("127.0.0.1", 53), (OUTSIDE, 443),
    (OUTSIDE, 18_100), (OUTSIDE_6, 443), (METADATA, 80), (METADATA_6, 80),
)  # fmt: skip
DATAGRAMS = (
    ("127.0.0.1", 53), ("::1", 53), (RESOLVER, 53), (OUTSIDE, 53), (OUTSIDE, 443), (OUTSIDE_6, 53),
    ("127.0.0.1", 18_100),
)  # fmt: skip
BACKENDS = ("nft", "iptables-nft", "iptables-legacy")


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def add_addresses() -> None:
    """The Internet, as far as these tests go, is on our own loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number, address in enumerate((OUTSIDE, METADATA)):
            name = f"lo:{number}".encode()
            head = struct.pack("16sH2x4s8x", name, socket.AF_INET, socket.inet_aton(address))
            fcntl.ioctl(sock, 0x8916, head)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        for address in (OUTSIDE_6, METADATA_6):
            packed = socket.inet_pton(socket.AF_INET6, address)
            fcntl.ioctl(sock, 0x8916, packed + struct.pack("=Ii", 128, socket.if_nametoindex("lo")))


def servers() -> list[socket.socket]:
    """All that could be reached; as root, whom the rules allow."""
    found = []
    for kind, places in ((socket.SOCK_STREAM, SERVERS), (socket.SOCK_DGRAM, DATAGRAMS)):
        for place in places:
            sock = socket.socket(family(place[0]), kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for _ in range(200):  # a new IPv6 address is tentative for a moment
                with contextlib.suppress(OSError):
                    sock.bind(place)
                    break
            if kind == socket.SOCK_STREAM:
                sock.listen(64)
            found.append(sock)
    return found


def as_user(uid: int, work: Callable[[], Any]) -> Any:
    """What `work` finds when that user does it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        told = json.loads(file.read())
    os.waitpid(pid, 0)
    return told


def reached() -> list[str]:
    """Where one gets: TCP connections that are made, datagrams that are let go."""
    found = []
    for place in SERVERS:
        with socket.socket(family(place[0]), socket.SOCK_STREAM) as sock:
            sock.settimeout(0.05)
            with contextlib.suppress(OSError):
                sock.connect(place)
                found.append(f"tcp {place[0]} {place[1]}")
    for place in DATAGRAMS:
        with (
            socket.socket(family(place[0]), socket.SOCK_DGRAM) as sock,
            contextlib.suppress(OSError),
        ):
            sock.sendto(b"x", place)
            found.append(f"udp {place[0]} {place[1]}")
    return found


def transferred() -> int:
    """How much arrives of what a server sends before it closes: the end of a connection has no
    user any more, and must not be dropped."""
    with socket.socket() as sock:
        sock.settimeout(5)
        sock.connect(OWN_4)
        total = 0
        while chunk := sock.recv(65_536):
            total += len(chunk)
        return total


def observe(backend: str) -> dict[str, Any]:
    """Everything there is to see, in a network of our own. Runs in a process of its own."""
    launch.own_network()
    add_addresses()
    listening = servers()
    seen: dict[str, Any] = {"before": as_user(AGENT, reached)}
    owner_rules.install(RULES, backend)
    owner_rules.install(RULES, backend)  # once more puts the same in its place
    seen["shown"] = owner_rules.show(backend)
    for name, uid in (("agent", AGENT), ("neighbour", NEIGHBOUR), ("proxy", PROXY),
                      ("stranger", STRANGER), ("root", 0)):  # fmt: skip
        seen[name] = as_user(uid, reached)
    listening[0].close()
    seen["transferred"] = _large_answer()
    owner_rules.remove(backend)
    seen["removed"] = owner_rules.show(backend)
    seen["after"] = as_user(AGENT, reached)
    owner_rules.remove(backend)  # no rules are no error
    return seen


def _large_answer() -> int:
    """As a proxy does: the last write of a large body, then close."""
    os.seteuid(PROXY)
    server = socket.create_server(OWN_4)
    os.seteuid(0)
    pid = os.fork()
    if pid == 0:
        os.setresuid(PROXY, PROXY, PROXY)
        conn, _ = server.accept()
        conn.sendall(bytes(3_000_000))
        conn.close()
        os._exit(0)
    server.close()
    total: int = as_user(AGENT, transferred)
    os.waitpid(pid, 0)
    return total


@pytest.mark.isolation
@pytest.mark.parametrize("backend", BACKENDS)
def test_who_reaches_what(backend: str) -> None:
    if os.geteuid() != 0:
        cannot("packet rules need root")
    require_rules_program(backend)
    code = f"import json\nfrom {__name__} import observe\nprint(json.dumps(observe({backend!r})))"
    done = subprocess.run(  # noqa: S603 our own interpreter
        [sys.executable, "-c", code], cwd=CHECKOUT, env=CLEAN, capture_output=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)
    everything = seen["before"]
    assert len(everything) == len(SERVERS) + len(DATAGRAMS)
    assert seen["agent"] == ["tcp 127.0.0.1 18100", "tcp ::1 18100"]
    assert seen["neighbour"] == ["tcp 127.0.0.1 18101"]
    metadata = {f"tcp {METADATA} 80", f"tcp {METADATA_6} 80"}
    assert set(seen["proxy"]) == set(everything) - metadata
    assert seen["stranger"] == []
    assert seen["root"] == everything
    assert "18100" in seen["shown"]
    assert seen["transferred"] == 3_000_000
    assert seen["removed"] == ""
    assert seen["after"] != []


def test_the_same_slot_is_the_same_door_everywhere() -> None:
    assert RULES.doors == [(70_000, 18_100), (70_001, 18_101), (70_002, 18_102)]
    assert "70000 . 18100, 70001 . 18101, 70002 . 18102" in owner_rules.for_nft(RULES)
    assert "policy drop" in owner_rules.for_nft(RULES)
    for version, local in ((4, "127.0.0.1"), (6, "::1")):
        text = owner_rules.for_iptables(RULES, version=version, jump=True)
        assert f"-o lo -d {local} -p tcp --dport 18101 -m owner --uid-owner 70001 -j ACCEPT" in text
        assert "-I OUTPUT 1" in text
        assert "-I OUTPUT 1" not in owner_rules.for_iptables(RULES, version=version, jump=False)


def test_a_sandboxs_user_is_never_allowed_everything() -> None:
    with pytest.raises(RulesError, match="--allow 200001: is the user of a sandbox"):
        owner_rules.of(owner_rules.DEFAULTS, (200_001,))
    assert owner_rules.of(owner_rules.DEFAULTS, (1000,)).allowed == (1000,)


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_rules, "_PATH", "/nonexistent")
    with pytest.raises(RulesError, match="Install the package nftables"):
        owner_rules.found("auto")
    with pytest.raises(RulesError, match="iptables-legacy: not installed"):
        owner_rules.found("iptables-legacy")


def test_the_command(tmp_path: Path) -> None:
    command = ("-m", "apps.sandboxes.harness.owner_rules")
    wrong = tmp_path / "sandboxd.json"
    wrong.write_text('{"mode": "none"}')
    done = program(*command, "show", "--config", str(wrong))
    assert done.returncode == 2
    assert b"mode: must be one of auto, namespace, owner-rules, degraded" in done.stderr
    done = program(*command, "install", "--allow", "200000")
    assert done.returncode == 1
    assert b"is the user of a sandbox" in done.stderr
