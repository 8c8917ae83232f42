"""What a peer may cost: slow heads, many connections, odd upstream addresses."""

from __future__ import annotations

import errno
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from apps.policies.codec import to_obj
from apps.policies.core.asking import Authority
from apps.policies.types import Action, Bundle, Connection, DomainRule, Layer, LayerKind
from apps.proxy.egress.answers import Answer, RefusedError
from apps.proxy.egress.config import EgressConfig, Limits
from apps.proxy.egress.lines import Line
from apps.proxy.egress.plane import Plane
from apps.proxy.egress.response import receive
from apps.proxy.egress.scrub import NONE
from apps.proxy.egress.server import Server
from apps.proxy.egress.turn import Turn
from apps.proxy.egress.upstream import Dialer, Upstream
from apps.proxy.egress.wire import Wire
from tests.apps.proxy.egress.conftest import Agent, Rig, raw, request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

H = "api.example.com"
LOCAL = ("127.0.0.1", 0)
CONNECT = f"CONNECT {H}:443 HTTP/1.0\r\n\r\n".encode()


def test_a_slow_head_is_answered_at_its_deadline(rig: Rig) -> None:
    with rig.agent() as agent:
        started = time.monotonic()
        agent.send(b"GET http://")
        agent.sock.settimeout(0.2)
        while time.monotonic() - started < 4:
            try:
                if agent.more():
                    break
            except TimeoutError:
                agent.send(b"a")
        agent.sock.settimeout(5)
        assert agent.reply().status == 408
        assert 1 < time.monotonic() - started < 15
        assert agent.ended()


def test_a_silent_handshake_ends(rig: Rig) -> None:
    with rig.agent() as agent:
        assert agent.ask(CONNECT).status == 200
        started = time.monotonic()
        assert agent.ended()
        assert 1 < time.monotonic() - started < 15
    reason = "the agent did not complete its TLS handshake"
    assert rig.egress.wait_for_event(method="CONNECT", result="failure", reason=reason)


def test_a_direct_tunnel_that_names_its_host_byte_by_byte_ends(rig: Rig) -> None:
    with rig.agent() as agent:
        assert agent.ask(b"CONNECT direct.example.com:443 HTTP/1.0\r\n\r\n").status == 200
        started = time.monotonic()
        with suppress(OSError):
            for byte in b"\x16\x03\x01\x40\0" + b"\x01" * 100:
                agent.send(bytes([byte]))
                time.sleep(0.1)
        assert 1 < time.monotonic() - started < 15
    assert rig.egress.wait_for_event(host="direct.example.com", result="failure")
    assert rig.untouched()


class Ticking:
    """A connection that always has something to read, none of it an answer, as session tickets."""

    pending = 0

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.wire = sock, self

    def read_ready(self) -> None:
        time.sleep(0.01)


def test_an_upstream_that_says_nothing_at_length_is_given_up() -> None:
    near, far = socket.socketpair()
    agent, other = socket.socketpair()
    far.send(b"x")
    with near, far, agent, other:
        started = time.monotonic()
        with pytest.raises(RefusedError) as refused:
            receive(Ticking(near), Wire(agent), "GET", Limits(answer=0.3), NONE)  # type: ignore[arg-type]
        assert time.monotonic() - started < 5
    assert refused.value.answer.error == "upstream_timeout"


def test_interim_answers_win_no_time() -> None:
    near, far = socket.socketpair()
    agent, other = socket.socketpair()

    def hint() -> None:
        for _ in range(7):
            time.sleep(0.4)
            far.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    with near, far, agent, other:
        thread = threading.Thread(target=hint)
        thread.start()
        upstream = Upstream(("http", Authority(H, 80)), near, Wire(near), (), 0)
        started = time.monotonic()
        with pytest.raises(RefusedError) as refused:
            receive(upstream, Wire(agent), "GET", Limits(answer=0.7), NONE)
        assert time.monotonic() - started < 2.5
        thread.join()
    assert refused.value.answer.error == "upstream_timeout"


def test_a_head_over_the_limit_is_431(rig: Rig) -> None:
    with rig.tunnel() as agent:
        reply = agent.ask(request(H, "/open/x", "X: " + "a" * 66_000))
        assert (reply.status, reply.json["error"]) == (431, "head_too_large")
    assert rig.untouched()


def test_a_head_just_under_the_limit_passes(rig: Rig) -> None:
    assert rig.get(H, "/open/x", "X: " + "a" * 65_000).status == 200


def test_too_many_connections_are_turned_away_and_recover(rig: Rig) -> None:
    with ExitStack() as stack:
        agents = [stack.enter_context(rig.agent()) for _ in range(60)]
        replies = []
        for agent in agents:
            try:
                replies.append(agent.ask(CONNECT).status)
            except (OSError, EOFError):
                replies.append(503)
        assert 40 <= replies.count(200) <= 48
        assert replies[-1] == 503
    event = rig.egress.wait_for_event(status=503)
    assert event["result"] == "denied"
    assert event["metadata"]["connections"] >= 1
    until = time.monotonic() + 5
    while time.monotonic() < until:
        with rig.agent() as agent:
            try:
                if agent.ask(CONNECT).status == 200:
                    return
            except (OSError, EOFError):
                time.sleep(0.05)
    pytest.fail("no connection became free")


def test_an_agent_that_leaves_does_not_end_the_proxy(rig: Rig) -> None:
    """Writing to a peer that has gone raises a signal, whose default is to end the process."""
    host = "plain.example.com"
    with rig.tunnel() as secure, rig.agent() as plain:
        secure.send(request("api.example.com", "/drip/1"))
        plain.send(raw(f"GET http://{host}/drip/1 HTTP/1.1", f"Host: {host}"))
        for agent in (secure, plain):
            agent.more()
    time.sleep(0.5)
    assert rig.egress.process.poll() is None
    assert rig.get("api.example.com", "/x").status == 200


def test_an_agent_that_leaves_frees_its_connection(rig: Rig) -> None:
    with rig.tunnel() as agent:
        agent.send(request(H, "/slow/2"))
        time.sleep(0.2)
    event = rig.egress.wait_for_event(path="/slow/2")
    assert (event["result"], event["status"]) == ("failure", 0)
    assert "agent" in event["reason"]


class Resolver:
    """Answers each look-up with the next of the given lists, the last one for ever; counts them."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, *_: object) -> tuple[str, ...]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            raise OSError
        return tuple(answer)


class _List(list[dict[str, Any]]):
    def emit(self, event: dict[str, Any]) -> None:
        self.append(event)


@contextmanager
def inside(
    tmp_path: Path,
    resolver: Resolver,
    *rules: DomainRule,
    ranges: tuple[str, ...] = (),
    events: _List | None = None,
) -> Iterator[Agent]:
    """A proxy in this process whose names are resolved as an attacker likes."""
    config = EgressConfig(
        sandbox_id="s",
        sandbox_token="t",
        broker_socket=tmp_path / "none",
        spool_dir=tmp_path,
        identity={},
        limits=Limits(connect=0.5),
    )
    plane = Plane.of(config, _List() if events is None else events, resolver)
    layer = Layer(LayerKind.TEAM, "t", "team", domains=rules)
    connections = (Connection("*.example.com", ranges),) if ranges else ()
    plane.load(to_obj(Bundle(1, 1, (layer,), connections=connections)))
    listener = socket.create_server(("127.0.0.1", 0))
    Server(plane, [listener]).start()
    agent = Agent(listener.getsockname()[1])
    try:
        yield agent
    finally:
        agent.close()
        with socket.socket() as waker:
            waker.connect(listener.getsockname())
        listener.close()


ALLOW = DomainRule("any", "*.example.com", Action.ALLOW)
GET = request("a.example.com", "http://a.example.com/")
PRIVATE = {
    "loopback": ["127.0.0.1"],
    "private 10": ["10.1.2.3"],
    "private 172": ["172.16.0.1"],
    "private 192": ["192.168.1.1"],
    "carrier": ["100.64.0.1"],
    "link-local": ["169.254.1.1"],
    "metadata": ["169.254.169.254"],
    "Azure": ["168.63.129.16"],
    "this network": ["0.0.0.0"],  # noqa: S104
    "multicast": ["224.0.0.1"],
    "broadcast": ["255.255.255.255"],
    "reserved": ["240.0.0.1"],
    "v6 loopback": ["::1"],
    "v6 unspecified": ["::"],
    "v6 unique local": ["fd00::1"],
    "v6 metadata": ["fd00:ec2::254"],
    "v6 link-local": ["fe80::1"],
    "v6 link-local with zone": ["fe80::1%1"],
    "v6 multicast": ["ff02::1"],
    "mapped": ["::ffff:127.0.0.1"],
    "NAT64": ["64:ff9b::a9fe:a9fe"],
    "6to4": ["2002:7f00:1::"],
    "Teredo": ["2001:0:7f00:1::80ff:fefe"],
    "v4-compatible": ["::127.0.0.1"],
    "public and private": ["93.184.215.14", "10.0.0.1"],
    "A and AAAA mixed": ["93.184.215.14", "::1"],
}


@pytest.mark.parametrize("addresses", PRIVATE.values(), ids=PRIVATE.keys())
def test_answers_of_the_resolver_are_vetted(tmp_path: Path, addresses: list[str]) -> None:
    resolver = Resolver(addresses)
    with inside(tmp_path, resolver, ALLOW) as agent:
        reply = agent.ask(GET)
    assert reply.status == 403
    assert reply.json["layer"] == "builtin"
    assert resolver.asked == 1


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Where the proxy would connect to; nothing outside this machine is ever reached by a test."""
    places: list[tuple[str, int]] = []

    def refuse(_: Dialer, __: Line, asked: list[tuple[str, int]]) -> socket.socket:
        places.extend(asked)
        raise RefusedError(Answer(502, "upstream_failed", "not in a test"))

    monkeypatch.setattr(Dialer, "_first_of", refuse)
    return places


def test_a_name_is_resolved_once_for_a_connection(
    tmp_path: Path, dialled: list[tuple[str, int]]
) -> None:
    # a second look-up would rebind the name to this machine
    resolver = Resolver(["93.184.215.14", "2606:2800:21f::1"], ["127.0.0.1"])
    with inside(tmp_path, resolver, ALLOW) as agent:
        assert agent.ask(GET).status == 502
        assert resolver.asked == 1
        assert dialled == [("93.184.215.14", 80), ("2606:2800:21f::1", 80)]
        # the next connection looks up again, and is judged again
        assert agent.ask(GET).status == 403
    assert len(dialled) == 2


@contextmanager
def unanswered() -> Iterator[tuple[str, int]]:
    """A place where a connection is neither accepted nor refused: its queue is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(LOCAL, backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()


def test_an_address_that_does_not_answer_leaves_time_for_the_next(tmp_path: Path) -> None:
    config = EgressConfig("sb", "", tmp_path, tmp_path, {}, limits=Limits(connect=2))
    with socket.socket() as own, unanswered() as silent, socket.create_server(LOCAL) as good:
        line = Line(own)
        sock = Dialer(config, Resolver([]), Turn())._first_of(line, [silent, good.getsockname()])
        assert sock.getpeername() == good.getsockname()
        line.close(sock)


def test_a_kind_of_address_that_this_host_lacks_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without IPv6 there is no such socket to be had."""

    class Only4(socket.socket):
        def __init__(self, family: int = socket.AF_INET, *args: Any, **kwargs: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "not here")
            super().__init__(family, *args, **kwargs)

    config = EgressConfig("sb", "", tmp_path, tmp_path, {}, limits=Limits(connect=2))
    dialer = Dialer(config, Resolver([]), Turn())
    with socket.socket() as own, socket.create_server(LOCAL) as good:
        line = Line(own)
        monkeypatch.setattr(socket, "socket", Only4)
        six = ("2606:2800:21f::1", 80)
        line.close(dialer._first_of(line, [six, good.getsockname()]))
        with pytest.raises(RefusedError) as refused:
            dialer._first_of(line, [six])
    assert refused.value.answer.error == "upstream_failed"


def test_a_connection_opens_its_private_range_only(
    tmp_path: Path, dialled: list[tuple[str, int]]
) -> None:
    resolver = Resolver(["10.255.255.1"])
    with inside(tmp_path, resolver, ALLOW, ranges=("10.255.255.0/24",)) as agent:
        assert agent.ask(GET).status == 502
    assert dialled == [("10.255.255.1", 80)]
    with inside(tmp_path, resolver, ALLOW, ranges=("10.255.254.0/24",)) as agent:
        assert agent.ask(GET).status == 403
    assert len(dialled) == 1


def test_a_range_is_denied_by_what_a_name_resolves_to(tmp_path: Path) -> None:
    rule = DomainRule("no-range", "8.8.8.0/24", Action.DENY)
    with inside(tmp_path, Resolver(["8.8.8.8"]), rule, ALLOW) as agent:
        reply = agent.ask(GET)
    assert (reply.status, reply.json["rule"]) == (403, "no-range")


def test_a_name_that_does_not_resolve_is_502(tmp_path: Path) -> None:
    with inside(tmp_path, Resolver([]), ALLOW) as agent:
        reply = agent.ask(GET)
    assert (reply.status, reply.json["error"]) == (502, "upstream_dns")


def test_a_mistake_of_ours_closes_the_connection_and_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("Authorization: Bearer of the agent")

    monkeypatch.setattr(Dialer, "take", fail)
    events = _List()
    with inside(tmp_path, Resolver(["8.8.8.8"]), ALLOW, events=events) as agent:
        agent.send(GET)
        assert agent.ended()
    assert [(event["result"], event["reason"]) for event in events] == [
        ("error", "internal error (KeyError)")
    ]
