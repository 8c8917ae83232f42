"""Give up privileges: the steps that pid 1, every command and every proxy go through, in order.

Order matters. Files are opened before Landlock forbids it; groups go before the user, since only
root may drop them; the bounding set goes while CAP_SETPCAP is still there; no_new_privs comes
before Landlock and seccomp, which ask for it.
"""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.sandboxes.harness import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterable

# pid 1 keeps what it takes to start a command as the agent and to end it; nothing to mount,
# trace, configure a network or override a permission with.
PID_1_CAPABILITIES = frozenset(
    {syscalls.CAP_KILL, syscalls.CAP_SETGID, syscalls.CAP_SETUID, syscalls.CAP_SETPCAP}
)
# NOROOT, NO_CAP_AMBIENT_RAISE and their locks: executing as user 0 would give nothing either.
_SECUREBITS = 0x1 | 0x2 | 0x40 | 0x80
_WRITABLE = ("/workspace", "/tmp", "/dev/shm", "/dev/pts")  # noqa: S108 the sandbox's own
# Not /dev/random and /dev/urandom: writing them has no use, and the self-test sees by them that
# Landlock is on, since nothing but Landlock forbids it.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty")
WRITABLE = (*_WRITABLE, *_DEVICES)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom to become. In rootless mode `drop_user` is false: there is one user, already ours."""

    uid: int
    gid: int
    drop_user: bool


def become(identity: Identity, bounding: Iterable[int] = syscalls.ALL_CAPABILITIES) -> None:
    """Drop groups, user, all capabilities and the way back to any of them.

    `bounding`: what is left in the bounding set (a child of pid 1 has what pid 1 kept).
    """
    if identity.drop_user:
        syscalls.prctl(syscalls.PR_SET_SECUREBITS, _SECUREBITS)
        syscalls.drop_bounding(bounding)
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    syscalls.set_capabilities(frozenset())
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def handled_signals() -> tuple[signal.Signals | int, ...]:
    """Those whose handling is not the default, as Python makes some by itself: what a child undoes.

    Asked once, ahead of the forks: to set all sixty takes as long as to fork.
    """
    default = (signal.SIG_DFL, None)
    return tuple(n for n in signal.valid_signals() if signal.getsignal(n) not in default)


def reset_signals(handled: Iterable[signal.Signals | int]) -> None:
    """Default handling for every signal and nothing blocked."""
    signal.set_wakeup_fd(-1)
    for number in handled:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def name_process(name: str) -> None:
    """What `ps` on the host shows (at most 15 characters)."""
    syscalls.set_name(name)


def lower_limit(kind: int, value: int) -> None:
    """Set both limits to `value`, or leave a hard limit that is already lower."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def undumpable() -> None:
    """No core file, and our /proc entries belong to root: the same user cannot read or trace us."""
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
