"""Why a mode of isolation or a layer of it is not to be had here, and what would change that."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from apps.sandboxes.harness.config import DEGRADED, NAMESPACE, OWNER_RULES

MEANING = {
    NAMESPACE: "a network, root and process table of its own",
    OWNER_RULES: "shared network and files; packet rules by user, Landlock, seccomp",
    DEGRADED: "Landlock and seccomp alone",
}
NOT_ALLOWED = (
    "This host can only give degraded sandboxes (Landlock and seccomp alone), and the organization "
    "does not allow these. An organization admin can, in its settings; better, change the host:"
)
NO_PROXY = "Install requirements/sandbox.txt."
NO_LANDLOCK = (
    "Use a kernel with Landlock (5.13; 6.7 for TCP, 6.12 for signals), and name it in the boot "
    "parameter lsm= where that is set."
)
NO_GROUPS = (
    "Mount /sys/fs/cgroup read-write, or name a delegated group in cgroup_parent: limits then "
    "count all processes together, and a deadline ends one command."
)
ONE_USER = "Run sandboxd as root: it then gives each sandbox and each proxy a user of its own."
_INSTALL_RULES = (
    "Install the packet rules in an init step that has CAP_NET_ADMIN, with the configuration of "
    "this sandboxd: python -m apps.sandboxes.harness.owner_rules install --config FILE"
)
_NO_HOMES = "Set `homes` in sandboxd's configuration to a folder of root's own."
_APPARMOR_PROFILE = (
    "abi <abi/4.0>,\ninclude <tunables/global>\n"
    "profile lensagents-sandboxd {python} flags=(unconfined) {{\n  userns,\n}}\n"
)


def is_rootless() -> bool:
    """Whether we lack the right to unshare on our own, and need a user namespace for it."""
    return os.geteuid() != 0


def of(mode: str, step: str, number: int, problem: str) -> str:
    """What the operator can do about a failed step, most specific cause first."""
    if step == "forced":
        return (
            f"Isolation is switched off by force_unavailable in sandboxd's configuration: {problem}"
        )
    if sys.platform != "linux" or step == "machine":
        return f"Sandboxes need Linux on x86_64 or aarch64: {problem}"
    if mode == NAMESPACE:
        return _of_namespace(step, number, problem)
    known = {
        "owner rules": _INSTALL_RULES,
        "landlock": NO_LANDLOCK,
        "one user": ONE_USER,
        "folders": _NO_HOMES,
    }
    told = known.get(step, f"A sandbox in {mode} mode failed at step {step}, errno {number}.")
    return f"{told} ({problem})"


def _of_namespace(step: str, number: int, problem: str) -> str:
    for cause in (_user_namespaces_off, _apparmor, _container):
        found = cause()
        if found:
            return f"{found} ({problem})"
    return (
        f"The kernel refused to build a sandbox at step {step} (errno {number}): {problem}. "
        "Run sandboxd as root, or enable unprivileged user namespaces; see docs/sandbox.md."
    )


def _setting(path: str) -> str:
    try:
        return (Path("/proc/sys") / path).read_text().strip()
    except OSError:
        return ""


def _user_namespaces_off() -> str:
    if not is_rootless():
        return ""
    for path, off, on in (
        ("user/max_user_namespaces", "0", "15000"),
        ("kernel/unprivileged_userns_clone", "0", "1"),
    ):
        if _setting(path) == off:
            name = path.replace("/", ".")
            return (
                "Unprivileged user namespaces are switched off. "
                f"Run: sudo sysctl -w {name}={on} (and keep it in /etc/sysctl.d/)"
            )
    return ""


def _apparmor() -> str:
    if not is_rootless() or _setting("kernel/apparmor_restrict_unprivileged_userns") != "1":
        return ""
    profile = _APPARMOR_PROFILE.format(python=os.path.realpath(sys.executable))
    return (
        "AppArmor restricts unprivileged user namespaces. Either run: sudo sysctl -w "
        "kernel.apparmor_restrict_unprivileged_userns=0, or allow this interpreter with a profile "
        f"in /etc/apparmor.d/lensagents-sandboxd:\n{profile}"
    )


def _container() -> str:
    if not any(Path(path).exists() for path in ("/.dockerenv", "/run/.containerenv")):
        return ""
    return (
        "This container may not make namespaces. Start it with: docker run --cap-add SYS_ADMIN "
        "--cap-add NET_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
        "--security-opt systempaths=unconfined --cgroups private "
        "-v /sys/fs/cgroup:/sys/fs/cgroup:rw IMAGE"
    )
