"""A rig: agents' raw sockets on one side, the real proxy process, recording upstreams behind it."""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from apps.policies.types import (
    Action,
    Binding,
    Bundle,
    DomainRule,
    HttpRule,
    Injection,
    Layer,
    LayerKind,
)
from apps.proxy.egress.config import Limits
from tests.twins.ca import TwinCa
from tests.twins.egress import EgressTwin
from tests.twins.upstream import UpstreamTwin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "s3cr3t-Token_0123456789/abcdefghij+xyz"
HOSTS = (
    "api.example.com",
    "cred.example.com",
    "key.example.com",
    "basic.example.com",
    "direct.example.com",
    "strip.example.com",
    "a.wild.example.com",
    "plain.example.com",
)
_QUICK = Limits(idle=5, head=1.5, handshake=1.5, connect=2, answer=3, stall=3, connections=48)


def http(identifier: str, method: str, path: str | None, action: Action = Action.ALLOW) -> HttpRule:
    return HttpRule(identifier, method, path, action)


def binding(host: str, injection: Injection = Injection.BEARER, **values: Any) -> Binding:
    return Binding(f"bind-{host}", "cred-1", "the token", host, injection, (host,), **values)


def bundle(version: int = 1, *first: DomainRule, bindings: tuple[Binding, ...] = ()) -> Bundle:
    """The rig's policy; `first` are rules before all others."""
    domains = (
        *first,
        DomainRule(
            "api",
            "api.example.com",
            Action.ALLOW,
            (
                http("no-admin", "*", "/admin/**", Action.DENY),
                http("get", "GET", "/**"),
                http("head", "HEAD", "/**"),
                http("post", "POST", "/open/**"),
                http("put", "PUT", "/open/**"),
                http("early", "POST", "/early"),
            ),
        ),
        DomainRule("cred", "cred.example.com", Action.ALLOW),
        DomainRule("key", "key.example.com", Action.ALLOW),
        DomainRule("basic", "basic.example.com", Action.ALLOW),
        DomainRule("direct", "direct.example.com:443", Action.DIRECT),
        DomainRule("ask", "ask.example.com", Action.ASK),
        DomainRule("wild", "*.wild.example.com", Action.ALLOW),
        DomainRule(
            "plain",
            "plain.example.com",
            Action.ALLOW,
            (http("plain-get", "GET", "/**"), http("plain-post", "POST", "/open/**")),
        ),
    )
    every = (
        binding("cred.example.com"),
        binding("key.example.com", Injection.HEADER, header="X-Api-Key", template="Token {value}"),
        binding("basic.example.com", Injection.BASIC, username="robot"),
    )
    layer = Layer(LayerKind.TEAM, "team-1", "team", domains=domains)
    return Bundle(1, version, (layer,), bindings or every)


@dataclass
class Reply:
    """A response as the agent got it."""

    head: bytes
    body: bytes

    @cached_property
    def status(self) -> int:
        return int(self.head.split(b" ")[1])

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        pairs = (line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[1:])
        return [(name.lower(), value.strip()) for name, _, value in pairs]

    def header(self, name: str) -> str | None:
        """The value of the first field with this lower-case name."""
        return next((value for key, value in self.headers if key == name), None)

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)


class Agent:
    """One connection of an agent to the proxy, spoken byte by byte."""

    def __init__(self, port: int) -> None:
        self.sock: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def more(self) -> bytes:
        data = self.sock.recv(262144)
        self._held += data
        return data

    def reply(self, method: str = "GET") -> Reply:
        """The next response; raises EOFError when the connection ends first."""
        while b"\r\n\r\n" not in self._held:
            if not self.more():
                raise EOFError(self._held)
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        reply = Reply(head, b"")
        if method == "HEAD" or reply.status in (204, 304):
            return reply
        if reply.header("transfer-encoding"):
            reply.body = self._chunks()
        else:
            reply.body = self._exactly(int(reply.header("content-length") or 0))
        return reply

    def _exactly(self, count: int) -> bytes:
        while len(self._held) < count:
            if not self.more():
                raise EOFError(self._held)
        data, self._held = self._held[:count], self._held[count:]
        return data

    def _line(self) -> bytes:
        while b"\r\n" not in self._held:
            if not self.more():
                raise EOFError(self._held)
        line, _, self._held = self._held.partition(b"\r\n")
        return line

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self._line(), 16):
            parts.append(self._exactly(size))
            assert self._exactly(2) == b"\r\n"
        assert self._line() == b""
        return b"".join(parts)

    def ask(self, data: bytes) -> Reply:
        self.send(data)
        return self.reply(data.split(b" ", 1)[0].decode("latin-1"))

    def ended(self) -> bool:
        """Whether the proxy closes the connection (within the socket's time)."""
        try:
            while self.more():
                pass
        except (ConnectionError, ssl.SSLError):
            pass
        return True

    def close(self) -> None:
        self.sock.close()


def unix_listener(path: Path) -> socket.socket:
    """A listening Unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)
    return listener


class Rig:
    """The proxy, its upstreams, and ways to speak through it."""

    def __init__(self, folder: Path, stack: ExitStack, limits: Limits) -> None:
        self.folder = folder
        authority = TwinCa()
        self.upstream_ca = folder / "upstream-ca.pem"
        self.upstream_ca.write_text(authority.pem)
        pem = authority.issue(folder, *HOSTS)
        self.up = stack.enter_context(UpstreamTwin(pem))
        self.plain = stack.enter_context(UpstreamTwin())
        self.stranger = stack.enter_context(UpstreamTwin(TwinCa().issue(folder, "x.example.com")))
        self.platform = stack.enter_context(
            UpstreamTwin(listener=unix_listener(folder / "platform.sock"))
        )
        tls = ("127.0.0.1", self.up.port)
        places = dict.fromkeys(HOSTS, tls)
        places |= {
            "plain.example.com:80": ("127.0.0.1", self.plain.port),
            "ask.example.com": tls,
            "evil.wild.example.com": ("127.0.0.1", self.stranger.port),
            "wrong.wild.example.com": tls,
            "closed.wild.example.com": ("127.0.0.1", 1),
            "direct.example.com": tls,
        }
        self.egress = stack.enter_context(
            EgressTwin(
                folder,
                address_map=places,
                upstream_ca_file=self.upstream_ca,
                limits=limits,
                platform_socket=folder / "platform.sock",
            )
        )
        self.upstreams: tuple[UpstreamTwin, ...] = (
            self.up,
            self.plain,
            self.stranger,
            self.platform,
        )
        self.egress.broker.values["cred-1"] = SECRET
        self.version = 1
        self.apply()
        self.context = ssl.create_default_context(cadata=self.egress.ca_pem)

    def apply(self, *first: DomainRule, bindings: tuple[Binding, ...] = ()) -> None:
        """Put the rig's policy into force, with these rules first."""
        self.version += 1
        answer = self.egress.apply(bundle(self.version, *first, bindings=bindings))
        assert answer == {"op": "applied", "version": self.version}

    def untouched(self) -> bool:
        """Whether no request byte reached any upstream."""
        return not any(twin.raw for twin in self.upstreams)

    @contextmanager
    def agent(self) -> Iterator[Agent]:
        agent = Agent(self.egress.port)
        try:
            yield agent
        finally:
            agent.close()

    @contextmanager
    def tunnel(self, host: str = "api.example.com", *, sni: str | None = None) -> Iterator[Agent]:
        """An agent inside an intercepted tunnel."""
        with self.agent() as agent:
            agent.send(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
            assert agent.reply("HEAD").status == 200
            agent.sock = self.context.wrap_socket(agent.sock, server_hostname=sni or host)
            yield agent

    def get(self, host: str, target: str, *fields: str, method: str = "GET") -> Reply:
        """One request through a tunnel of its own."""
        with self.tunnel(host) as agent:
            return agent.ask(request(host, target, *fields, method=method))


def request(host: str, target: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "\r\n"]
    return "\r\n".join(lines).encode("latin-1") + body


def raw(*lines: str) -> bytes:
    """A head of these lines, as they are."""
    return "\r\n".join((*lines, "", "")).encode("latin-1")


@pytest.fixture(scope="session")
def session_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(tmp_path_factory.mktemp("rig"), stack, _QUICK)


@pytest.fixture
def rig(session_rig: Rig) -> Rig:
    """The rig with nothing seen yet; one process serves the whole session."""
    for upstream in session_rig.upstreams:
        upstream.reset()
    session_rig.egress.mark()
    return session_rig
