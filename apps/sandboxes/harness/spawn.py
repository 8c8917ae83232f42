"""Make a sandbox, seen from sandboxd: group, namespaces, listeners, proxy, trust, self-test.

The proxy and the inside are made at the same time, by two processes. What one needs of the other
goes through here: the listeners that pid 1 opened in its network namespace, and the certificate
authority that the proxy made. Everything waits on sockets that each have a timeout. Whatever fails,
all that was made so far is ended and removed, and the caller gets an error: there is no sandbox
with a step missing.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.common.errors import Invalid, LensError, Unavailable
from apps.sandboxes.harness import init, ipc, modes, proxies, proxy_cage, rootfs, runner
from apps.sandboxes.harness.config import NAMESPACE
from apps.sandboxes.harness.sandbox import (
    Process,
    Sandbox,
    hand_over_spool,
    milliseconds_since,
    spool_directory,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from apps.sandboxes.harness.cgroups import Groups
    from apps.sandboxes.harness.config import Config, Limits
    from apps.sandboxes.harness.forker import Client
    from apps.sandboxes.harness.proxies import Zygote

_STEP_TIMEOUT = 20.0
_SELFTEST_TIMEOUT = 15.0
_SELFTEST_OUTPUT = 256 * 1024


class SpawnError(Exception):
    """A step failed; `step` and `number` (errno, 0 if none) are what the remedy depends on."""

    def __init__(self, step: str, number: int, message: str) -> None:
        super().__init__(f"{step}: {message}")
        self.step = step
        self.number = number


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller asks for, checked."""

    id: str
    token: str
    bundle: dict[str, Any]
    identity: dict[str, Any]
    env: Mapping[str, str]
    limits: Limits
    allow_degraded: bool = False


@dataclass(frozen=True, slots=True)
class Spawner:
    """The two fork servers and what every sandbox has in common."""

    config: Config
    groups: Groups
    forker: Client
    zygote: Zygote
    rootless: bool
    mode: str = NAMESPACE

    def spec(self, slot: int, limits: Limits) -> init.Spec:
        """The sandbox of `slot`: its users are its own among all that run."""
        inside = self.config.sandbox_uid_base + slot
        workspace, tmp, shm = limits.tmpfs_bytes()
        layout = rootfs.Layout(
            mount_point=str(self.config.root_mount),
            system_paths=self.config.system_paths,
            uid=inside,
            gid=inside,
            workspace_bytes=workspace,
            workspace_inodes=limits.workspace_inodes,
            tmp_bytes=tmp,
            tmp_inodes=limits.tmp_inodes,
            shm_bytes=shm,
        )
        return init.Spec(
            layout=layout,
            outer_uid=os.geteuid(),
            outer_gid=os.getegid(),
            rootless=self.rootless,
            pids=limits.pids,
            memory_bytes=limits.memory_bytes,
            open_files=limits.open_files,
            grouped=self.groups.complete,
        )

    def proxy_ids(self, slot: int) -> tuple[int, int]:
        """User and group of the proxy of `slot`."""
        if self.rootless:
            return os.geteuid(), os.getegid()
        return (self.config.proxy_uid_base + slot,) * 2

    def create(self, wanted: Wanted, slot: int) -> Sandbox:
        """A sandbox that passed its self-test. Raises LensError; then nothing of it is left."""
        started = time.monotonic()
        sandbox = Sandbox(
            wanted.id,
            slot,
            wanted.limits,
            wanted.env,
            str(self.config.spool_root / wanted.id),
            mode=self.mode,
        )
        try:
            confined = self._build(sandbox, wanted)
            sandbox.report = [*self._selftest(sandbox), confined, *modes.not_given(self, sandbox)]
            sandbox.accepted(wanted.bundle)
        except (SpawnError, proxies.NoProxyError, ipc.IpcError, OSError) as error:
            self.discard(sandbox)
            sandbox.clear()
            message = f"the sandbox could not be built: {error}"
            raise Unavailable(message, code="sandbox_failed") from error
        except LensError:
            self.discard(sandbox)
            sandbox.clear()
            raise
        self.zygote.refill()
        sandbox.created_ms = milliseconds_since(started)
        sandbox.ready = True
        return sandbox

    def discard(self, sandbox: Sandbox) -> None:
        """End a sandbox and hand its audit folder over."""
        sandbox.stop()
        hand_over_spool(sandbox.spool, self.config.control_uid, self.config.control_gid)

    def _selftest(self, sandbox: Sandbox) -> list[dict[str, Any]]:
        """The report of the probes that ran inside. Raises Unavailable if one came out wrong."""
        outcome = runner.run(
            sandbox,
            "selftest.shared" if sandbox.home else "selftest",
            {"landlock": bool(sandbox.landlock), "system_paths": self.config.system_paths},
            timeout=_SELFTEST_TIMEOUT,
            limit=_SELFTEST_OUTPUT,
            frame=True,
        )
        report: list[dict[str, Any]] = runner.answer(outcome)[0]["report"]
        failed = [f"{line['probe']} ({line['detail']})" for line in report if not line["ok"]]
        if failed or not report:
            message = f"the sandbox failed its self-test: {', '.join(failed)}"
            raise Unavailable(message, code="selftest_failed")
        return report

    def _proxy_confined(self, sandbox: Sandbox) -> dict[str, Any]:
        """What the kernel says of the proxy, for the report. Raises Unavailable."""
        if sandbox.proxy is None:
            raise sandbox.gone()
        line = proxy_cage.probe(sandbox.proxy.pid, root=not self.rootless)
        if not line["ok"]:
            message = f"the sandbox's proxy is not confined: {line['detail']}"
            raise Unavailable(message, code="selftest_failed")
        return line

    def _build(self, sandbox: Sandbox, wanted: Wanted) -> dict[str, Any]:
        """All of it, to be tested; what was seen of the proxy, as a line for the report."""
        self.begin(sandbox)
        with self._begin_proxy(sandbox, wanted) as proxy:
            listeners = opened(sandbox)
            try:
                ipc.send(proxy, {"op": "listen"}, listeners)
            finally:
                ipc.close_all(listeners)
            authority = proxies.ready(sandbox, proxy)
        trust(sandbox, authority)
        # Both read on while we wait: pid 1 forks its first child as soon as the sandbox is closed,
        # and the proxy takes its policy.
        sandbox.refill()
        sandbox.offer(wanted.bundle)
        confined = self._proxy_confined(sandbox)
        await_ready(sandbox)
        return confined

    def begin(self, sandbox: Sandbox) -> None:
        """Have pid 1 forked into its groups and namespaces, where it begins to build."""
        if self.groups.hierarchies:
            sandbox.group = self.groups.create(sandbox.id, sandbox.limits)
        sandbox.control, theirs = ipc.pair()
        joined, born = sandbox.group.open() if sandbox.group else ([], False)
        try:
            request = self._first_process(sandbox)
            self.forker.request({**request, "born": born}, [theirs.fileno(), *joined])
        finally:
            theirs.close()
            ipc.close_all(joined)

    def _first_process(self, sandbox: Sandbox) -> dict[str, Any]:
        """What the forker's child is to become."""
        if self.mode != NAMESPACE:
            return modes.furnish(self, sandbox)
        return {"spec": init.to_message(self.spec(sandbox.slot, sandbox.limits))}

    def _begin_proxy(self, sandbox: Sandbox, wanted: Wanted) -> socket.socket:
        """A proxy that makes its authority while pid 1 builds; the socket that leads to it."""
        uid, gid = self.proxy_ids(sandbox.slot)
        spool_directory(sandbox.spool, uid, self.config.control_gid)
        peer = modes.peer(self, sandbox.slot)
        identity = {"uid": uid, "gid": gid, "drop_user": not self.rootless, "peer": peer}
        config = proxies.configuration(self.config, self.mode, sandbox, wanted)
        return proxies.begin(self.zygote, identity, sandbox, config)

    def dry_run(self, authority: str) -> None:
        """Build the inside of a sandbox, without a proxy, and take it down. Raises SpawnError."""
        sandbox = Sandbox(f"preflight-{os.getpid()}", 0, self.config.limits, {}, "", mode=self.mode)
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(sandbox.clear)
                stack.callback(sandbox.stop)
                self.begin(sandbox)
                ipc.close_all(opened(sandbox))
                trust(sandbox, authority)
                await_ready(sandbox)
        except (ipc.IpcError, OSError) as error:
            number = getattr(error, "errno", 0) or 0
            raise SpawnError("start", number, str(error)) from error


def opened(sandbox: Sandbox) -> list[int]:
    """Pid 1 and its listeners, told by two processes and so in either order."""
    listeners: list[int] | None = None
    if sandbox.control is None:
        raise sandbox.gone()
    while sandbox.init is None or listeners is None:
        message, fds = ipc.receive(sandbox.control, _STEP_TIMEOUT)
        if message.get("event") == "forked" and len(fds) == 1:
            sandbox.init = Process(message["pid"], fds[0])
        elif message.get("event") == "listeners" and listeners is None:
            listeners = fds
        else:
            ipc.close_all([*fds, *(listeners or ())])
            raise failure(message, "start")
    return listeners


def failure(message: dict[str, Any], expected: str) -> SpawnError:
    """What pid 1 says went wrong; `expected` is the step if it says nothing that makes sense."""
    step, number = str(message.get("step", expected)), int(message.get("errno") or 0)
    return SpawnError(step, number, str(message.get("message", "unexpected message")))


def trust(sandbox: Sandbox, authority: str) -> None:
    """Hand the certificate authority over, on which pid 1 closes the sandbox."""
    if sandbox.control is None:
        raise sandbox.gone()
    ipc.send(sandbox.control, {"op": "trust", "authority": authority})


def await_ready(sandbox: Sandbox) -> None:
    """Until pid 1 has closed the sandbox and serves."""
    if sandbox.control is None:
        raise sandbox.gone()
    message, fds = ipc.receive(sandbox.control, _STEP_TIMEOUT)
    ipc.close_all(fds)
    if message.get("event") != "ready":
        raise failure(message, "ready")
    sandbox.landlock = message["landlock"]


def checked_bundle(value: object) -> dict[str, Any]:
    """`value` as a bundle object; what is in it is the proxy's to judge."""
    if not isinstance(value, dict):
        raise Invalid("bundle must be an object", field="bundle")
    return value
