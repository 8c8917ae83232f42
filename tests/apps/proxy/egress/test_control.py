"""The control channel: policies in and out of force, cuts, and the end."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from apps.common import frames
from apps.policies import codec
from apps.policies.core.compiled import Compiled
from apps.policies.types import Action, ConnectRequest, DomainRule, HttpRule
from apps.proxy.egress.gate import Gate, UnusableBundleError
from tests.apps.proxy.egress.conftest import Agent, Rig, bundle, request
from tests.twins.egress import EgressTwin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

H = "api.example.com"
DENY = DomainRule("no", H, Action.DENY)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[EgressTwin]:
    """A proxy of its own, without a policy."""
    with EgressTwin(tmp_path) as egress:
        yield egress


def ask(egress: EgressTwin, target: str = f"{H}:443") -> int:
    agent = Agent(egress.port)
    try:
        return agent.ask(f"CONNECT {target} HTTP/1.0\r\n\r\n".encode()).status
    finally:
        agent.close()


def test_without_a_policy_everything_is_denied(fresh: EgressTwin) -> None:
    assert ask(fresh) == 403
    agent = Agent(fresh.port)
    reply = agent.ask(request("plain.example.com", "http://plain.example.com/"))
    agent.close()
    assert (reply.status, reply.json["rule"]) == (403, "bundle")


def test_a_policy_applies_to_the_next_request(fresh: EgressTwin) -> None:
    assert fresh.apply(bundle(5)) == {"op": "applied", "version": 5}
    assert ask(fresh) == 200
    assert fresh.apply(bundle(6, DENY)) == {"op": "applied", "version": 6}
    assert ask(fresh) == 403


def test_a_version_going_backwards_is_refused(fresh: EgressTwin) -> None:
    fresh.apply(bundle(5, DENY))
    answer = fresh.apply(bundle(4))
    assert (answer["op"], answer["denying"]) == ("refused", False)
    assert ask(fresh) == 403
    assert fresh.apply(bundle(5)) == {"op": "applied", "version": 5}
    assert ask(fresh) == 200


BROKEN = {
    "nothing": None,
    "text": "x",
    "empty": {},
    "other format": codec.to_obj(bundle(9)) | {"format": 2},
    "no format": {"version": 9, "layers": []},
    "unknown action": {
        "format": 1,
        "version": 9,
        "layers": [{"kind": "team", "id": "t", "name": "t", "domains": [{"action": "maybe"}]}],
    },
    "wrong type": codec.to_obj(bundle(9)) | {"layers": 1},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_policy_that_cannot_be_read_denies_everything(fresh: EgressTwin, broken: object) -> None:
    fresh.apply(bundle(5))
    assert ask(fresh) == 200
    answer = fresh.tell({"op": "bundle", "bundle": broken})
    assert (answer["op"], answer["denying"]) == ("refused", True)
    assert ask(fresh) == 403
    fresh.apply(bundle(6))
    assert ask(fresh) == 200


def test_a_policy_that_is_no_longer_in_force_is_not_kept() -> None:
    gate, versions = Gate(), range(9000, 9030)

    def kept() -> list[int]:
        """Which of these are in memory, ready for decisions."""
        found = [one.bundle for one in gc.get_objects() if type(one) is Compiled]
        return [each.version for each in found if each and each.version in versions]

    for version in versions:
        gate.load(codec.to_obj(bundle(version)))
        assert gate.decide(ConnectRequest(H, 443)).allowed
        assert kept() == [version]
    with pytest.raises(UnusableBundleError):
        gate.load({})
    assert kept() == []


def test_ping(fresh: EgressTwin) -> None:
    assert fresh.tell({"op": "ping"}) == {"op": "pong"}


def test_the_end_of_control_ends_the_process(fresh: EgressTwin) -> None:
    fresh.apply(bundle(5))
    agent = Agent(fresh.port)
    agent.ask(f"CONNECT {H}:443 HTTP/1.0\r\n\r\n".encode())
    fresh.control.close()
    assert fresh.process.wait(timeout=5) == 0
    assert agent.ended()
    agent.close()


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x05{", b"\0"])
def test_nonsense_on_control_ends_the_process(fresh: EgressTwin, data: bytes) -> None:
    fresh.control.sendall(data)
    fresh.control.shutdown(socket.SHUT_WR)
    assert fresh.process.wait(timeout=5) == 0


def test_an_unknown_message_is_ignored(fresh: EgressTwin) -> None:
    frames.send_frame(fresh.control, {"op": "later"})
    assert fresh.tell({"op": "ping"}) == {"op": "pong"}


def test_the_authority_is_new_for_each_proxy(fresh: EgressTwin, rig: Rig) -> None:
    assert fresh.ca_pem != rig.egress.ca_pem


def test_nothing_is_written_but_the_audit_spool(fresh: EgressTwin, tmp_path: Path) -> None:
    fresh.apply(bundle(5))
    ask(fresh)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"spool", "broker.sock", "sandbox-ca.pem"}
    assert "PRIVATE KEY" not in fresh.ca_pem


@contextmanager
def restored(rig: Rig) -> Iterator[None]:
    try:
        yield
    finally:
        rig.apply()


def test_a_policy_change_in_the_middle_of_keep_alive(rig: Rig) -> None:
    with restored(rig), rig.tunnel() as agent:
        assert agent.ask(request(H, "/open/before")).status == 200
        rig.apply(DENY)
        denied = agent.ask(request(H, "/open/2"))
        assert (denied.status, denied.json["rule"]) == (403, "no")
        rig.apply(DomainRule("now", H, Action.ALLOW, (HttpRule("r", "GET", "/new", Action.ALLOW),)))
        assert agent.ask(request(H, "/open/3")).status == 403
        assert agent.ask(request(H, "/new")).status == 200
    assert [seen.target for seen in rig.up.seen] == ["/open/before", "/new"]


def test_a_stream_that_is_no_longer_allowed_is_cut(rig: Rig) -> None:
    with restored(rig), rig.tunnel() as agent:
        agent.send(request(H, "/drip/20"))
        while b"data: 1" not in agent._held:
            agent.more()
        started = time.monotonic()
        rig.apply(DENY)
        assert agent.ended()
        assert time.monotonic() - started < 5
        event = rig.egress.wait_for_event(path="/drip/20")
        assert (event["result"], event["reason"]) == ("failure", "cut by the platform")


def test_a_stream_that_stays_allowed_goes_on(rig: Rig) -> None:
    with restored(rig), rig.tunnel() as agent:
        agent.send(request(H, "/drip/1"))
        while b"data: 1" not in agent._held:
            agent.more()
        rig.apply(DomainRule("other", "other.example.com", Action.ALLOW))
        assert b"data: 9" in agent.reply().body


def direct_tunnel(rig: Rig, stack: ExitStack, sni: str = "direct.example.com") -> ssl.SSLSocket:
    """A tunnel that is not intercepted: the certificate is the upstream's own."""
    agent = stack.enter_context(rig.agent())
    assert agent.ask(b"CONNECT direct.example.com:443 HTTP/1.0\r\n\r\n").status == 200
    context = ssl.create_default_context(cafile=rig.upstream_ca)
    context.check_hostname = sni == "direct.example.com"
    agent.sock = context.wrap_socket(agent.sock, server_hostname=sni)
    assert isinstance(agent.sock, ssl.SSLSocket)
    return agent.sock


def ended(sock: ssl.SSLSocket) -> bool:
    """Whether the connection ends (within the socket's time)."""
    with suppress(ssl.SSLError, ConnectionError):
        while sock.recv(65536):
            pass
    return True


def test_direct_is_not_intercepted(rig: Rig) -> None:
    with ExitStack() as stack:
        sock = direct_tunnel(rig, stack)
        sock.sendall(request("direct.example.com", "/bytes/3000000", "Authorization: own"))
        count = 0
        while count < 3_000_000:
            count += len(sock.recv(1 << 18))
    assert rig.up.seen[0].header("authorization") == "own"
    event = rig.egress.wait_for_event(host="direct.example.com", result="success")
    assert event["metadata"]["rule"] == "direct"
    assert event["metadata"]["bytes_in"] > 3_000_000
    assert event["metadata"]["bytes_out"] > 300


def test_direct_with_another_server_name_goes_nowhere(rig: Rig) -> None:
    with ExitStack() as stack, pytest.raises((ssl.SSLError, ConnectionError)):
        direct_tunnel(rig, stack, sni="api.example.com")
    assert rig.up.opened == 0
    reason = "the TLS server name differs from the CONNECT host"
    assert rig.egress.wait_for_event(host="direct.example.com", result="denied", reason=reason)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: direct.example.com\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"\x15\x03\x01\0\x02aa",
    ],
)
def test_direct_without_tls_goes_nowhere(rig: Rig, data: bytes) -> None:
    with rig.agent() as agent:
        assert agent.ask(b"CONNECT direct.example.com:443 HTTP/1.0\r\n\r\n").status == 200
        agent.send(data)
        assert agent.ended()
    assert rig.up.opened == 0


def test_direct_is_cut_when_the_policy_no_longer_says_so(rig: Rig) -> None:
    inspected = DomainRule("seen", "direct.example.com", Action.ALLOW)
    with restored(rig), ExitStack() as stack:
        sock = direct_tunnel(rig, stack)
        sock.sendall(request("direct.example.com", "/echo"))
        assert sock.recv(65536)
        rig.apply()
        sock.sendall(request("direct.example.com", "/echo"))
        assert sock.recv(65536)
        started = time.monotonic()
        rig.apply(inspected)
        assert ended(sock)
        assert time.monotonic() - started < 5


def test_plain_http_to_a_direct_host_is_denied(rig: Rig) -> None:
    with rig.agent() as agent:
        host = "direct.example.com:443"
        assert agent.ask(request(host, f"http://{host}/")).status == 403
    assert rig.untouched()


def test_cut_ends_every_connection_within_a_second(rig: Rig) -> None:
    with ExitStack() as stack:
        idle = stack.enter_context(rig.agent())
        shaking = stack.enter_context(rig.agent())
        assert shaking.ask(f"CONNECT {H}:443 HTTP/1.0\r\n\r\n".encode()).status == 200
        waiting = stack.enter_context(rig.tunnel())
        waiting.send(request(H, "/slow/2"))
        streaming = stack.enter_context(rig.tunnel())
        streaming.send(request(H, "/drip/20"))
        streaming.more()
        between = stack.enter_context(rig.tunnel())
        assert between.ask(request(H, "/open/x")).status == 200
        direct = direct_tunnel(rig, stack)
        started = time.monotonic()
        frames.send_frame(rig.egress.control, {"op": "cut"})
        for agent in (idle, shaking, waiting, streaming, between):
            assert agent.ended()
        assert ended(direct)
        assert time.monotonic() - started < 5
    assert rig.get(H, "/open/after").status == 200


def test_cut_while_many_connections_come_and_go(rig: Rig) -> None:
    """No cut may hit a descriptor that belongs to somebody else by then."""
    stop = threading.Event()
    failures: list[str] = []

    def work() -> None:
        while not stop.is_set():
            try:
                reply = rig.get(H, "/open/x")
                if reply.status != 200:
                    failures.append(str(reply.status))
            except (OSError, EOFError):
                continue

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        time.sleep(0.05)
        frames.send_frame(rig.egress.control, {"op": "cut"})
    stop.set()
    for thread in threads:
        thread.join(timeout=20)
    assert set(failures) <= {"502"}
    assert rig.egress.tell({"op": "ping"}) == {"op": "pong"}
    assert rig.get(H, "/open/x").status == 200


def test_an_upstream_certificate_of_nobody_is_refused(tmp_path: Path, rig: Rig) -> None:
    """Without the extra file the system's roots alone are trusted."""
    places = {H: ("127.0.0.1", rig.up.port)}
    with EgressTwin(tmp_path, address_map=places) as egress:
        egress.apply(bundle(2))
        agent = Agent(egress.port)
        agent.ask(f"CONNECT {H}:443 HTTP/1.0\r\n\r\n".encode())
        context = ssl.create_default_context(cadata=egress.ca_pem)
        agent.sock = context.wrap_socket(agent.sock, server_hostname=H)
        reply = agent.ask(request(H, "/open/x"))
        agent.close()
    assert (reply.status, reply.json["error"]) == (502, "upstream_tls")
    assert rig.untouched()


def test_a_direct_tunnel_that_was_cut_is_recorded_as_cut(rig: Rig) -> None:
    with restored(rig), ExitStack() as stack:
        sock = direct_tunnel(rig, stack)
        sock.sendall(request("direct.example.com", "/echo"))
        assert sock.recv(65536)
        rig.apply(DomainRule("seen", "direct.example.com", Action.ALLOW))
        assert ended(sock)
        event = rig.egress.wait_for_event(host="direct.example.com")
    assert (event["result"], event["reason"]) == ("failure", "cut by the platform")


def test_both_sides_of_a_direct_tunnel_may_send_at_once(rig: Rig) -> None:
    """An upstream reads on when its answer was taken; nobody must wait for the other for that."""
    left = memoryview(
        request("direct.example.com", "/bytes/20000000")
        + request("direct.example.com", "/echo", "X-A: " + "a" * 60_000) * 300
    )
    count = 0
    with ExitStack() as stack:
        sock = direct_tunnel(rig, stack)
        sock.settimeout(0)
        until = time.monotonic() + 15
        while left or count < 20_000_000:
            assert time.monotonic() < until, (len(left), count)
            with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                left = left[sock.send(left[:16384]) :] if left else left
            with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                count += len(sock.recv(1 << 18))
