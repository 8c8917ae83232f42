"""One job in a sandbox, seen from sandboxd: pipes, limits, deadline, and the end of its tree.

Output is kept up to a limit a stream and counted beyond it, so memory is bounded whatever a tool
prints. The deadline ends *everything* that the job started. A job whose caller hangs up is ended
the same way.
"""

from __future__ import annotations

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

    from apps.sandboxes.harness.cgroups import JobGroup
    from apps.sandboxes.harness.sandbox import Sandbox

_CHUNK = 128 * 1024
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


class _Descriptors:
    """The job's ends of everything, closed once it is handed over or cannot be."""

    def __init__(
        self, request: dict[str, Any], content: bytes | None, group: JobGroup | None
    ) -> None:
        self.status, status = ipc.pair()
        self.output, output = os.pipe2(os.O_CLOEXEC)
        self.errors, errors = os.pipe2(os.O_CLOEXEC)
        body = json.dumps(request).encode()
        self.theirs = [status.detach(), ipc.memory_file(body, "request"), output, errors]
        if content is not None:
            self.theirs.append(ipc.memory_file(content, "input"))
        if group is not None:
            self.theirs.append(group.open())

    def __enter__(self) -> Self:
        return self

    def handed_over(self) -> None:
        """pid 1 has its copies."""
        ipc.close_all(self.theirs)
        self.theirs = []

    def __exit__(self, *_: object) -> None:
        self.handed_over()
        self.status.close()
        ipc.close_all([self.output, self.errors])


def run(
    sandbox: Sandbox,
    kind: str,
    request: dict[str, Any],
    *,
    timeout: float,
    limit: int,
    content: bytes | None = None,
    client: socket.socket | None = None,
) -> Outcome:
    """Run one job to its end; `timeout` in seconds, `limit` in bytes a stream.

    Raises Conflict `sandbox_stopped`, Unavailable `process_limit`, Invalid for a job that could not
    start, ClientGoneError.
    """
    started = time.monotonic()
    group = sandbox.new_group()
    try:
        with _Descriptors(request, content, group) as descriptors:
            message = {"op": "run", "kind": kind, "input": content is not None}
            sandbox.start_job(message, descriptors.theirs)
            descriptors.handed_over()
            watch = _Watch(sandbox, group, descriptors, limit, client)
            watch.until_end(started + timeout)
        outcome = watch.outcome()
    finally:
        sandbox.finished(group)
    outcome.duration_ms = round((time.monotonic() - started) * 1000, 3)
    return outcome


class _Watch:
    """The loop over a job's output, its end, its deadline and its caller."""

    def __init__(
        self,
        sandbox: Sandbox,
        group: JobGroup | None,
        descriptors: _Descriptors,
        limit: int,
        client: socket.socket | None,
    ) -> None:
        self.sandbox = sandbox
        self.group = group
        self.status = descriptors.status
        self.streams = {descriptors.output: Stream(limit), descriptors.errors: Stream(limit)}
        self.ordered = tuple(self.streams.values())
        self.client = client
        self.end: dict[str, Any] | None = None
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
        while self.end is None or self.streams:
            left = deadline - time.monotonic()
            if left <= 0:
                if self.end is not None or killed:
                    return
                self.timed_out = killed = True
                self.sandbox.kill_job(self.group)
                deadline = time.monotonic() + _DEATH_SECONDS
                continue
            before = self.end
            for descriptor, events in self.poll.poll(left * 1000):
                self._handle(descriptor, events)
            if self.gone and not killed:
                killed = True
                self.sandbox.kill_job(self.group)
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
            self.poll.unregister(descriptor)
            self.end = self._read_status()
        elif events & _HUNG_UP:
            self.poll.unregister(descriptor)
            self.gone = True

    def _read_status(self) -> dict[str, Any]:
        try:
            message, fds = ipc.receive(self.status, 1.0)
        except ipc.IpcError:
            return {"error": "sandbox_stopped"}
        ipc.close_all(fds)
        return message

    def outcome(self) -> Outcome:
        """The result, or the error that took its place."""
        if self.gone:
            raise ClientGoneError
        end = self.end or {"signal": 9}
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
    try:
        length = int.from_bytes(data[:4], "big")
        if len(data) < 4 + length:
            raise FrameError("cut")
        return decode_body(data[4 : 4 + length]), data[4 + length :]
    except FrameError as error:
        raise Upstream("the operation ended without an answer", code="job_failed") from error
