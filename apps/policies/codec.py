"""Policy bundles between processes: strict JSON in one format.

Fields are only added. A reader ignores fields that it does not know, so a new field may narrow
nothing that an older reader would then let through: that needs a new `BUNDLE_FORMAT`. Whatever else
is unexpected (another format, an unknown action, a wrong type, a pattern that cannot be read)
raises BundleError, and an enforcer without a bundle denies.
"""

from __future__ import annotations

from typing import Any

import msgspec

from apps.policies.core.check import bundle_problems
from apps.policies.types import BUNDLE_FORMAT, Bundle


class BundleError(ValueError):
    """A bundle that cannot be used. The message names the place; bundles hold no secrets."""


def encode(bundle: Bundle) -> bytes:
    """The bundle as UTF-8 JSON."""
    return msgspec.json.encode(bundle)


def decode(data: bytes) -> Bundle:
    """The bundle from UTF-8 JSON; raises BundleError."""
    try:
        obj = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"The bundle is not JSON: {error}") from error
    return from_obj(obj)


def to_obj(bundle: Bundle) -> dict[str, Any]:
    """The bundle as plain JSON values, for use inside another message."""
    obj: dict[str, Any] = msgspec.to_builtins(bundle)
    return obj


def from_obj(obj: object) -> Bundle:
    """The bundle from plain JSON values; raises BundleError."""
    if not isinstance(obj, dict) or type(obj.get("format")) is not int:
        raise BundleError("The bundle has no format number.")
    if obj["format"] != BUNDLE_FORMAT:
        raise BundleError(
            f"The bundle has format {obj['format']}; this side reads format {BUNDLE_FORMAT}."
        )
    try:
        bundle = msgspec.convert(obj, Bundle, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BundleError(f"The bundle is not valid: {error}") from error
    problems = bundle_problems(bundle)
    if problems:
        first = problems[0]
        raise BundleError(f"The bundle is not valid: {first.rule} {first.field}: {first.message}")
    return bundle
