"""One platform per data folder, and one per port: both are claimed before anything is started."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class StartError(Exception):
    """The platform cannot start; the text says why and what would help."""


class Claim:
    """An exclusive lock on a data folder for as long as this process lives.

    The locked file tells others where the platform answers. The kernel drops the lock when the
    process ends, however it ends, so nothing is left to clean up.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "platform.json"
        self._file = -1

    def take(self) -> None:
        """Take the lock; StartError when another process holds it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise StartError(f"{self.path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another Lens Agents (process {_pid_in(self.path)}) uses the data folder"
                f" {self.path.parent.parent}: stop it, or choose another --data-dir"
            ) from None

    def publish(self, url: str) -> None:
        """Write down where we answer."""
        text = json.dumps({"pid": os.getpid(), "url": url}).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text, 0)


def running_url(run_dir: Path) -> str | None:
    """Where the platform of this data folder answers, or None when none runs."""
    path = run_dir / "platform.json"
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return str(_content(path).get("url", "")) or None
    finally:
        os.close(file)
    return None


def require_free_port(host: str, port: int) -> None:
    """StartError when the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {host} port {port} ({error.strerror}): choose another --port"
            ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name other than localhost cannot tell."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _content(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _pid_in(path: Path) -> object:
    return _content(path).get("pid", "unknown")
