"""Can this host isolate a sandbox, with which layers, and if not: what exactly would change that?

The answer comes from doing it: the inside of a sandbox is built and taken down with the very code
that builds real ones. `python -m apps.sandboxes.harness.preflight` prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apps.sandboxes.harness import cgroups, forker, init, landlock, syscalls, zygote
from apps.sandboxes.harness.config import Config
from apps.sandboxes.harness.spawn import Spawner, SpawnError

_PROBE_AUTHORITY = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
_LOAD_TIMEOUT = 60.0

_APPARMOR_PROFILE = (
    "abi <abi/4.0>,\ninclude <tunables/global>\n"
    "profile lensagents-sandboxd {python} flags=(unconfined) {{\n  userns,\n}}\n"
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One line of the table; `state` is active or missing."""

    name: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class Host:
    """What was found. Without isolation, `remedy` says how to get it."""

    layers: tuple[Layer, ...]
    remedy: str

    @property
    def isolated(self) -> bool:
        """Whether sandboxes can be had."""
        return not self.remedy

    def describe(self) -> dict[str, Any]:
        """As the health answer has it."""
        return {
            "isolation": "namespace" if self.isolated else "unavailable",
            "layers": [asdict(layer) for layer in self.layers],
            "remedy": self.remedy,
        }


def is_rootless() -> bool:
    """Whether we lack the right to unshare on our own, and need a user namespace for it."""
    return os.geteuid() != 0


def examine(spawner: Spawner) -> Host:
    """Build and judge. Call before the first thread: both fork servers are asked to be ready."""
    problem, step, number = _problem(spawner)
    proxy = spawner.zygote.wait_ready(_LOAD_TIMEOUT)
    layers = (
        *_layers(spawner, works=not problem),
        _layer("egress proxy", not proxy, proxy or "loaded"),
    )
    if problem:
        return Host(layers, remedy(step, number, problem))
    if proxy:
        return Host(
            layers, f"The egress proxy does not load: {proxy}. Install requirements/sandbox.txt."
        )
    if not spawner.groups.complete and not spawner.rootless:
        return Host(layers, _no_groups())
    return Host(layers, "")


def _problem(spawner: Spawner) -> tuple[str, str, int]:
    if spawner.config.force_unavailable:
        return spawner.config.force_unavailable, "forced", 0
    if not syscalls.supported_machine():
        return f"no system call list for {platform.machine()}", "machine", 0
    failed = spawner.forker.wait_ready(_LOAD_TIMEOUT)
    if failed:
        return failed, "forker", 0
    try:
        spawner.dry_run(_PROBE_AUTHORITY)
    except SpawnError as error:
        return str(error), error.step, error.number
    return "", "", 0


def _layer(name: str, active: bool, detail: str) -> Layer:  # noqa: FBT001 reads as the table does
    return Layer(name, "active" if active else "missing", detail)


def _layers(spawner: Spawner, *, works: bool) -> list[Layer]:
    groups, version = spawner.groups, landlock.abi() if syscalls.supported_machine() else 0
    rootless = spawner.rootless
    where = "in a user namespace" if rootless else "as root"
    by_limit = "a limit per process instead (RLIMIT_DATA)"
    by_count = "a limit per user instead (RLIMIT_NPROC)"
    return [
        _layer("network namespace", works, "loopback only; the proxy's listeners are the way out"),
        _layer("mount, pid, ipc, uts, cgroup namespaces", works, where),
        _layer("own root (pivot_root on tmpfs)", works, "/usr read-only, nothing of the host"),
        _layer(
            "user of its own", works and not rootless, "one user" if rootless else "per sandbox"
        ),
        _layer("no capabilities, no_new_privs", works, "all five sets empty"),
        _layer("seccomp", works, "raw BPF, socket families allow-listed"),
        _layer(
            "landlock", works and version > 0, f"ABI {version}" if version else "not in this kernel"
        ),
        _layer("memory limit", bool(groups.has("memory")), groups.has("memory") or by_limit),
        _layer("process limit", bool(groups.has("pids")), groups.has("pids") or by_count),
        _layer(
            "a group per command",
            groups.killing is not None,
            f"v{groups.killing.version}" if groups.killing else "a deadline ends all commands",
        ),
    ]


def remedy(step: str, number: int, problem: str) -> str:
    """What the operator can do about a failed step, most specific cause first."""
    if step == "forced":
        return (
            f"Isolation is switched off by force_unavailable in sandboxd's configuration: {problem}"
        )
    if sys.platform != "linux" or step == "machine":
        return f"Sandboxes need Linux on x86_64 or aarch64: {problem}"
    for cause in (_user_namespaces_off, _apparmor, _container):
        found = cause()
        if found:
            return f"{found} ({problem})"
    return (
        f"The kernel refused to build a sandbox at step {step} (errno {number}): {problem}. "
        "Run sandboxd as root, or enable unprivileged user namespaces; see docs/sandbox.md."
    )


def _setting(path: str) -> str:
    try:
        return (Path("/proc/sys") / path).read_text().strip()
    except OSError:
        return ""


def _user_namespaces_off() -> str:
    if not is_rootless():
        return ""
    for path, off, on in (
        ("user/max_user_namespaces", "0", "15000"),
        ("kernel/unprivileged_userns_clone", "0", "1"),
    ):
        if _setting(path) == off:
            name = path.replace("/", ".")
            return (
                "Unprivileged user namespaces are switched off. "
                f"Run: sudo sysctl -w {name}={on} (and keep it in /etc/sysctl.d/)"
            )
    return ""


def _apparmor() -> str:
    if not is_rootless() or _setting("kernel/apparmor_restrict_unprivileged_userns") != "1":
        return ""
    profile = _APPARMOR_PROFILE.format(python=os.path.realpath(sys.executable))
    return (
        "AppArmor restricts unprivileged user namespaces. Either run: sudo sysctl -w "
        "kernel.apparmor_restrict_unprivileged_userns=0, or allow this interpreter with a profile "
        f"in /etc/apparmor.d/lensagents-sandboxd:\n{profile}"
    )


def _container() -> str:
    if not any(Path(path).exists() for path in ("/.dockerenv", "/run/.containerenv")):
        return ""
    return (
        "This container may not make namespaces. Start it with: docker run --cap-add SYS_ADMIN "
        "--cap-add NET_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
        "--security-opt systempaths=unconfined --cgroupns private "
        "-v /sys/fs/cgroup:/sys/fs/cgroup:rw IMAGE"
    )


def _no_groups() -> str:
    return (
        "As root, limits on memory and processes need control groups, and none can be made here. "
        "Mount /sys/fs/cgroup read-write, or name a delegated group in cgroup_parent."
    )


def open_spawner(config: Config) -> Spawner:
    """Fork the two servers and find the control groups. Before any thread."""
    pid, requests = forker.fork("lens-forker", init.prepare, ())
    preparation = zygote.preparation(config.upstream_ca_file)
    zygote_pid, proxies = forker.fork("lens-zygote", preparation, (requests,))
    hierarchies = []
    if config.use_cgroups:
        hierarchies = cgroups.discover(instance_name(config.socket), config.cgroup_parent)
    groups = cgroups.Groups(hierarchies)
    return Spawner(
        config,
        groups,
        forker.Client(pid, requests),
        forker.Client(zygote_pid, proxies),
        is_rootless(),
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
        client.sock.close()
        os.waitpid(client.pid, 0)
    spawner.groups.remove()


def table(host: Host) -> str:
    """For people."""
    width = max(len(layer.name) for layer in host.layers)
    lines = [f"{layer.name:<{width}}  {layer.state:<7}  {layer.detail}" for layer in host.layers]
    verdict = "isolation: namespace" if host.isolated else f"isolation: unavailable\n{host.remedy}"
    return "\n".join((*lines, "", verdict))


def main() -> int:
    """Print what this host offers; 0 when sandboxes can be had."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print the health answer instead")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        config = Config(place / "preflight.sock", place, place / "broker.sock")
        config.root_mount.mkdir()
        spawner = open_spawner(config)
        host = examine(spawner)
        close_spawner(spawner)
    sys.stdout.write((json.dumps(host.describe()) if as_json else table(host)) + "\n")
    return 0 if host.isolated else 1


if __name__ == "__main__":
    sys.exit(main())
