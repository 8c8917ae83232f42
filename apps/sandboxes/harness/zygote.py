"""Egress proxies: one process a sandbox, forked from a zygote that has loaded the proxy's code.

The child gives up everything it can (own user, no group, no capability, not dumpable, bounded
descriptors and memory) *before* it reads its configuration, which holds the sandbox's token and
comes over the control socket straight from sandboxd: the zygote never has it. It makes its
certificate authority while pid 1 is still building the sandbox; the listeners follow.
"""

from __future__ import annotations

import os
import resource
import socket
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.common.frames import recv_frame
from apps.sandboxes.harness import confine, forker, ipc, proxy_cage, syscalls
from apps.sandboxes.harness.peers import OwnedListener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CONFIG_TIMEOUT = 10.0
_LISTENERS_TIMEOUT = 20.0
_OPEN_FILES = 2048
_MEMORY = 2 << 30  # address space of threads' stacks counts too
_THREADS = 1024


def preparation(upstream_ca_file: Path | None) -> Callable[[], forker.Children]:
    """What the zygote does first: load the proxy, once for all sandboxes."""

    def prepare() -> forker.Children:
        from apps.proxy.egress import main  # noqa: PLC0415 only the zygote pays for it
        from apps.proxy.egress.tls.ca import Authority  # noqa: PLC0415 same

        import_module("apps.proxy.egress.config")
        main.preload(upstream_ca_file)
        # Thrown away at once: what a first key, certificate and context initialise is what counts.
        Authority(leaves=1).context("preload.invalid")
        for diagnosis in (False, True):
            proxy_cage.system_call_filter(diagnosis=diagnosis)
        return forker.Children(start)

    return prepare


def start(_: dict[str, Any], fds: list[int]) -> None:
    """Wait for the sandbox to belong to, then become its proxy. On the socket of `fds` come who to
    be, with the control socket; and later the listeners."""
    announced = socket.socket(fileno=fds[0])
    confine.name_process("lens-spare")
    confine.undumpable()
    confine.lower_limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    confine.lower_limit(resource.RLIMIT_DATA, _MEMORY)
    os.setsid()
    os.umask(0o027)
    os.chdir("/")
    try:
        message, fds = ipc.receive(announced, None)
    except ipc.IpcError:
        return  # sandboxd has ended
    _serve(message, announced, socket.socket(fileno=fds[0]))


def _serve(message: dict[str, Any], announced: socket.socket, control: socket.socket) -> None:
    from apps.proxy.egress.main import run_proxy  # noqa: PLC0415 loaded by `prepare`

    identity = confine.Identity(message["uid"], message["gid"], drop_user=message["drop_user"])
    confine.name_process("lens-egress")
    if identity.drop_user:
        confine.lower_limit(resource.RLIMIT_NPROC, _THREADS)
    confine.become(identity)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # a change of user sets it anew
    control.settimeout(_CONFIG_TIMEOUT)
    config = recv_frame(control)
    if config is None:
        return
    control.settimeout(None)
    proxy_cage.close(Path(config["spool_dir"]), diagnosis=message["peer"] is not None)
    run_proxy(_listeners(announced, message["peer"]), control, egress_config(config))


def _listeners(announced: socket.socket, peer: int | None) -> Iterator[socket.socket]:
    """The listeners, awaited when the first one is asked for. `peer`: the one user to serve, where
    others share the sandbox's network."""
    _, fds = ipc.receive(announced, _LISTENERS_TIMEOUT)
    announced.close()
    for descriptor in fds:
        if peer is None:
            yield socket.socket(fileno=descriptor)
        else:
            yield OwnedListener(descriptor, peer)


def egress_config(values: dict[str, Any]) -> Any:
    """The proxy's own configuration type, from JSON values."""
    from apps.proxy.egress.config import EgressConfig  # noqa: PLC0415 loaded by `prepare`

    upstream, platform = values["upstream_ca_file"], values["platform_socket"]
    mapped = {host: (address, port) for host, (address, port) in values["address_map"].items()}
    return EgressConfig(
        sandbox_id=values["sandbox_id"],
        sandbox_token=values["sandbox_token"],
        broker_socket=Path(values["broker_socket"]),
        platform_socket=Path(platform) if platform else None,
        spool_dir=Path(values["spool_dir"]),
        identity=values["identity"],
        notes=values["notes"],
        address_map=mapped,
        upstream_ca_file=Path(upstream) if upstream else None,
        explain_url=values["explain_url"],
    )
