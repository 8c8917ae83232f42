"""One job in a sandbox, seen from sandboxd: pipes, limits, deadline, and the end of its tree.

Output is kept up to a limit a stream and counted beyond it, so memory is bounded whatever a tool
prints. The deadline ends *everything* that the job started. A job whose caller hangs up is ended
the same way.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from apps.common.errors import Invalid, LensError, Unavailable, Upstream
from apps.common.frames import FrameError, decode_body
from apps.sandboxes.harness import ipc

if TYPE_CHECKING:
    import socket

    from apps.sandboxes.harness.sandbox import Prepared, Sandbox

_CHUNK = 128 * 1024
_TRIES = 3
_DRAIN_SECONDS = 0.25  # after the job's end, for what a background child keeps open
_DEATH_SECONDS = 5.0  # from the kill to the news of the end
_ENDED = select.POLLIN | select.POLLHUP | select.POLLERR
_HUNG_UP = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class ClientGoneError(Exception):
    """The caller closed its connection; nobody is left to answer."""


@dataclass(slots=True)
class Stream:
    """What came out of one stream: the first `limit` bytes, and how many there were."""

    limit: int
    data: bytearray = field(default_factory=bytearray)
    total: int = 0

    def add(self, chunk: bytes) -> None:
        """Take a chunk; beyond the limit only its length."""
        self.total += len(chunk)
        room = self.limit - len(self.data)
        if room > 0:
            self.data += chunk[:room]


@dataclass(slots=True)
class Outcome:
    """How a job ended: an exit code or a signal, unless an `error` kept it from starting."""

    stdout: Stream
    stderr: Stream
    exit_code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    duration_ms: float = 0.0


class _Pipes:
    """Both ends of a job's output and errors; ours are closed at the end, theirs when sent."""

    def __init__(self) -> None:
        self.output, output = os.pipe2(os.O_CLOEXEC)
        self.errors, errors = os.pipe2(os.O_CLOEXEC)
        self.theirs = [output, errors]

    def __enter__(self) -> Self:
        return self

    def hand_over(
        self, prepared: Prepared, kind: str, request: dict[str, Any], content: bytes | None
    ) -> None:
        """Send the job to the child that waits for it. A child that has died says so itself."""
        fds = [ipc.memory_file(json.dumps(request).encode(), "request"), *self.theirs]
        if content is not None:
            fds.append(ipc.memory_file(content, "input"))
        self.theirs = fds
        with contextlib.suppress(ipc.IpcError):
            ipc.send(prepared.requests, {"kind": kind}, fds)
        ipc.close_all(fds)
        self.theirs = []

    def __exit__(self, *_: object) -> None:
        ipc.close_all([self.output, self.errors, *self.theirs])


def run(
    sandbox: Sandbox,
    kind: str,
    request: dict[str, Any],
    *,
    timeout: float,
    limit: int,
    content: bytes | None = None,
    client: socket.socket | None = None,
    frame: bool = False,
) -> Outcome:
    """Run one job to its end; `timeout` in seconds, `limit` in bytes a stream.

    The next job's child is forked behind it. With `frame`, a job of ours is over when its
    answer is whole: one frame on its output, after which it only ends.

    Raises Conflict `sandbox_stopped`, Unavailable `process_limit`, Invalid for a job that could not
    start, ClientGoneError.
    """
    started = time.monotonic()
    for attempt in range(1, _TRIES + 1):
        prepared = sandbox.take()
        try:
            with _Pipes() as pipes:
                pipes.hand_over(prepared, kind, request, content)
                sandbox.refill(later=True)
                watch = _Watch(sandbox, prepared, pipes, limit, client, frame=frame)
                watch.until_end(started + timeout)
        finally:
            sandbox.release(prepared)
        if attempt == _TRIES or not watch.never_began:
            break
    outcome = watch.outcome()
    outcome.duration_ms = round((time.monotonic() - started) * 1000, 3)
    return outcome


class _Watch:
    """The loop over a job's output, its end, its deadline and its caller."""

    def __init__(
        self,
        sandbox: Sandbox,
        prepared: Prepared,
        pipes: _Pipes,
        limit: int,
        client: socket.socket | None,
        *,
        frame: bool,
    ) -> None:
        self.sandbox = sandbox
        self.prepared = prepared
        self.status = prepared.status
        self.streams = {pipes.output: Stream(limit), pipes.errors: Stream(limit)}
        self.ordered = tuple(self.streams.values())
        self.client = client
        self.frame = frame
        self.end: dict[str, Any] | None = None
        self.began = False
        self.timed_out = False
        self.gone = False
        self.poll = select.poll()
        for descriptor in (*self.streams, self.status.fileno()):
            self.poll.register(descriptor, select.POLLIN)
        if client is not None:
            self.poll.register(client, select.POLLRDHUP)

    def until_end(self, deadline: float) -> None:
        """Until the job has ended and its output is read, or will be read by nobody."""
        killed = False
        while (self.end is None or self.streams) and not self._said_all():
            left = deadline - time.monotonic()
            if left <= 0:
                if self.end is not None or killed:
                    return
                self.timed_out = killed = True
                self.sandbox.kill_job(self.prepared)
                deadline = time.monotonic() + _DEATH_SECONDS
                continue
            before = self.end
            for descriptor, events in self.poll.poll(left * 1000):
                self._handle(descriptor, events)
            if self.gone and not killed:
                killed = True
                self.sandbox.kill_job(self.prepared)
                deadline = time.monotonic() + _DEATH_SECONDS
            if before is None and self.end is not None:
                deadline = time.monotonic() + _DRAIN_SECONDS

    def _handle(self, descriptor: int, events: int) -> None:
        if descriptor in self.streams:
            chunk = os.read(descriptor, _CHUNK)
            self.streams[descriptor].add(chunk)
            if not chunk:
                self.poll.unregister(descriptor)
                del self.streams[descriptor]
        elif descriptor == self.status.fileno():
            message = self._read_status()
            if "began" in message:
                self.began = True
            else:
                self.poll.unregister(descriptor)
                self.end = message
        elif events & _HUNG_UP:
            self.poll.unregister(descriptor)
            self.gone = True

    def _said_all(self) -> bool:
        data = self.ordered[0].data
        return self.frame and len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4], "big")

    def _read_status(self) -> dict[str, Any]:
        try:
            message, fds = ipc.receive(self.status, 1.0)
        except ipc.IpcError:
            return {"error": "sandbox_stopped"}
        ipc.close_all(fds)
        return message

    @property
    def never_began(self) -> bool:
        """The child died before it took its job (an agent may kill it), so another one may."""
        died = self.end is not None and "error" not in self.end
        return died and not self.began and not self.timed_out and not self.gone

    def outcome(self) -> Outcome:
        """The result, or the error that took its place."""
        if self.gone:
            raise ClientGoneError
        end = self.end or ({} if self._said_all() else {"signal": 9})
        if "error" in end:
            raise self._error(end)
        stdout, stderr = self.ordered
        return Outcome(stdout, stderr, end.get("exit_code"), end.get("signal"), self.timed_out)

    def _error(self, end: dict[str, Any]) -> LensError:
        code = str(end["error"])
        if code == "sandbox_stopped":
            return self.sandbox.gone()
        if code == "process_limit":
            message = "the sandbox has as many processes as it may"
            return Unavailable(message, code="process_limit")
        return Invalid(str(end.get("message", code)), code=code)


def answer(outcome: Outcome) -> tuple[dict[str, Any], bytes]:
    """The frame that one of our own jobs wrote, and the content behind it.

    Raises Upstream when there is none: the job died, or was ended by its deadline.
    """
    data = bytes(outcome.stdout.data)
    if outcome.timed_out:
        raise Upstream("the operation took too long", code="timeout")
    end = 4 + int.from_bytes(data[:4], "big")
    try:
        return decode_body(data[4:end]), data[end:]
    except FrameError as error:
        raise Upstream("the operation ended without an answer", code="job_failed") from error
