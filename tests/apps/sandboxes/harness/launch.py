"""Start a sandboxd of a kind that the caller is not: in a network of its own with packet rules by
user, or as a user who is not root. The modules are loaded as root, since the checkout may be
root's alone.

    python -m tests.apps.sandboxes.harness.launch KIND --config FILE
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import apps.proxy.egress.main
import apps.proxy.egress.tls.ca  # noqa: F401  see above
from apps.sandboxes.harness import config, owner_rules, sandboxd, syscalls

USER = 54_321
OWN_NETWORK = "own-network"
RULES_HERE = "rules-here"
CONTAINER = "container"
PLAIN_USER = "plain-user"
# What a container runtime leaves to root by default: nothing to mount or to make a network with.
# CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW,
# SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP
_OF_CONTAINERS = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31})


def rules(path: Path, backend: str) -> None:
    """The packet rules for the sandboxd of that configuration; root, the tests, may send."""
    owner_rules.install(owner_rules.of(config.load(path), (0,)), backend)


def own_network() -> None:
    """A network namespace that holds the loopback and nothing else."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    syscalls.loopback_up()


def delegate(group: Path) -> None:
    """As a service manager does: a control group (version 2) of the user's own, with us in it."""
    group.mkdir()
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(group / name, USER, USER)
    (group / "cgroup.procs").write_text("0")


def main() -> int:
    """Become the kind, then sandboxd. Behind a colon: the program for the packet rules, or a
    control group to make and delegate."""
    kind, _, backend = sys.argv.pop(1).partition(":")
    path = Path(sys.argv[2])
    if kind in (OWN_NETWORK, CONTAINER):
        own_network()
    if kind in (OWN_NETWORK, RULES_HERE, CONTAINER):
        rules(path, backend or "auto")
    if kind == CONTAINER:
        syscalls.drop_bounding(c for c in syscalls.ALL_CAPABILITIES if c not in _OF_CONTAINERS)
        syscalls.set_capabilities(_OF_CONTAINERS)
    if kind == PLAIN_USER and backend:
        delegate(Path(backend))
    if kind == PLAIN_USER:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
    return sandboxd.main()


if __name__ == "__main__":
    sys.exit(main())
