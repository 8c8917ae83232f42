"""The attacks from inside, as they are put where a sandbox has no namespaces, or no root user.

The attack stays; what differs is where its files are, where its proxy listens, and which layer says
no: packet rules, Landlock or seccomp in place of a namespace, each with an error of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.apps.sandboxes.harness import test_attacks as inside

if TYPE_CHECKING:
    from tests.apps.sandboxes.harness.conftest import Box

SHARED: Final = ("owner-rules", "degraded")
# There only TCP sockets can be made, and terminals and shared memory are closed.
_ATTACKS_IN_SHARED: Final = {
    "interface": "refused(lambda: make(V4, socket.SOCK_DGRAM))",
    "type_into_terminal": 'refused(lambda: os.open("/dev/ptmx", os.O_RDWR))',
    "line_discipline": 'refused(lambda: os.open("/dev/pts/ptmx", os.O_RDWR), "ENOENT")',
    "execute_shared_memory": 'refused(lambda: open("/dev/shm/true", "wb"))',
}
_NO_DATAGRAMS: Final = ("udp4", "udp6", "netfilter", "interface", "type_into_terminal",
                        "block_device")  # fmt: skip
_CONTROLS_IN_SHARED: Final = dict.fromkeys(_NO_DATAGRAMS, inside.PROXY_4)
_NO: Final = {"EACCES", "EPERM", "EAFNOSUPPORT", "EROFS"}
_HOST_SHARED: Final = {
    "old_root": "no root of its own: Landlock closes the host's",
    "mounts": "no root of its own: Landlock closes the host's",
    "hidden /proc/kallsyms": "the host's /proc: names of functions, without addresses",
}
# What a kind does not give; the sandbox's own report says so, too.
NOT_GIVEN: Final[dict[str, dict[str, str]]] = {
    "rootless": {"kill_init": "one user for all: the kernel drops what is sent to pid 1"},
    "owner-rules": _HOST_SHARED,
    "degraded": _HOST_SHARED,
}


@dataclass(frozen=True)
class Surroundings:
    """What an attack has to know about the sandbox that it is in."""

    kind: str
    home: str
    temp: str
    port: str

    @classmethod
    def of(cls, kind: str, box: Box) -> Surroundings:
        """As the sandbox's own environment tells."""
        told = box.run('echo "$HOME"; echo "${TMPDIR:-/tmp}"; echo "${HTTP_PROXY##*:}"').text
        home, temp, port = told.split("\n")
        return cls(kind, home, temp, port.strip("/"))

    def prelude(self) -> str:
        """The helpers, with the errors in which a refusal may show itself here."""
        more: set[str] = set()
        if self.kind == "rootless":
            more = {"EINVAL"}  # users that are not mapped are no users
        if self.kind in SHARED:
            more = _NO
        return self._placed(inside.PRELUDE).replace(
            "if found in names:", f"if found in names + {tuple(sorted(more))}:"
        )

    def attack(self, case: inside.Case) -> str:
        """The attack as it is tried here."""
        shared = self.kind in SHARED
        return self._placed(_ATTACKS_IN_SHARED.get(case.name, "") * shared or case.attack)

    def control(self, case: inside.Case) -> str:
        """What must work beside it here."""
        shared = self.kind in SHARED
        return self._placed(_CONTROLS_IN_SHARED.get(case.name, "") * shared or case.control)

    def _placed(self, code: str) -> str:
        return (
            code.replace("18080", self.port)
            .replace('"/tmp', f'"{self.temp}')
            .replace('"/workspace', f'"{self.home}')
        )
