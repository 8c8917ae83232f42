"""The egress proxy of a new sandbox, seen from sandboxd: whose it is, its configuration, its start.

One child of the zygote is forked ahead and waits, nobody's yet: it has the zygote's memory, no
configuration, no key and no user of a sandbox. So a creation does not wait for the fork of a
process that holds a whole proxy; all that makes it *this* sandbox's proxy is done when it is asked
for. A child that has ended while it waited is replaced by a fresh one.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

from apps.common.frames import FrameError, recv_frame, send_frame
from apps.sandboxes.harness import ipc
from apps.sandboxes.harness.config import DEGRADED
from apps.sandboxes.harness.forker import Client
from apps.sandboxes.harness.sandbox import Process

if TYPE_CHECKING:
    from apps.sandboxes.harness.config import Config
    from apps.sandboxes.harness.sandbox import Sandbox
    from apps.sandboxes.harness.spawn import Wanted

_STEP_TIMEOUT = 20.0


class Zygote(Client):
    """sandboxd's side of the zygote. Safe to call from threads."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        super().__init__(pid, sock)
        self._lock = threading.Lock()
        self._spare: socket.socket | None = None

    def child(self, message: dict[str, Any], fds: list[int]) -> socket.socket:
        """Have a process become the proxy that `message` describes, with `fds`; the socket on which
        it is told (`forked`) and goes on to listen. Raises IpcError."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            try:
                ipc.send(spare, message, fds)
            except ipc.IpcError:  # it has ended
                spare.close()
            else:
                return spare
        fresh = self._fork()
        try:
            ipc.send(fresh, message, fds)
        except BaseException:
            fresh.close()
            raise
        return fresh

    def refill(self) -> None:
        """Have the next sandbox's child forked."""
        with self._lock, contextlib.suppress(ipc.IpcError):
            if self._spare is None:
                self._spare = self._fork()

    def _fork(self) -> socket.socket:
        ours, theirs = ipc.pair()
        try:
            self.request({}, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def close(self) -> None:
        """Let it end, and who waits with it."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()
        super().close()


class NoProxyError(Exception):
    """The proxy cannot be had; the message says why."""


def begin(
    zygote: Zygote, identity: dict[str, Any], sandbox: Sandbox, config: dict[str, Any]
) -> socket.socket:
    """Have a process become the sandbox's proxy and configure it; the socket that leads to it."""
    sandbox.proxy_control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel = zygote.child(identity, [control.fileno()])
    finally:
        control.close()
    try:
        sandbox.proxy_control.settimeout(_STEP_TIMEOUT)
        send_frame(sandbox.proxy_control, config)
    except OSError as error:
        channel.close()
        raise NoProxyError(str(error)) from error
    return channel


def configuration(config: Config, mode: str, sandbox: Sandbox, wanted: Wanted) -> dict[str, Any]:
    """What only the proxy gets to see."""
    upstream, platform = config.upstream_ca_file, config.platform_socket
    return {
        "sandbox_id": sandbox.id,
        "sandbox_token": wanted.token,
        "broker_socket": str(config.broker_socket),
        "platform_socket": str(platform) if platform else None,
        "spool_dir": sandbox.spool,
        "identity": wanted.identity,
        "notes": {"isolation": mode} if mode == DEGRADED else {},
        "address_map": dict(config.address_map),
        "upstream_ca_file": str(upstream) if upstream else None,
        "explain_url": config.explain_url,
    }


def ready(sandbox: Sandbox, channel: socket.socket) -> str:
    """Who the proxy is, and its certificate authority, PEM. Raises NoProxyError, IpcError."""
    message, fds = ipc.receive(channel, _STEP_TIMEOUT)
    if message.get("event") != "forked" or len(fds) != 1:
        ipc.close_all(fds)
        raise NoProxyError(str(message.get("message", "unexpected message")))
    sandbox.proxy = Process(message["pid"], fds[0])
    if sandbox.proxy_control is None:
        raise sandbox.gone()
    try:
        told = recv_frame(sandbox.proxy_control)
    except (OSError, FrameError) as error:
        raise NoProxyError(str(error)) from error
    if told is None or told.get("op") != "ready":
        raise NoProxyError("it ended before it was ready")
    return str(told["ca_pem"])
