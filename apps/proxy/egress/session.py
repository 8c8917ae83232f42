"""One agent connection, owned from its first byte.

proxy.py is the host: it makes this object for an accepted socket, runs it and shuts it down. Its
own parser, its plugins and its event loop never see a byte. `run` is ours because the inherited one
builds an asyncio loop for each connection and polls it 40 times a second while a peer is silent.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any

from proxy.http.handler import HttpProtocolHandler

from apps.policies.core import asking
from apps.policies.types import Action
from apps.proxy.egress import answers, platform, tunnel
from apps.proxy.egress.answers import Answer, RefusedError, denied
from apps.proxy.egress.audit import Record
from apps.proxy.egress.exchange import CUT, Asked, Exchange, internal, reply
from apps.proxy.egress.head import (
    HeadError,
    check_first_bytes,
    connect_authority,
    parse_request,
    plain_target,
    tunnel_target,
)
from apps.proxy.egress.inside import PlatformExchange
from apps.proxy.egress.lines import LineCutError
from apps.proxy.egress.tls.hello import HelloError
from apps.proxy.egress.wire import EndedError, Wire, linger

if TYPE_CHECKING:
    from apps.policies.core.asking import Authority
    from apps.policies.types import ConnectRequest
    from apps.proxy.egress.head import RequestHead
    from apps.proxy.egress.lines import Line
    from apps.proxy.egress.plane import Plane

_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_SHOWN = 256
_EARLY = Answer(400, "bad_request", "data was sent before the tunnel was opened", "early_data")


class Session(HttpProtocolHandler):
    """Serves the requests of one connection until it ends; runs in a thread of its own."""

    def __init__(self, *args: Any, plane: Plane, line: Line, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plane = plane
        self._limits = plane.config.limits
        self._line = line
        self._turn = plane.turn
        self._wire = Wire(self.work.connection, turn=self._turn, patience=self._limits.stall)
        self._ours_to_close = False

    def run(self) -> None:
        """Serve until the end; never raises."""
        try:
            with contextlib.suppress(EndedError, OSError, LineCutError):
                self._requests(None)
            self._turn.leave()
            if self._ours_to_close and not self._line.dead:
                linger(self._wire.sock)
        except Exception as error:  # noqa: BLE001  a mistake of ours ends one connection, recorded
            self._plane.auditor.emit(Record("", "", 0, "", reason=internal(error)))
        finally:
            self._turn.leave()
            self._line.close(self._wire.sock)
            self._plane.lines.gone(self._line)
            self.shutdown()

    def handle_data(self, data: memoryview) -> bool:
        """Nothing may reach proxy.py's own parser: were it ever called, the connection ends."""
        del data
        return True

    def _requests(self, inside: Authority | None) -> None:
        """Serve requests one after the other, `inside` a TLS tunnel or plainly."""
        while (head := self._next(inside)) is not None:
            if inside is None and head.method == "CONNECT":
                self._connect(head)
                return
            try:
                asked = _asked(head, inside)
            except HeadError as error:
                self._refuse(error, head, inside)
                return
            if not self._exchange(asked).run():
                self._ours_to_close = True
                return

    def _exchange(self, asked: Asked) -> Exchange:
        kind = PlatformExchange if asked.authority.host == platform.HOST else Exchange
        return kind(self._plane, self._line, self._wire, asked)

    def _next(self, inside: Authority | None) -> RequestHead | None:
        """The next request head, or None after answering what is none."""
        self._turn.leave()  # also when the next request is there already: others come first
        try:
            raw = self._wire.head(self._limits.idle, self._limits.head, check_first_bytes)
            self._turn.take()
            return parse_request(raw)
        except TimeoutError:
            if self._wire.pending:
                late = HeadError(408, "head_timeout", "the request head did not arrive in time")
                self._refuse(late, None, inside)
        except HeadError as error:
            self._refuse(error, None, inside)
        return None

    def _refuse(self, error: HeadError, head: RequestHead | None, inside: Authority | None) -> None:
        """Answer and record a request that has no single meaning; the connection ends."""
        record = Record(
            head.method if head else "",
            inside.host if inside else "",
            inside.port if inside else 0,
            "",
            "https" if inside else "http",
        )
        if head is not None:
            # As sent, for whoever investigates; user information may be a password.
            record.detail["target"] = head.target.rpartition("@")[2].partition("?")[0][:_SHOWN]
        code = "head_too_large" if error.status == 431 else "bad_request"
        self._close_with(Answer(error.status, code, error.message, error.code), record)

    def _close_with(self, answer: Answer, record: Record) -> None:
        record.result = "denied" if answer.denied else "error"
        record.status, record.reason = answer.status, answer.reason
        record.rule, record.layer = answer.rule, answer.layer
        reply(self._plane, self._wire, answer, record, keep_alive=False)
        self._plane.auditor.emit(record)
        self._ours_to_close = True

    def _connect(self, head: RequestHead) -> None:
        self._turn.leave()
        try:
            authority = connect_authority(head)
        except HeadError as error:
            self._refuse(error, head, None)
            return
        record = Record("CONNECT", authority.host, authority.port, "")
        try:
            action = self._tunnel_action(authority)
        except RefusedError as refused:
            self._close_with(refused.answer, record)
            return
        if head.upgrade:
            self._close_with(denied("CONNECT does not upgrade", "upgrade"), record)
        elif self._wire.pending:
            self._close_with(_EARLY, record)
        elif action is Action.DIRECT:
            self._direct(authority, record)
        else:
            self._intercept(authority, record)

    def _tunnel_action(self, authority: Authority) -> Action:
        """How a tunnel is treated; raises RefusedError where there is to be none."""
        if authority.host == platform.HOST:
            platform.check(self._plane, "https", authority.port)
            return Action.ALLOW
        decision = self._plane.gate.decide(asking.tunnel(authority))
        if not decision.allowed:
            raise RefusedError(answers.of_decision(decision))
        return decision.action

    def _intercept(self, authority: Authority, record: Record) -> None:
        """Be the server the agent wants to speak to, then serve its requests."""
        sock = self._wire.sock
        sock.settimeout(self._limits.handshake)
        sock.sendall(_ESTABLISHED)
        # Only now: the certificate of a new host is made while the agent prepares its hello.
        context = self._plane.authority.context(authority.host)
        secured = self._line.wrap(
            sock, lambda: context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        )
        self._wire.secure(secured)
        try:
            secured.settimeout(self._limits.handshake)
            secured.do_handshake()
            secured.settimeout(0)
        except OSError as error:
            wrong_name = isinstance(error, ssl.SSLError) and error.reason == "CALLBACK_FAILED"
            record.result = "denied" if wrong_name else "failure"
            record.reason = (
                "the TLS server name differs from the CONNECT host"
                if wrong_name
                else "the agent did not complete its TLS handshake"
            )
            record.layer = answers.PROXY_LAYER
            self._plane.auditor.emit(record)
            return
        self._requests(authority)

    def _direct(self, authority: Authority, record: Record) -> None:
        """Open a tunnel whose bytes are not read, once the ClientHello named the same host."""
        self._line.needs = (Action.DIRECT,)
        record.result = "failure"
        try:
            self._judge(asking.tunnel(authority), record)
            self._tunnel(authority, record)
            record.result = "success"
        except HelloError as error:
            record.result, record.reason = "denied", str(error)
        except RefusedError as refused:
            record.result = "denied" if refused.answer.denied else "error"
            record.status, record.reason = refused.answer.status, refused.answer.reason
        except (EndedError, OSError, LineCutError):
            record.reason = CUT if self._line.dead else "the tunnel broke off"
        finally:
            self._line.asked = None
            self._plane.auditor.emit(record)

    def _judge(self, request: ConnectRequest, record: Record) -> None:
        """Decide on a direct tunnel where a policy change can reach it; raises RefusedError."""
        self._line.asked = request
        decision = self._plane.gate.decide(request)
        record.rule, record.layer = decision.rule, decision.layer.value
        record.reason = decision.reason
        if decision.action is not Action.DIRECT:
            raise RefusedError(answers.of_decision(decision))

    def _tunnel(self, authority: Authority, record: Record) -> None:
        sock = self._wire.sock
        sock.settimeout(self._limits.handshake)
        sock.sendall(_ESTABLISHED)
        first, name = tunnel.read_hello(self._wire, self._limits.handshake)
        if name != authority.host:
            raise HelloError("the TLS server name differs from the CONNECT host")
        upstream, _ = self._plane.dialer.connect(
            self._line,
            authority,
            lambda ips: self._judge(asking.tunnel(authority, ips), record),
        )
        try:
            sock.settimeout(self._limits.stall)
            upstream.settimeout(self._limits.stall)
            record.status = 200
            tunnel.splice(self._wire, upstream, first, self._limits.stall, record)
        finally:
            self._line.close(upstream)
        if self._line.dead:
            raise LineCutError


def _asked(head: RequestHead, inside: Authority | None) -> Asked:
    if inside is not None:
        return Asked("https", inside, head, tunnel_target(head, inside))
    authority, target = plain_target(head)
    return Asked("http", authority, head, target)
