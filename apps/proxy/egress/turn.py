"""One thread at a time does the work of requests; who waits for a peer lets the next one in.

Threads that make many short system calls hand Python's own lock around at every one of them: with
eight busy connections a request cost twice the CPU of the same request alone. So a thread takes the
turn when it has a request in hand, and leaves it wherever it may have to wait: for a peer, for the
broker, for a look-up. What takes long by itself (handshakes, large bodies, tunnels) runs without
it. Nothing depends on the turn but speed: it guards no data.
"""

from __future__ import annotations

import threading


class Turn:
    """A lock that knows its thread, so that taking it twice and leaving it untaken do nothing."""

    __slots__ = ("_lock", "_owner")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0

    def take(self) -> None:
        """Go on when no other thread has the turn."""
        me = threading.get_ident()
        if self._owner != me:
            self._lock.acquire()
            self._owner = me

    def leave(self) -> bool:
        """Let another thread go on; returns whether this one had the turn."""
        if self._owner != threading.get_ident():
            return False
        self._owner = 0
        self._lock.release()
        return True
