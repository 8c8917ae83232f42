"""The cage of an egress proxy, which parses what agents and servers send and holds their keys.

Its user, its empty capability sets and no_new_privs are given up to by `confine`. This adds what it
never does: no program is executed, no process made, no socket listened on, no file read but its own
code and the resolver's configuration, none written but its audit folder. Whoever took it over could
make connections, which is its work, and little else.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from apps.sandboxes.harness import landlock, seccomp

PROBE = "proxy_confined"
# Its own code, for what Python loads late, and what name look-ups read. Folders, since the files in
# them are replaced while it runs.
_CODE = (sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[2]))
_SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc")
_RESOLVERS = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/nscd")
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@lru_cache(maxsize=2)
def system_call_filter(*, diagnosis: bool) -> bytes:
    """Built once in the zygote. `diagnosis`: the kernel may be asked whose socket a peer has."""
    return seccomp.build_for_proxy(diagnosis=diagnosis)


def close(spool: Path, *, diagnosis: bool) -> None:
    """Put the caller into the cage, for good. Needs no_new_privs, and that there is one thread."""
    version = landlock.abi()
    if version:
        # Often a link to a folder of whoever keeps it.
        resolver = str(Path("/etc/resolv.conf").resolve().parent)
        paths = (*_CODE, *_SYSTEM, *_RESOLVERS, resolver)
        tables = ("/proc/net",) if diagnosis else ()
        ruleset = landlock.ruleset((str(spool),), version=version, readable=(*paths, *tables))
        landlock.restrict(ruleset)
        os.close(ruleset)
    seccomp.install(system_call_filter(diagnosis=diagnosis))


def probe(pid: int, *, root: bool) -> dict[str, Any]:
    """A line of a sandbox's report, as the kernel shows the proxy of process number `pid`.

    `root`: capabilities must be gone from the bounding set too, which only root can do.
    """
    try:
        status = _status(pid)
        held = [name for name in _CAPABILITIES if int(status[name], 16)]
    except (OSError, KeyError, ValueError) as error:
        return {"probe": PROBE, "ok": False, "detail": f"cannot tell: {error}"[:200]}
    if not root and held == ["CapBnd"]:
        held = []
    wrong = [
        f"{name} is {status.get(name)}"
        for name, wanted in (("Seccomp", "2"), ("NoNewPrivs", "1"))
        if status.get(name) != wanted
    ]
    wrong += [f"{name} is not empty" for name in held]
    return {"probe": PROBE, "ok": not wrong, "detail": ", ".join(wrong) or layers()}


def layers() -> str:
    """What the cage is made of on this kernel."""
    version = landlock.abi()
    files = f"landlock ABI {version}" if version else "no landlock in this kernel"
    return f"seccomp, no_new_privs, no capabilities, {files}"


def _status(pid: int) -> dict[str, str]:
    with Path(f"/proc/{pid}/status").open() as file:
        pairs = (line.partition(":") for line in file)
        return {name: value.strip() for name, _, value in pairs}
