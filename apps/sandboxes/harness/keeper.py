"""Keeps sandboxd running: starts it anew when it ends without having been told to.

    python -m apps.sandboxes.harness.keeper --config FILE

For the embedded default, which cannot start a process as root once it has given root up; a server
has a supervisor of its own (docs/install.md). Rules:

1. The configuration is read once. What whoever owns the folders writes later is not looked at: we
   may be root.
2. sandboxd is a fork of ours and ends with us, whatever ends us. While it is away nothing runs:
   its sandboxes ended with it.
3. A start that fails is followed by a pause, twice as long each time up to `LONGEST_PAUSE`.
4. We end when standard input does, as it does; and at once where the configuration is wrong.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from apps.sandboxes.harness import confine, sandboxd, syscalls
from apps.sandboxes.harness.manager import complain

if TYPE_CHECKING:
    from types import FrameType

    from apps.sandboxes.harness.config import Config

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0  # who ran for so long begins with short pauses again
_END_SECONDS = 20.0


class _ToldToEnd(Exception):  # noqa: N818  no error
    """A signal, or the end of standard input."""


def main() -> int:
    """Run until told to stop. The exit code is sandboxd's."""
    settings = sandboxd.configured()
    if settings is None:
        return sandboxd.BAD_CONFIG
    confine.name_process("lens-keeper")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _told)
    return keep(settings)


def _told(_number: int, _frame: FrameType | None) -> None:
    raise _ToldToEnd


def keep(settings: Config) -> int:
    """Start sandboxd again and again; its exit code when it is not to be started any more."""
    pause = FIRST_PAUSE
    while True:
        started, child = time.monotonic(), None
        try:
            try:
                child = start(settings)
            except OSError as error:
                happened = f"could not be started ({error.strerror})"
            else:
                code = wait(child, tied=settings.stop_on_stdin_eof)
                child, happened = None, f"ended ({told(code)})"
                if code == sandboxd.BAD_CONFIG:
                    return code
            if time.monotonic() - started > STEADY_SECONDS:
                pause = FIRST_PAUSE
            complain(f"it {happened}; it is started anew in {pause:.1f} s")
            wait(None, tied=settings.stop_on_stdin_eof, seconds=pause)
        except _ToldToEnd:
            return 0 if child is None else end(child)
        pause = min(pause * 2, LONGEST_PAUSE)


def start(settings: Config) -> int:
    """Fork sandboxd; a descriptor of it."""
    keeper = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_sandboxd(settings, keeper)
    return os.pidfd_open(pid)


def _become_sandboxd(settings: Config, keeper: int) -> NoReturn:
    code = 1
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        confine.name_process("lens-sandboxd")
        if os.getppid() == keeper:  # else it died before we asked to die with it
            code = sandboxd.begin(settings)
    except Exception:  # noqa: BLE001  a fork ends here, and says why
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(child: int | None, *, tied: bool, seconds: float | None = None) -> int:
    """Until the child has ended (its exit code, negative for a signal) or the time is over (0).

    Raises _ToldToEnd when standard input, to which we are `tied`, ends first.
    """
    poll = select.poll()
    if tied:
        poll.register(0, 0)  # its end is told unasked; sandboxd is the one who reads it
    if child is not None:
        poll.register(child, select.POLLIN)
    events = dict(poll.poll(None if seconds is None else seconds * 1000))
    if 0 in events:
        raise _ToldToEnd
    return _reaped(child) if child in events else 0


def end(child: int) -> int:
    """Have it end, if it still runs: by itself, else by force."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        signal.pidfd_send_signal(child, signal.SIGTERM)
        poll = select.poll()
        poll.register(child, select.POLLIN)
        if not poll.poll(_END_SECONDS * 1000):
            signal.pidfd_send_signal(child, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has just ended
    return _reaped(child)


def _reaped(child: int) -> int:
    found = os.waitid(os.P_PIDFD, child, os.WEXITED)
    os.close(child)
    if found is None:  # only with WNOHANG, which was not asked for
        return 0
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def told(code: int) -> str:
    """How it ended, for the log."""
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


if __name__ == "__main__":
    sys.exit(main())
