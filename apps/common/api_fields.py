"""Serializers that take what the document says and nothing else.

A framework's field is generous: it reads `"1"` as true and 5 as text, and ignores what it does not
know. Here a value has the type that the document names, and an unknown key is an error with its
name, since a misspelt restriction that is silently ignored restricts nothing.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from apps.common.tenancy import SLUG_PATTERN

_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_PLAIN = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*"
_SEEN = r"[^\s\x00-\x1f\x7f]"
_EPOCH_YEARS = range(1970, 9999)


class Strict(serializers.Serializer[Any]):
    """A body or query whose keys are all known."""

    def to_internal_value(self, data: Any) -> Any:
        """Refuse what is no object and what is not known, then read the fields."""
        if not hasattr(data, "keys"):
            raise ValidationError({"non_field_errors": ["An object is needed."]})
        unknown = sorted(str(key) for key in data if key not in self.fields)
        if unknown:
            names = ", ".join(self.fields)
            message = f"There is no such field. There are: {names}."
            raise ValidationError({name[:100]: message for name in unknown[:20]})
        return super().to_internal_value(data)


class Text(serializers.CharField):
    """Text as it was sent: no other type, nothing trimmed; no control characters but line breaks.

    What may not be blank has something in it that can be seen.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("trim_whitespace", False)
        super().__init__(**options)

    @property
    def pattern(self) -> str:
        """The same as a pattern for the document."""
        return f"^{_PLAIN}$" if self.allow_blank else f"^{_PLAIN}{_SEEN}{_PLAIN}$"

    def to_internal_value(self, data: Any) -> str:
        """The text, or an error."""
        if not isinstance(data, str):
            self.fail("invalid")
        if _CONTROL.search(data):
            raise ValidationError("Control characters have no place here.")
        if not self.allow_blank and not re.search(_SEEN, data):
            self.fail("blank")
        return super().to_internal_value(data)


class Slug(Text):
    """A slug as the services check it."""

    pattern = SLUG_PATTERN.replace(r"\Z", "$")

    def __init__(self, **options: Any) -> None:
        options.setdefault("max_length", 63)
        options.setdefault(
            "help_text", "Lower-case letters, digits and inner hyphens; unique; never changes."
        )
        super().__init__(**options)


class Flag(serializers.BooleanField):
    """true or false, not words for them."""

    def to_internal_value(self, data: Any) -> bool:
        """The value, or an error."""
        if not isinstance(data, bool):
            self.fail("invalid", input=str(data)[:100])
        return data


class Number(serializers.IntegerField):
    """A whole number, not a text that looks like one."""

    def to_internal_value(self, data: Any) -> int:
        """The number, or an error."""
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return data


class Choice(serializers.ChoiceField):
    """One of some words."""

    def to_internal_value(self, data: Any) -> str:
        """The word, or an error."""
        if not isinstance(data, str):
            self.fail("invalid_choice", input=str(data)[:100])
        return str(super().to_internal_value(data))


class Key(serializers.UUIDField):
    """The id of a row, in its one canonical form."""

    def to_internal_value(self, data: Any) -> uuid.UUID:
        """The id, or an error."""
        if not isinstance(data, str) or not _UUID.fullmatch(data):
            self.fail("invalid", value=str(data)[:100])
        return uuid.UUID(data)


_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Many(serializers.ListField):
    """A list, counted before its items are looked at: each of a million is a sentence to refuse."""

    def to_internal_value(self, data: Any) -> list[Any]:
        """The items, or an error."""
        if self.max_length is not None and isinstance(data, list) and len(data) > self.max_length:
            self.fail("max_length", max_length=self.max_length)
        return super().to_internal_value(data)


class Moment(serializers.DateTimeField):
    """A time with its offset (RFC 3339 section 5.6)."""

    def to_internal_value(self, value: Any) -> dt.datetime:
        """The time in UTC, or an error."""
        if not isinstance(value, str) or not _RFC3339.fullmatch(value):
            raise ValidationError("Write a time such as 2026-11-21T07:00:00Z.")
        try:
            found = dt.datetime.fromisoformat(value.upper()).astimezone(dt.UTC)
        except (ValueError, OverflowError):
            raise ValidationError("There is no such time.") from None
        if found.year not in _EPOCH_YEARS:
            raise ValidationError("There is no such time.")
        return found


@extend_schema_field({"type": "integer", "minimum": 0, "maximum": 2**31 - 1})
class WholeNumber(serializers.Field[Any, Any, Any, Any]):
    """A number without sign, in a query."""

    def to_internal_value(self, data: Any) -> int:
        """The number, or an error."""
        if not re.fullmatch(r"[0-9]{1,10}", str(data), re.ASCII) or int(data) >= 2**31:
            raise ValidationError("Write a whole number.")
        return int(data)


@extend_schema_field({"type": "string", "enum": ["true", "false"]})
class QueryFlag(serializers.Field[Any, Any, Any, Any]):
    """`true` or `false` in a query."""

    def to_internal_value(self, data: Any) -> bool:
        """The value, or an error."""
        if data not in ("true", "false"):
            raise ValidationError("Write true or false.")
        return bool(data == "true")
