"""The policy in force and the one question asked of it. No usable bundle means no."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from apps.policies import codec
from apps.policies.core.decide import decide

if TYPE_CHECKING:
    from apps.policies.types import Bundle, ConnectRequest, Decision, HttpRequest


class StaleBundleError(Exception):
    """A bundle older than the one that was accepted last."""


class UnusableBundleError(Exception):
    """A bundle that cannot be used; from now on everything is denied."""


class Gate:
    """Holds the bundle. Readers take the reference once a request and see one policy."""

    def __init__(self) -> None:
        self._bundle: Bundle | None = None
        self._newest = -1
        self._lock = threading.Lock()

    def load(self, value: object) -> int:
        """Take a bundle (the codec's JSON object) into force and return its version.

        Raises StaleBundleError (the present one stays) or UnusableBundleError (none is left).
        """
        with self._lock:
            try:
                bundle = codec.from_obj(value)
            except codec.BundleError as error:
                self._bundle = None
                raise UnusableBundleError(str(error)) from error
            if bundle.version < self._newest:
                raise StaleBundleError(f"version {bundle.version} is older than {self._newest}")
            self._bundle, self._newest = bundle, bundle.version
            return bundle.version

    def decide(self, request: ConnectRequest | HttpRequest) -> Decision:
        """The decision on a request by the bundle in force; without one it is a denial."""
        return decide(self._bundle, request)
