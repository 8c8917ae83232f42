"""The writer's side of the spool folder: what to read, how far it got, what it put aside.

Standard library only. Layout of the folder:

    <producer>/<uuid7>.ndjson.open   written by a living producer, which holds a lock on it
    <producer>/<uuid7>.ndjson        finished
    .writer/                         lock, and an offset for each segment: bytes that are stored
    .quarantine/                     lines that were no events, with the reason

Producers own their folders, so nothing in them is trusted: links are not followed, and what is no
regular file is left alone.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import stat
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from apps.audit.spool import DONE_SUFFIX, OPEN_SUFFIX, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK_BYTES: Final = 256 * 1024
SEGMENTS_A_PASS: Final = 100
QUARANTINE_BYTES: Final = 64 * 1024 * 1024
IDLE_SECONDS: Final = 60.0

_STEM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines from `start` to `end` (bytes); `last` when nothing can follow any more."""

    producer: str
    stem: str
    start: int
    end: int
    lines: list[bytes]
    last: bool


class Spools:
    """All producers' folders below `root`. One instance reads; `claim` says whether it is us."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._state = root / ".writer"
        self._quarantine = root / ".quarantine"
        self._offsets: dict[tuple[str, str], int] = {}
        self._lock = -1
        self._turn = 0

    def claim(self) -> bool:
        """Become the one writer of this folder; False while another process is."""
        if self._lock >= 0:
            return True
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def release(self) -> None:
        """Let another process become the writer."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def chunks(self) -> Iterator[Chunk]:
        """What is new, at most CHUNK_BYTES of each segment; producers take turns to be first."""
        producers = self._producers()
        self._turn = (self._turn + 1) % max(1, len(producers))
        for producer in producers[self._turn :] + producers[: self._turn]:
            for stem, path in self._segments(producer):
                with suppress(OSError):  # gone or unreadable: the next pass looks again
                    chunk = self._read(producer, stem, path)
                    if chunk is not None:
                        yield chunk

    def stored(self, chunk: Chunk) -> None:
        """Remember that all before `chunk.end` is in the database; delete a finished segment.

        On a full disk the offset is only remembered in memory: after a crash some lines are read
        again, and the database ignores what it has.
        """
        offset = self._offset_path(chunk.producer, chunk.stem)
        if chunk.last:
            for suffix in (OPEN_SUFFIX, DONE_SUFFIX):
                (self.root / chunk.producer / f"{chunk.stem}{suffix}").unlink(missing_ok=True)
            offset.unlink(missing_ok=True)
            self._offsets.pop((chunk.producer, chunk.stem), None)
            return
        self._offsets[chunk.producer, chunk.stem] = chunk.end
        with suppress(OSError):
            offset.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = offset.with_suffix(".tmp")
            temporary.write_text(str(chunk.end))
            temporary.replace(offset)

    def set_aside(self, chunk: Chunk, refused: list[tuple[bytes, str]]) -> None:
        """Keep refused lines with their reasons, as far as disk and quarantine have room."""
        path = self._quarantine / f"{chunk.producer}-{chunk.stem}.ndjson"
        with suppress(OSError):
            self._quarantine.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.scandir(self._quarantine) as entries:
                room = QUARANTINE_BYTES - sum(entry.stat().st_size for entry in entries)
            with path.open("a", encoding="ascii") as file:
                for line, reason in refused:
                    kept = {"at": timestamp(), "reason": reason, "base64": _base64(line)}
                    text = json.dumps(kept) + "\n"
                    room -= len(text)
                    if room < 0:
                        return
                    file.write(text)

    def tidy(self) -> None:
        """Remove what dead producers left: unpublished segments, and empty folders of sandboxes."""
        for producer in self._producers():
            folder = self.root / producer
            with suppress(OSError):
                for path in folder.glob(".*.new"):
                    if _is_idle(path):
                        path.unlink()
                if _UUID.fullmatch(producer) and _is_idle(folder):
                    folder.rmdir()

    def _producers(self) -> list[str]:
        try:
            with os.scandir(self.root) as entries:
                folders = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return sorted(name for name in folders if not name.startswith("."))

    def _segments(self, producer: str) -> list[tuple[str, Path]]:
        """The oldest segments of a producer, oldest first."""
        found = []
        with suppress(OSError), os.scandir(self.root / producer) as entries:
            for entry in entries:
                stem, _, rest = entry.name.partition(".")
                if f".{rest}" in (OPEN_SUFFIX, DONE_SUFFIX) and _STEM.fullmatch(stem):
                    found.append((stem, self.root / producer / entry.name))
        return sorted(found)[:SEGMENTS_A_PASS]

    def _read(self, producer: str, stem: str, path: Path) -> Chunk | None:
        """The next whole lines of a segment, or None when there is nothing to do."""
        start = self._offset(producer, stem)
        with _opened(path) as fd:
            data = os.pread(fd, CHUNK_BYTES, start)
            if len(data) == CHUNK_BYTES:
                end = data.rfind(b"\n") + 1 or len(data)
                return Chunk(producer, stem, start, start + end, _lines(data[:end]), last=False)
            if path.name.endswith(DONE_SUFFIX) or _is_abandoned(fd):
                data = os.pread(fd, CHUNK_BYTES, start)
                last = len(data) < CHUNK_BYTES
                return Chunk(producer, stem, start, start + len(data), _lines(data), last=last)
            end = data.rfind(b"\n") + 1
            if not end:
                return None
            return Chunk(producer, stem, start, start + end, _lines(data[:end]), last=False)

    def _offset(self, producer: str, stem: str) -> int:
        key = (producer, stem)
        if key not in self._offsets:
            try:
                self._offsets[key] = max(0, int(self._offset_path(producer, stem).read_text()))
            except (OSError, ValueError):
                self._offsets[key] = 0  # read again from the start: rows are unique by id
        return self._offsets[key]

    def _offset_path(self, producer: str, stem: str) -> Path:
        return self._state / "offsets" / f"{producer}-{stem}"


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a regular file, never through a link and never blocking on a pipe."""
    fd = os.open(path, _READ_FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("not a regular file")
        yield fd
    finally:
        os.close(fd)


def _is_abandoned(fd: int) -> bool:
    """Whether the producer's lock is gone, and so the producer. Closing `fd` gives ours back."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lines(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line.strip()]


def _base64(line: bytes) -> str:
    return base64.b64encode(line[:CHUNK_BYTES]).decode()


def _is_idle(path: Path) -> bool:
    return time.time() - path.stat(follow_symlinks=False).st_mtime > IDLE_SECONDS
