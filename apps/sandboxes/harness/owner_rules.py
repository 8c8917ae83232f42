"""Packet rules by user, for a network that sandboxes share with what else runs in a container.

    python -m apps.sandboxes.harness.owner_rules install|remove|show [--config FILE]

An init step installs them once (CAP_NET_ADMIN, in the network namespace of the container); sandboxd
needs no such right. They are the same for IPv4 and IPv6 and drop whatever they do not name:

- each proxy's user may send anywhere, but to no metadata service (DNS there excepted);
- each sandbox's user reaches the TCP port of its own proxy on the loopback and nothing else: no
  name server, no other port, no other protocol;
- users named by --allow may send anywhere (the control plane, where it runs in the same container);
- what has no user is the kernel's: the rest of closed connections, and IPv6 neighbour discovery.

By nftables, else by iptables, which may speak to either side of the kernel.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from apps.sandboxes.harness.config import Config, ConfigError, load

TABLE = "lens_owner"
CHAIN = "LENS-OWNER"
_PROXIES = f"{CHAIN}-PROXY"
_JUMP = f"-A OUTPUT -j {CHAIN}"
_EVERY_USER = "0-4294967294"
_TIMEOUT = 30
_BAD_USE = 2
# What answers with credentials or tells about the machine, on each large cloud. The proxies refuse
# them by themselves; this holds also where one of them is mistaken.
METADATA_4 = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16")
METADATA_6 = ("fd00:ec2::254", "fd20:ce::254")
_NEIGHBOURS = ("nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert")
_NEIGHBOUR_TYPES = (133, 135, 136)
BACKENDS = ("nft", "iptables", "iptables-nft", "iptables-legacy")


class RulesError(Exception):
    """The rules could not be changed; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may send where. Users and ports go by slot: the first of each belong together."""

    sandbox_uid_base: int
    proxy_uid_base: int
    proxy_port_base: int
    slots: int
    allowed: tuple[int, ...] = ()

    @property
    def doors(self) -> list[tuple[int, int]]:
        """(user of a sandbox, port of its proxy) of every slot."""
        return [(self.sandbox_uid_base + n, self.proxy_port_base + n) for n in range(self.slots)]

    @property
    def sandboxes(self) -> str:
        """The users of all sandboxes, as a range."""
        return f"{self.sandbox_uid_base}-{self.sandbox_uid_base + self.slots - 1}"

    @property
    def proxies(self) -> str:
        """The users of all proxies, as a range."""
        return f"{self.proxy_uid_base}-{self.proxy_uid_base + self.slots - 1}"


def of(config: Config, allowed: tuple[int, ...] = ()) -> Rules:
    """The rules that fit a sandboxd's configuration. RulesError for a user that is a sandbox's."""
    rules = Rules(
        config.sandbox_uid_base,
        config.proxy_uid_base,
        config.proxy_port_base,
        config.max_sandboxes,
        allowed,
    )
    for uid in allowed:
        if rules.sandbox_uid_base <= uid < rules.sandbox_uid_base + rules.slots:
            raise RulesError(f"--allow {uid}: is the user of a sandbox")
    return rules


def for_nft(rules: Rules) -> str:
    """One file that puts our table in place of an older one, at once and for both protocols."""
    doors = ", ".join(f"{uid} . {port}" for uid, port in rules.doors)
    accept = "".join(f"    meta skuid {uid} accept\n" for uid in rules.allowed)
    return f"""table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  set doors {{
    type uid . inet_service
    elements = {{ {doors} }}
  }}
  chain proxies {{
    meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr {{ {", ".join(METADATA_4)} }} counter drop
    ip6 daddr {{ {", ".join(METADATA_6)} }} counter drop
    accept
  }}
  chain output {{
    type filter hook output priority 0; policy drop;
    meta skuid {rules.proxies} goto proxies
    oifname "lo" ip daddr 127.0.0.1 meta skuid . tcp dport @doors accept
    oifname "lo" ip6 daddr ::1 meta skuid . tcp dport @doors accept
    meta skuid {rules.sandboxes} counter drop
{accept}    meta skuid {_EVERY_USER} counter drop
    meta l4proto tcp tcp flags & syn == 0 accept
    icmpv6 type {{ {", ".join(_NEIGHBOURS)} }} accept
    counter drop
  }}
}}
"""


def for_iptables(rules: Rules, *, version: int, jump: bool) -> str:
    """The same for iptables-restore of one protocol: two chains of ours, emptied if they are there,
    and unless there is one already a jump to them from OUTPUT."""
    local, metadata = ("127.0.0.1", METADATA_4) if version == 4 else ("::1", METADATA_6)
    lines = [f":{CHAIN} - [0:0]", f":{_PROXIES} - [0:0]"]
    lines += [f"-A {_PROXIES} -p {kind} --dport 53 -j ACCEPT" for kind in ("tcp", "udp")]
    lines += [f"-A {_PROXIES} -d {address} -j DROP" for address in metadata]
    door, of_user = f"-A {CHAIN} -o lo -d {local} -p tcp --dport", "-m owner --uid-owner"
    lines += [
        f"-A {_PROXIES} -j ACCEPT",
        f"-A {CHAIN} {of_user} {rules.proxies} -g {_PROXIES}",
        *(f"{door} {port} {of_user} {uid} -j ACCEPT" for uid, port in rules.doors),
        f"-A {CHAIN} {of_user} {rules.sandboxes} -j DROP",
        *(f"-A {CHAIN} {of_user} {uid} -j ACCEPT" for uid in rules.allowed),
        f"-A {CHAIN} {of_user} {_EVERY_USER} -j DROP",
        f"-A {CHAIN} -p tcp --tcp-flags SYN NONE -j ACCEPT",
    ]
    if version == 6:
        kinds = _NEIGHBOUR_TYPES
        lines += [f"-A {CHAIN} -p icmpv6 --icmpv6-type {kind} -j ACCEPT" for kind in kinds]
    lines += [f"-A {CHAIN} -j DROP", *([f"-I OUTPUT 1 -j {CHAIN}"] if jump else [])]
    return "\n".join(("*filter", *lines, "COMMIT", ""))


def install(rules: Rules, backend: str) -> str:
    """Put the rules in place of older ones, without a moment in between; the backend that did.

    Raises RulesError; what was changed by then only closes.
    """
    chosen = found(backend)
    if chosen == "nft":
        _run(["nft", "-f", "-"], for_nft(rules))
        return chosen
    for version in (4, 6):
        command = _named(chosen, version)
        jump = _JUMP not in _run([command, "-S", "OUTPUT"]).splitlines()
        text = for_iptables(rules, version=version, jump=jump)
        _run([f"{command}-restore", "--noflush"], text)
    return chosen


def remove(backend: str) -> str:
    """Take the rules away, if they are there; the backend that did. Raises RulesError."""
    chosen = found(backend)
    if chosen == "nft":
        _run(["nft", "-f", "-"], f"table inet {TABLE}\ndelete table inet {TABLE}\n")
        return chosen
    for version in (4, 6):
        command = _named(chosen, version)
        rules = _run([command, "-S"]).splitlines()
        chains = [c for c in (CHAIN, _PROXIES) if f"-N {c}" in rules]
        jumps = rules.count(_JUMP)
        lines = [f"-D OUTPUT -j {CHAIN}"] * jumps
        lines += [f"-{what} {chain}" for what in "FX" for chain in chains]
        _run([f"{command}-restore", "--noflush"], "\n".join(("*filter", *lines, "COMMIT", "")))
    return chosen


def show(backend: str) -> str:
    """The rules as the kernel has them, with counters; empty when there are none."""
    chosen = found(backend)
    if chosen == "nft":
        tables = _run(["nft", "list", "tables"]).splitlines()
        return (
            _run(["nft", "list", "table", "inet", TABLE]) if f"table inet {TABLE}" in tables else ""
        )
    told = (_run([_named(chosen, v), "-v", "-S"]) for v in (4, 6))
    return "".join(line + "\n" for text in told for line in text.splitlines() if CHAIN in line)


def found(backend: str) -> str:
    """The program to use: the one asked for, or for "auto" the first that is installed."""
    wanted = BACKENDS if backend == "auto" else (backend,)
    for name in wanted:
        if shutil.which(name, path=_PATH):
            return name
    raise RulesError(f"{' and '.join(wanted)}: not installed. Install the package nftables.")


_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def _named(command: str, version: int) -> str:
    return command if version == 4 else command.replace("iptables", "ip6tables", 1)


def _run(command: list[str], text: str = "") -> str:
    path = shutil.which(command[0], path=_PATH)
    if path is None:
        raise RulesError(f"{command[0]}: not installed. Install the package iptables.")
    try:
        done = subprocess.run(  # noqa: S603 a fixed program, no shell, rules from whole numbers
            [path, *command[1:]],
            input=text, capture_output=True, text=True, check=False, timeout=_TIMEOUT,
            env={"PATH": _PATH, "LANG": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RulesError(f"{command[0]}: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[:500]
        raise RulesError(f"{command[0]} refused: {said}. The step needs CAP_NET_ADMIN.")
    return done.stdout


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Packet rules by user, for sandboxes in a pod.")
    parser.add_argument("action", choices=("install", "remove", "show"))
    parser.add_argument("--config", type=Path, help="sandboxd's; its users and ports are used")
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default="auto")
    parser.add_argument(
        "--allow", type=int, action="append", default=[], metavar="UID",
        help="a user that may send anywhere, such as the control plane's; repeat for more",
    )  # fmt: skip
    return parser.parse_args()


def main() -> int:
    """0: done. 1: the kernel or a program refused. 2: the configuration is wrong."""
    arguments = _arguments()
    try:
        settings = load(arguments.config) if arguments.config else DEFAULTS
        rules = of(settings, tuple(arguments.allow))
        if arguments.action == "install":
            done = f"installed with {install(rules, arguments.backend)}\n"
        elif arguments.action == "remove":
            done = f"removed with {remove(arguments.backend)}\n"
        else:
            done = show(arguments.backend)
    except (ConfigError, RulesError) as error:
        sys.stderr.write(f"owner_rules: {error}\n")
        return _BAD_USE if isinstance(error, ConfigError) else 1
    sys.stdout.write(done)
    return 0


# Users and ports where nobody chose others; the paths play no part here.
DEFAULTS = Config(Path("/"), Path("/"), Path("/"))

if __name__ == "__main__":
    sys.exit(main())
