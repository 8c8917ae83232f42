"""Two ways to run the catalogue: our sandbox with its proxy, and stock proxy.py.

`Caged` puts the attacker where an agent is: into the network namespace of a real sandbox or, where
there is none, under the sandbox's user. sandboxd started the proxy; only the upstreams and the
credential broker are the tests' own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization

from apps.policies import codec
from apps.sandboxes.harness import owner_rules
from tests.apps.proxy.egress.conftest import HOSTS, SECRET, Agent, Rig, bundle, unix_listener
from tests.apps.sandboxes.harness import kinds
from tests.apps.sandboxes.harness import test_lifecycle as traces
from tests.apps.sandboxes.harness.conftest import CHECKOUT, Box, Daemon, start
from tests.attacks.elsewhere import Surroundings
from tests.attacks.world import World, socket_in
from tests.twins.ca import TwinCa
from tests.twins.egress import PROJECT, TOKEN, BrokerTwin, EgressTwin
from tests.twins.upstream import UpstreamTwin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps.policies.types import Bundle

_TLS = "127.0.0.1"


class _Upstreams(Rig):
    """The upstreams of the tests' rig, without their proxy."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        authority = TwinCa()
        self.upstream_ca = folder / "upstream-ca.pem"
        self.upstream_ca.write_text(authority.pem)
        self.up = stack.enter_context(UpstreamTwin(authority.issue(folder, *HOSTS)))
        (folder / "world").mkdir()
        self.world = World(stack, authority.issue(folder / "world", "*.wild.example.com"))
        self.plain = stack.enter_context(UpstreamTwin())
        self.stranger = stack.enter_context(UpstreamTwin(TwinCa().issue(folder, "x.example.com")))
        socket_file = folder / "platform.sock"
        self.platform = stack.enter_context(UpstreamTwin(listener=unix_listener(socket_file)))
        socket_file.chmod(0o666)
        self.upstreams = (
            self.up,
            self.plain,
            self.stranger,
            self.platform,
            self.world.upstream,
        )
        self.version = 1

    def places(self) -> dict[str, tuple[str, int]]:
        """Where each host of the rig is."""
        names = (*HOSTS, "ask.example.com", "wrong.wild.example.com")
        places = dict.fromkeys(names, (_TLS, self.up.port))
        places["plain.example.com:80"] = (_TLS, self.plain.port)
        places["evil.wild.example.com"] = (_TLS, self.stranger.port)
        return places

    def fresh(self) -> None:
        """Nothing seen yet."""
        for upstream in self.upstreams:
            upstream.reset()
        self.egress.mark()


class Caged(_Upstreams):
    """The rig in a real sandbox of a kind; `mutant` starts a sandboxd with one check switched off.

    Kinds: `tests.apps.sandboxes.harness.kinds`.
    """

    def __init__(
        self,
        folder: Path,
        stack: contextlib.ExitStack,
        kind: str = "namespace",
        mutant: str = "",
    ) -> None:
        super().__init__(folder, stack)
        (folder / "run").mkdir()
        broker = BrokerTwin(folder / "run" / "broker.sock")
        stack.callback(broker.close)
        broker.path.chmod(0o666)
        broker.values["cred-1"] = SECRET
        self.upstream_ca.chmod(0o644)
        settings: dict[str, Any] = {
            "address_map": {host: list(place) for host, place in self.places().items()},
            "upstream_ca_file": str(self.upstream_ca),
            "explain_url": "https://lens.test/decisions",
            "platform_socket": str(folder / "platform.sock"),
        }
        if kind == "namespace":
            module = ("tests.attacks.mutated", mutant) if mutant else None
            daemon = start(folder, module=module, **settings)
        else:
            daemon = kinds.run(kind, folder, here=True, **settings)
        stack.callback(daemon.stop)
        if kind == "owner-rules":  # they would drop what the sandboxes of the next kind send
            stack.callback(owner_rules.remove, "auto")
        self.daemon = daemon
        self.box: Box = daemon.create(
            bundle=codec.to_obj(bundle(self.version)),
            token=TOKEN,
            identity={"project_slug": PROJECT},
            allow_degraded=True,
        )
        self.egress = _Sandboxed(daemon, self.box, broker)
        self._place = _place_of(daemon, self.box, shared=kinds.KINDS[kind].shared, stack=stack)
        self.surroundings = Surroundings.of(kind, self.box)
        self.egress.ca_pem = self.box.run('cat "$SSL_CERT_FILE"').out.decode()
        self.context = ssl.create_default_context(cadata=self.egress.ca_pem)
        # A missing check may leave the proxy waiting for what never comes.
        self.patience = 3.0 if mutant else 15.0

    @contextlib.contextmanager
    def agent(self) -> Iterator[Agent]:
        """An agent whose socket was made in the sandbox's network."""
        agent = _Inside(self._place, self.patience)
        try:
            yield agent
        finally:
            agent.close()


@dataclass(frozen=True)
class _Place:
    """Where an agent's sockets come from: a network namespace, or else a user; and its proxy."""

    port: int
    space: int | None
    user: int

    def socket(self) -> socket.socket:
        if self.space is not None:
            return socket_in(self.space)
        libc = ctypes.CDLL(None)
        libc.setfsuid(self.user)  # of this thread
        try:
            return socket.socket()
        finally:
            libc.setfsuid(0)


def _place_of(daemon: Daemon, box: Box, *, shared: bool, stack: contextlib.ExitStack) -> _Place:
    proxy, user = box.run("echo $HTTP_PROXY; id -u").text.split()
    port = int(proxy.rstrip("/").rpartition(":")[2])
    space = None
    if not shared:
        space = os.open(_network_of(daemon), os.O_RDONLY)
        stack.callback(os.close, space)
    return _Place(port, space, int(user))


class _Inside(Agent):
    def __init__(self, place: _Place, patience: float) -> None:
        self.sock = place.socket()
        self.sock.settimeout(patience)
        self.sock.connect(("127.0.0.1", place.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""


def _network_of(daemon: Daemon) -> str:
    """The network namespace of the only sandbox, by the process that is in it."""
    ours = Path("/proc/self/ns/net").readlink()
    for pid in traces.processes(daemon):
        with contextlib.suppress(OSError):
            if (path := Path(f"/proc/{pid}/ns/net")).readlink() != ours:
                return str(path)
    raise AssertionError("the sandbox has no network of its own")


class _Sandboxed(EgressTwin):
    """What the tests ask of a proxy, answered by sandboxd and the sandbox's spool."""

    def __init__(self, daemon: Daemon, box: Box, broker: BrokerTwin) -> None:
        self._daemon, self._box = daemon, box
        self.broker = broker
        self.spool_dir = daemon.spool / box.id
        self._marked = 0

    def apply(self, bundle: Bundle) -> dict[str, Any]:
        path = f"/v1/sandboxes/{self._box.id}/bundle"
        status, answer = self._daemon.call("PUT", path, codec.to_obj(bundle))
        assert status == 200, answer
        return {"op": "applied", "version": answer["applied"]}

    def memory_kb(self, name: str = "VmRSS") -> int:
        """A memory figure of the sandbox's proxy, which has a user of its own, in kB."""
        for pid in traces.processes(self._daemon):
            text = Path(f"/proc/{pid}/status").read_text()
            fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            if fields["Name"] == "lens-egress":
                return int(fields[name].split()[0])
        raise AssertionError("the sandbox has no proxy")

    def events(self) -> list[dict[str, Any]]:
        """As in the twin; a line that is being written is left for the next look."""
        lines: list[str] = []
        for path in sorted(self.spool_dir.iterdir()):
            lines += path.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in lines]


class Stock(_Upstreams):
    """Stock proxy.py with interception, asked for the same decisions by a plugin of its kind."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        super().__init__(folder, stack)
        signing = TwinCa()
        key = signing.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        (folder / "ca.key").write_bytes(key)
        (folder / "ca.crt").write_text(signing.pem)
        (folder / "bundle").write_bytes(codec.encode(bundle()))
        places = {host: list(place) for host, place in self.places().items()}
        (folder / "places").write_text(repr(places))
        self.egress = _Silent()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        subprocess.run(["openssl", "genrsa", "-out", folder / "sign.key", "2048"],  # noqa: S603, S607
                       check=True, capture_output=True)  # fmt: skip
        command = [
            sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", str(self.port),
            "--num-acceptors", "1", "--num-workers", "1", "--log-level", "CRITICAL",
            "--data-dir", str(folder), "--ca-cert-dir", str(folder),
            "--ca-key-file", str(folder / "ca.key"), "--ca-cert-file", str(folder / "ca.crt"),
            "--ca-signing-key-file", str(folder / "sign.key"),
            "--ca-file", str(self.upstream_ca), "--plugins", "tests.attacks.stock_plugin.Policy",
        ]  # fmt: skip
        process = subprocess.Popen(  # noqa: S603  ours
            command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LENS_STOCK": str(folder)},
            start_new_session=True,
        )  # fmt: skip
        stack.callback(process.wait, 10)
        # It may be stuck in what a case sent: the session that we started, as a whole.
        stack.callback(os.killpg, process.pid, signal.SIGKILL)
        self.egress.ca_pem = signing.pem
        self.context = ssl.create_default_context(cadata=signing.pem)
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.05)
        raise AssertionError("stock proxy.py did not start")

    @contextlib.contextmanager
    def agent(self) -> Iterator[Agent]:
        """An agent that is less patient: stock hangs on much of this."""
        agent = Agent(self.port)
        agent.sock.settimeout(0.5)
        try:
            yield agent
        finally:
            agent.close()

    def answers(self) -> bool:
        """Whether it still does; a case may have stuck it, and the next deserves a fresh one."""
        try:
            return self.get("api.example.com", "/open/x").status == 200
        except (OSError, EOFError):
            return False

    def apply(self, *_: object, **__: object) -> None:
        """The policy stays: stock is told once."""


class _Silent(EgressTwin):
    """No audit and no broker."""

    def __init__(self) -> None:
        self.ca_pem = ""

    def mark(self) -> None:
        """Nothing is recorded."""

    def event(self, *_: object, **__: object) -> dict[str, Any]:
        raise AssertionError("stock proxy.py has no audit")

    def wait_for_event(self, *_: object, **__: object) -> dict[str, Any]:
        return self.event()

    def events(self) -> list[dict[str, Any]]:
        return []
