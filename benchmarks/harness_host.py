"""The harness in a process of its own, with nothing else loaded, as sandboxd has it.

What a fork costs depends on what the forking process holds, and a benchmark holds a whole platform.
Reads a line with a folder and a bundle, then one word a line: `exec`, `create`, `destroy`; answers
each with the milliseconds that the call took here.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.sandboxes.harness import config, env, modes, preflight, runner
from apps.sandboxes.harness.manager import Manager
from apps.sandboxes.harness.spawn import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable


class Host:
    """One warm sandbox to run commands in, and one that comes and goes."""

    def __init__(self, manager: Manager, bundle: dict[str, Any]) -> None:
        self.manager, self.bundle = manager, bundle
        self.other = ""
        self.warm = manager.create(self._wanted())

    def _wanted(self) -> Wanted:
        limits = self.manager.spawner.config.limits
        return Wanted(str(uuid.uuid4()), "lnsb_bench", self.bundle, {}, {}, limits)

    def exec(self) -> None:
        """`true`, from asked to answered."""
        merged = env.merged(self.warm.env, {})
        request = {"command": "true", "workdir": "/workspace", "env": merged}
        done = runner.run(self.warm, "exec", request, timeout=30, limit=1024)
        assert done.exit_code == 0

    def create(self) -> None:
        """A sandbox that passed its self-test and enforces its policy."""
        self.other = self.manager.create(self._wanted()).id

    def destroy(self) -> None:
        """Until nothing of it is left."""
        assert self.manager.delete(self.other)


def main() -> int:
    """Serve until standard input ends."""
    first = json.loads(sys.stdin.readline())
    folder = Path(first["folder"])
    settings = config.parse(
        {
            "socket": str(folder / "sandboxd.sock"),
            "spool_root": str(folder / "spool"),
            "broker_socket": str(folder / "broker.sock"),
            "sandbox_uid_base": 500_000,
            "proxy_uid_base": 600_000,
        }
    )
    settings.root_mount.mkdir(mode=0o700)
    settings.spool_root.mkdir()
    settings.spool_root.chmod(0o711)
    spawner = preflight.open_spawner(settings)
    found = preflight.examine(spawner)
    if found.mode != config.NAMESPACE:
        sys.exit(f"this host cannot isolate by namespaces: {found.remedy}")
    manager = Manager(modes.chosen(spawner, found.mode), found)
    try:
        serve(Host(manager, first["bundle"]))
    finally:
        manager.stop_all()
        preflight.close_spawner(spawner)
    return 0


def serve(host: Host) -> None:
    """One call a line."""
    calls: dict[str, Callable[[], None]] = {
        "exec": host.exec,
        "create": host.create,
        "destroy": host.destroy,
    }
    print("ready", flush=True)
    for line in sys.stdin:
        call = calls[line.strip()]
        started = time.perf_counter()
        call()
        print((time.perf_counter() - started) * 1000, flush=True)


if __name__ == "__main__":
    sys.exit(main())
