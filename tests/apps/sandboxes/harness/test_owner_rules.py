"""The packet rules, as the kernel keeps them: real packets of real users in a network of ours."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apps.sandboxes.harness import owner_rules, preflight
from apps.sandboxes.harness.config import Config
from apps.sandboxes.harness.owner_rules import Rules, RulesError
from tests.apps.sandboxes.harness import launch
from tests.apps.sandboxes.harness.conftest import CHECKOUT, CLEAN, cannot, program
from tests.apps.sandboxes.harness.kinds import own_users, require_rules_program

if TYPE_CHECKING:
    from collections.abc import Callable

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


def bound(sock: socket.socket, place: tuple[str, int]) -> bool:
    try:
        sock.bind(place)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return False
    return True


def servers() -> list[socket.socket]:
    """All that could be reached; as root, whom the rules allow."""
    found = []
    for kind, places in ((socket.SOCK_STREAM, SERVERS), (socket.SOCK_DGRAM, DATAGRAMS)):
        for place in places:
            sock = socket.socket(family(place[0]), kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            while not bound(sock, place):
                time.sleep(0.01)  # a new IPv6 address is tentative for a moment
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


def reach(uid: int) -> list[str]:
    """Where that user gets. The rules let root's socket pass, whoever uses it."""
    with socket.socket() as control:
        found: list[str] = as_user(uid, lambda: reached(control))
    return found


def reached(control: socket.socket) -> list[str]:
    """TCP connections that are made, datagrams that are let go.

    No time is waited for. What passes the rules is delivered in turn, by one processor, where we
    stay: once `control`, which starts last, is connected, all others are that ever will be.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = []
    with contextlib.ExitStack() as stack:
        started = []
        for place in SERVERS:
            sock = stack.enter_context(socket.socket(family(place[0]), socket.SOCK_STREAM))
            sock.settimeout(0)
            sock.connect_ex(place)
            started.append((sock, place))
        control.settimeout(20)
        control.connect(("127.0.0.1", 22))
        for sock, place in started:
            with contextlib.suppress(OSError):
                sock.getpeername()
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
        sock.settimeout(30)
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
    seen: dict[str, Any] = {"before": reach(AGENT)}
    owner_rules.install(RULES, backend)
    owner_rules.install(RULES, backend)  # once more puts the same in its place
    seen["shown"] = owner_rules.show(backend)
    for name, uid in (("agent", AGENT), ("neighbour", NEIGHBOUR), ("proxy", PROXY),
                      ("stranger", STRANGER), ("root", 0)):  # fmt: skip
        seen[name] = reach(uid)
    listening[0].close()
    seen["transferred"] = _large_answer()
    owner_rules.remove(backend)
    seen["removed"] = owner_rules.show(backend)
    seen["after"] = reach(AGENT)
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


def elsewhere(backend: str, call: str) -> Any:
    """What a function of this module returns in a process of its own, which may change network."""
    if os.geteuid() != 0:
        cannot("packet rules need root")
    require_rules_program(backend)
    code = f"import json\nfrom {__name__} import *\nprint(json.dumps({call}))"
    done = subprocess.run(  # noqa: S603 our own interpreter
        [sys.executable, "-c", code], cwd=CHECKOUT, env=CLEAN, capture_output=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def verdict(backend: str, change: str, folder: str, users: dict[str, Any]) -> str:
    """The mode that a host has with these rules and a change to them, or why it has none."""
    launch.own_network()
    place = Path(folder)
    config = Config(
        place / "sock", place, place / "broker", mode="owner-rules", use_cgroups=False,
        homes=place / "homes", **users,
    )  # fmt: skip
    config.root_mount.mkdir()
    owner_rules.install(owner_rules.of(config, (0,)), backend)
    command = change.format(uid=config.sandbox_uid_base).split()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  as listed below
    spawner = preflight.open_spawner(config)
    host = preflight.examine(spawner)
    preflight.close_spawner(spawner)
    return host.mode or host.remedy


CHANGES = [
    ("nft", "nft list tables", "owner-rules"),
    ("nft", "nft flush chain inet lens_owner output", "the proxy's user cannot reach"),
    ("nft", "nft insert rule inet lens_owner output meta skuid {uid} tcp dport 18100 drop",
     "its own proxy, port 18100, is closed"),
    ("nft", "nft insert rule inet lens_owner output udp dport 53 accept", "a datagram of the"),
    ("iptables-nft", "ip6tables-nft -D OUTPUT -j LENS-OWNER", "the sandbox's user reached ::1"),
    ("iptables-legacy", "iptables-legacy -I OUTPUT 1 -o lo -j ACCEPT", "reached 127.0.0.1"),
]  # fmt: skip


@pytest.mark.isolation
@pytest.mark.parametrize(("backend", "change", "told"), CHANGES)
def test_rules_that_somebody_has_changed_are_noticed(
    backend: str, change: str, told: str, folder: Path
) -> None:
    """By sending: the rules themselves are not for sandboxd to read."""
    users = own_users()
    call = f"verdict({backend!r}, {change!r}, {str(folder)!r}, {users!r})"
    assert told in elsewhere(backend, call)


@pytest.mark.isolation
@pytest.mark.parametrize("backend", BACKENDS)
def test_who_reaches_what(backend: str) -> None:
    seen = elsewhere(backend, f"observe({backend!r})")
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
    assert set(seen["after"]) == set(everything) - {"tcp 127.0.0.1 18100"}  # closed meanwhile


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
