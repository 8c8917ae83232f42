"""The far side: resolve once, vet every address, pin one, verify its certificate.

A name is resolved exactly once for each connection, the policy judges all of its addresses, and
the connection goes to one that was judged: there is no second look-up to rebind.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from apps.common.addresses import parse_address
from apps.proxy.egress import platform
from apps.proxy.egress.answers import Answer, RefusedError
from apps.proxy.egress.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from apps.policies.core.asking import Authority
    from apps.proxy.egress.config import EgressConfig
    from apps.proxy.egress.lines import Line
    from apps.proxy.egress.turn import Turn

    Key = tuple[str, Authority]
    Resolve = Callable[[str, int], tuple[str, ...]]
    Judge = Callable[[tuple[str, ...]], None]


@lru_cache(maxsize=4)
def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """The context for upstream TLS: the system's roots and, when given, one more file of them.

    Cached, so that a zygote which calls it before it forks spares every proxy the loading.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


@dataclass(slots=True, eq=False)
class Upstream:
    """A connection to an upstream.

    `addresses`: what its host resolved to (empty for a mapped host); `era`: the policy under which
    it was opened.
    """

    key: Key
    sock: socket.socket
    wire: Wire
    addresses: tuple[str, ...]
    era: int
    idle_since: float = 0.0


class Dialer:
    """Connects to upstreams and keeps idle connections for the next request. Thread-safe."""

    def __init__(self, config: EgressConfig, resolve: Resolve, turn: Turn) -> None:
        self._config = config
        self._turn = turn
        self._resolve = resolve
        self._limits = config.limits
        self._idle: list[Upstream] = []
        self._era = 0
        self._lock = threading.Lock()

    def known(self, scheme: str, authority: Authority) -> tuple[str, ...]:
        """The addresses behind an idle connection, if there is one: what a decision should see."""
        at = self._find((scheme, authority))
        return at.addresses if at else ()

    def take(self, line: Line, scheme: str, authority: Authority) -> Upstream | None:
        """An idle connection that is still open, registered with the line, or None."""
        while (upstream := self._pop((scheme, authority))) is not None:
            fresh = time.monotonic() - upstream.idle_since < self._limits.pooled_idle
            if fresh and not _readable(upstream.sock):
                line.add(upstream.sock)
                return upstream
            upstream.sock.close()
        return None

    def give(self, line: Line, upstream: Upstream) -> None:
        """Keep a connection whose last response was read to its end."""
        line.forget(upstream.sock)
        upstream.idle_since = time.monotonic()
        most = self._limits.pooled
        with self._lock:
            if line.dead or upstream.era != self._era:
                surplus = [upstream]
            else:
                self._idle.append(upstream)
                surplus, self._idle = self._idle[:-most], self._idle[-most:]
        for one in surplus:
            one.sock.close()

    def clear(self) -> None:
        """Close idle connections and keep none in use now: the policy that allowed them changed."""
        with self._lock:
            self._era += 1
            idle, self._idle = self._idle, []
        for upstream in idle:
            upstream.sock.close()

    def open(self, line: Line, scheme: str, authority: Authority, judge: Judge) -> Upstream:
        """A new connection, registered with the line; raises RefusedError (502, 504).

        `judge` sees all addresses before any is connected to, and raises to refuse them.
        """
        era = self._era
        sock, addresses = self.connect(line, authority, judge)
        if scheme == "https":
            sock = self._secure(line, sock, authority.host)
        wire = Wire(sock, turn=self._turn, patience=self._limits.stall)
        return Upstream((scheme, authority), sock, wire, addresses, era)

    def connect(
        self, line: Line, authority: Authority, judge: Judge
    ) -> tuple[socket.socket, tuple[str, ...]]:
        """A TCP connection and the addresses that were judged; as `open`."""
        if authority.host == platform.HOST:
            return self._platform(line), ()
        mapped = self._config.address_map
        place = mapped.get(f"{authority.host}:{authority.port}") or mapped.get(authority.host)
        if place is not None:
            return self._first_of(line, [(place[0], place[1])]), ()
        addresses = self._addresses(authority)
        judge(addresses)
        return self._first_of(line, [(ip, authority.port) for ip in addresses]), addresses

    def _platform(self, line: Line) -> socket.socket:
        """The platform's inside door. Its name is never looked up, nor mapped to anything else."""
        sock = socket.socket(socket.AF_UNIX)
        line.add(sock)
        sock.settimeout(self._limits.connect)
        try:
            sock.connect(str(self._config.platform_socket))
        except OSError:
            line.close(sock)
            raise RefusedError(platform.AWAY) from None
        return sock

    def _first_of(self, line: Line, places: list[tuple[str, int]]) -> socket.socket:
        """The first place that accepts within the time for all of them.

        One that does not answer leaves to each of the others as much as it had.
        """
        until = time.monotonic() + self._limits.connect
        for untried, place in zip(range(len(places), 0, -1), places, strict=True):
            left = until - time.monotonic()
            if left <= 0:
                break
            sock = _connected(line, place, left / untried)
            if sock is not None:
                return sock
        if until <= time.monotonic():
            raise RefusedError(Answer(504, "upstream_timeout", "the upstream was not reached"))
        raise RefusedError(Answer(502, "upstream_failed", "the upstream refused the connection"))

    def _addresses(self, authority: Authority) -> tuple[str, ...]:
        if parse_address(authority.host) is not None:
            return (authority.host,)
        try:
            return self._resolve(authority.host, authority.port)
        except (OSError, UnicodeError):
            answer = Answer(502, "upstream_dns", "the host name was not resolved")
            raise RefusedError(answer) from None

    def _find(self, key: Key) -> Upstream | None:
        with self._lock:
            return next((one for one in reversed(self._idle) if one.key == key), None)

    def _pop(self, key: Key) -> Upstream | None:
        with self._lock:
            for at in range(len(self._idle) - 1, -1, -1):
                if self._idle[at].key == key:
                    return self._idle.pop(at)
        return None

    def _secure(self, line: Line, sock: socket.socket, host: str) -> ssl.SSLSocket:
        context = client_context(self._config.upstream_ca_file)
        secured = line.wrap(
            sock,
            lambda: context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False),
        )
        secured.settimeout(self._limits.handshake)
        try:
            secured.do_handshake()
        except TimeoutError:
            line.close(secured)
            raise RefusedError(
                Answer(504, "upstream_timeout", "the upstream did not finish its TLS handshake")
            ) from None
        except OSError as error:
            line.close(secured)
            raise RefusedError(Answer(502, "upstream_tls", _tls_reason(error))) from None
        return secured


def _connected(line: Line, place: tuple[str, int], seconds: float) -> socket.socket | None:
    """A connection to this place, registered with the line; None when there is none to be had."""
    try:
        sock = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET)
    except OSError:  # this host has no such addresses
        return None
    line.add(sock)
    sock.settimeout(seconds)
    try:
        sock.connect(place)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        line.close(sock)
        return None
    return sock


def _tls_reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the upstream's certificate was not accepted: {error.verify_message}"
    return "the TLS handshake with the upstream failed"


def system_resolve(host: str, port: int) -> tuple[str, ...]:
    """All addresses of a name by the system's resolver; OSError or UnicodeError as it raises."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(info[4][0]) for info in infos))


def _readable(sock: socket.socket) -> bool:
    """Whether an idle connection has something to read: its end, or bytes nobody asked for."""
    poller = select.poll()
    with contextlib.suppress(ValueError):
        poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))
