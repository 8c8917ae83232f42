"""Client of the credential broker: a secret by id, per use, at most 60 s in this memory.

The broker decides at each use whether this sandbox may have this credential for this host. When it
cannot be asked nothing is sent: a request is never forwarded without the credential it is bound to.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from typing import TYPE_CHECKING

from apps.common import frames
from apps.proxy.egress.inject import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps.policies.types import Binding
    from apps.proxy.egress.config import EgressConfig
    from apps.proxy.egress.inject import Injected

    Ready = dict[tuple[str, str], tuple[Injected, float]]

MOST_SECONDS = 60.0
# Credentials in memory at a time: under a wildcard an agent makes up as many hosts as it likes.
MOST_KNOWN = 64
_SWEEP_SECONDS = 1.0
_ANSWER_BYTES = 64 * 1024
_CODE = re.compile(r"[a-z0-9_]{1,64}")


class BrokerAwayError(Exception):
    """The broker did not answer, or answered nonsense."""


class BrokerRefusedError(Exception):
    """The broker said no; `code` is its reason."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Broker:
    """Fetches credentials and remembers them briefly, ready to be sent. Thread-safe."""

    def __init__(self, config: EgressConfig) -> None:
        self._config = config
        self._ready: Ready = {}
        self._lock = threading.Lock()
        self._sweeping = False

    def credential(
        self, binding: Binding, host: str, before_waiting: Callable[[], object] = bool
    ) -> Injected:
        """What to add to a request to `host` under a binding.

        `before_waiting` is called when the broker has to be asked. Raises BrokerAwayError,
        BrokerRefusedError, or InjectionError when the value cannot be sent.
        """
        key = (binding.id, host)
        ready = self._ready
        known = ready.get(key)
        if known and known[1] > time.monotonic():
            return known[0]
        before_waiting()
        value, seconds = self._ask(binding.credential_id, host)
        injected = render(binding, value)
        # Into the memory we looked into: an answer to a question from before `forget` is not kept.
        self._keep(ready, key, injected, min(MOST_SECONDS, seconds))
        return injected

    def forget(self) -> None:
        """Drop every credential: the policy changed. Never waits for a question under way."""
        with self._lock:
            self._ready = {}

    def _keep(self, ready: Ready, key: tuple[str, str], injected: Injected, seconds: float) -> None:
        """Remember it, and see to it that it is gone in time though nobody asks for it again."""
        with self._lock:
            if ready is not self._ready:
                return
            if len(ready) >= MOST_KNOWN:
                ready.clear()
            ready[key] = (injected, time.monotonic() + seconds)
            if not self._sweeping:
                try:
                    threading.Thread(target=self._sweep, daemon=True).start()
                except RuntimeError:  # no thread to be had
                    ready.clear()
                    return
                self._sweeping = True

    def _sweep(self) -> None:
        """Drop what is too old, as long as there is something."""
        while wait := self._swept():
            time.sleep(wait)

    def _swept(self) -> float:
        """Drop what is too old; how long to wait for the next look, 0 when nothing is left."""
        with self._lock:
            now = time.monotonic()
            for key in [key for key, (_, until) in self._ready.items() if until <= now]:
                del self._ready[key]
            first = min((until - now for _, until in self._ready.values()), default=0.0)
            self._sweeping = bool(self._ready)
        return min(first, _SWEEP_SECONDS)

    def _ask(self, credential_id: str, host: str) -> tuple[str, float]:
        try:
            answer = self._exchange(credential_id, host)
        except (OSError, frames.FrameError) as error:
            raise BrokerAwayError from error
        if answer is None:
            raise BrokerAwayError
        if answer.get("ok") is not True:
            code = answer.get("error")
            usable = isinstance(code, str) and _CODE.fullmatch(code)
            raise BrokerRefusedError(str(code) if usable else "refused")
        value, seconds = answer.get("value"), answer.get("ttl", 0)
        if not isinstance(value, str) or not isinstance(seconds, int | float):
            raise BrokerAwayError
        return value, float(seconds)

    def _exchange(self, credential_id: str, host: str) -> dict[str, object] | None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(self._config.limits.broker)
            sock.connect(str(self._config.broker_socket))
            frames.send_frame(
                sock,
                {
                    "op": "credential",
                    "sandbox_id": self._config.sandbox_id,
                    "token": self._config.sandbox_token,
                    "credential_id": credential_id,
                    "host": host,
                },
            )
            return frames.recv_frame(sock, _ANSWER_BYTES)
