"""A sandbox beside `bwrap` doing the same, in one run and interleaved.

The same: fresh namespaces of every kind, a root of its own with a read-only `/usr`, `/proc`, `/dev`
and memory file systems, and `true` in a shell. `bwrap` does no more than that; a sandbox of ours
also gets control groups, seccomp, Landlock, a self-test and an egress proxy with its own authority.

- `bwrap`: start, run, end (it has no warm state);
- `harness`: our code called in a process of its own (`harness_host`): create, with nothing of the
  sandbox made ahead, and exec in a warm sandbox;
- `sandboxd`: the same asked over its socket;
- `platform`: exec asked over MCP of a running platform, with authentication, policy and audit;
- `first injected https`: from nothing to the answer of a request that got a credential, beside
  `srt true` (npm @anthropic-ai/sandbox-runtime, looked for in build/peers/srt);
- leaks: what is left after many lives: processes, mounts, namespaces, groups, files, descriptors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.policies import codec
from apps.policies.types import Action, Binding, Bundle, DomainRule, Injection, Layer, LayerKind
from apps.sandboxes.client import AsyncSandboxd
from benchmarks import chain
from benchmarks.report import figures, p50, p95, table
from tests.apps.sandboxes.harness import test_lifecycle as traces
from tests.apps.sandboxes.harness.conftest import Daemon, open_descriptors, start, until
from tests.twins.ca import TwinCa
from tests.twins.egress import TOKEN, BrokerTwin
from tests.twins.upstream import UpstreamTwin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcp import Client

HOST = "cred.example.com"
ROUNDS, SMOKE_ROUNDS = 60, 5
LIVES, SMOKE_LIVES = 1000, 20
SRT = Path("build/peers/srt/node_modules/.bin/srt")
BWRAP = (
    "bwrap", "--unshare-all", "--die-with-parent", "--new-session",
    "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
    "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",  # noqa: S108  inside
    "--tmpfs", "/workspace", "--chdir", "/workspace", "/bin/sh", "-c", "true",
)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="a few rounds, to see that it works")
    smoke = parser.parse_args().smoke
    if shutil.which("bwrap") is None:
        sys.exit("bwrap is missing: apt install bubblewrap")
    with tempfile.TemporaryDirectory(prefix="lens-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with harness(folder / "harness") as host, sandboxd(folder / "daemon") as daemon:
            told = Told(host, daemon, SMOKE_ROUNDS if smoke else ROUNDS)
            chain.on_a_platform(told.measure)
            told.report(leaks(folder, SMOKE_LIVES if smoke else LIVES))


class Harness:
    """Our end of a `harness_host`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, call: str) -> float:
        """Have it make one call; the milliseconds that it took there."""
        return float(self._say(call))

    def begin(self, folder: Path) -> None:
        """Until its warm sandbox is there."""
        told = self._say(json.dumps({"folder": str(folder), "bundle": bundle()}))
        assert told == "ready\n", told

    def _say(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        return self.process.stdout.readline()


@contextlib.contextmanager
def harness(folder: Path) -> Iterator[Harness]:
    """The harness in a process that has loaded nothing else."""
    folder.mkdir(mode=0o711)
    command = [sys.executable, "-m", "benchmarks.harness_host"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603  ours
        host = Harness(process)
        host.begin(folder)
        yield host
        assert process.stdin is not None
        process.stdin.close()


@contextlib.contextmanager
def sandboxd(folder: Path) -> Iterator[Daemon]:
    """A sandboxd whose sandboxes reach a twin of an API and get its credential injected."""
    (folder / "run").mkdir(parents=True)
    folder.chmod(0o711)
    authority = TwinCa()
    roots = folder / "twin-ca.pem"
    roots.write_text(authority.pem)
    broker = BrokerTwin(folder / "run" / "broker.sock")
    broker.path.chmod(0o666)
    broker.values["cred-1"] = "a-token-of-at-least-sixteen-bytes"
    with UpstreamTwin(authority.issue(folder, HOST)) as twin:
        places = {HOST: ["127.0.0.1", twin.port]}
        daemon = start(folder, address_map=places, upstream_ca_file=str(roots))
        try:
            yield daemon
        finally:
            daemon.stop()
            broker.close()


def bundle() -> dict[str, Any]:
    """One allowed host with a credential."""
    layer = Layer(LayerKind.TEAM, "t", "t", domains=(DomainRule("r", HOST, Action.ALLOW),))
    bound = Binding("b", "cred-1", "the token", HOST, Injection.BEARER, (HOST,))
    return codec.to_obj(Bundle(1, 1, (layer,), (bound,)))


def timed(action: Callable[[], object]) -> float:
    """How long it took, ms."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def program(*command: str) -> None:
    """Run it; it must succeed."""
    subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: S603  ours


class Told:
    """All stages and what they took."""

    def __init__(self, host: Harness, daemon: Daemon, rounds: int) -> None:
        self.host, self.daemon, self.rounds = host, daemon, rounds
        self.taken: dict[str, list[float]] = {}
        self.missing = ""
        self.box = daemon.create(bundle=bundle(), token=TOKEN)

    def _note(self, name: str, took: float) -> None:
        self.taken.setdefault(name, []).append(took)

    async def measure(self, client: Client) -> None:
        """Every stage once a round, so that a busy machine slows all alike."""
        asked = AsyncSandboxd(self.daemon.socket)
        await chain.call(client, "true")  # the platform's sandbox is warm from here on
        for _ in range(self.rounds):
            self._note("bwrap", timed(lambda: program(*BWRAP)))
            self._note("harness exec, warm", self.host.ask("exec"))
            started = time.perf_counter()
            await asked.call(self.box.id, "exec", {"command": "true"}, seconds=30)
            self._note("sandboxd exec, warm", (time.perf_counter() - started) * 1000)
            self._note("platform exec, warm", (await chain.call(client, "true"))[0])
            self._note("harness create", self.host.ask("create"))
            self._note("harness destroy", self.host.ask("destroy"))
            self._daemon_life()
        asked.close()
        if self._srt_works():
            for _ in range(min(self.rounds, 12)):
                self._note("srt true", timed(lambda: program(str(SRT), "true")))
                self._first_injected()

    def _srt_works(self) -> bool:
        """Whether there is one, and it runs (it also needs socat and ripgrep); says what not."""
        if not SRT.exists():
            self.missing = "npm install --prefix build/peers/srt @anthropic-ai/sandbox-runtime"
            return False
        tried = subprocess.run([SRT, "true"], capture_output=True, text=True, check=False)  # noqa: S603
        self.missing = tried.stderr.strip() if tried.returncode else ""
        return not tried.returncode

    def _daemon_life(self) -> None:
        started = time.perf_counter()
        box = self.daemon.create(bundle=bundle(), token=TOKEN)
        self._note("sandboxd create", (time.perf_counter() - started) * 1000)
        box.delete()

    def _first_injected(self) -> None:
        """From nothing to the twin's answer, with the credential in the request."""
        started = time.perf_counter()
        box = self.daemon.create(bundle=bundle(), token=TOKEN)
        done = box.run(f"curl -sS https://{HOST}/echo")
        self._note("first injected https", (time.perf_counter() - started) * 1000)
        assert '"target"' in done.text, done.err
        box.delete()

    def _over(self, name: str, peer: str) -> float | None:
        if name not in self.taken or peer not in self.taken:
            return None
        return p50(self.taken[name]) / p50(self.taken[peer])

    def report(self, left: dict[str, int]) -> None:
        """The table, and the figures last."""
        rows = [[n, f"{p50(v):.1f}", f"{min(v):.1f}", f"{p95(v):.1f}", len(v)]
                for n, v in self.taken.items()]  # fmt: skip
        table("one sandbox", ["stage", "p50 ms", "min ms", "p95 ms", "n"], rows)
        version = subprocess.check_output(["bwrap", "--version"], text=True).strip()  # noqa: S607
        print(f"\n  {version}; kernel {platform.release()}; load {os.getloadavg()[0]:.1f}")
        print(f"  left after {left.pop('lives')} lives: {left or 'nothing'}")
        if self.missing:
            print(f"  srt is not measured: {self.missing}")
        figures(
            warm_exec_vs_bwrap=self._over("harness exec, warm", "bwrap"),
            cold_create_vs_bwrap=self._over("harness create", "bwrap"),
            warm_exec_sandboxd_vs_bwrap=self._over("sandboxd exec, warm", "bwrap"),
            cold_create_sandboxd_vs_bwrap=self._over("sandboxd create", "bwrap"),
            warm_exec_platform_vs_bwrap=self._over("platform exec, warm", "bwrap"),
            first_injected_https_vs_srt=self._over("first injected https", "srt true"),
            leaks_after_1000=sum(left.values()),
        )


def leaks(folder: Path, lives: int) -> dict[str, int]:
    """What a sandboxd of its own has left after so many sandboxes, by kind; empty is good."""
    place = folder / "leaks"
    place.mkdir(mode=0o711)
    daemon = start(place, sandbox_uid_base=700_000, proxy_uid_base=800_000)
    try:
        daemon.create().delete()
        pids = traces.standing(daemon)
        before = _traces(daemon)
        for _ in range(lives):
            box = daemon.create()
            box.run(
                "sleep 100 >/dev/null 2>&1 & setsid sleep 100 >/dev/null 2>&1 & echo x > /tmp/x"
            )
            box.delete()
        until(lambda: traces.standing(daemon) == pids)
        after = _traces(daemon)
    finally:
        daemon.stop()
    more = {kind: after[kind] - before[kind] for kind in after if after[kind] > before[kind]}
    return {"lives": lives, **more}


def _traces(daemon: Daemon) -> dict[str, int]:
    pids = traces.standing(daemon)
    return {
        "processes": len(pids),
        "mounts": len(traces.host_mounts().splitlines()),
        "namespaces": len(traces.namespaces(pids)),
        "groups": len(traces.groups(daemon)),
        "files": sum(1 for _ in daemon.spool.rglob("*")),
        "descriptors": sum(open_descriptors(pid) for pid in pids),
    }


if __name__ == "__main__":
    main()
