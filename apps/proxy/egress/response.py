"""The upstream's answer: read strictly, written anew, scrubbed when a credential was injected."""

from __future__ import annotations

import select
import time
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from apps.proxy.egress import body, inflate, scrub
from apps.proxy.egress.answers import Answer, RefusedError
from apps.proxy.egress.head import CHUNKED, UNTIL_CLOSE, HeadError, parse_response
from apps.proxy.egress.inject import response_fields
from apps.proxy.egress.wire import EndedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from apps.proxy.egress.audit import Record
    from apps.proxy.egress.config import Limits
    from apps.proxy.egress.head import ResponseHead
    from apps.proxy.egress.scrub import Needles
    from apps.proxy.egress.upstream import Upstream
    from apps.proxy.egress.wire import Wire

_MOST_INTERIM = 8
_PARTIAL = 206
# True of the compressed bytes only.
_OF_CODED = frozenset({"content-encoding", "content-md5", "content-digest", "digest"})
_NO_ANSWER = Answer(504, "upstream_timeout", "the upstream did not answer in time")


class SilentError(Exception):
    """The upstream ended the connection without a byte of an answer."""


class UpstreamBrokenError(Exception):
    """The upstream's answer broke off after it had been passed on in part."""


class ClientGoneError(Exception):
    """The agent's side ended or stalled; nobody is left to answer."""


def receive(
    upstream: Upstream,
    client: Wire,
    method: str,
    limits: Limits,
    needles: Needles,
    *,
    switching: bool = False,
) -> ResponseHead:
    """The final response head; interim ones (1xx) are skipped. With `switching` a 101 is final.

    Raises SilentError, ClientGoneError when the agent leaves meanwhile, or RefusedError: 504
    without an answer in time, 502 for what is no answer.
    """
    until = time.monotonic() + limits.answer
    for _ in range(_MOST_INTERIM):
        response = _one_head(upstream, client, method, limits, needles, until=until)
        if response.status == 101:
            if switching:
                return response
            break
        if response.status >= 200:
            _check_coding(response, needles)
            return response
    raise RefusedError(Answer(502, "upstream_failed", "the upstream answered out of turn"))


def _one_head(
    upstream: Upstream,
    client: Wire,
    method: str,
    limits: Limits,
    needles: Needles,
    *,
    until: float,
) -> ResponseHead:
    try:
        _await(upstream, client, until)
        raw = upstream.wire.head(limits.answer, limits.head)
        return parse_response(scrub.mask(raw, needles) if needles else raw, method)
    except TimeoutError:
        raise RefusedError(_NO_ANSWER) from None
    except HeadError as error:
        raise RefusedError(Answer(502, "upstream_failed", error.message, error.code)) from None
    except (EndedError, OSError):
        if upstream.wire.pending:
            answer = Answer(502, "upstream_failed", "the upstream's answer broke off")
            raise RefusedError(answer) from None
        raise SilentError from None


def _await(upstream: Upstream, client: Wire, until: float) -> None:
    """Wait for the first bytes of an answer, but not for an agent that has left.

    A readable TLS connection may hold no more than session tickets, so it is read to find out; an
    upstream may send these for ever.
    """
    poller = select.poll()
    poller.register(upstream.sock, select.POLLIN)
    poller.register(client.sock, select.POLLRDHUP)
    while not upstream.wire.pending:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        had = client.turn.leave()
        ready = poller.poll(left * 1000)
        if had:
            client.turn.take()
        if not ready:
            raise TimeoutError
        if all(descriptor != upstream.sock.fileno() for descriptor, _ in ready):
            raise ClientGoneError("the agent's side closed before the answer came")
        upstream.wire.read_ready()


def _coding(response: ResponseHead) -> str:
    """How the body is compressed; "" when it is not."""
    named = [value for key, _, value in response.fields if key == "content-encoding"]
    coding = ",".join(named).lower()
    return "" if coding == "identity" or not response.body else coding


def _check_coding(response: ResponseHead, needles: Needles) -> None:
    """Refuse what cannot be inflated, and so not be searched for the injected credential."""
    coding = _coding(response) if needles else ""
    if coding and (coding not in inflate.CODINGS or response.status == _PARTIAL):
        raise RefusedError(
            Answer(
                502,
                "upstream_compressed",
                "the upstream compressed its answer although it was asked not to, and in a way "
                "in which it cannot be searched",
            )
        )


def relay(
    upstream: Upstream,
    response: ResponseHead,
    client: Wire,
    *,
    method: str,
    keep_alive: bool,
    needles: Needles,
    record: Record,
    settled: Callable[[], None],
) -> None:
    """Pass the response on; after ClientGoneError or UpstreamBrokenError nothing can be sent.

    RefusedError (502) when the very beginning of a body cannot be inflated. A body that ends with
    the connection, or that was inflated, is passed on in chunks. `settled` is called before the
    last bytes leave: from then on nothing is left to cut.
    """
    views = _body(upstream, response)
    ready: bytes | memoryview | None = None
    if needles:
        if coding := _coding(response):
            views = _inflated(views, coding)
            ready = _first(views)
            response = _identity(response)
        views = _scrubbed(chain(filter(None, [ready]), views), scrub.Scrubber(needles))
    framing = CHUNKED if response.body == UNTIL_CLOSE else response.body
    head = _head_bytes(response, method, framing, keep_alive=keep_alive)
    writer = body.writer(client, framing)
    record.status = response.status
    try:
        # What is there already leaves with the head; what is not must not delay the head.
        first = next(views, b"") if upstream.wire.pending or ready else b""
        if len(first) == response.body:
            settled()
        writer.start(head, first)
        if writer.count != response.body:
            client.turn.leave()
        for view in views:
            if writer.count + len(view) == response.body:
                settled()
            writer.write(view)
        settled()
        writer.finish()
    except OSError:
        raise ClientGoneError("the agent's side closed before the response was complete") from None
    finally:
        record.bytes_in = writer.count


def _body(upstream: Upstream, response: ResponseHead) -> Iterator[memoryview | bytes]:
    try:
        yield from body.read(upstream.wire, response.body, from_server=True)
    except (EndedError, OSError):
        raise UpstreamBrokenError("the upstream's answer broke off") from None
    except HeadError as error:
        raise UpstreamBrokenError(f"the upstream's answer was malformed: {error.code}") from None


def _identity(response: ResponseHead) -> ResponseHead:
    """The head of the answer once it is inflated."""
    fields = tuple(field for field in response.fields if field[0] not in _OF_CODED)
    return replace(response, fields=fields, body=CHUNKED)


def _inflated(views: Iterator[memoryview | bytes], coding: str) -> Iterator[memoryview | bytes]:
    inflater = inflate.Inflater(coding)
    try:
        for view in views:
            yield from inflater.feed(view)
        inflater.finish()
    except inflate.InflateError as error:
        raise UpstreamBrokenError(str(error)) from None


def _first(views: Iterator[memoryview | bytes]) -> memoryview | bytes:
    """The first piece, while the answer can still be another; raises RefusedError."""
    try:
        return next(views, b"")
    except UpstreamBrokenError as error:
        raise RefusedError(Answer(502, "upstream_compressed", str(error))) from None


def _scrubbed(
    views: Iterable[memoryview | bytes], scrubber: scrub.Scrubber
) -> Iterator[memoryview | bytes]:
    for view in views:
        if clean := scrubber.feed(view):
            yield clean
    if rest := scrubber.flush():
        yield rest


def _head_bytes(response: ResponseHead, method: str, framing: int, *, keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *response_fields(response)]
    if method == "HEAD" or response.status == 304:
        length = response.first("content-length")
        if length is not None and length.isascii() and length.isdigit():
            lines.append(f"Content-Length: {length}")
    elif framing == CHUNKED:
        lines.append("Transfer-Encoding: chunked")
    elif response.status != 204:
        lines.append(f"Content-Length: {framing}")
    if not keep_alive:
        lines.append("Connection: close")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")
