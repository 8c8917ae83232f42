"""The life of a proxy under strace: no key reaches a disk, and nothing is executed."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.apps.sandboxes.harness.conftest import bundle, cannot, start, until
from tests.twins.ca import TwinCa
from tests.twins.upstream import UpstreamTwin

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow  # strace stops the proxy at each call
HOSTS = ("one.example.com", "two.example.com", "three.example.com")
# How private keys begin: PKCS #8 and SEC 1 of P-256 as DER, and any as PEM (RFC 5208, 5915, 7468).
MARKS = (
    b"PRIVATE KEY",
    bytes.fromhex("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420"),
    bytes.fromhex("30770201010420"),
)
CALLS = (
    "openat,open,creat,memfd_create,write,writev,pwrite64,pwritev,sendto,sendmsg,rename,renameat,"
    "renameat2,execve,execveat,fork,vfork,clone,clone3,connect,mmap"
)
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass
class Traced:
    """The calls of one proxy, and what it was asked to do."""

    zygote: int
    calls: list[tuple[str, str, int, str]] = field(default_factory=list)
    forkers: set[int] = field(default_factory=set)
    spool: str = ""
    requests: int = 0

    def of(self, *names: str) -> list[tuple[str, str, int, str]]:
        return [call for call in self.calls if call[0] in names]


def payload(arguments: str) -> bytes:
    """All bytes that a call was given (strace -xx shows each as hexadecimal)."""
    return b"".join(bytes.fromhex(text.replace("\\x", "")) for text in _STRING.findall(arguments))


def target(arguments: str) -> str:
    """The file behind the call's first descriptor (strace -yy)."""
    found = re.match(r"\d+<(.*?)>(?:\(deleted\))?(?:,|$)", arguments)
    return _plain(found[1]) if found else ""


def _plain(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode() if text.startswith("\\x") else text


@pytest.fixture(scope="module")
def traced(isolation: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """One sandbox's proxy from its fork to its end, with requests to three hosts."""
    if shutil.which("strace") is None:
        cannot("strace is not installed")
    place = Path("/tmp") / f"lens-traced-{os.getpid()}"  # noqa: S108 proxies must pass it
    place.mkdir(mode=0o711)
    authority = TwinCa()
    (place / "ca.pem").write_text(authority.pem)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place)
        twin = stack.enter_context(UpstreamTwin(authority.issue(place, *HOSTS)))
        places = {host: ["127.0.0.1", twin.port] for host in HOSTS}
        daemon = start(place, address_map=places, upstream_ca_file=str(place / "ca.pem"))
        stack.callback(daemon.stop)
        zygote = _child(daemon.process.pid, "lens-zygote")
        trace = place / "trace"
        tracer = subprocess.Popen(  # noqa: S603 fixed arguments
            ["/usr/bin/strace", "-f", "-yy", "-xx", "-s", "70000", "-e", f"trace={CALLS}",
             "-o", str(trace), "-p", str(zygote)],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(tracer.wait)
        stack.callback(tracer.kill)
        assert until(lambda: _tracer_of(zygote) == tracer.pid)
        box = daemon.create(bundle=bundle(1, *HOSTS))
        asked = 0
        for host in HOSTS * 2:
            for path in ("/a", "/b"):
                done = box.run(f"curl -sS https://{host}{path}")
                assert done.code == 0, done.err
                asked += 1
        told = Traced(zygote, spool=str(daemon.spool / box.id), requests=asked)
        box.delete()
        time.sleep(0.2)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(20)
        _parse(told, trace.read_text())
        yield told


def _child(parent: int, name: str) -> int:
    for path in Path("/proc").glob("[0-9]*/status"):
        text = path.read_text() if path.exists() else ""
        if f"Name:\t{name}\n" in text and f"PPid:\t{parent}\n" in text:
            return int(path.parent.name)
    raise AssertionError(f"there is no {name}")


def _tracer_of(pid: int) -> int:
    found = re.search(r"TracerPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def _parse(told: Traced, text: str) -> None:
    """Whole calls; those that another thread interrupted are put together again."""
    open_calls: dict[str, str] = {}
    for line in text.splitlines():
        pid, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            open_calls[pid] = rest.removesuffix("<unfinished ...>")
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", rest, re.DOTALL)
        if resumed:
            rest = open_calls.pop(pid, "") + resumed[1]
        found = re.match(r"(\w+)\((.*)\) += +(-?\d+)(?:<(.*)>)?", rest, re.DOTALL)
        if found:
            told.calls.append((found[1], found[2], int(found[3]), _plain(found[4] or "")))
            if found[1].startswith("clone") and "CLONE_THREAD" not in found[2]:
                told.forkers.add(int(pid))


def leaf_keys(traced: Traced) -> set[bytes]:
    """The private numbers of the keys that were seen on their way into memory files."""
    found = set()
    for _, arguments, _, _ in traced.of("write"):
        data = payload(arguments)
        if b"PRIVATE KEY" in data:
            key = serialization.load_pem_private_key(data, None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            found.add(key.private_numbers().private_value.to_bytes(32))
    return found


def test_it_was_seen_at_work(traced: Traced) -> None:
    assert len(leaf_keys(traced)) == 1  # one key for all hosts, another one signs
    assert len(traced.of("memfd_create")) == len(HOSTS)
    written = b"".join(payload(arguments) for _, arguments, _, _ in traced.of("write"))
    for host in HOSTS:
        assert written.count(host.encode()) >= 1


def test_keys_go_into_memory_files_and_nowhere_else(traced: Traced) -> None:
    keys = leaf_keys(traced)
    forms = {*MARKS, *keys, *(key.hex().encode() for key in keys)}
    forms |= {base64.b64encode(key)[:40] for key in keys}
    for name, arguments, _, _ in traced.calls:
        if name in ("openat", "open", "connect", "mmap", "execve"):
            continue
        if any(form in payload(arguments) for form in forms):
            assert name == "write"
            assert target(arguments).startswith("/memfd:leaf"), (name, target(arguments))


def test_the_only_files_written_are_its_audit_events(traced: Traced) -> None:
    writing = re.compile(r"(?:O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND)")
    opened = {
        path
        for name, arguments, number, path in traced.of("openat", "open", "creat")
        if number >= 0 and (name == "creat" or writing.search(arguments))
    }
    assert opened
    for path in opened:
        assert path.startswith(traced.spool + "/"), path
    for _, arguments, _, _ in traced.of("write", "writev", "pwrite64", "pwritev"):
        where = target(arguments)
        if where.startswith("/") and not where.startswith(("/memfd:", "/dev/")):
            assert where.startswith(traced.spool + "/"), where
            for line in payload(arguments).splitlines():
                event: dict[str, Any] = json.loads(line)
                assert event["surface"] == "forward_proxy"
    for _, arguments, number, _ in traced.of("mmap"):
        if number != -1 and "MAP_SHARED" in arguments and "PROT_WRITE" in arguments:
            assert "MAP_ANONYMOUS" in arguments, arguments


def test_nothing_is_executed_and_no_process_is_made(traced: Traced) -> None:
    assert traced.of("execve", "execveat", "fork", "vfork") == []
    made = [one for one in traced.of("clone", "clone3") if one[2] > 0]
    # The zygote alone forks: this proxy, and the one that waits to be the next sandbox's, sooner or
    # later. What a proxy makes are threads.
    assert traced.forkers == {traced.zygote}
    assert sum("CLONE_THREAD" in arguments for _, arguments, _, _ in made) >= traced.requests


def test_nothing_is_connected_to_but_the_upstreams(traced: Traced) -> None:
    for _, arguments, _, _ in traced.of("connect"):
        assert "sin_addr=inet_addr" in arguments, arguments
