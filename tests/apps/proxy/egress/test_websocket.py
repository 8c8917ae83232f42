"""WebSockets: open where a rule says so, to a server that understood, and cut when it ends."""

from __future__ import annotations

import base64
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from apps.common import frames
from apps.policies.types import Action, DomainRule
from tests.apps.proxy.egress.conftest import SECRET, binding, http, request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

    from apps.policies.types import Binding
    from tests.apps.proxy.egress.conftest import Rig

H = "a.wild.example.com"
KEY = base64.b64encode(b"0123456789abcdef").decode()
OPEN = (
    http("no", "GET", "/ws/secret/**", Action.DENY),
    http("ws", "WEBSOCKET", "/ws/**"),
    http("get", "GET", "/**"),
)
FIELDS = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


@contextmanager
def opened(rig: Rig, *bindings: Binding) -> Iterator[None]:
    """A policy with a rule for WebSockets."""
    rig.apply(DomainRule("ws", H, Action.ALLOW, OPEN), bindings=bindings)
    try:
        yield
    finally:
        rig.apply()


def dial(rig: Rig, path: str, host: str = H) -> ClientConnection:
    """A real client through the proxy."""
    return connect(
        f"wss://{host}{path}",
        ssl=rig.context,
        proxy=f"http://127.0.0.1:{rig.egress.port}",
        max_size=None,
        open_timeout=10,
        close_timeout=5,
    )


def handshake(**changed: str | None) -> tuple[str, ...]:
    """The fields of a handshake, some changed or left out (None); `_` stands for `-`."""
    values: dict[str, str | None] = dict(FIELDS)
    values |= {name.replace("_", "-"): value for name, value in changed.items()}
    return tuple(f"{name}: {value}" for name, value in values.items() if value is not None)


def test_messages_pass_both_ways_and_are_audited_once(rig: Rig) -> None:
    message = os.urandom(300_000)
    with opened(rig):
        with dial(rig, "/ws/echo") as client:
            for _ in range(3):
                client.send(message)
                assert client.recv(timeout=10) == message
        event = rig.egress.wait_for_event(path="/ws/echo", result="success")
    assert event["status"] == 101
    assert event["metadata"]["websocket"] is True
    assert event["metadata"]["rule"] == "ws"
    assert event["metadata"]["bytes_in"] > 900_000
    assert event["metadata"]["bytes_out"] > 900_000
    assert [seen.method for seen in rig.up.seen] == ["GET"]


def test_a_sender_that_does_not_read_stalls_nobody(rig: Rig) -> None:
    """Both directions full: whoever relays with blocking writes would stand still."""
    message = os.urandom(300_000)
    with opened(rig), dial(rig, "/ws/echo") as client:
        for _ in range(20):
            client.send(message)
        for _ in range(20):
            assert client.recv(timeout=10) == message


def test_the_server_ends_it(rig: Rig) -> None:
    with opened(rig), dial(rig, "/ws/bye") as client:
        client.send(b"x")
        assert client.recv(timeout=5) == b"x"
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("cred.example.com", "/ws/echo"),  # all requests allowed
        ("api.example.com", "/ws/echo"),  # GET /** allowed
        (H, "/other"),  # another path
        (H, "/ws/secret/x"),  # a GET that is denied
    ],
)
def test_without_a_rule_it_is_refused(rig: Rig, host: str, path: str) -> None:
    with opened(rig), pytest.raises(InvalidStatus) as refused:
        dial(rig, path, host)
    assert refused.value.response.status_code == 403
    assert rig.untouched()


@pytest.mark.parametrize(
    "fields",
    [
        handshake(Upgrade="h2c"),
        handshake(Upgrade="websocket, h2c"),
        handshake(Upgrade=None),
        handshake(Connection=None),
        handshake(Connection="Upgrade, HTTP2-Settings"),
        handshake(Connection="Upgrade, Sec-WebSocket-Key"),
        handshake(Connection="keep-alive"),
        handshake(Sec_WebSocket_Version="8"),
        handshake(Sec_WebSocket_Version=None),
        handshake(Sec_WebSocket_Version="13, 8"),
        handshake(Sec_WebSocket_Key=None),
        handshake(Sec_WebSocket_Key="x"),
        handshake(Sec_WebSocket_Key=base64.b64encode(b"short").decode()),
        handshake(Sec_WebSocket_Key=KEY[:-3] + "/=="),
        (*handshake(), f"Sec-WebSocket-Key: {KEY}"),
        (*handshake(), f"Sec_WebSocket_Key: {KEY}"),
        (*handshake(), "Sec-WebSocket-Version: 13"),
        (*handshake(), "Content-Length: 0"),
        (*handshake(), "Transfer-Encoding: chunked"),
        (*handshake(), "Expect: 100-continue"),
    ],
)
def test_what_is_no_handshake_opens_nothing(rig: Rig, fields: tuple[str, ...]) -> None:
    with opened(rig), rig.tunnel(H) as agent:
        agent.send(request(H, "/ws/echo", *fields))
        assert agent.reply().status in (400, 403)
    assert rig.untouched()


def test_only_a_get_and_nothing_before_the_answer(rig: Rig) -> None:
    with opened(rig):
        assert rig.get(H, "/ws/echo", *handshake(), method="POST").status == 403
        assert rig.get(H, "/ws/echo", *handshake(), method="WEBSOCKET").status == 403
        assert rig.get(H, "/ws/echo", method="WEBSOCKET").status == 403
        with rig.tunnel(H) as agent:
            agent.send(request(H, "/ws/echo", *handshake()) + request(H, "/x", method="DELETE"))
            assert [agent.reply().status for _ in range(2)] == [403, 403]
    assert rig.untouched()


@pytest.mark.parametrize("path", ["/ws/wrong-accept", "/ws/other-protocol", "/switch"])
def test_a_server_that_did_not_understand_gets_no_bytes(rig: Rig, path: str) -> None:
    rules = (http("ws", "WEBSOCKET", "/**"),)
    rig.apply(DomainRule("ws", H, Action.ALLOW, rules))
    with rig.tunnel(H) as agent:
        agent.send(request(H, path, *handshake()))
        reply = agent.reply()
        assert (reply.status, reply.json["rule"]) == (502, "upgrade")
        agent.send(request(H, "/x", method="DELETE"))
        assert agent.reply().status == 403
    rig.apply()
    assert len(rig.up.seen) == 1


def test_a_server_that_answers_plainly(rig: Rig) -> None:
    rig.apply(DomainRule("ws", H, Action.ALLOW, (http("ws", "WEBSOCKET", "/**"), *OPEN)))
    with rig.tunnel(H) as agent:
        assert agent.ask(request(H, "/echo", *handshake())).status == 200
        assert agent.ask(request(H, "/echo")).status == 200
    rig.apply()


@pytest.mark.parametrize("end", ["policy", "cut"])
def test_it_is_cut_when_it_is_no_longer_allowed(rig: Rig, end: str) -> None:
    with opened(rig), dial(rig, "/ws/echo") as client:
        client.send(b"x")
        assert client.recv(timeout=5) == b"x"
        rig.apply(DomainRule("ws", H, Action.ALLOW, OPEN))  # still allowed: it goes on
        client.send(b"y")
        assert client.recv(timeout=5) == b"y"
        if end == "policy":
            rig.apply(DomainRule("ws", H, Action.ALLOW, OPEN[2:]))
        else:
            frames.send_frame(rig.egress.control, {"op": "cut"})
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=5)
        event = rig.egress.wait_for_event(path="/ws/echo", result="failure")
    assert event["reason"] == "cut by the platform"


def test_a_credential_that_comes_back_in_pieces_is_masked(rig: Rig) -> None:
    whole = len(f"Bearer {SECRET}")
    with opened(rig, binding(H)), dial(rig, "/ws/drip") as client:
        assert client.recv(timeout=5) == "Bearer " + "*" * len(SECRET)
        received = ""
        while len(received) < whole:
            received += str(client.recv(timeout=5))
    assert received == "Bearer " + "*" * len(SECRET)


def test_a_frame_that_could_be_read_in_two_ways_ends_it(rig: Rig) -> None:
    with opened(rig, binding(H)), dial(rig, "/ws/masked") as client:
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=5)
        event = rig.egress.wait_for_event(path="/ws/masked", result="failure")
    assert event["reason"] == ("the upstream's WebSocket was malformed: a server's frame is masked")


def test_a_credential_in_the_handshake_does_not_come_back(rig: Rig) -> None:
    with opened(rig, binding(H)), dial(rig, "/ws/leak") as client:
        assert client.recv(timeout=5) == "Bearer " + "*" * len(SECRET)
        # A few bytes of the beginning of a secret, at the end of a message, pass after a moment.
        client.send(SECRET[:7].encode())
        assert client.recv(timeout=5) == SECRET[:7].encode()
        client.send(SECRET[7:].encode())
        assert client.recv(timeout=5) == b"*" * (len(SECRET) - 7)
        client.send(SECRET[:10].encode())
        assert client.recv(timeout=5) == b"*" * 10
    (seen,) = rig.up.seen
    assert seen.header("authorization") == f"Bearer {SECRET}"
    assert seen.header("sec-websocket-extensions") is None
