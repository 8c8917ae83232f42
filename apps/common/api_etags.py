"""Which version of an object a caller saw: ETag and If-Match (RFC 9110 sections 8.8.3 and 13.1.1).

An ETag is a digest of the object as it is shown, without the fields that change by mere use.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from django.core.serializers.json import DjangoJSONEncoder

from apps.common.errors import Changed, ConditionNeeded, Invalid

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')
_LIST = re.compile(rf"\s*{_TAG.pattern}(?:\s*,\s*{_TAG.pattern})*\s*")
MAX_CHARS = 1_000


def etag_of(shown: Mapping[str, Any], *, without: Collection[str] = ()) -> str:
    """The strong tag of an object, quotes included."""
    kept = {key: value for key, value in shown.items() if key not in without}
    text = json.dumps(kept, cls=DjangoJSONEncoder, sort_keys=True)
    digest = hashlib.sha256(text.encode()).digest()[:18]
    return f'"{base64.urlsafe_b64encode(digest).decode()}"'


def wanted_tags(if_match: str) -> frozenset[str] | None:
    """The tags of an If-Match field; None for `*`, which any version matches.

    Raises ConditionNeeded without the field, Invalid for what is not one. A weak tag never matches.
    """
    if not if_match:
        raise ConditionNeeded(
            "Say which version you saw: send its ETag as If-Match. The ETag comes with GET."
        )
    if if_match.strip() == "*":
        return None
    if len(if_match) > MAX_CHARS or not _LIST.fullmatch(if_match):
        raise Invalid('If-Match is not of the form "tag".', field="If-Match")
    return frozenset(tag for tag in _TAG.findall(if_match) if not tag.startswith("W/"))


def compare(wanted: frozenset[str] | None, current: str) -> None:
    """Raise Changed unless the current tag is wanted."""
    if wanted is not None and current not in wanted:
        raise Changed("It was changed since you read it. Read it again, then change that version.")
