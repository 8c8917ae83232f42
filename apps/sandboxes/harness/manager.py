"""All sandboxes of this host: which there are, whose users they have, and who watches them.

A sandbox whose pid 1 or proxy ends is ended whole (no proxy, no way out; no pid 1, nothing to
govern) and stays listed as failed, without processes, until it is deleted.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from apps.common.errors import Conflict, IsolationUnavailable, Unavailable
from apps.sandboxes.harness.sandbox import Sandbox, absent

if TYPE_CHECKING:
    from apps.sandboxes.harness.preflight import Host
    from apps.sandboxes.harness.spawn import Spawner, Wanted

_END_SECONDS = 15.0
_STOPPERS = 16
_CLEAR_PATIENCE = 1.0


class Manager:
    """Safe to call from threads. Creations of different sandboxes run side by side."""

    def __init__(self, spawner: Spawner, host: Host) -> None:
        self.spawner = spawner
        self.host = host
        self.instance = uuid.uuid4().hex
        self.closing = False
        self._lock = threading.Lock()
        self._sandboxes: dict[str, Sandbox | None] = {}  # None: being created
        self._free = list(range(spawner.config.max_sandboxes - 1, -1, -1))
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        threading.Thread(target=self._monitor, name="monitor", daemon=True).start()

    def health(self) -> dict[str, Any]:
        """What this host isolates with, and how many sandboxes run."""
        return {**self.host.describe(), "sandboxes": len(self.list())}

    def create(self, wanted: Wanted) -> Sandbox:
        """Raises IsolationUnavailable, Conflict `sandbox_exists`, Unavailable."""
        if remedy := self.host.refusal(allow_degraded=wanted.allow_degraded):
            message = "this host cannot isolate a sandbox"
            raise IsolationUnavailable(message, remedy=remedy)
        slot = self._reserve(wanted.id)
        try:
            sandbox = self.spawner.create(wanted, slot)
        except BaseException:
            self._forget(wanted.id, slot)
            raise
        with self._lock:
            self._sandboxes[wanted.id] = sandbox
            closing = self.closing
        if closing:
            self.delete(wanted.id)
            raise Unavailable("sandboxd is stopping", code="stopping")
        os.write(self._wake_write, b"x")
        return sandbox

    def _reserve(self, sandbox_id: str) -> int:
        with self._lock:
            if self.closing:
                raise Unavailable("sandboxd is stopping", code="stopping")
            if sandbox_id in self._sandboxes:
                raise Conflict(f"sandbox {sandbox_id} exists", code="sandbox_exists")
            if not self._free:
                raise Unavailable("this host runs as many sandboxes as it may", code="too_many")
            self._sandboxes[sandbox_id] = None
            return self._free.pop()

    def _forget(self, sandbox_id: str, slot: int) -> None:
        with self._lock:
            self._sandboxes.pop(sandbox_id, None)
            self._free.append(slot)

    def list(self) -> list[Sandbox]:
        """Those that exist, failed ones too."""
        with self._lock:
            return [s for s in self._sandboxes.values() if s is not None]

    def get(self, sandbox_id: str) -> Sandbox:
        """Raises NotFound `sandbox_not_found`."""
        with self._lock:
            sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            raise absent(sandbox_id)
        return sandbox

    def running(self, sandbox_id: str) -> Sandbox:
        """Raises NotFound `sandbox_not_found`, Conflict `sandbox_over`: then nothing was begun."""
        sandbox = self.get(sandbox_id)
        if sandbox.failure:
            raise Conflict(f"the sandbox is over: {sandbox.failure}", code="sandbox_over")
        return sandbox

    def delete(self, sandbox_id: str) -> bool:
        """End and remove it; false when there is none."""
        with self._lock:
            sandbox = self._sandboxes.get(sandbox_id)
            if sandbox is None:
                return False
            del self._sandboxes[sandbox_id]
        if sandbox.claim_end("stopped"):
            self._discard(sandbox)
        else:
            sandbox.ended.wait(_END_SECONDS)
        return True

    def _discard(self, sandbox: Sandbox) -> None:
        """The slot, and with it the users, are given out again only when all is gone."""
        try:
            self.spawner.discard(sandbox)
        finally:
            sandbox.ended.set()
        if sandbox.home is None:
            self._release(sandbox)
            return
        # How long that takes is up to who filled the folder: nobody waits for it.
        clearing = threading.Thread(target=self._clear, args=(sandbox,), name="clear", daemon=True)
        clearing.start()
        clearing.join(_CLEAR_PATIENCE)

    def _clear(self, sandbox: Sandbox) -> None:
        try:
            sandbox.clear()
        except OSError as error:
            complain(f"the folder of sandbox {sandbox.id} could not be removed: {error}")
        else:
            self._release(sandbox)

    def _release(self, sandbox: Sandbox) -> None:
        with self._lock:
            self._free.append(sandbox.slot)

    def stop_all(self) -> None:
        """No more creations; end every sandbox."""
        with self._lock:
            self.closing = True
            names = [name for name, sandbox in self._sandboxes.items() if sandbox is not None]
        with ThreadPoolExecutor(_STOPPERS) as pool:
            pool.map(self._delete_or_complain, names)

    def _delete_or_complain(self, name: str) -> None:
        try:
            self.delete(name)
        except OSError as error:
            complain(f"sandbox {name} could not be removed: {error}")

    def _monitor(self) -> None:
        """Wait for the end of any pid 1 or proxy."""
        while not self.closing:
            poll = select.poll()
            poll.register(self._wake_read, select.POLLIN)
            watched = self._register(poll)
            for descriptor, _ in poll.poll(60_000):
                if descriptor == self._wake_read:
                    os.read(self._wake_read, 4096)
                else:
                    self._ended(*watched[descriptor])

    def _register(self, poll: select.poll) -> dict[int, tuple[Sandbox, str]]:
        watched: dict[int, tuple[Sandbox, str]] = {}
        for sandbox in self.list():
            for name, process in (("init", sandbox.init), ("proxy", sandbox.proxy)):
                if process is not None:
                    watched[process.handle] = (sandbox, f"{name}_ended")
                    poll.register(process.handle, select.POLLIN)
        return watched

    def _ended(self, sandbox: Sandbox, reason: str) -> None:
        if not sandbox.claim_end(reason):
            return
        complain(f"sandbox {sandbox.id}: {sandbox.failure}")
        try:
            self._discard(sandbox)
        except OSError as error:
            complain(f"sandbox {sandbox.id} could not be removed: {error}")


def complain(message: str) -> None:
    """One line for the operator's log. Never holds anything that an agent or a tenant wrote."""
    sys.stderr.write(f"sandboxd: {message}\n")
    sys.stderr.flush()
