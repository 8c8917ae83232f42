"""The filter, run by a small interpreter of BPF: both machines, without a kernel of theirs."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.sandboxes.harness import seccomp

ALLOW = 0x7FFF0000
KILL = 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = sorted(ARCHITECTURES)
# What ordinary programs cannot do without: (x86_64, aarch64).
NEEDED = {
    "read": (0, 63), "write": (1, 64), "openat": (257, 56), "close": (3, 57), "mmap": (9, 222),
    "mprotect": (10, 226), "brk": (12, 214), "execve": (59, 221), "wait4": (61, 260),
    "kill": (62, 129), "futex": (202, 98), "epoll_ctl": (233, 21), "connect": (42, 203),
    "bind": (49, 200), "listen": (50, 201), "accept4": (288, 242), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "getrandom": (318, 278), "memfd_create": (319, 279), "statx": (332, 291),
    "rseq": (334, 293), "close_range": (436, 436), "openat2": (437, 437), "pidfd_open": (434, 434),
    "prctl": (157, 167), "seccomp": (317, 277), "renameat2": (316, 276),
    "copy_file_range": (326, 285),
}  # fmt: skip


def evaluate(
    machine: str, number: int, *args: int, arch: int | None = None, filter_of: str = "build"
) -> int:
    """What a filter returns for a call: the kernel's own rules, for the opcodes we use."""
    given_arch = ARCHITECTURES[machine] if arch is None else arch
    data = struct.pack("=iIQ6Q", number, given_arch, 0, *(*args, 0, 0, 0, 0, 0, 0)[:6])
    code = getattr(seccomp, filter_of)(machine)
    program = list(struct.iter_unpack("=HBBI", code))
    accumulator, position = 0, 0
    while True:
        opcode, jump_true, jump_false, value = program[position]
        position += 1
        if opcode == 0x06:
            return int(value)
        if opcode == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif opcode == 0x54:
            accumulator &= value
        else:
            test = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[opcode]
            position += jump_true if test else jump_false


def refusal(number: int) -> int:
    return 0x00050000 | number


def numbers(table: dict[str, tuple[int, int | None]], machine: str) -> list[int]:
    column = MACHINES[::-1].index(machine)
    return [n for row in table.values() if (n := row[column]) is not None]


@pytest.mark.parametrize("machine", MACHINES)
def test_the_list_is_refused(machine: str) -> None:
    for number in numbers(seccomp.REFUSED, machine):
        assert evaluate(machine, number) == refusal(errno.EPERM), number
    assert evaluate(machine, 435, filter_of="build_for_jobs") == refusal(errno.ENOSYS)
    for number in numbers(seccomp.ABSENT, machine):
        assert evaluate(machine, number) == refusal(errno.ENOSYS), number


@pytest.mark.parametrize("machine", MACHINES)
def test_what_programs_need_is_allowed(machine: str) -> None:
    for number in numbers(dict(NEEDED), machine):
        assert evaluate(machine, number) == ALLOW, number
        assert evaluate(machine, number, filter_of="build_for_jobs") == ALLOW, number
    assert evaluate(machine, 435) == ALLOW  # process 1 forks with it


@pytest.mark.parametrize("machine", MACHINES)
def test_no_number_is_in_two_places(machine: str) -> None:
    listed = [*numbers(seccomp.REFUSED, machine), *numbers(seccomp.ABSENT, machine)]
    assert len(set(listed)) == len(listed)
    assert max(listed) <= seccomp.LAST_REVIEWED


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(seccomp.LAST_REVIEWED + 1, 2**31 - 1))
def test_calls_younger_than_the_list_do_not_exist(machine: str, number: int) -> None:
    assert evaluate(machine, number) == refusal(errno.ENOSYS)


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(-(2**31), 2**31 - 1), arch=st.sampled_from([0x40000003, 0x40000028, 0]))
def test_another_architectures_calls_end_the_process(machine: str, number: int, arch: int) -> None:
    assert evaluate(machine, number, arch=arch) == KILL


CLONE = {"x86_64": 56, "aarch64": 220}
UNSHARE = {"x86_64": 272, "aarch64": 97}
SOCKET = {"x86_64": 41, "aarch64": 198}
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
NAMESPACE_BITS = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)


@pytest.mark.parametrize("machine", MACHINES)
@given(flags=st.integers(0, 2**64 - 1))
def test_no_flag_makes_a_namespace(machine: str, flags: int) -> None:
    asks = any(flags & bit for bit in NAMESPACE_BITS)
    expected = refusal(errno.EPERM) if asks else ALLOW
    assert evaluate(machine, CLONE[machine], flags) == expected
    asks = asks or bool(flags & 0x80)
    assert evaluate(machine, UNSHARE[machine], flags) == (refusal(errno.EPERM) if asks else ALLOW)


@pytest.mark.parametrize("machine", MACHINES)
@given(
    family=st.integers(0, 50),
    kind=st.integers(0, 15),
    extra=st.sampled_from([0, 0o4000, 0o2000000, 0o2004000]),
    protocol=st.sampled_from([0, 1, 2, 6, 12, 17, 58, 132, 136, 255, 262]),
)
def test_sockets_are_an_allow_list(
    machine: str, family: int, kind: int, extra: int, protocol: int
) -> None:
    allowed = (
        family == 1
        or (family in (2, 10) and kind == 1 and protocol in (0, 6))
        or (family in (2, 10) and kind == 2 and protocol in (0, 17))
        or (family == 16 and protocol == 0)
    )
    result = evaluate(machine, SOCKET[machine], family, kind | extra, protocol)
    assert (result == ALLOW) is allowed
    assert (evaluate(machine, SOCKETPAIR[machine], family, kind) == ALLOW) is (family == 1)


LISTEN = {"x86_64": 50, "aarch64": 201}
SENDING = {"x86_64": ((44, 3), (46, 2), (307, 3)), "aarch64": ((206, 3), (211, 2), (269, 3))}
PRLIMIT = {"x86_64": 302, "aarch64": 261}
MSG_FASTOPEN = 0x20000000


@pytest.mark.parametrize("machine", MACHINES)
@given(
    family=st.integers(0, 50),
    kind=st.integers(0, 15),
    extra=st.sampled_from([0, 0o4000, 0o2000000]),
    flags=st.integers(0, 2**32 - 1),
)
def test_without_namespaces_tcp_is_the_only_socket(
    machine: str, family: int, kind: int, extra: int, flags: int
) -> None:
    """On top of the list for all: both filters are asked, and the stricter answer counts."""

    def allowed(number: int, *args: int) -> bool:
        filters = ("build", "build_for_shared")
        return all(evaluate(machine, number, *args, filter_of=one) == ALLOW for one in filters)

    tcp = family in (2, 10) and kind == 1
    assert allowed(SOCKET[machine], family, kind | extra, 0) is (tcp or family == 16)
    assert allowed(SOCKETPAIR[machine], 1, kind | extra, 0)
    assert not allowed(LISTEN[machine], 3, 128)
    assert allowed(PRLIMIT[machine], 0, kind)
    assert allowed(PRLIMIT[machine], flags, kind) is (flags == 0)
    for number, index in SENDING[machine]:
        arguments = [0] * index + [flags]
        assert allowed(number, *arguments) is not bool(flags & MSG_FASTOPEN)


@pytest.mark.parametrize("machine", MACHINES)
def test_without_namespaces_nothing_is_shared_by_number_or_name(machine: str) -> None:
    shared = numbers(seccomp.SHARED, machine)
    for number in shared:
        assert evaluate(machine, number, filter_of="build_for_shared") == refusal(errno.EPERM)
    for number in set(numbers(dict(NEEDED), machine)) - set(shared):
        assert evaluate(machine, number, filter_of="build_for_shared") == ALLOW


def test_an_unknown_machine_has_no_filter() -> None:
    with pytest.raises(KeyError):
        seccomp.build("riscv64")
