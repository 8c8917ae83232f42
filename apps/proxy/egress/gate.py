"""The policy in force and the one question asked of it. No usable bundle means no.

Deciding is pure, so decisions are remembered for as long as their bundle is in force.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from apps.policies import codec
from apps.policies.core.compiled import forget
from apps.policies.core.decide import decide
from apps.policies.types import ConnectRequest

if TYPE_CHECKING:
    from apps.policies.types import Bundle, Decision, HttpRequest

    State = tuple[Bundle | None, dict[ConnectRequest | HttpRequest, Decision]]

_MOST_KNOWN = 512
_LONGEST_KNOWN = 512


class StaleBundleError(Exception):
    """A bundle older than the one that was accepted last."""


class UnusableBundleError(Exception):
    """A bundle that cannot be used; from now on everything is denied."""


class Gate:
    """Holds the bundle. Readers take the reference once a request and see one policy."""

    def __init__(self) -> None:
        # One reference to both: a decision is never remembered for another bundle than its own.
        self._state: State = (None, {})
        self._newest = -1
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether there is a policy at all."""
        return self._state[0] is not None

    def load(self, value: object) -> int:
        """Take a bundle (the codec's JSON object) into force and return its version.

        Raises StaleBundleError (the present one stays) or UnusableBundleError (none is left).
        """
        with self._lock:
            try:
                bundle = codec.from_obj(value)
            except codec.BundleError as error:
                self._replace(None)
                raise UnusableBundleError(str(error)) from error
            if bundle.version < self._newest:
                raise StaleBundleError(f"version {bundle.version} is older than {self._newest}")
            self._replace(bundle)
            self._newest = bundle.version
            return bundle.version

    def _replace(self, bundle: Bundle | None) -> None:
        old, self._state = self._state[0], (bundle, {})
        if old is not None:
            forget(old)

    def decide(self, request: ConnectRequest | HttpRequest) -> Decision:
        """The decision on a request by the bundle in force; without one it is a denial."""
        bundle, known = self._state
        decision = known.get(request)
        if decision is None:
            decision = decide(bundle, request)
            if len(known) >= _MOST_KNOWN:
                known.clear()
            if isinstance(request, ConnectRequest) or len(request.target) <= _LONGEST_KNOWN:
                known[request] = decision
        return decision

    def decide_unremembered(self, request: HttpRequest) -> Decision:
        """The decision on a request that holds a secret, which must not stay in memory."""
        return decide(self._state[0], request)
