"""What a hostile program in a sandbox tries, and beside each attempt something that must work.

Every attack is a Python program that runs inside as the agent's user. `refused(...)` must end in
one of the named errors; an attack that works, or fails for another reason, fails the test.
"""

from __future__ import annotations

import platform
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.apps.sandboxes.harness.conftest import Box

pytestmark = pytest.mark.isolation

PRELUDE = """
import ctypes, errno, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)

def syscall(number, *args):
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(number), *values)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def refused(action, *names):
    try:
        result = action()
    except OSError as error:
        found = errno.errorcode.get(error.errno, str(error.errno))
        if found in names:
            print("refused", found)
            return
        sys.exit(f"unexpected {found}: {error}")
    sys.exit(f"OPEN: {result!r}")

def connect(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as sock:
        sock.settimeout(1)
        sock.connect(address)
        return sock.getsockname()

def send(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        return sock.sendto(b"x", address)

def make(family, kind, protocol=0):
    with socket.socket(family, kind, protocol) as sock:
        return sock.family

def write(path):
    with open(path, "r+b" if os.path.exists(path) else "wb") as file:
        return file.write(b"x")

def hidden(path):
    # Not there, not ours to read, or an empty file in its place.
    try:
        with open(path, "rb") as file:
            content = file.read(9)
    except OSError as error:
        content = b""
    if content:
        sys.exit(f"OPEN: {content!r}")
    print("refused")

V4, V6 = socket.AF_INET, socket.AF_INET6
"""


@dataclass(frozen=True)
class Case:
    """`control` shows that the attack fails because it is refused, not because nothing works."""

    name: str
    attack: str
    control: str = "os.getpid()"


PROXY_4 = 'connect(V4, ("127.0.0.1", 18080))'
PROXY_6 = 'connect(V6, ("::1", 18080))'
LOOPBACK_UDP = """
with socket.socket(V4, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 0)); server.settimeout(2)
    send(V4, server.getsockname()); assert server.recv(9) == b"x"
"""
SERVER = """
with socket.create_server(("127.0.0.1", 8000)) as server:
    connect(V4, ("127.0.0.1", 8000))
"""
UNIX = """
with socket.socket(socket.AF_UNIX) as server:
    server.bind("\\0lens-inside"); server.listen()
    connect(socket.AF_UNIX, "\\0lens-inside")
"""
FORK = "pid = os.fork()\nif pid == 0: os._exit(7)\nassert os.waitpid(pid, 0)[1] == 7 << 8"
KEEP = 'open("/workspace/kept", "w").write("x"); os.unlink("/workspace/kept")'
ROUTE = '"ENETUNREACH", "EADDRNOTAVAIL"'
FAMILY = '"EAFNOSUPPORT"'

NETWORK = (
    Case("tcp4", f'refused(lambda: connect(V4, ("192.0.2.1", 443)), {ROUTE})', PROXY_4),
    Case("tcp6", f'refused(lambda: connect(V6, ("2001:db8::1", 443)), {ROUTE})', PROXY_6),
    Case("udp4", f'refused(lambda: send(V4, ("192.0.2.1", 53)), {ROUTE})', LOOPBACK_UDP),
    Case("udp6", f'refused(lambda: send(V6, ("2001:db8::1", 53)), {ROUTE})', LOOPBACK_UDP),
    Case("metadata4", f'refused(lambda: connect(V4, ("169.254.169.254", 80)), {ROUTE})', PROXY_4),
    Case("metadata6", f'refused(lambda: connect(V6, ("fd00:ec2::254", 80)), {ROUTE})', PROXY_6),
    Case("broadcast", f'refused(lambda: send(V4, ("255.255.255.255", 67)), "EACCES", {ROUTE})'),
    Case("icmp_ping", 'refused(lambda: make(V4, socket.SOCK_DGRAM, 1), "EPROTONOSUPPORT")'),
    Case("raw4", 'refused(lambda: make(V4, socket.SOCK_RAW, 1), "EPERM")'),
    Case("raw6", 'refused(lambda: make(V6, socket.SOCK_RAW, 58), "EPERM")'),
    Case("packet", f"refused(lambda: make(17, socket.SOCK_RAW, 0x300), {FAMILY})"),
    Case("vsock", f"refused(lambda: make(40, socket.SOCK_STREAM), {FAMILY})"),
    Case("alg", f"refused(lambda: make(38, socket.SOCK_SEQPACKET), {FAMILY})"),
    Case("bluetooth", f"refused(lambda: make(31, socket.SOCK_RAW, 1), {FAMILY})"),
    Case("xdp", f"refused(lambda: make(44, socket.SOCK_RAW), {FAMILY})"),
    Case(
        "netfilter",
        'refused(lambda: make(16, socket.SOCK_RAW, 12), "EPERM")',
        "make(16, socket.SOCK_RAW, 0)",
    ),
    Case("netlink_audit", 'refused(lambda: make(16, socket.SOCK_RAW, 9), "EPERM")'),
    Case("sctp", 'refused(lambda: make(V4, socket.SOCK_STREAM, 132), "EPROTONOSUPPORT")'),
    Case("mptcp", 'refused(lambda: make(V4, socket.SOCK_STREAM, 262), "EPROTONOSUPPORT")'),
    Case("udplite", 'refused(lambda: make(V4, socket.SOCK_DGRAM, 136), "EPROTONOSUPPORT")'),
    Case("seqpacket4", 'refused(lambda: make(V4, socket.SOCK_SEQPACKET), "EPERM")'),
    Case(
        "dns",
        'try:\n    socket.getaddrinfo("example.com", 443)\n    sys.exit("OPEN")\n'
        'except socket.gaierror: print("refused")',
        'assert socket.getaddrinfo("localhost", 80)',
    ),
    Case(
        "interface",
        'import fcntl\ns = socket.socket(V4, socket.SOCK_DGRAM)\n'
        'refused(lambda: fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 0)), "EPERM")',
        'assert [n for _, n in socket.if_nameindex()] == ["lo"]',
    ),
    Case(
        "network_namespace_route",
        's = socket.socket(16, socket.SOCK_RAW, 0)\n'
        # RTM_NEWROUTE for a default route: answered with EPERM
        'body = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0)\n'
        's.send(struct.pack("=IHHII", 16 + len(body), 24, 0x405, 1, 0) + body)\n'
        'assert struct.unpack_from("=i", s.recv(999), 16)[0] == -1\nprint("refused EPERM")',
    ),
)  # fmt: skip

NAMESPACES = (
    Case("unshare_user", 'refused(lambda: syscall(272, 0x10000000), "EPERM")'),
    Case("unshare_net", 'refused(lambda: syscall(272, 0x40000000), "EPERM")'),
    Case("unshare_mount", 'refused(lambda: syscall(272, 0x00020000), "EPERM")'),
    Case("unshare_time", 'refused(lambda: syscall(272, 0x80), "EPERM")', "syscall(272, 0x400)"),
    Case("clone_user", 'refused(lambda: syscall(56, 0x10000011, 0, 0, 0, 0), "EPERM")', FORK),
    Case("clone_pid", 'refused(lambda: syscall(56, 0x20000011, 0, 0, 0, 0), "EPERM")', FORK),
    Case("clone3", 'refused(lambda: syscall(435, b"\\0" * 88, 88), "ENOSYS")', FORK),
    Case("setns", 'refused(lambda: syscall(308, os.open("/proc/self/ns/net", 0), 0), "EPERM")'),
    Case("mount", 'refused(lambda: syscall(165, b"x", b"/tmp", b"tmpfs", 0, 0), "EPERM")'),
    Case("remount", 'refused(lambda: syscall(165, b"x", b"/usr", 0, 0x1020, 0), "EPERM")'),
    Case("umount", 'refused(lambda: syscall(166, b"/proc", 2), "EPERM")'),
    Case("pivot_root", 'refused(lambda: syscall(155, b"/tmp", b"/tmp"), "EPERM")'),
    Case("chroot", 'refused(lambda: os.chroot("/tmp"), "EPERM")', 'os.chdir("/tmp")'),
    Case("fsopen", 'refused(lambda: syscall(430, b"tmpfs", 0), "EPERM")'),
    Case("open_tree", 'refused(lambda: syscall(428, -100, b"/", 1), "EPERM")'),
    Case("mount_setattr", 'refused(lambda: syscall(442, -100, b"/", 0, b"\\0" * 32, 32), "EPERM")'),
    Case("hostname", 'refused(lambda: socket.sethostname("evil"), "EPERM")'),
)

# Calls that must never reach the kernel's code, with arguments that it would look at.
REFUSED_CALLS = {
    "bpf": 321, "userfaultfd": 323, "perf_event_open": 298, "init_module": 175,
    "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320,
    "add_key": 248, "request_key": 249, "keyctl": 250, "open_by_handle_at": 304,
    "name_to_handle_at": 303, "fanotify_init": 300, "settimeofday": 164, "clock_settime": 227,
    "adjtimex": 159, "syslog": 103, "swapon": 167, "quotactl": 179, "acct": 163, "reboot": 169,
    "vhangup": 153, "iopl": 172, "ioperm": 173, "modify_ldt": 154, "move_pages": 279,
    "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438, "kcmp": 312,
    "remap_file_pages": 216, "uselib": 134,
}  # fmt: skip
ABSENT_CALLS = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "newer_than_the_list": 467, "far_newer": 900, "x32_getpid": 0x40000000 + 39,
}  # fmt: skip
CALLS = tuple(
    Case(name, f'refused(lambda: syscall({number}, 0, 0, 0, 0, 0), "{error}")')
    for table, error in ((REFUSED_CALLS, "EPERM"), (ABSENT_CALLS, "ENOSYS"))
    for name, number in table.items()
)

PROCESSES = (
    Case("ptrace_me", 'refused(lambda: syscall(101, 0, 0, 0, 0), "EPERM")'),
    Case("ptrace_init", 'refused(lambda: syscall(101, 16, 1, 0, 0), "EPERM")'),
    Case("init_environ", 'refused(lambda: open("/proc/1/environ").read(), "ENOENT", "EACCES")'),
    Case("init_memory", 'refused(lambda: open("/proc/1/mem", "rb"), "ENOENT", "EACCES")'),
    Case("init_root", 'refused(lambda: os.listdir("/proc/1/root"), "ENOENT", "EACCES")'),
    Case("init_fds", 'refused(lambda: os.listdir("/proc/1/fd"), "ENOENT", "EACCES")'),
    Case("kill_init", 'refused(lambda: os.kill(1, 9), "EPERM")', "os.kill(os.getpid(), 0)"),
    Case("kill_host", 'refused(lambda: os.kill(100000, 9), "ESRCH")'),
    Case(
        "nice_down",
        'refused(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5), "EACCES", "EPERM")',
        "os.setpriority(os.PRIO_PROCESS, 0, 5)",
    ),
    Case("setuid", 'refused(lambda: os.setuid(0), "EPERM")', "os.setuid(os.getuid())"),
    Case("setgid", 'refused(lambda: os.setgid(0), "EPERM")', "os.setgid(os.getgid())"),
    Case("setgroups", 'refused(lambda: os.setgroups([0]), "EPERM")', "assert not os.getgroups()"),
    Case(
        "capabilities_back",
        'head = struct.pack("=Ii", 0x20080522, 0)\n'
        'refused(lambda: syscall(126, head, struct.pack("=6I", *[0xffffffff] * 6)), "EPERM")',
    ),
    Case("ambient", 'refused(lambda: syscall(157, 47, 2, 21, 0, 0), "EPERM", "EINVAL")'),
    Case("personality", 'refused(lambda: syscall(135, 0x40000), "EPERM")', "syscall(135, -1)"),
    Case(
        "own_set_uid",
        'import shutil, subprocess\nshutil.copy("/usr/bin/id", "/workspace/id")\n'
        'os.chmod("/workspace/id", 0o6755)\n'
        'told = subprocess.check_output(["/workspace/id", "-u"]).decode().strip()\n'
        'assert told == str(os.getuid()), told\nos.unlink("/workspace/id")\nprint("refused")',
    ),
    Case(
        "core_dump",
        'import resource\nassert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\n'
        'try:\n    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))\n    sys.exit("OPEN")\n'
        'except ValueError: print("refused")',
    ),
    Case(
        "type_into_terminal",
        'import fcntl, pty, termios\nmaster, slave = pty.openpty()\n'
        'refused(lambda: fcntl.ioctl(slave, termios.TIOCSTI, b"x"), "EPERM")',
        'import pty\nmaster, slave = pty.openpty()\nassert os.write(master, b"y\\n") == 2',
    ),
    Case("line_discipline", 'import fcntl, pty\nmaster, slave = pty.openpty()\n'
         'refused(lambda: fcntl.ioctl(slave, 0x5423, struct.pack("i", 0)), "EPERM")'),
)  # fmt: skip

READ_ONLY = '"EROFS", "EACCES", "EPERM", "ENOENT"'
ABSENT = '"ENOENT", "EACCES", "ENXIO"'
FILES = (
    *(
        Case(f"write {path}", f'refused(lambda: write("{path}"), {READ_ONLY})', KEEP)
        for path in (
            "/usr/bin/true", "/usr/new", "/etc/passwd", "/etc/ld.so.preload", "/etc/lens/ca.pem",
            "/new", "/dev/new", "/var/new", "/bin/new", "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
            "/proc/self/uid_map", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj",
        )
    ),
    *(
        Case(f"read {path}", f'refused(lambda: open("{path}", "rb").read(1), {ABSENT})')
        for path in (
            "/etc/shadow", "/etc/sudoers", "/root/.bashrc", "/dev/mem", "/dev/kmsg",
            "/dev/vda", "/dev/sda", "/var/run/docker.sock", "/run/docker.sock", "/.dockerenv",
            "/sys/class/net/lo/address", "/proc/1/maps",
        )
    ),
    *(
        Case(f"list {path}", f'refused(lambda: os.listdir("{path}"), "ENOENT")')
        for path in ("/root", "/home", "/sys", "/boot", "/mnt", "/run", "/opt", "/srv", "/media",
                     "/lost+found", str(Path(__file__).parent))
    ),
    *(
        Case(f"hidden {path}", f'hidden("{path}")', KEEP)
        for path in (f"/proc/{n}" for n in ("kcore", "kallsyms", "kmsg", "keys", "timer_list"))
    ),
    Case(
        "block_device",
        'refused(lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0)), "EPERM")',
        'os.mkfifo("/tmp/fifo"); os.unlink("/tmp/fifo")',
    ),
    Case("memory_device", 'refused(lambda: os.mknod("/tmp/m", 0o20600, 0x101), "EPERM")'),
    Case(
        "chown",
        'open("/tmp/mine", "w").close()\nrefused(lambda: os.chown("/tmp/mine", 0, 0), "EPERM")',
        'open("/tmp/mine", "w").close(); os.chmod("/tmp/mine", 0o777)',
    ),
    Case(
        "execute_shared_memory",
        'import shutil, subprocess\nshutil.copy("/usr/bin/true", "/dev/shm/true")\n'
        'refused(lambda: subprocess.run(["/dev/shm/true"], check=True), "EACCES")',
        'import shutil, subprocess\nshutil.copy("/usr/bin/true", "/workspace/true")\n'
        'subprocess.run(["/workspace/true"], check=True)',
    ),
    Case(
        "old_root",
        'devices = {os.stat(p).st_dev for p in ("/", "/..", "/../..", "/proc/self/root")}\n'
        'assert len(devices) == 1\nassert "work" not in os.listdir("/..")\nprint("refused")',
    ),
    Case(
        "mounts",
        'lines = open("/proc/self/mountinfo").read().splitlines()\n'
        'kinds = {l.split()[4]: l.split(" - ")[1].split()[0] for l in lines}\n'
        'assert kinds["/"] == "tmpfs" and "/sys" not in kinds, kinds\n'
        'assert not {"cgroup", "cgroup2", "sysfs", "debugfs", "tracefs"} & set(kinds.values())\n'
        'print("refused")',
    ),
)  # fmt: skip

ALL = (*NETWORK, *NAMESPACES, *CALLS, *PROCESSES, *FILES)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_attack_is_refused_and_its_control_works(box: Box, case: Case) -> None:
    attack = box.python(PRELUDE + case.attack)
    assert attack.code == 0, attack.err.decode()[-600:]
    assert attack.text.startswith("refused")
    control = box.python(PRELUDE + case.control)
    assert control.code == 0, control.err.decode()[-600:]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86_64")
def test_32_bit_calls_end_the_process(box: Box) -> None:
    code = (
        "import ctypes, mmap\n"
        "memory = mmap.mmap(-1, 4096, prot=7)\n"
        "memory.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))\n"  # getpid by int 0x80
        "address = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(address)()\n"
    )
    assert box.python(code).raw["signal"] == 31  # SIGSYS
    assert box.python("print(1)").text == "1"


def test_a_service_on_the_hosts_loopback_is_out_of_reach(box: Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        attack = f'refused(lambda: connect(V4, ("127.0.0.1", {port})), "ECONNREFUSED")'
        assert box.python(PRELUDE + attack).text == "refused ECONNREFUSED"
    assert box.python(PRELUDE + SERVER).code == 0


def test_an_abstract_socket_of_the_host_is_out_of_reach(box: Box) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0lens-test-outside")
        server.listen()
        attack = (
            'refused(lambda: connect(socket.AF_UNIX, "\\0lens-test-outside"),'
            ' "ECONNREFUSED", "EPERM")'
        )
        assert box.python(PRELUDE + attack).text.startswith("refused")
    assert box.python(PRELUDE + UNIX).code == 0


def test_another_sandbox_is_out_of_reach(box: Box, fresh: Box) -> None:
    """Neither its servers, nor its files, nor its processes, nor its user."""
    fresh.run("sleep 60 >/dev/null 2>&1 & echo $! > /workspace/pid; echo secret > /tmp/secret")
    fresh.run(
        "/usr/bin/python3 -I -m http.server 8123 --bind 127.0.0.1 >/dev/null 2>&1 & sleep 0.3"
    )
    assert fresh.python(PRELUDE + 'connect(V4, ("127.0.0.1", 8123))').code == 0
    attack = 'refused(lambda: connect(V4, ("127.0.0.1", 8123)), "ECONNREFUSED")'
    assert box.python(PRELUDE + attack).code == 0
    assert box.run("cat /tmp/secret").code != 0
    assert "sleep" not in box.run("ps ax").text
    assert box.run("id -u").text != fresh.run("id -u").text


def test_what_the_process_holds(box: Box) -> None:
    """Only standard streams, no privilege, the filters on, no groups."""
    told = box.python(
        "import os\n"
        "print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1], os.getgroups(),"
        " os.getsid(0) == os.getpid())\n"
        "print(open('/proc/self/status').read())"
    ).text
    assert told.startswith("[0, 1, 2] [] True")
    for line in ("NoNewPrivs:\t1", "Seccomp:\t2", *(f"{s}:\t{0:016x}" for s in _SETS)):
        assert line in told


_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
