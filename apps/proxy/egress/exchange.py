"""One request: decide, inject, forward, relay the answer, leave one audit event.

The order is the point. Nothing is resolved, connected or fetched before the decision; the first
piece of a body is parsed before a byte goes upstream; the event is written whatever happens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from apps.policies.core.asking import HTTP_PORT, HTTPS_PORT, http_request
from apps.policies.types import Action
from apps.proxy.egress import answers, body, inject, response, scrub, websocket
from apps.proxy.egress.answers import Answer, RefusedError, denied
from apps.proxy.egress.audit import Record
from apps.proxy.egress.broker import BrokerAwayError, BrokerRefusedError
from apps.proxy.egress.head import UNTIL_CLOSE, HeadError
from apps.proxy.egress.lines import LineCutError
from apps.proxy.egress.place import InjectionError
from apps.proxy.egress.response import ClientGoneError, SilentError, UpstreamBrokenError
from apps.proxy.egress.wire import EndedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps.policies.core.asking import Authority
    from apps.policies.types import Binding, Decision
    from apps.proxy.egress.head import RequestHead, ResponseHead
    from apps.proxy.egress.inject import Injected
    from apps.proxy.egress.lines import Line
    from apps.proxy.egress.plane import Plane
    from apps.proxy.egress.scrub import Needles
    from apps.proxy.egress.upstream import Upstream
    from apps.proxy.egress.wire import Wire

# RFC 9110 section 9.2.2; such a request may be sent again when a reused connection had died.
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_ALLOWED = (Action.ALLOW, Action.DIRECT)
CUT = "cut by the platform"


@dataclass(frozen=True, slots=True)
class Asked:
    """A parsed request and where it goes."""

    scheme: str
    authority: Authority
    head: RequestHead
    target: str


class Exchange:
    """Handles one request on one agent connection."""

    def __init__(self, plane: Plane, line: Line, wire: Wire, asked: Asked) -> None:
        self._plane = plane
        self._limits = plane.config.limits
        self._line = line
        self._wire = wire
        self._asked = asked
        self._body_left = asked.head.body != 0
        self._key = ""
        self._record = Record(
            asked.head.method,
            asked.authority.host,
            asked.authority.port,
            asked.target.partition("?")[0],
            asked.scheme,
        )

    def run(self) -> bool:
        """Handle it; returns whether the connection may carry another request."""
        try:
            return self._serve()
        except RefusedError as refused:
            return self._answer(refused.answer)
        except HeadError as error:
            return self._answer(Answer(error.status, "bad_request", error.message, error.code))
        except LineCutError:
            self._failed(CUT)
        except (ClientGoneError, UpstreamBrokenError) as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001  a mistake of ours ends one connection, recorded
            self._failed(internal(error), "error")
        finally:
            self._settled()
            self._plane.auditor.emit(self._record)
        return False

    def _serve(self) -> bool:
        if self._asked.head.upgrade:
            self._key = websocket.key_of(self._asked.head)
            if self._wire.pending:
                raise RefusedError(denied("data was sent before the WebSocket opened", "upgrade"))
        decision = self._decide()
        injected = self._credential(decision.binding)
        target = self._target(injected)
        return self._forward(self._head_bytes(decision, injected, target), injected)

    def _decide(self) -> Decision:
        asked = self._asked
        self._judged = self._plane.dialer.known(asked.scheme, asked.authority)
        request = http_request(
            asked.scheme,
            asked.authority.host,
            asked.authority.port,
            asked.head.method,
            asked.target,
            addresses=self._judged,
            websocket=bool(self._key),
        )
        # Set before deciding: a policy change in between cuts the line instead of missing it.
        self._line.needs = _ALLOWED
        self._line.asked = self._request = request
        return self._decided(self._plane.gate.decide(request))

    def _decided(self, decision: Decision) -> Decision:
        """Record a decision; raises RefusedError unless it allows."""
        record = self._record
        record.rule, record.layer = decision.rule, decision.layer.value
        record.reason = decision.reason
        record.path = decision.path or record.path
        if not decision.allowed:
            raise RefusedError(answers.of_decision(decision))
        return decision

    def _judge(self, addresses: tuple[str, ...]) -> None:
        """Decide again when the host turned out to have other addresses than those judged."""
        if addresses and addresses != self._judged:
            self._judged = addresses
            request = replace(self._request, addresses=addresses)
            self._line.asked = request
            self._decided(self._plane.gate.decide(request))

    def _credential(self, binding: Binding | None) -> Injected | None:
        """The credential to add; raises RefusedError rather than going without it."""
        asked = self._asked
        if binding is None or asked.scheme != "https":
            return None
        try:
            injected = self._plane.broker.credential(
                binding, asked.authority.host, self._wire.turn.leave
            )
        except BrokerAwayError:
            raise RefusedError(
                Answer(502, "credential_unavailable", "the credential could not be fetched")
            ) from None
        except BrokerRefusedError as refusal:
            reason = f"the credential was refused: {refusal.code}"
            raise RefusedError(denied(reason, "credential")) from None
        except InjectionError as error:
            raise RefusedError(denied(str(error), "credential")) from None
        self._record.credential = binding.credential_name
        return injected

    def _target(self, injected: Injected | None) -> str:
        """What to ask for upstream: with a credential in it, the URL is decided on once more.

        Nothing is recorded of that second decision but a refusal, without its reason, which could
        tell something about the value.
        """
        target = self._asked.target
        if injected is None or injected.place is None:
            return target
        try:
            target = injected.place.put(target)
        except InjectionError as error:
            raise RefusedError(denied(str(error), "credential")) from None
        request = replace(self._request, target=target)
        if not self._plane.gate.decide_unremembered(request).allowed:
            raise RefusedError(_URL_REFUSED)
        return target

    def _head_bytes(self, decision: Decision, injected: Injected | None, target: str) -> bytes:
        asked = self._asked
        default = HTTPS_PORT if asked.scheme == "https" else HTTP_PORT
        return inject.request_bytes(
            asked.head,
            target,
            asked.authority.header(default),
            strip=decision.strip_credentials,
            injected=injected,
            last=websocket.HEADERS if self._key else (),
        )

    def _forward(self, head: bytes, injected: Injected | None) -> bool:
        needles = injected.needles if injected else scrub.NONE
        upstream, answer = self._round_trip(head, needles)
        if answer.status == 101:
            return self._switch(upstream, answer, needles)
        try:
            keep_alive = self._asked.head.keep_alive and not self._body_left
            response.relay(
                upstream,
                answer,
                self._wire,
                method=self._asked.head.method,
                keep_alive=keep_alive,
                needles=needles,
                record=self._record,
                settled=self._settled,
            )
        except BaseException:
            self._line.close(upstream.sock)
            raise
        self._record.result = "success"
        self._put_back(upstream, answer)
        return keep_alive

    def _switch(self, upstream: Upstream, answer: ResponseHead, needles: Needles) -> bool:
        """Relay a WebSocket until it ends; the connection carries nothing after it."""
        record = self._record
        try:
            websocket.check_answer(answer, self._key, extensions=not needles)
            record.status, record.detail["websocket"] = 101, True
            self._wire.sendall(websocket.answer_bytes(answer))
            self._wire.turn.leave()
            websocket.splice(self._wire, upstream.wire, needles, self._limits.stall, record)
        except OSError:
            raise ClientGoneError("the WebSocket broke off") from None
        finally:
            self._line.close(upstream.sock)
        if self._line.dead:
            raise LineCutError
        record.result = "success"
        return False

    def _round_trip(self, head: bytes, needles: Needles) -> tuple[Upstream, ResponseHead]:
        """Send the request and receive the head of its answer."""
        asked = self._asked
        views = self._client_body()
        first = bytes(next(views, b""))
        repeatable = asked.head.method in _REPEATABLE and len(first) == asked.head.body
        upstream = self._plane.dialer.take(self._line, asked.scheme, asked.authority)
        if upstream is not None:
            try:
                return upstream, self._ask(upstream, head, first, views, needles)
            except SilentError:
                if not repeatable:
                    raise RefusedError(_SILENT) from None
        self._wire.turn.leave()
        upstream = self._plane.dialer.open(self._line, asked.scheme, asked.authority, self._judge)
        try:
            return upstream, self._ask(upstream, head, first, views, needles)
        except SilentError:
            raise RefusedError(_SILENT) from None

    def _ask(
        self,
        upstream: Upstream,
        head: bytes,
        first: bytes,
        views: Iterator[memoryview],
        needles: Needles,
    ) -> ResponseHead:
        try:
            self._judge(upstream.addresses)
            self._send(upstream, head, first, views)
            answer = response.receive(
                upstream,
                self._wire,
                self._asked.head.method,
                self._limits,
                needles,
                switching=bool(self._key),
            )
        except BaseException:
            self._line.close(upstream.sock)
            raise
        return answer

    def _send(
        self, upstream: Upstream, head: bytes, first: bytes, views: Iterator[memoryview]
    ) -> None:
        writer = body.writer(upstream.wire, self._asked.head.body)
        try:
            writer.start(head, first)
            if self._asked.head.body not in (0, len(first)):
                self._wire.turn.leave()
            for view in views:
                writer.write(view)
            writer.finish()
        except TimeoutError:
            raise RefusedError(
                Answer(504, "upstream_timeout", "the upstream stopped reading the request")
            ) from None
        except OSError:
            # The upstream may have answered early and closed (413, 401): read what it said.
            return
        finally:
            self._record.bytes_out = writer.count
        self._body_left = False

    def _client_body(self) -> Iterator[memoryview]:
        head = self._asked.head
        if head.body == 0:
            return
        try:
            if head.expects_continue and not self._wire.pending:
                self._wire.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            yield from body.read(self._wire, head.body)
        except (EndedError, OSError):
            raise ClientGoneError(
                "the agent's side closed before the request was complete"
            ) from None

    def _put_back(self, upstream: Upstream, answer: ResponseHead) -> None:
        reusable = answer.keep_alive and answer.body != UNTIL_CLOSE and not self._body_left
        if reusable and upstream.wire.drained:
            self._plane.dialer.give(self._line, upstream)
        else:
            self._line.close(upstream.sock)

    def _answer(self, answer: Answer) -> bool:
        record = self._record
        if self._line.dead:
            self._failed(CUT)
            return False
        record.result = "denied" if answer.denied else "error"
        record.status, record.reason = answer.status, answer.reason
        if answer.layer != record.layer:
            record.rule, record.layer = answer.rule, answer.layer
        self._settled()
        keep = self._asked.head.keep_alive and not self._body_left
        return reply(self._plane, self._wire, answer, record, keep_alive=keep)

    def _settled(self) -> None:
        """A policy change has nothing left to cut."""
        self._line.asked = None

    def _failed(self, reason: str, result: str = "failure") -> None:
        self._record.result = result
        self._record.reason = CUT if self._line.dead else reason


_URL_REFUSED = denied("the policy does not allow the URL with the credential in it", "credential")
_SILENT = Answer(502, "upstream_failed", "the upstream closed the connection without an answer")


def reply(plane: Plane, wire: Wire, answer: Answer, record: Record, *, keep_alive: bool) -> bool:
    """Send an answer of ours; returns whether the connection may go on."""
    rendered = answers.render(
        answer,
        record.decision_id,
        plane.config.explain_url,
        head_only=record.method == "HEAD",
        close=not keep_alive,
    )
    try:
        wire.sendall(rendered)
    except OSError:
        return False
    return keep_alive


def internal(error: Exception) -> str:
    """What is recorded of an unexpected error: its type, since its text may quote the request."""
    return f"internal error ({type(error).__name__})"
