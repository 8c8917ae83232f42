"""Every mode of isolation, with the same expectations; then what differs between them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apps.sandboxes.harness import modes, tree
from apps.sandboxes.harness.config import Config
from tests.apps.sandboxes.harness import kinds
from tests.apps.sandboxes.harness.conftest import SECRET, Box, Daemon, bundle, start, until
from tests.apps.sandboxes.harness.kinds import KINDS, Kind
from tests.apps.sandboxes.harness.test_peers import client

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.isolation, pytest.mark.usefixtures("isolation")]

SHARED = {"root_of_its_own", "processes_of_its_own", "workspace_size", "network_of_its_own"}
WITHOUT_GROUPS = {"memory_limit", "group_per_command"}
NOT_GIVEN = {
    "namespace": set[str](),
    "rootless": {"user_of_its_own", *WITHOUT_GROUPS},
    "owner-rules": SHARED,
    "container": {*SHARED, *WITHOUT_GROUPS},
    "degraded": {*SHARED, "addresses"},
    "degraded-rootless": {*SHARED, "addresses", "user_of_its_own", *WITHOUT_GROUPS},
}
SHARING = [name for name, kind in KINDS.items() if kind.shared]
DENIED = "curl -s -o /dev/null -w '%{http_connect}' https://api.example.com/"


@contextlib.contextmanager
def running(name: str) -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="lens-test-"))
    folder.chmod(0o711)
    daemon = kinds.run(name, folder)
    try:
        yield daemon
    finally:
        daemon.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def moded(kind: Kind) -> Iterator[Daemon]:
    with running(kind.name) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def inside(moded: Daemon) -> Iterator[Box]:
    box = moded.create(allow_degraded=True)
    yield box
    box.delete()


def below(daemon: Daemon) -> list[int]:
    """The processes of a sandboxd, its sandboxes' included."""
    found, waiting = [], [daemon.process.pid]
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                told = (place / "stat").read_text().rpartition(")")[2].split()
                if told[0] != "Z":
                    parents.setdefault(int(told[1]), []).append(int(place.name))
    while waiting:
        found.append(waiting.pop())
        waiting += parents.get(found[-1], [])
    return found


def names(daemon: Daemon) -> dict[str, int]:
    """The processes of a sandboxd by what they are called, the parent where a child that has just
    been forked still has its name."""
    found: dict[str, int] = {}
    for pid in below(daemon):
        with contextlib.suppress(OSError):
            found.setdefault(Path(f"/proc/{pid}/comm").read_text().strip(), pid)
    return found


def marked(number: int) -> bool:
    """Whether `sleep number` runs anywhere."""
    wanted = f"sleep\0{number}\0".encode()
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                if (place / "cmdline").read_bytes() == wanted:
                    return True
    return False


def test_the_report_says_what_holds_and_what_is_not_given(kind: Kind, inside: Box) -> None:
    assert inside.created["isolation"] == kind.mode
    report = inside.created["report"]
    failed = {line["probe"] for line in report if not line["ok"] and line.get("given", True)}
    missing = {line["probe"] for line in report if line.get("given") is False}
    assert failed == set()
    assert missing == NOT_GIVEN[kind.name]
    passed = {line["probe"] for line in report if line["ok"]}
    assert {"no_route_ipv4", "no_metadata_ipv4", "seccomp", "landlock", "not_root"} <= passed
    rules = {"rule_drops_tcp_ipv4", "rule_drops_dns_ipv4", "rule_drops_tcp_ipv6"}
    assert (rules <= passed) == (kind.mode == "owner-rules")


def test_commands_run(inside: Box) -> None:
    done = inside.run("echo out; echo err >&2; cat; exit 7", stdin="aW4=")
    assert (done.out, done.err, done.code) == (b"out\nin", b"err\n", 7)
    told = inside.run("env; cat /proc/self/environ; pwd").text
    assert SECRET not in told
    assert inside.run("cd /; cd $HOME && pwd").text == inside.run("pwd").text
    assert inside.run("touch $TMPDIR/x && ls $TMPDIR").text == "x"


def test_output_is_bounded_a_stream(inside: Box) -> None:
    done = inside.run("head -c 300000 /dev/zero; head -c 9 /dev/zero >&2", max_output_bytes=1000)
    assert (len(done.out), len(done.err)) == (1000, 9)
    assert (done.raw["stdout_bytes"], done.raw["stderr_bytes"]) == (300_000, 9)


def test_files_by_the_names_that_callers_know(inside: Box) -> None:
    assert inside.write("/workspace/a/b.txt", b"content")[0] == 200
    assert inside.run("cat a/b.txt").text == "content"
    assert inside.run("pwd", workdir="/workspace/a").text.endswith("/workspace/a")
    status, answer = inside.post("files/read", path="/workspace/a/b.txt")
    assert (status, answer["size"]) == (200, 7)
    assert inside.write("/tmp/x", b"y")[0] == 200  # noqa: S108 the sandbox's own
    for path in ("/etc/passwd", "/workspace/../../etc/passwd", "../../../etc/passwd"):
        status, answer = inside.post("files/read", path=path)
        assert (status, answer["error"]) == (400, "path_outside_workspace")
    inside.run("ln -s /etc/hostname link")
    assert inside.post("files/read", path="link")[0] == 400


def test_a_deadline_ends_the_whole_tree(inside: Box) -> None:
    script = "trap '' TERM; setsid sleep 4471 & (setsid sleep 4472 &); sleep 4473"
    done = inside.run(script, timeout_ms=700)
    assert done.raw["timed_out"] is True
    assert until(lambda: not any(marked(number) for number in (4471, 4472, 4473)), 2)
    assert inside.run("echo usable").text == "usable"


def test_everything_is_given_up(inside: Box) -> None:
    told = inside.run("cat /proc/self/status; id -G").text
    for line in ("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in told
    for path in ("/proc/1/environ", "/proc/1/mem", "/proc/1/root/etc/hostname", "/etc/shadow"):
        assert inside.run(f"head -c1 {path}").out == b""
    assert inside.run("echo x > /usr/x || echo x > /etc/x || echo x > /x").code != 0


def test_the_proxy_is_the_only_way_out(inside: Box) -> None:
    assert inside.run(DENIED).text == "403"
    status, answer = inside.post("fetch", url="https://api.example.com/")
    assert (status, answer["status"]) == (200, 403)
    direct = inside.python(
        "import socket\n"
        "for family, place in ((2, ('192.0.2.1', 443)), (2, ('127.0.0.1', 22)),\n"
        "                      (10, ('2001:db8::1', 443)), (2, ('169.254.169.254', 80))):\n"
        "    for kind in (1, 2):\n"
        "        try:\n"
        "            with socket.socket(family, kind) as sock:\n"
        "                sock.settimeout(0.5); sock.connect(place); sock.send(b'x')\n"
        "                if kind == 1 or place[0] != '127.0.0.1': print('OPEN', place, kind)\n"
        "        except OSError: pass\n"
        "try: socket.getaddrinfo('example.com', 443); print('OPEN dns')\n"
        "except OSError: print('closed')\n"
    )
    assert direct.text == "closed", direct.err


def test_a_new_policy_arrives(moded: Daemon) -> None:
    box = moded.create(allow_degraded=True)
    path = f"/v1/sandboxes/{box.id}/bundle"
    assert moded.call("PUT", path, bundle(5, "api.example.com")) == (200, {"applied": 5})
    assert box.run(DENIED).text != "403"
    box.delete()


RUNS_AWAY = """
import os
while True:
    try:
        if os.fork(): os._exit(0)
    except OSError: pass
"""


@pytest.mark.parametrize("end", ["deadline", "sandbox"])
def test_what_never_keeps_still_is_ended(moded: Daemon, end: str) -> None:
    """A process that is another one before anybody has seen it."""

    def runs() -> bool:
        found = (Path(f"/proc/{pid}/cmdline") for pid in tree._numbers())
        return any(mark in _read(place) for place in found)

    mark = f"runs-away-{uuid.uuid4()}".encode()
    box = moded.create(allow_degraded=True, limits={"pids": 48})
    start_it = f"/usr/bin/python3 -I -c '{RUNS_AWAY}' {mark.decode()} >/dev/null 2>&1 &"
    if end == "deadline":
        assert box.run(f"{start_it} exec sleep 60", timeout_ms=1000).raw["timed_out"] is True
        assert until(lambda: not runs())
    else:
        box.run(start_it)
        assert until(runs)
    box.delete()
    assert until(lambda: not runs())


def _read(place: Path) -> bytes:
    with contextlib.suppress(OSError):
        return place.read_bytes()
    return b""


def test_a_fork_bomb_ends_in_its_sandbox(moded: Daemon) -> None:
    box, other = (moded.create(allow_degraded=True, limits={"pids": 48}) for _ in range(2))
    fine = []
    bombing = threading.Thread(target=lambda: fine.append(other.run("echo fine").text))
    bombing.start()
    # Until it may not fork any more; then it ends itself and all that it started.
    bomb = box.run("(for i in $(seq 200); do sleep 4481 & done); kill -9 0", timeout_ms=60_000)
    assert b"fork" in bomb.err
    bombing.join()
    assert fine == ["fine"]
    assert until(lambda: box.post("exec", command="true")[0] == 200)
    assert box.run("echo usable").text == "usable"
    for one in (box, other):
        one.delete()
    assert until(lambda: not marked(4481), 2)


def test_two_sandboxes_see_nothing_of_each_other(kind: Kind, moded: Daemon) -> None:
    one, two = moded.create(allow_degraded=True), moded.create(allow_degraded=True)
    secret = one.run("echo told > secret; chmod 777 . secret; pwd").text
    one.run("sleep 4491 >/dev/null 2>&1 &")
    pid = one.run("pgrep -f 'sleep 4491'").text.splitlines()[0]
    if kind.shared:
        assert two.run(f"cat {secret}/secret || ls {secret}").out == b""
        assert two.run(f"prlimit --pid {pid} --nofile=1:1").code != 0
        port = one.run("echo ${HTTP_PROXY##*:}").text
        assert port != two.run("echo ${HTTP_PROXY##*:}").text
        assert two.run(f"curl -s -m 2 -x http://127.0.0.1:{port} https://a.example/").code != 0
    assert two.run(f"kill -9 {pid}; cat /proc/{pid}/environ").out == b""
    two.post("exec", command="kill -9 -1")
    assert marked(4491)
    assert one.run("echo usable").text == "usable"
    for box in (one, two):
        box.delete()
    assert until(lambda: not marked(4491), 2)


@pytest.mark.parametrize("victim", ["lens-init", "lens-egress"])
def test_a_death_is_fail_closed(kind: Kind, victim: str) -> None:
    with running(kind.name) as daemon:
        box = daemon.create(allow_degraded=True)
        box.run("setsid sleep 4501 >/dev/null 2>&1 &")
        assert until(lambda: marked(4501))
        os.kill(names(daemon)[victim], signal.SIGKILL)
        assert until(lambda: box.show()["state"] == "failed")
        status, answer = box.post("exec", command="true")
        assert (status, answer["error"]) == (409, "sandbox_over")
        assert until(lambda: not marked(4501))
        assert until(lambda: not {"lens-init", "lens-warden", "lens-egress"} & set(names(daemon)))
        box.delete()
        again = daemon.create(allow_degraded=True)
        assert again.run("echo fine").text == "fine"
        again.delete()


def test_nothing_is_left(moded: Daemon) -> None:
    def held() -> tuple[int, int]:
        """Processes, but for the next proxy, which may be there or not yet; descriptors."""
        spare = "lens-spare" in names(moded)
        return len(below(moded)) - spare, len(list(Path(f"/proc/{pid}/fd").iterdir()))

    pid = moded.process.pid
    moded.create(allow_degraded=True).delete()
    before = held()
    for _ in range(5):
        box = moded.create(allow_degraded=True)
        box.run("mkdir -p d/e; chmod 0 d; (setsid sleep 4511 &) >/dev/null 2>&1")
        box.delete()
    assert not marked(4511)
    assert until(lambda: all(now <= then for now, then in zip(held(), before, strict=True)))
    homes = moded.folder / "run" / "sandboxes"
    live = {box["id"] for box in moded.call("GET", "/v1/sandboxes")[1]["sandboxes"]}
    assert {p.name for p in homes.iterdir()} == live if homes.exists() else True


@pytest.mark.parametrize("name", SHARING)
def test_what_a_killed_sandboxd_leaves_is_cleared_by_the_next(name: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="lens-test-"))
    folder.chmod(0o711)
    try:
        first = kinds.run(name, folder)
        box = first.create(allow_degraded=True)
        box.run("echo x > file; setsid sleep 4521 >/dev/null 2>&1 &")
        assert until(lambda: marked(4521))
        everything = below(first)
        for pid in everything:
            if Path(f"/proc/{pid}/comm").read_text().strip() != "sleep":
                os.kill(pid, signal.SIGSTOP)
        for pid in everything:
            if Path(f"/proc/{pid}/comm").read_text().strip() != "sleep":
                os.kill(pid, signal.SIGKILL)
        first.stop()
        home = folder / "run" / "sandboxes" / box.id
        assert marked(4521)
        assert home.exists()
        (home.parent / "0-half-made").mkdir()
        same = json.loads((folder / "sandboxd.json").read_text())
        second = kinds.run(name, folder, **same)
        assert not home.exists()
        assert not (home.parent / "0-half-made").exists()
        if not KINDS[name].rootless:
            assert not marked(4521)
        assert second.stop() == 0
    finally:
        for place in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (place / "cmdline").read_bytes() == b"sleep\x004521\x00":
                    os.kill(int(place.name), signal.SIGKILL)
        shutil.rmtree(folder)


def test_degraded_is_refused_unless_it_is_allowed(folder: Path) -> None:
    daemon = kinds.run("degraded", folder)
    request = {"id": str(uuid.uuid4()), "token": "t", "bundle": bundle(), "identity": {}}
    try:
        for values in ({}, {"allow_degraded": False}):
            status, answer = daemon.call("POST", "/v1/sandboxes", {**request, **values})
            assert (status, answer["error"]) == (503, "isolation_unavailable")
            assert "the organization does not allow" in answer["remedy"]
        status, answer = daemon.call("POST", "/v1/sandboxes", {**request, "allow_degraded": 1})
        assert (status, answer["field"]) == (400, "allow_degraded")
        assert daemon.call("GET", "/v1/sandboxes")[1] == {"sandboxes": []}
        box = daemon.create(allow_degraded=True)
        box.run(DENIED)
        box.delete()
        (file,) = (daemon.spool / box.id).iterdir()
        events = [json.loads(line) for line in file.read_text().splitlines()]
        assert [event["metadata"]["isolation"] for event in events] == ["degraded"]
    finally:
        assert daemon.stop() == 0


def test_a_proxy_serves_its_sandboxs_user_alone(folder: Path) -> None:
    """Also where no packet rule keeps others from its port."""
    daemon = kinds.run("degraded", folder)
    try:
        box = daemon.create(allow_degraded=True)
        port = int(box.run("echo ${HTTP_PROXY##*:}").text)
        owner = int(box.run("id -u").text)
        for uid, served in ((0, False), (owner + 1, False), (owner, True)):
            with client(socket.AF_INET, uid) as sock:
                sock.settimeout(10)
                sock.connect(("127.0.0.1", port))
                with contextlib.suppress(ConnectionError):
                    sock.sendall(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
                answer = b""
                with contextlib.suppress(ConnectionError):
                    answer = sock.recv(99)
                assert answer.startswith(b"HTTP/1.1 403") is served
    finally:
        assert daemon.stop() == 0


def test_folders_that_others_could_replace_are_not_used(folder: Path) -> None:
    """Root would make, and give away, what a link there points to."""
    theirs = folder / "theirs"
    theirs.mkdir()
    (theirs / "homes").mkdir()
    (folder / "target").mkdir(mode=0o700)
    (folder / "link").symlink_to(folder / "target")
    for place, owner, mode in (
        (theirs / "homes", 54_321, 0o755),
        (theirs / "homes", 0, 0o777),
        (folder / "link", 0, 0o755),
    ):
        os.chown(theirs, owner, owner)
        theirs.chmod(mode)
        config = Config(folder / "s", folder, folder / "b", homes=place)
        with pytest.raises(OSError, match="others could put something in place of"):
            modes.prepare_homes(config)
    assert (folder / "target").stat().st_mode & 0o777 == 0o700
    theirs.chmod(0o700)
    with pytest.raises(OSError, match=f"chmod o.x {theirs}"):
        modes.prepare_homes(Config(folder / "s", folder, folder / "b", homes=theirs / "homes"))
    own = Config(folder / "s", folder, folder / "b", homes=folder / "own" / "homes")
    modes.prepare_homes(own)
    assert own.home_root.stat().st_mode & 0o777 == 0o711


def test_owner_rules_that_are_not_in_force_give_no_sandbox(folder: Path) -> None:
    """sandboxd may not look at the rules; it asks the kernel by sending."""
    daemon = start(folder, mode="owner-rules", **kinds.own_users())
    try:
        health = daemon.call("GET", "/v1/health")[1]
        assert health["isolation"] == "unavailable"
        assert "owner_rules install --config FILE" in health["remedy"]
        assert "the sandbox's user reached 127.0.0.1" in health["remedy"]
        request = {"id": "x", "token": "t", "bundle": bundle(), "identity": {}}
        status, answer = daemon.call("POST", "/v1/sandboxes", request)
        assert (status, answer["error"]) == (503, "isolation_unavailable")
    finally:
        assert daemon.stop() == 0
