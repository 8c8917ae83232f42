"""A real sandboxd in each mode of isolation, on one machine.

`container` is root with the rights of a usual container, who is left to choose the mode, and finds
the packet rules that an init step has installed.
`namespace` and `degraded` need nothing but root. `rootless` and `degraded-rootless` are run by an
ordinary user. `owner-rules` is run in a network namespace of its own with the packet rules that an
init step would install; with `here=True` the rules go into the network we are in, which must be one
of the tests' own (`in_own_network`): then the sandboxes' proxies can reach servers of the tests.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from apps.sandboxes.harness.config import DEGRADED, NAMESPACE, OWNER_RULES
from tests.apps.sandboxes.harness import launch
from tests.apps.sandboxes.harness.conftest import Daemon, cannot, start

if TYPE_CHECKING:
    from pathlib import Path

_LAUNCH = "tests.apps.sandboxes.harness.launch"
# Users and ports that no other sandboxd of this machine gives away: where there is no process
# namespace a sandbox is ended by its user, where there is no network namespace ports are shared.
_SLOTS = 32
_FIRST_USER = 1_000_000 + os.getpid() % 10_000 * 1_000
_FIRST_PORT = 20_000 + os.getpid() % 20 * 500
_numbers = itertools.count()
_MARK = "LENS_TEST_OWN_NETWORK"


@dataclass(frozen=True)
class Kind:
    """One way to run a sandboxd."""

    name: str
    mode: str
    launched: str = ""

    @property
    def rootless(self) -> bool:
        return self.launched == launch.PLAIN_USER

    @property
    def shared(self) -> bool:
        """Whether sandboxes share the host's files and network."""
        return self.mode != NAMESPACE


KINDS = {
    kind.name: kind
    for kind in (
        Kind("namespace", NAMESPACE),
        Kind("rootless", NAMESPACE, launch.PLAIN_USER),
        Kind("owner-rules", OWNER_RULES, launch.OWN_NETWORK),
        Kind("container", OWNER_RULES, launch.CONTAINER),
        Kind("degraded", DEGRADED),
        Kind("degraded-rootless", DEGRADED, launch.PLAIN_USER),
    )
}


def run(
    name: str,
    folder: Path,
    *,
    here: bool = False,
    backend: str = "auto",
    delegated: Path | None = None,
    **settings: Any,
) -> Daemon:
    """Start one; skips (or fails, where isolation is required) if this machine cannot.

    A sandbox of it: `daemon.create(allow_degraded=True)`. `delegated`: a control group of version 2
    to make for a rootless one.
    """
    kind = KINDS[name]
    launched = launch.RULES_HERE if here and kind.launched == launch.OWN_NETWORK else kind.launched
    if kind.mode == OWNER_RULES:
        require_rules_program(backend)
        launched = f"{launched}:{backend}"
    if kind.rootless:
        own: dict[str, Any] = {"control_uid": launch.USER, "control_gid": launch.USER}
        for place in (folder, folder / "run"):
            place.mkdir(exist_ok=True)
            os.chown(place, launch.USER, launch.USER)
    else:
        own = own_users()
        own["homes"] = str(folder / "run" / "sandboxes")
    own["proxy_port_base"] = _free_ports()
    if delegated is not None:
        launched = f"{launched}:{delegated}"
    module = (_LAUNCH, launched) if launched else None
    if kind.launched == launch.CONTAINER:
        own |= {"mode": "auto", "use_cgroups": False}
    values = {"mode": kind.mode, "max_sandboxes": _SLOTS, **own, **settings}
    daemon = start(folder, module=module, **values)
    found = daemon.call("GET", "/v1/health")[1]
    if found["isolation"] != kind.mode:
        daemon.stop()
        cannot(f"{name} cannot be had here: {found['remedy']}")
    return daemon


def own_users() -> dict[str, Any]:
    """Settings for users that belong to no other sandboxd of this machine."""
    user = _FIRST_USER + next(_numbers) % 15 * 2 * _SLOTS
    return {"sandbox_uid_base": user, "proxy_uid_base": user + _SLOTS, "max_sandboxes": _SLOTS}


def _free_ports() -> int:
    """The first of a row of ports that nobody listens on, neither another of our sandboxds."""
    for _ in range(15):
        first = _FIRST_PORT + next(_numbers) % 15 * _SLOTS
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + _SLOTS):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise AssertionError("no row of free ports")


def require_rules_program(backend: str = "auto") -> None:
    """Skip (or fail) where no program can install packet rules."""
    names = ("nft", "iptables") if backend == "auto" else (backend,)
    if not any(shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin") for name in names):
        cannot(f"{' or '.join(names)} is not installed: deploy/setup.sh packages test")


def in_own_network() -> bool:
    """Whether this process was started by `enter_own_network`."""
    return os.environ.get(_MARK) == "1"  # noqa: TID251 the test run's own switch


def enter_own_network(*command: str) -> NoReturn:
    """Become `command` in a network namespace that holds the loopback and nothing else."""
    launch.own_network()
    environment = {**os.environ, _MARK: "1"}  # noqa: TID251 same
    os.execve(sys.executable, [sys.executable, *command], environment)  # noqa: S606 ourselves
