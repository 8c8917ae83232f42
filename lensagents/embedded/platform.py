"""The embedded default: everything in one process, in an order that keeps its promises.

1. Claim the data folder and the port, so that nothing starts twice.
2. exec sandboxd's keeper, before the first thread and while we may still be root.
3. Give up root for good, where the user that owns the data folder can work here.
4. Bring the database up to date.
5. Start the background services, each a thread with `start` and `stop`.
6. Serve in the main thread until a signal; then stop everything, last started first.

A sandbox host that cannot start or isolate stops nothing: the admin is there, and tool calls say
what would help.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from lensagents import health, privileges
from lensagents.embedded.sandbox_host import SandboxHost, sandboxd_config
from lensagents.embedded.single import Claim, require_free_port

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)
STOP_SECONDS = 4.5
ROOT_WARNING = (
    "Warning: staying root, because user {uid} cannot reach {path}. To run without root, install"
    " Python and the checkout where every user can read them (docs/install.md)."
)


class Service(Protocol):
    """Something that runs beside the web server."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def alive(self) -> bool: ...


class Platform:
    """One embedded platform. `prepare` first, then `serve`; `stop` may be called at any time."""

    def __init__(self, host: str, port: int, notify: Callable[[str], None]) -> None:
        self.host = host
        self.port = port
        self.notify = notify
        self.claim = Claim(settings.RUN_DIR)
        self.sandbox_host = SandboxHost(Path(settings.BASE_DIR))
        self._started: list[Service] = []
        self._stopped = False

    def prepare(self) -> None:
        """Steps 1 to 4; StartError when the platform cannot run at all."""
        require_free_port(self.host, self.port)
        self.claim.take()
        settings.SPOOL_DIR.mkdir(mode=0o711, exist_ok=True)
        settings.SPOOL_DIR.chmod(0o711)  # whatever the umask: proxies of other users pass it
        uid, gid = self._user()
        self.sandbox_host.start({**sandboxd_config(uid, gid), "stop_on_stdin_eof": True})
        self._become(uid, gid)
        self._migrate()

    def serve(self, services: list[Service], on_ready: Callable[[], None]) -> None:
        """Steps 5 and 6; returns after SIGINT or SIGTERM with everything stopped."""
        health.watch(type(self.sandbox_host).__name__, self.sandbox_host.alive)
        try:
            for service in services:
                self._started.append(service)
                service.start()
                health.watch(type(service).__name__, service.alive)
            self._run_web(on_ready)
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop what was started. The process ends in time even if something hangs."""
        if self._stopped:
            return
        self._stopped = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        deadline = threading.Timer(STOP_SECONDS, os._exit, args=(1,))
        deadline.daemon = True
        deadline.start()
        while self._started:
            service = self._started.pop()
            try:
                service.stop()
            except Exception:
                logger.exception("%s did not stop cleanly", type(service).__name__)
        self.sandbox_host.stop()

    def _user(self) -> tuple[int, int]:
        """Who we shall be: as root, a service user if it can work here; else who we are."""
        if os.geteuid() != 0:
            return os.geteuid(), os.getegid()
        uid, gid = privileges.service_user(settings.DATA_DIR)
        needed = [settings.BASE_DIR / "manage.py", settings.BASE_DIR / "lensagents" / "asgi.py"]
        refused = privileges.can_run_as(uid, gid, needed)
        if refused or not _others_can_cross(settings.DATA_DIR.parent):
            self.notify(ROOT_WARNING.format(uid=uid, path=refused or settings.DATA_DIR))
            return 0, 0
        return uid, gid

    def _become(self, uid: int, gid: int) -> None:
        os.umask(0o077)
        if os.geteuid() != 0 or uid == 0:
            return
        data, run, keys = settings.DATA_DIR, settings.RUN_DIR, settings.DATA_DIR / "keys"
        for path in (data, run, keys, settings.SPOOL_DIR, *data.iterdir(), *keys.iterdir()):
            privileges.give(path, uid, gid)
        privileges.give(self.claim.path, uid, gid)
        privileges.drop_to(uid, gid)

    def _migrate(self) -> None:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            self.notify("Preparing the database …")
            call_command("migrate", verbosity=0, interactive=False)
        connection.close()

    def _run_web(self, on_ready: Callable[[], None]) -> None:
        # Imported here: it installs Twisted's reactor for the whole process.
        from daphne.server import Server  # noqa: PLC0415

        from lensagents.asgi import application  # noqa: PLC0415

        def ready() -> None:
            self.claim.publish(settings.PUBLIC_URL)
            on_ready()
            self.sandbox_host.report(self.notify)

        host = self.host.replace(":", r"\:")
        server = Server(
            application,
            endpoints=[f"tcp:port={self.port}:interface={host}"],
            application_close_timeout=2,
            server_name="lens",
            ready_callable=ready,
        )
        server.run()


def _others_can_cross(folder: Path) -> bool:
    """Whether any user may pass through a folder and those above it."""
    return all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))
