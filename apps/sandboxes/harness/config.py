"""sandboxd's configuration: one JSON file, typed; a wrong value stops the start and names itself.

This is also the only place of the harness that touches the process environment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apps.common.errors import Invalid

_KEPT_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_MEBIBYTE = 1024 * 1024
_MAX_UID = 0xFFFFFFFD
_MAX_PORT = 65_535
_HOMES = Path("/var/lib/lens-sandboxes")
# What isolates, best first; "auto" takes the first of them that this host can give.
NAMESPACE, OWNER_RULES, DEGRADED = "namespace", "owner-rules", "degraded"
MODES = ("auto", NAMESPACE, OWNER_RULES, DEGRADED)


class ConfigError(Exception):
    """The file is missing, no JSON, or a field is wrong; the message names it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may use. Sizes in bytes; `cpu_percent` of one core, 0 = no cap.

    `memory_bytes` covers processes *and* the workspace, /tmp and /dev/shm, which live in memory:
    see `tmpfs_bytes`.
    """

    workspace_bytes: int = 512 * _MEBIBYTE
    workspace_inodes: int = 65_536
    tmp_bytes: int = 256 * _MEBIBYTE
    tmp_inodes: int = 16_384
    shm_bytes: int = 64 * _MEBIBYTE
    memory_bytes: int = 2048 * _MEBIBYTE
    pids: int = 256
    cpu_percent: int = 0
    open_files: int = 4096
    output_bytes: int = 1 * _MEBIBYTE
    file_bytes: int = 16 * _MEBIBYTE
    fetch_bytes: int = 16 * _MEBIBYTE
    exec_timeout_ms: int = 1_200_000

    def tmpfs_bytes(self) -> tuple[int, int, int]:
        """Sizes of workspace, /tmp and /dev/shm, scaled down where they would eat all memory.

        Files are not freed by ending a process, so a sandbox full of them could run nothing, not
        even `rm`: 256 MiB, or half of a memory limit below 512 MiB, stay for processes.
        """
        wanted = (self.workspace_bytes, self.tmp_bytes, self.shm_bytes)
        room = max(self.memory_bytes // 2, self.memory_bytes - 256 * _MEBIBYTE)
        if sum(wanted) <= room:
            return wanted
        workspace, tmp, shm = (max(1, size * room // sum(wanted)) for size in wanted)
        return workspace, tmp, shm

    def override(self, values: object, *, name: str = "limits") -> Limits:
        """These limits with some of them replaced; raises Invalid naming the field."""
        if not isinstance(values, Mapping):
            raise Invalid(f"{name} must be an object", field=name)
        known = {f.name for f in dataclasses.fields(self)}
        for key, value in values.items():
            if key not in known:
                raise Invalid(f"{name}.{key} is not a limit", field=f"{name}.{key}")
            lowest = 0 if key == "cpu_percent" else 1
            if type(value) is not int or not lowest <= value < 1 << 62:
                raise Invalid(f"{name}.{key} must be a whole number", field=f"{name}.{key}")
        return dataclasses.replace(self, **values)


@dataclass(frozen=True, slots=True)
class Config:
    """See docs/sandbox.md for each field. Paths are absolute.

    `force_unavailable`, a reason, makes this host answer as if it could not isolate: the tests'
    way to see the refusal. `mode` is one of `MODES`; `proxy_port_base` is the port of the first
    proxy where sandboxes share one network; `homes` is where they have their folders.
    """

    socket: Path
    spool_root: Path
    broker_socket: Path
    platform_socket: Path | None = None
    control_uid: int = 0
    control_gid: int = 0
    sandbox_uid_base: int = 200_000
    proxy_uid_base: int = 300_000
    max_sandboxes: int = 256
    explain_url: str = ""
    address_map: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    upstream_ca_file: Path | None = None
    system_paths: tuple[str, ...] = ("/usr",)
    cgroup_parent: str = ""
    use_cgroups: bool = True
    stop_on_stdin_eof: bool = False
    limits: Limits = field(default_factory=Limits)
    force_unavailable: str = ""
    mode: str = "auto"
    proxy_port_base: int = 18_100
    homes: Path | None = None

    @property
    def home_root(self) -> Path:
        """Where sandboxes without a mount namespace have their folders.

        As root not beside the socket: that folder may be the control plane's.
        """
        if self.homes is not None:
            return self.homes
        if os.geteuid() == 0:
            return _HOMES / hashlib.sha256(os.fsencode(self.socket)).hexdigest()[:10]
        return self.socket.parent / "sandboxes"

    @property
    def root_mount(self) -> Path:
        """An empty directory on which each sandbox, in its own mount namespace, builds its root."""
        return self.socket.parent / "sandbox-root"


def load(path: Path) -> Config:
    """Read and check the file; raises ConfigError."""
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must hold an object")
    return parse(raw)


def parse(raw: Mapping[str, Any]) -> Config:
    """A Config from decoded JSON; raises ConfigError, which names the field."""
    unknown = sorted(set(raw) - set(_READERS))
    if unknown:
        raise ConfigError(f"{unknown[0]}: there is no such setting")
    values = {name: _READERS[name](name, value) for name, value in raw.items()}
    for required in ("socket", "spool_root", "broker_socket"):
        if required not in values:
            raise ConfigError(f"{required}: is required")
    config = Config(**values)
    _check_uids(config)
    return config


def _check_uids(config: Config) -> None:
    """Sandboxes, proxies and the control plane are never the same user."""
    sandbox = range(config.sandbox_uid_base, config.sandbox_uid_base + config.max_sandboxes)
    proxy = range(config.proxy_uid_base, config.proxy_uid_base + config.max_sandboxes)
    if max(sandbox.start, proxy.start) < min(sandbox.stop, proxy.stop):
        raise ConfigError("proxy_uid_base: the proxies' users overlap with the sandboxes'")
    if config.proxy_port_base + config.max_sandboxes - 1 > _MAX_PORT:
        raise ConfigError("proxy_port_base: no room for the ports of max_sandboxes proxies")
    if config.control_uid in sandbox or config.control_uid in proxy:
        raise ConfigError("control_uid: lies in the range of the sandboxes' or proxies' users")


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ConfigError(f"{name}: must be an absolute path")
    return Path(value)


def _optional_path(name: str, value: Any) -> Path | None:
    return None if value is None else _path(name, value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ConfigError(f"{name}: must be a string")
    return value


def _mode(name: str, value: Any) -> str:
    if value not in MODES:
        raise ConfigError(f"{name}: must be one of {', '.join(MODES)}")
    return str(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: must be true or false")
    return value


def _number(lowest: int, highest: int) -> Any:
    def read(name: str, value: Any) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise ConfigError(f"{name}: must be a whole number from {lowest} to {highest}")
        return value

    return read


def _paths(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{name}: must be a list of absolute paths")
    return tuple(str(_path(name, item)) for item in value)


def _addresses(name: str, value: Any) -> dict[str, tuple[str, int]]:
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: must be an object of host to [address, port]")
    for host, target in value.items():
        if not isinstance(target, list) or len(target) != 2:
            raise ConfigError(f"{name}.{host}: must be [address, port]")
        try:
            ipaddress.ip_address(target[0])
        except ValueError as error:
            raise ConfigError(f"{name}.{host}: {error}") from error
        _number(1, 65_535)(f"{name}.{host}", target[1])
    return {host: (address, port) for host, (address, port) in value.items()}


def _limits(name: str, value: Any) -> Limits:
    try:
        return Limits().override(value, name=name)
    except Invalid as error:
        raise ConfigError(f"{error.field}: {error.message}") from error


_READERS: Mapping[str, Any] = {
    "socket": _path,
    "spool_root": _path,
    "broker_socket": _path,
    "platform_socket": _optional_path,
    "control_uid": _number(0, _MAX_UID),
    "control_gid": _number(0, _MAX_UID),
    "sandbox_uid_base": _number(1000, _MAX_UID - 65_536),
    "proxy_uid_base": _number(1000, _MAX_UID - 65_536),
    "max_sandboxes": _number(1, 65_536),
    "explain_url": _text,
    "address_map": _addresses,
    "upstream_ca_file": _optional_path,
    "system_paths": _paths,
    "cgroup_parent": _text,
    "use_cgroups": _flag,
    "stop_on_stdin_eof": _flag,
    "limits": _limits,
    "force_unavailable": _text,
    "mode": _mode,
    "proxy_port_base": _number(1024, _MAX_PORT),
    "homes": _optional_path,
}


def clean_environment() -> None:
    """Forget the environment that we were started with: children must not find secrets in it.

    What was in the initial environment stays readable in /proc/<pid>/environ for root and this
    user, so whoever starts sandboxd starts it with a clean one.
    """
    os.environ.clear()  # noqa: TID251 this module is where the harness may
    os.environ.update(_KEPT_ENVIRONMENT)  # noqa: TID251
