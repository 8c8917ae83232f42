"""sandboxd as a child of the embedded default.

Its keeper, which starts it anew when it dies, is started before the first thread, with a clean
environment. The two are the only processes that keep root. Once we have given up root we may not
signal them any more: they hold the reading end of a pipe and end when we close ours, or die.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from django.conf import settings

from apps.common.errors import LensError
from apps.sandboxes.client import Sandboxd
from apps.sandboxes.paths import broker_socket, inside_socket, sandboxd_socket

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)
CLEAN_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
MODULE = "apps.sandboxes.harness.keeper"
STOP_SECONDS = 3.0
REPORT_SECONDS = 20.0


def sandboxd_config(control_uid: int, control_gid: int) -> dict[str, Any]:
    """What sandboxd reads (docs/sandbox.md), for a control plane that runs as this user."""
    return {
        "socket": str(sandboxd_socket()),
        "control_uid": control_uid,
        "control_gid": control_gid,
        "broker_socket": str(broker_socket()),
        "platform_socket": str(inside_socket()),
        "proxy_uid_base": settings.PROXY_UID_BASE,
        "max_sandboxes": settings.MAX_SANDBOXES,
        "mode": settings.SANDBOX_MODE,
        "spool_root": str(settings.SPOOL_DIR),
        "explain_url": f"{settings.PUBLIC_URL}/explain",
        "address_map": settings.ADDRESS_MAP,
        "upstream_ca_file": settings.UPSTREAM_CA_FILE,
    }


class SandboxHost:
    """Starts, watches and ends the keeper of one sandboxd."""

    def __init__(self, checkout: Path) -> None:
        self._checkout = checkout
        self._process: subprocess.Popen[bytes] | None = None
        self._answered = False

    def start(self, config: dict[str, Any]) -> None:
        """Exec sandboxd with this configuration; a failure is logged, never raised.

        It is handed over in memory: the data folder belongs to the user whom root becomes, and what
        that user could change or link elsewhere must not tell root what to do. It inherits the
        file: root of a container may not read ours, once we are another user.
        """
        memory = os.memfd_create("sandboxd.json")
        path = f"/proc/self/fd/{memory}"
        try:
            os.write(memory, json.dumps(config).encode())
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                [sys.executable, "-m", MODULE, "--config", path],
                stdin=subprocess.PIPE,
                env=CLEAN_ENVIRONMENT,
                cwd=self._checkout,
                pass_fds=(memory,),
                start_new_session=True,
            )
        except OSError as error:
            logger.warning("the sandbox service could not be started: %s", error.strerror)
        finally:
            os.close(memory)

    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def alive(self) -> bool:
        """False once there was a sandboxd and nobody is left to start it anew.

        A host that never had one serves without sandboxes, and tool calls say why.
        """
        return self.running() or not self._answered

    def report(self, say: Callable[[str], None]) -> None:
        """Say, once it is known, whether this host can isolate, and what would help if not."""
        threading.Thread(
            target=self._report, args=(say,), name="lens-preflight", daemon=True
        ).start()

    def _report(self, say: Callable[[str], None]) -> None:
        client = Sandboxd(sandboxd_socket(), timeout=REPORT_SECONDS)
        deadline = time.monotonic() + REPORT_SECONDS
        while time.monotonic() < deadline and self.running():
            try:
                health = client.health()
            except LensError:
                time.sleep(0.2)
                continue
            self._answered = True
            say(_verdict(str(health["isolation"]), str(health["remedy"])))
            return
        say(_verdict("unavailable", "the sandbox service does not run (see the messages above)"))

    def stop(self) -> None:
        """Close the pipe and wait; what is left after three seconds is killed if it may be."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(process)


def _verdict(isolation: str, remedy: str) -> str:
    """What the operator is told of this host."""
    if isolation == "unavailable":
        return f"Sandboxes are not available, tool calls will say so: {remedy}"
    if isolation == "degraded":
        return (
            "Sandboxes are degraded on this host (Landlock and seccomp alone), and refused unless "
            f"the organization allows them: {remedy}"
        )
    return "Sandboxes are isolated by the kernel."


def _kill(process: subprocess.Popen[bytes]) -> None:
    logger.warning("the sandbox service did not end by itself")
    try:
        process.kill()
        process.wait(1)
    except (PermissionError, subprocess.TimeoutExpired):
        logger.warning("the sandbox service (process %s) is left over", process.pid)
