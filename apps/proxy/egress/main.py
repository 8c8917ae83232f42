"""The life of one sandbox's egress proxy.

It runs in a process of its own, already forked and stripped of privilege, with listeners that were
opened inside the sandbox's network namespace. Until a policy bundle arrives on the control channel
everything is denied; when that channel ends, so does the process.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

from apps.audit.spool import Spool
from apps.common import frames
from apps.proxy.egress.gate import StaleBundleError, UnusableBundleError
from apps.proxy.egress.plane import Plane
from apps.proxy.egress.server import Server
from apps.proxy.egress.upstream import client_context

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from pathlib import Path

    from apps.proxy.egress.config import EgressConfig

# How long ended connections may take to write their last audit events.
_LAST_WORDS = 0.25


def preload(upstream_ca_file: Path | None = None) -> None:
    """Do once in a zygote what every forked proxy would do again: load roots and codecs.

    `ssl` imports the `idna` codec lazily, which fails in a process that can no longer read the
    library folder.
    """
    client_context(upstream_ca_file)
    "lens".encode("idna")


def run_proxy(
    listeners: Iterable[socket.socket], control: socket.socket, config: EgressConfig
) -> None:
    """Serve until the control channel ends, then end the process. Does not return.

    The authority is told before the first of `listeners` is asked for.
    """
    # TLS answers a cut with an alert, and may find the other side gone: an error, not our end.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    preload(config.upstream_ca_file)
    plane = Plane.of(config, Spool(config.spool_dir))
    frames.send_frame(control, {"op": "ready", "ca_pem": plane.authority.pem})
    Server(plane, listeners).start()
    try:
        while (message := frames.recv_frame(control)) is not None:
            _obey(plane, control, message)
    except (OSError, frames.FrameError):
        pass
    finally:
        _end(plane)


def _obey(plane: Plane, control: socket.socket, message: dict[str, Any]) -> None:
    match message.get("op"):
        case "bundle":
            frames.send_frame(control, _apply(plane, message.get("bundle")))
        case "cut":
            plane.cut()
        case "ping":
            frames.send_frame(control, {"op": "pong"})


def _apply(plane: Plane, bundle: object) -> dict[str, Any]:
    try:
        return {"op": "applied", "version": plane.load(bundle)}
    except StaleBundleError as error:
        return {"op": "refused", "reason": str(error), "denying": False}
    except UnusableBundleError as error:
        return {"op": "refused", "reason": str(error), "denying": True}


def _end(plane: Plane) -> None:
    """Cut everything, let the connections record that, and leave without any clean-up."""
    plane.cut()
    until = time.monotonic() + _LAST_WORDS
    while len(plane.lines) and time.monotonic() < until:
        time.sleep(0.005)
    os._exit(0)
