"""The system call filter of everything that runs in a sandbox, as raw BPF.

The list is one of refusals, with three allow-lists inside it: socket families, socket types and
personalities. A call that is younger than this list is answered ENOSYS, as an older kernel would,
so a new kernel opens nothing by itself. It is the second line everywhere: the sandbox has no
capability, no foreign process in sight and no network, and these calls stay refused all the same.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

from apps.sandboxes.harness import syscalls

# The number on x86_64, then on aarch64, where it may be missing.
_Numbers = tuple[int, int | None]

REFUSED: dict[str, _Numbers] = {
    # Mounts and roots: the view of files is ours to make.
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458),
    # Namespaces of others. (Making new ones: see `_clone_rules`.)
    "setns": (308, 268),
    # Other processes' memory and descriptors.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    # Code that runs in the kernel, and interfaces with a long record of escapes.
    "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    # Keyrings are not namespaced by everything we unshare.
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # Files by handle walk around directory permissions; fanotify watches whole mounts.
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    # The host's clock, name, log, swap, quotas, accounting, power and consoles.
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162),
    "syslog": (103, 116), "swapon": (167, 224), "swapoff": (168, 225), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "acct": (163, 89), "reboot": (169, 142), "vhangup": (153, 58),
    # Processor state and memory placement.
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "remap_file_pages": (216, 234),
    # Relics.
    "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None), "_sysctl": (156, None),
    "nfsservctl": (180, 42), "lookup_dcookie": (212, 18),
}  # fmt: skip

# Refused as if the kernel did not have them, since callers then take the older way by themselves.
ABSENT: dict[str, _Numbers] = {
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip

# What an egress proxy never does on top: other programs, other processes, sockets of its own that
# listen. Its listeners are handed to it, and its threads are no processes.
PROXY_REFUSED: dict[str, _Numbers] = {
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "bind": (49, 200), "listen": (50, 201),
}  # fmt: skip

# Hides its flags behind a pointer that a filter cannot read. Process 1 alone may use it, to fork
# its children right into their control group; see `build_for_jobs`.
CLONE3: _Numbers = (435, 435)

# Where sandboxes have no namespaces, also what those would have kept apart: memory, semaphores and
# queues that are found by number or name, and servers.
SHARED: dict[str, _Numbers] = {
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "listen": (50, 201),
}  # fmt: skip
# The calls that take flags for a message, and the argument that holds them.
_SENDING: dict[str, tuple[_Numbers, int]] = {
    "sendto": ((44, 206), 3), "sendmsg": ((46, 211), 2), "sendmmsg": ((307, 269), 3),
}  # fmt: skip
_MSG_FASTOPEN = 0x20000000
_PRLIMIT: _Numbers = (302, 261)

# The last call that this list was reviewed with (removexattrat, Linux 6.13).
LAST_REVIEWED = 466

_CLONE: _Numbers = (56, 220)
_UNSHARE: _Numbers = (272, 97)
_SOCKET: _Numbers = (41, 198)
_SOCKETPAIR: _Numbers = (53, 199)
_IOCTL: _Numbers = (16, 29)
_PERSONALITY: _Numbers = (135, 92)

_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUSER
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWNET
)
_CLONE_THREAD = 0x00010000
_NETLINK_SOCK_DIAG = 4
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_STREAM, _DGRAM = 1, 2
_TCP, _UDP = 6, 17
# Put characters into a terminal's input, paste a console's selection, load a line discipline.
_IOCTLS = (0x5412, 0x541C, 0x5423)

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32_BIT = 0x40000000

_LD, _AND, _RET = 0x20, 0x54, 0x06
_JEQ, _JGT, _JGE, _JSET = 0x15, 0x25, 0x35, 0x45
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_SECCOMP_SET_MODE_FILTER = 1

_Instruction = tuple[int, int, int, int]


def _refuse(number: int) -> _Instruction:
    return (_RET, 0, 0, _ERRNO | number)


_PASS: _Instruction = (_RET, 0, 0, _ALLOW)
_EPERM = _refuse(errno.EPERM)


def _argument(index: int) -> _Instruction:
    """Load the low half of an argument: all that the kernel reads of an int or of clone's flags."""
    return (_LD, 0, 0, _OFFSET_ARGS + 8 * index)


def _when(jump: int, value: int, body: list[_Instruction]) -> list[_Instruction]:
    """Run `body` (which ends in a return) if the accumulator compares so, else skip it."""
    return [(jump, 0, len(body), value), *body]


def _clone_rules() -> list[_Instruction]:
    return [_argument(0), *_when(_JSET, _NAMESPACES, [_EPERM]), _PASS]


def _unshare_rules() -> list[_Instruction]:
    mask = _NAMESPACES | syscalls.CLONE_NEWTIME
    return [_argument(0), *_when(_JSET, mask, [_EPERM]), _PASS]


def _protocols(allowed: int) -> list[_Instruction]:
    """Protocol 0 or `allowed`: no ping socket, no MPTCP, no UDP-Lite."""
    passed = [*_when(_JEQ, 0, [_PASS]), *_when(_JEQ, allowed, [_PASS])]
    return [_argument(2), *passed, _refuse(errno.EPROTONOSUPPORT)]


def _internet_rules() -> list[_Instruction]:
    kinds = [*_when(_JEQ, _STREAM, _protocols(_TCP)), *_when(_JEQ, _DGRAM, _protocols(_UDP))]
    return [_argument(1), (_AND, 0, 0, 0xF), *kinds, _EPERM]


def _socket_rules(*netlink: int) -> list[_Instruction]:
    """Unix, TCP and UDP, and netlink of the protocols named; no other family."""
    named = [i for protocol in netlink for i in _when(_JEQ, protocol, [_PASS])]
    return [
        _argument(0),
        *_when(_JEQ, _AF_UNIX, [_PASS]),
        *_when(_JEQ, _AF_INET, _internet_rules()),
        *_when(_JEQ, _AF_INET6, _internet_rules()),
        *(_when(_JEQ, _AF_NETLINK, [_argument(2), *named, _EPERM]) if named else ()),
        _refuse(errno.EAFNOSUPPORT),
    ]


def _socketpair_rules() -> list[_Instruction]:
    return [_argument(0), *_when(_JEQ, _AF_UNIX, [_PASS]), _refuse(errno.EAFNOSUPPORT)]


def _ioctl_rules() -> list[_Instruction]:
    refused = [i for number in _IOCTLS for i in _when(_JEQ, number, [_EPERM])]
    return [_argument(1), *refused, _PASS]


def _personality_rules() -> list[_Instruction]:
    """Ask, or be ordinary Linux: READ_IMPLIES_EXEC and unrandomised addresses help no tool."""
    passed = [*_when(_JEQ, 0, [_PASS]), *_when(_JEQ, 0xFFFFFFFF, [_PASS])]
    return [_argument(0), *passed, _EPERM]


def build(machine: str = "") -> bytes:
    """The filter of everything in a sandbox, process 1 included, but for clone3.

    An array of `struct sock_filter` for `machine` (default: this one). Raises KeyError for a
    machine whose numbers are not known.
    """
    # The routing netlink (protocol 0) is what name look-ups read.
    return _program(machine, _socket_rules(0), _clone_rules(), {})


def build_for_proxy(machine: str = "", *, diagnosis: bool = False) -> bytes:
    """The filter of an egress proxy. `diagnosis`: it may ask whose a socket is (sock_diag)."""
    sockets = _socket_rules(_NETLINK_SOCK_DIAG) if diagnosis else _socket_rules()
    threads = [_argument(0), *_when(_JSET, _CLONE_THREAD, _clone_rules()), _EPERM]
    return _program(machine, sockets, threads, PROXY_REFUSED, clone3=False)


def _program(
    machine: str,
    sockets: list[_Instruction],
    clone: list[_Instruction],
    refused: dict[str, _Numbers],
    *,
    clone3: bool = True,
) -> bytes:
    column, audit_arch = _ARCHITECTURES[machine or platform.machine()]
    program = _head(audit_arch)
    if column == 0:
        program += _when(_JGE, _X32_BIT, [_refuse(errno.ENOSYS)])
    program += _when(_JGT, LAST_REVIEWED, [_refuse(errno.ENOSYS)])
    checked = (
        (_SOCKET, sockets),
        (_SOCKETPAIR, _socketpair_rules()),
        (_CLONE, clone),
        *(() if clone3 else ((CLONE3, [_refuse(errno.ENOSYS)]),)),
        (_UNSHARE, _unshare_rules()),
        (_IOCTL, _ioctl_rules()),
        (_PERSONALITY, _personality_rules()),
        *((numbers, [_refuse(errno.ENOSYS)]) for numbers in ABSENT.values()),
        *((numbers, [_EPERM]) for numbers in (REFUSED | refused).values()),
    )
    for numbers, body in checked:
        number = numbers[column]
        if number is not None:
            program += _when(_JEQ, number, body)
    return _packed([*program, _PASS])


def build_for_jobs(machine: str = "") -> bytes:
    """What jobs get on top of `build`: no clone3 either."""
    column, audit_arch = _ARCHITECTURES[machine or platform.machine()]
    refused = _when(_JEQ, CLONE3[column] or 0, [_refuse(errno.ENOSYS)])
    return _packed([*_head(audit_arch), *refused, _PASS])


def build_for_shared(machine: str = "") -> bytes:
    """What sandboxes without a network namespace get on top of `build`.

    TCP is the only socket: names and datagrams have no business here, and a Unix socket is found by
    a path that Landlock does not guard (pairs are made without one). No server, no object of
    System V or of POSIX queues, no limits for other processes (where all is one user, that would be
    anybody's), and no connection made by the way of sending (TCP Fast Open), which Landlock does
    not see.
    """
    column, audit_arch = _ARCHITECTURES[machine or platform.machine()]
    program = [*_head(audit_arch), *_when(_JEQ, _SOCKET[column] or 0, _tcp_rules())]
    for numbers, index in _SENDING.values():
        flagged = _when(_JSET, _MSG_FASTOPEN, [_refuse(errno.EOPNOTSUPP)])
        program += _when(_JEQ, numbers[column] or 0, [_argument(index), *flagged, _PASS])
    own = [_argument(0), *_when(_JEQ, 0, [_PASS]), _EPERM]
    program += _when(_JEQ, _PRLIMIT[column] or 0, own)
    for numbers in SHARED.values():
        program += _when(_JEQ, numbers[column] or 0, [_EPERM])
    return _packed([*program, _PASS])


def _tcp_rules() -> list[_Instruction]:
    """Streams of the two internet families, and netlink, which `build` has looked at."""
    stream = [_argument(1), (_AND, 0, 0, 0xF), *_when(_JEQ, _STREAM, [_PASS]), _EPERM]
    return [
        _argument(0),
        *_when(_JEQ, _AF_INET, stream),
        *_when(_JEQ, _AF_INET6, stream),
        *_when(_JEQ, _AF_NETLINK, [_PASS]),
        _refuse(errno.EAFNOSUPPORT),
    ]


def _head(audit_arch: int) -> list[_Instruction]:
    """Leave the call's number in the accumulator, if it is one of this architecture."""
    return [
        (_LD, 0, 0, _OFFSET_ARCH),
        # A 32-bit call has other numbers: there is no sensible answer, and no honest caller.
        (_JEQ, 1, 0, audit_arch),
        (_RET, 0, 0, _KILL),
        (_LD, 0, 0, _OFFSET_NR),
    ]


def _packed(program: list[_Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def install(program: bytes) -> None:
    """Put the caller, and all that it will fork or execute, under the filter.

    Needs no_new_privs. Raises OSError (EINVAL, ENOSYS) where the kernel has no seccomp.
    """
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(code))
    syscalls.call("seccomp", _SECCOMP_SET_MODE_FILTER, 0, head)
