"""sandboxd: the one process of a host that may be root. Builds sandboxes, runs jobs in them.

    python -m apps.sandboxes.harness.sandboxd --config FILE

Order at the start: read the configuration, clean up what was inherited, fork the two fork servers
(before any thread), find out what this host can isolate with, then serve. It never parses what an
agent wrote, never holds the platform's master key, and outlives a restart of the web process.
SIGTERM or SIGINT end every sandbox, then it. If it dies by any other way, its sockets close, on
which every sandbox and proxy ends by itself; the next start removes the empty control groups.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import stat
import sys
import threading
from pathlib import Path

from apps.sandboxes.harness import config, confine, modes, preflight, syscalls
from apps.sandboxes.harness.api import Server
from apps.sandboxes.harness.config import Config, ConfigError
from apps.sandboxes.harness.manager import Manager, complain

BAD_CONFIG = 2
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def main() -> int:
    """Run until told to stop. 2: the configuration is wrong, and the message names the field."""
    settings = configured()
    return BAD_CONFIG if settings is None else begin(settings)


def configured() -> Config | None:
    """What the arguments say, in a process that has let go of all that it inherited (which may
    include the file itself)."""
    parser = argparse.ArgumentParser(description="Builds and runs the sandboxes of this host.")
    parser.add_argument("--config", required=True, type=Path, help="see docs/sandbox.md")
    path = parser.parse_args().config
    config.clean_environment()
    os.umask(0o077)
    try:
        return config.load(path)
    except ConfigError as error:
        complain(f"configuration: {error}")
        return None
    finally:
        syscalls.close_all_but({0, 1, 2})


def begin(settings: Config) -> int:
    """Prepare, then serve."""
    try:
        prepare_folders(settings)
    except ConfigError as error:
        complain(f"configuration: {error}")
        return BAD_CONFIG
    return serve(settings)


def prepare_folders(settings: Config) -> None:
    """Our mount point, a free socket path, and a spool that proxies can reach."""
    try:
        settings.root_mount.mkdir(mode=0o700, exist_ok=True)
        if not settings.spool_root.exists():
            settings.spool_root.mkdir()
            settings.spool_root.chmod(0o711)  # passed by each proxy, listed by none
    except OSError as error:
        raise ConfigError(f"socket, spool_root: {error}") from error
    if len(os.fsencode(settings.socket)) > 107:
        raise ConfigError("socket: a Unix socket's path has at most 107 bytes")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(settings.socket)) == 0:
            raise ConfigError("socket: another sandboxd serves it")
    settings.socket.unlink(missing_ok=True)
    if os.geteuid() == 0:
        require_search("spool_root", settings.spool_root)


def require_search(name: str, place: Path) -> None:
    """Each proxy has a user of its own, and must get to its folder below `place`."""
    for folder in (place, *place.parents):
        if not folder.stat().st_mode & 0o001:
            raise ConfigError(f"{name}: other users cannot pass {folder}; chmod o+x {folder}")


def serve(settings: Config) -> int:
    """Everything from the fork servers on. Returns the exit code."""
    if not settings.stop_on_stdin_eof:
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
    spawner = preflight.open_spawner(settings)
    # Both servers are forked: now signals may wait for sigwait, and threads may start.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    confine.undumpable()
    leftovers = spawner.groups.remove_leftovers()
    if leftovers:
        complain(f"removed {leftovers} control groups of a sandboxd that was killed")
    host = preflight.examine(spawner)
    if not host.isolated:
        complain(f"isolation is unavailable. {host.remedy}")
    spawner = modes.chosen(spawner, host.mode)
    manager = Manager(spawner, host)
    server = Server(settings.socket, manager, frozenset({0, settings.control_uid}))
    open_to_control_plane(settings)
    threading.Thread(target=server.serve_forever, name="api", daemon=True).start()
    if settings.stop_on_stdin_eof:
        threading.Thread(target=stop_with_stdin, name="stdin", daemon=True).start()
    code = wait(spawner.forker.pid, spawner.zygote.pid)
    server.shutdown()
    manager.stop_all()
    preflight.close_spawner(spawner)
    settings.socket.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        settings.root_mount.rmdir()
    return code


def open_to_control_plane(settings: Config) -> None:
    """The socket was made for our user alone; the control plane's may use it too.

    At a later start its folder is the control plane's, who could put another file in its place: we
    are root, so we give away nothing but a socket of ours that goes by no other name.
    """
    place = os.open(settings.socket, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(place)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError("the socket was replaced while it was made")
        if status.st_nlink != 1:
            raise OSError("the socket has another name, too")
        if os.geteuid() == 0:
            os.chown(f"/proc/self/fd/{place}", settings.control_uid, settings.control_gid)
        Path(f"/proc/self/fd/{place}").chmod(0o600)
    finally:
        os.close(place)


def wait(*servers: int) -> int:
    """Until a signal to stop (0) or the end of a fork server (1), without which nothing works."""
    while True:
        number = signal.sigwait(_SIGNALS)
        if number != signal.SIGCHLD:
            return 0
        for pid in servers:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                complain("a fork server has ended: stopping every sandbox")
                return 1


def stop_with_stdin() -> None:
    """For an operator who ties our life to a pipe."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
