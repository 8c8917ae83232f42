"""The egress proxy beside mitmdump, squid ssl-bump and stock proxy.py, in one run, interleaved.

Everything happens in a network namespace of its own, with a TLS server on 127.0.0.1:443. `bare` is
interception and policy; ours always writes its audit event too. `governed` adds an injected
credential (and audit, for the peers). Versions and configurations of the peers: benchmarks/peers/.
A peer that is not installed is named, and its figures are null.

    build/peers/mitmproxy: python -m venv build/peers/mitmproxy
                           build/peers/mitmproxy/bin/pip install mitmproxy==11.0.2
    squid:                 apt install squid-openssl
    proxy.py:              requirements/sandbox.txt
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization

from apps.policies.types import (
    Action,
    Binding,
    Bundle,
    DomainRule,
    HttpRule,
    Injection,
    Layer,
    LayerKind,
)
from benchmarks.peers import load
from benchmarks.peers.load import HOST, Way
from benchmarks.report import figures, p50, table
from tests.apps.sandboxes.harness.conftest import start
from tests.twins.ca import TwinCa
from tests.twins.egress import EgressTwin

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent / "peers"
MITMDUMP = Path("build/peers/mitmproxy/bin/mitmdump")
FRESH_HOSTS, SIZE = 24, 256 << 20
PORTS = iter(range(3201, 3300))
PROXY_UIDS = range(950_000, 951_000)


def main() -> None:
    """Measure and print; starts itself again inside namespaces of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="short rounds, to see that it works")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is None:
        sys.exit(_enter(smoke=options.smoke))
    folder = Path(options.inside)
    with contextlib.ExitStack() as stack:
        Bench(folder, stack, smoke=options.smoke).run()


def _enter(*, smoke: bool) -> int:
    """Run in new network and mount namespaces in which the bench's host names resolve."""
    with tempfile.TemporaryDirectory(prefix="lens-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        hosts = ["localhost", HOST, *fresh_hosts()]
        (folder / "hosts").write_text("".join(f"127.0.0.1 {host}\n" for host in hosts))
        script = f'ip link set lo up && mount --bind {folder}/hosts /etc/hosts && exec "$@"'
        command = ["unshare", "-nm", "sh", "-c", script, "sh", sys.executable, "-m"]
        command += ["benchmarks.egress", "--inside", name, *(["--smoke"] if smoke else [])]
        return subprocess.run(command, check=False).returncode  # noqa: S603  ourselves


def fresh_hosts() -> list[str]:
    """Names that no proxy has seen, a few for each way."""
    return [f"h{number}.bench.test" for number in range(FRESH_HOSTS * 8)]


class Bench:
    """The server, every way to it, and what each took."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, *, smoke: bool) -> None:
        self.folder, self.stack = folder, stack
        self.rounds, self.seconds = (1, 0.3) if smoke else (3, 1.5)
        self.fresh = 3 if smoke else FRESH_HOSTS
        self.size = 16 << 20 if smoke else SIZE
        self.missing: list[str] = []
        self.versions: list[str] = []
        self.authority = TwinCa()
        self._certificates()
        self._serve()
        self.ours: dict[str, EgressTwin] = {}
        self.ways = [Way("direct", None, str(folder / "upstream-ca.pem"))]
        self.ways += [way for way in self._ways() if way]
        self.latencies: dict[tuple[str, int], list[list[float]]] = {}
        self.new: dict[str, list[float]] = {}
        self.speed: dict[str, list[float | None]] = {}

    def _certificates(self) -> None:
        """The server's, for every host, and an authority for the peers to sign with."""
        (self.folder / "upstream-ca.pem").write_text(self.authority.pem)
        self.pem = self.authority.issue(self.folder, HOST, *fresh_hosts())
        signing = TwinCa()
        key = signing.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        (self.folder / "ca.key").write_bytes(key)
        (self.folder / "ca.crt").write_text(signing.pem)
        (self.folder / "ca.pem").write_bytes(key + signing.pem.encode())

    def _serve(self) -> None:
        fork = multiprocessing.get_context("fork")
        for _ in range(2):
            server = fork.Process(target=load.serve, args=(self.pem,), daemon=True)
            server.start()
            self.stack.callback(server.kill)
        wait_for(443)

    def _ways(self) -> Iterator[Way | None]:
        yield self._lens("lens bare", governed=False)
        yield self._lens("lens governed", governed=True)
        yield self._mitm("mitmdump bare", governed=False)
        yield self._mitm("mitmdump governed", governed=True)
        yield self._squid()
        yield self._stock()

    def _lens(self, name: str, *, governed: bool) -> Way:
        folder = self.folder / name.replace(" ", "-")
        folder.mkdir()
        places = dict.fromkeys([HOST, *fresh_hosts()], ("127.0.0.1", 443))
        ca = self.folder / "upstream-ca.pem"
        twin = self.stack.enter_context(EgressTwin(folder, address_map=places, upstream_ca_file=ca))
        twin.broker.values["cred-1"] = "a-credential-of-32-characters-00"
        assert twin.apply(bundle(governed=governed))["op"] == "applied"
        self.ours[name] = twin
        return Way(name, twin.port, str(twin.ca_file), twin.process.pid)

    def _mitm(self, name: str, *, governed: bool) -> Way | None:
        if not MITMDUMP.exists():
            self.missing.append(f"{name}: no {MITMDUMP}")
            return None
        folder = self.folder / name.replace(" ", "-")
        folder.mkdir()
        shutil.copy(self.folder / "ca.pem", folder / "mitmproxy-ca.pem")
        port = next(PORTS)
        roots = self.folder / "upstream-ca.pem"
        options = [f"confdir={folder}", f"ssl_verify_upstream_trusted_ca={roots}",
                   "connection_strategy=lazy", "http2=false"]  # fmt: skip
        command = [str(MITMDUMP), "-q", "--listen-host", "127.0.0.1", "-p", str(port),
                   "-s", str(HERE / "mitm_addon.py")]  # fmt: skip
        for option in options:
            command += ["--set", option]
        environment = {"LENS_BENCH_GOVERNED": "1" if governed else "0",
                       "LENS_BENCH_AUDIT": str(folder / "audit")}  # fmt: skip
        return self._program(name, port, command, environment)

    def _squid(self) -> Way | None:
        squid = shutil.which("squid", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        certgen = "/usr/lib/squid/security_file_certgen"
        if squid is None or not Path(certgen).exists():
            self.missing.append("squid ssl-bump: apt install squid-openssl")
            return None
        folder = self.folder / "squid"
        folder.mkdir()
        for name in ("ca.pem", "upstream-ca.pem", "hosts"):
            shutil.copy(self.folder / name, folder / name)
        subprocess.run([certgen, "-c", "-s", folder / "ssl_db", "-M", "16MB"],  # noqa: S603
                       check=True, capture_output=True)  # fmt: skip
        user = "proxy"
        record = pwd.getpwnam(user)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, record.pw_uid, record.pw_gid)
        port = next(PORTS)
        values = {"port": port, "folder": folder, "user": user, "governed": "access_log none"}
        text = (HERE / "squid.conf").read_text().split("\n", 1)[1].format(**values)
        (folder / "squid.conf").write_text(text)
        self.versions.append(version(squid, "-v"))
        return self._program(
            "squid ssl-bump", port, [squid, "-N", "-f", str(folder / "squid.conf")]
        )

    def _stock(self) -> Way | None:
        folder = self.folder / "stock"
        folder.mkdir()
        subprocess.run(["openssl", "genrsa", "-out", folder / "sign.key", "2048"],  # noqa: S603, S607
                       check=True, capture_output=True)  # fmt: skip
        port = next(PORTS)
        ca = str(self.folder / "ca.crt")
        command = [
            sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", str(port),
            "--num-acceptors", "1", "--num-workers", "1", "--log-level", "ERROR",
            "--data-dir", str(folder), "--ca-cert-dir", str(folder),
            "--ca-key-file", str(self.folder / "ca.key"), "--ca-cert-file", ca,
            "--ca-signing-key-file", str(folder / "sign.key"),
            "--ca-file", str(self.folder / "upstream-ca.pem"),
        ]  # fmt: skip
        self.versions.append(f"proxy.py {version(sys.executable, '-m', 'proxy', '--version')}")
        return self._program("stock proxy.py", port, command)

    def _program(
        self, name: str, port: int, command: list[str], environment: dict[str, str] | None = None
    ) -> Way | None:
        """Start a peer; what does not begin to listen is missing."""
        folder = self.folder
        log = (folder / f"{port}.log").open("wb")
        process = subprocess.Popen(  # noqa: S603  a peer, from a list
            command, stdout=log, stderr=log, start_new_session=True,
            env={"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(folder), **(environment or {})},
        )  # fmt: skip
        self.stack.callback(stop, process)
        way = Way(name, port, str(self.folder / "ca.crt"), process.pid)
        try:
            wait_for(port)
            load.new_host(way, HOST)
        except (OSError, EOFError) as error:
            said = (self.folder / f"{port}.log").read_text()[-300:]
            self.missing.append(f"{name}: {error} {said}")
            return None
        return way

    def run(self) -> None:
        """Every measurement, ways interleaved."""
        if MITMDUMP.exists():
            self.versions.append(version(str(MITMDUMP), "--version"))
        uss = self._idle_uss()
        for connections in (1, 8):
            for _ in range(self.rounds):
                for way in self.ways:
                    taken = load.drive(way, connections, self.seconds)
                    self.latencies.setdefault((way.name, connections), []).append(taken)
        children = self._new_hosts()
        growth = self._downloads()
        self._report(children, growth, uss)

    def _new_hosts(self) -> int:
        """New hosts through every way; how often our proxy had a child."""
        names = iter(fresh_hosts())
        pid = self.ours["lens bare"].process.pid
        before, alive = child_faults(pid), 0
        for _ in range(self.fresh):
            for way in self.ways:
                self.new.setdefault(way.name, []).append(load.new_host(way, next(names)))
            alive += bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())
        return alive + int(child_faults(pid) > before)

    def _downloads(self) -> float:
        """Large answers; by how much our proxy grew, MB."""
        ours = self.ours["lens bare"]
        grown = 0.0
        for _ in range(self.rounds):
            for way in self.ways:
                before = ours.memory_kb()
                self.speed.setdefault(way.name, []).append(load.download(way, self.size, 20))
                if way.name == "lens bare":
                    grown = max(grown, (ours.memory_kb("VmHWM") - before) / 1024)
        return grown

    def _idle_uss(self) -> float:
        """Private memory of an idle proxy as a sandbox has it, forked from the zygote; MB."""
        folder = self.folder / "daemon"
        folder.mkdir(mode=0o711)
        daemon = start(folder, sandbox_uid_base=900_000, proxy_uid_base=PROXY_UIDS.start)
        try:
            for _ in range(3):
                daemon.create()
            return p50([private_mb(pid) for pid in running_as(PROXY_UIDS)])
        finally:
            daemon.stop()

    def _rps(self, name: str, connections: int) -> float | None:
        rounds = self.latencies.get((name, connections))
        return None if rounds is None else p50([len(taken) / self.seconds for taken in rounds])

    def _p50(self, name: str, connections: int = 1) -> float | None:
        rounds = self.latencies.get((name, connections))
        return None if rounds is None else p50([p50(taken) for taken in rounds]) * 1000

    def _mbps(self, name: str) -> float | None:
        done = [value for value in self.speed.get(name, []) if value]
        return p50(done) / 1e6 if done else None

    def _row(self, name: str) -> list[str]:
        found = [self._rps(name, 1), self._p50(name), self._rps(name, 8), self._p50(name, 8),
                 p50(self.new[name]) * 1000, self._mbps(name)]  # fmt: skip
        digits = (0, 3, 0, 3, 1, 0)
        return ["-" if v is None else f"{v:.{n}f}" for v, n in zip(found, digits, strict=True)]

    def _report(self, children: int, growth: float, uss: float) -> None:
        head = ["way", "rps 1", "p50 ms", "rps 8", "p50 ms", "new host ms", "MB/s"]
        table("egress", head, [[way.name, *self._row(way.name)] for way in self.ways])
        print(f"\n  {'; '.join(self.versions)}; load {os.getloadavg()[0]:.1f}")
        for line in self.missing:
            print(f"  not measured: {line}")
        one, eight = (
            over(self._rps("lens bare", n), self._rps("squid ssl-bump", n)) for n in (1, 8)
        )
        figures(
            rps_vs_mitmdump=over(self._rps("lens bare", 1), self._rps("mitmdump bare", 1)),
            rps_vs_mitmdump_8=over(self._rps("lens bare", 8), self._rps("mitmdump bare", 8)),
            rps_vs_mitmdump_governed=over(
                self._rps("lens governed", 1), self._rps("mitmdump governed", 1)
            ),
            rps_vs_squid_bump=None if one is None or eight is None else min(one, eight),
            rps_vs_squid_bump_1=one,
            rps_vs_squid_bump_8=eight,
            rps_vs_stock=over(self._rps("lens bare", 1), self._rps("stock proxy.py", 1)),
            added_p50_ms=self._added("lens bare"),
            added_p50_vs_squid_bump=over(self._added("lens bare"), self._added("squid ssl-bump")),
            new_host_vs_mitmdump=over(self._new("lens bare"), self._new("mitmdump bare")),
            new_host_vs_stock=over(self._new("lens bare"), self._new("stock proxy.py")),
            download_vs_direct=over(self._mbps("lens bare"), self._mbps("direct")),
            download_256mb_rss_growth_mb=growth if self.size == SIZE else None,
            subprocesses_per_new_host=children / self.fresh,
            idle_uss_mb=uss,
        )

    def _added(self, name: str) -> float | None:
        bare, through = self._p50("direct"), self._p50(name)
        return None if bare is None or through is None else through - bare

    def _new(self, name: str) -> float | None:
        return p50(self.new[name]) if name in self.new else None


def bundle(*, governed: bool) -> Bundle:
    """The policy that the peers' configurations also say."""
    rules = (HttpRule("no", "*", "/admin/**", Action.DENY),
             HttpRule("get", "GET", "/**", Action.ALLOW),
             HttpRule("post", "POST", "/**", Action.ALLOW))  # fmt: skip
    domain = DomainRule("bench", "*.bench.test", Action.ALLOW, rules)
    layer = Layer(LayerKind.TEAM, "t", "t", domains=(domain,))
    bound = Binding("b", "cred-1", "token", HOST, Injection.BEARER, (HOST,))
    return Bundle(1, 1, (layer,), (bound,) if governed else ())


def over(ours: float | None, theirs: float | None) -> float | None:
    """A ratio, of what was measured."""
    return None if ours is None or not theirs else ours / theirs


def wait_for(port: int, seconds: float = 20) -> None:
    """Until something listens there; raises OSError."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a peer and its helpers: the session that we started it in."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait(10)


def version(*command: str) -> str:
    """The first line that a program says of itself."""
    said = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return (said.stdout or said.stderr).split("\n", 1)[0].strip()


def child_faults(pid: int) -> int:
    """Minor page faults of children that a process has waited for: more when it had another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[8])


def running_as(users: range) -> list[int]:
    """Processes of these users."""
    numbers = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [int(path.name) for path in numbers if _user(path) in users]


def _user(path: Path) -> int:
    with contextlib.suppress(OSError):
        return int(re.findall(r"^Uid:\t(\d+)", (path / "status").read_text(), re.MULTILINE)[0])
    return -1


def private_mb(pid: int) -> float:
    """Memory that is a process's alone (USS), MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kb) for kb in re.findall(r"Private_\w+:\s+(\d+)", text)) / 1024


if __name__ == "__main__":
    main()
