"""Can this host isolate a sandbox, with which layers, and if not: what exactly would change that?

The answer comes from doing it: the inside of a sandbox is built and taken down with the very code
that builds real ones. `python -m apps.sandboxes.harness.preflight` prints the table.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apps.sandboxes.harness import (
    cgroups,
    forker,
    landlock,
    modes,
    proxies,
    proxy_cage,
    remedies,
    shared,
    syscalls,
    tree,
    zygote,
)
from apps.sandboxes.harness.config import DEGRADED, MODES, NAMESPACE, OWNER_RULES, Config
from apps.sandboxes.harness.spawn import Spawner, SpawnError

_PROBE_AUTHORITY = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
_LOAD_TIMEOUT = 60.0
_DEGRADED_ONLY = 3


@dataclass(frozen=True, slots=True)
class Layer:
    """One line of the table; `state` is active or missing, and then `remedy` may be known."""

    name: str
    state: str
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """What was found: the `mode` of isolation, "" for none. `remedy` says how to get one, or a
    better one than `degraded`."""

    mode: str
    layers: tuple[Layer, ...]
    remedy: str

    @property
    def isolated(self) -> bool:
        """Whether sandboxes can be had, if only by those who allow degraded ones."""
        return bool(self.mode)

    def refusal(self, *, allow_degraded: bool) -> str:
        """ "" where a sandbox may be had, else the remedy."""
        if self.mode == DEGRADED and not allow_degraded:
            return f"{remedies.NOT_ALLOWED} {self.remedy}"
        return "" if self.isolated else self.remedy

    def describe(self) -> dict[str, Any]:
        """As the health answer has it."""
        return {
            "isolation": self.mode or "unavailable",
            "layers": [asdict(layer) for layer in self.layers],
            "remedy": self.remedy,
        }


def examine(spawner: Spawner) -> Host:
    """Build and judge. Call before the first thread: both fork servers are asked to be ready."""
    proxy = spawner.zygote.wait_ready(_LOAD_TIMEOUT)
    forker_failed = spawner.forker.wait_ready(_LOAD_TIMEOUT)
    tried: list[Layer] = []
    for mode in MODES[1:] if spawner.config.mode == "auto" else (spawner.config.mode,):
        attempt = dataclasses.replace(spawner, mode=mode)
        remedy = _attempt(attempt, forker_failed)
        if not remedy:
            tried.append(Layer(f"mode {mode}", "active", remedies.MEANING[mode]))
            break
        tried.append(Layer(f"mode {mode}", "missing", remedies.MEANING[mode], remedy))
    works = tried[-1].state == "active"
    layers = (
        *tried,
        *_layers(attempt, works=works),
        _layer("egress proxy", not proxy, proxy or proxy_cage.layers(), remedies.NO_PROXY),
    )
    if not works:
        return Host("", layers, _told(tried))
    if proxy:
        return Host("", layers, f"The egress proxy does not load: {proxy}. {remedies.NO_PROXY}")
    return Host(attempt.mode, layers, _told(tried[:-1]) if attempt.mode == DEGRADED else "")


def _told(tried: list[Layer]) -> str:
    """The remedy of the best mode; those of the others where it has none of its own."""
    return " ".join(dict.fromkeys(layer.remedy for layer in tried))


def _attempt(spawner: Spawner, forker_failed: str) -> str:
    """Build the inside of a sandbox and take it down; "" or the remedy."""
    problem, step, number = _problem(spawner, forker_failed)
    return remedies.of(spawner.mode, step, number, problem) if problem else ""


def _problem(spawner: Spawner, forker_failed: str) -> tuple[str, str, int]:
    if spawner.config.force_unavailable:
        return spawner.config.force_unavailable, "forced", 0
    if not syscalls.supported_machine():
        return f"no system call list for {platform.machine()}", "machine", 0
    if forker_failed:
        return forker_failed, "forker", 0
    if spawner.mode == OWNER_RULES and spawner.rootless:
        return "sandboxd is not root, so agent and proxy would be one user", "one user", 0
    return _built(spawner)


def _built(spawner: Spawner) -> tuple[str, str, int]:
    try:
        if spawner.mode != NAMESPACE:
            modes.prepare_homes(spawner.config)
        spawner.dry_run(_PROBE_AUTHORITY)
    except SpawnError as error:
        return str(error), error.step, error.number
    except OSError as error:
        return error.strerror or str(error), "folders", error.errno or 0
    return "", "", 0


def _layer(name: str, active: bool, detail: str, remedy: str = "") -> Layer:  # noqa: FBT001 reads as the table does
    return Layer(name, "active" if active else "missing", detail, "" if active else remedy)


def _layers(spawner: Spawner, *, works: bool) -> list[Layer]:
    version = landlock.abi() if syscalls.supported_machine() else 0
    rootless, alone = spawner.rootless, works and spawner.mode == NAMESPACE
    where = "in a user namespace" if rootless else "as root"
    ruled = works and spawner.mode == OWNER_RULES
    found = f"ABI {version}" if version else "not in this kernel"
    users = "one user" if rootless else "per sandbox"
    rules = [] if alone else [_layer("packet rules by user", ruled, "default drop, IPv4 and IPv6")]
    return [
        _layer("network namespace", alone, "loopback only; the proxy's listeners are the way out"),
        *rules,
        _layer("mount, pid, ipc, uts, cgroup namespaces", alone, where),
        _layer("own root (pivot_root on tmpfs)", alone, "/usr read-only, nothing of the host"),
        _layer("user of its own", works and not rootless, users, remedies.ONE_USER),
        _layer("no capabilities, no_new_privs", works, "all sets empty"),
        _layer("seccomp", works, "raw BPF, socket families allow-listed"),
        _layer("landlock", works and version > 0, found, remedies.NO_LANDLOCK),
        *_limits(spawner.groups),
    ]


def _limits(groups: cgroups.Groups) -> list[Layer]:
    by_limit = "a limit per process instead (RLIMIT_DATA)"
    by_count = "a limit per user instead (RLIMIT_NPROC)"
    killing = f"v{groups.killing.version}" if groups.killing else "a deadline ends all commands"
    remedy = remedies.NO_GROUPS
    return [
        _layer(
            "memory limit", bool(groups.has("memory")), groups.has("memory") or by_limit, remedy
        ),
        _layer("process limit", bool(groups.has("pids")), groups.has("pids") or by_count, remedy),
        _layer("a group per command", groups.killing is not None, killing, remedy),
    ]


def open_spawner(config: Config) -> Spawner:
    """Fork the two servers and find the control groups. Before any thread."""
    pid, requests = forker.fork("lens-forker", shared.prepare, ())
    preparation = zygote.preparation(config.upstream_ca_file)
    zygote_pid, zygote_requests = forker.fork("lens-zygote", preparation, (requests,))
    hierarchies = []
    if config.use_cgroups:
        hierarchies = cgroups.discover(instance_name(config.socket), config.cgroup_parent)
    groups = cgroups.Groups(hierarchies)
    return Spawner(
        config,
        groups,
        forker.Client(pid, requests),
        proxies.Zygote(zygote_pid, zygote_requests),
        remedies.is_rootless(),
    )


def instance_name(socket_path: Path) -> str:
    """The name of our control groups: the same at each start, so that leftovers are found."""
    return f"lens-{hash_of(str(socket_path))}"


def hash_of(text: str) -> str:
    """A short name for a path."""
    import hashlib  # noqa: PLC0415 OpenSSL is not needed by the fork servers

    return hashlib.sha256(text.encode()).hexdigest()[:10]


def close_spawner(spawner: Spawner) -> None:
    """End both servers and remove the empty control groups."""
    for client in (spawner.forker, spawner.zygote):
        client.close()
        os.waitpid(client.pid, 0)
    spawner.groups.remove()
    with contextlib.suppress(OSError):
        spawner.config.home_root.rmdir()


def table(host: Host) -> str:
    """For people: each layer, and under a missing one how to get it."""
    width = max(len(layer.name) for layer in host.layers)
    lines = []
    for layer in host.layers:
        lines.append(f"{layer.name:<{width}}  {layer.state:<7}  {layer.detail}")
        if layer.remedy:
            lines.append(f"{'':<{width}}  {'':<7}  remedy: {layer.remedy}")
    verdict = f"isolation: {host.mode or 'unavailable'}"
    return "\n".join((*lines, "", verdict, *([host.remedy] if host.remedy else [])))


def _apart(config: Config) -> Config:
    """The same with room for one sandbox, whose user runs nothing: what is built to find out is
    ended by its user. The last of those that packet rules know; a sandboxd gives it out last."""
    busy = tree.users()
    for slot in reversed(range(config.max_sandboxes)):
        uid = config.sandbox_uid_base + slot
        if uid not in busy:
            return dataclasses.replace(
                config,
                sandbox_uid_base=uid,
                proxy_uid_base=config.proxy_uid_base + slot,
                proxy_port_base=config.proxy_port_base + slot,
                max_sandboxes=1,
            )
    raise SystemExit("every user that sandboxes have runs something: ask sandboxd for its health")


def main() -> int:
    """Print what this host offers. 0: sandboxes can be had; 1: none; 3: degraded ones only."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print the health answer instead")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        config = _apart(Config(place / "preflight.sock", place, place / "broker.sock"))
        config.root_mount.mkdir()
        spawner = open_spawner(config)
        host = examine(spawner)
        close_spawner(spawner)
    sys.stdout.write((json.dumps(host.describe()) if as_json else table(host)) + "\n")
    if host.mode == DEGRADED:
        return _DEGRADED_ONLY
    return 0 if host.isolated else 1


if __name__ == "__main__":
    sys.exit(main())
