"""Arguments against a tool's JSON schema (2020-12), with errors that name field and remedy.

The SDK checks nothing here, and an agent corrects itself only from a sentence that says what would
have been right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from apps.common.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jsonschema.exceptions import ValidationError

MAX_SHOWN = 80


class Arguments:
    """A compiled schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        Draft202012Validator.check_schema(schema)
        self._properties: Mapping[str, Any] = schema["properties"]
        self._validator = Draft202012Validator(schema)

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with defaults filled in; Invalid names the field and the remedy."""
        error = best_match(self._validator.iter_errors(arguments))
        if error is not None:
            raise _invalid(error)
        defaults = {
            name: schema["default"]
            for name, schema in self._properties.items()
            if "default" in schema and name not in arguments
        }
        return {**defaults, **arguments}


def _invalid(error: ValidationError) -> Invalid:
    field = ".".join(str(part) for part in error.absolute_path)
    rule = str(error.validator)
    wanted: Any = error.validator_value
    got: Any = error.instance
    if rule == "required":
        missing = next(name for name in wanted if name not in got)
        return _error(missing, f"`{missing}` is required.", f"Add `{missing}` to the arguments.")
    if rule == "additionalProperties":
        schema: Any = error.schema
        known = ", ".join(f"`{name}`" for name in sorted(schema["properties"]))
        extra = next(name for name in got if name not in schema["properties"])
        remedy = f"Known are {known}." if known else "Send none."
        return _error(extra[:MAX_SHOWN], f"There is no argument {_shown(extra)}.", remedy)
    sentence, remedy = _SENTENCES.get(rule, _other)(field, wanted, got)
    return _error(field, sentence, remedy)


def _error(field: str, sentence: str, remedy: str) -> Invalid:
    return Invalid(sentence, field=field, code="invalid_arguments", remedy=remedy)


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def _maximum(field: str, wanted: Any, got: Any) -> tuple[str, str]:
    return f"`{field}` is {_shown(got)}, over the maximum of {wanted}.", f"Send at most {wanted}."


def _minimum(field: str, wanted: Any, got: Any) -> tuple[str, str]:
    return f"`{field}` is {_shown(got)}, under the minimum of {wanted}.", f"Send at least {wanted}."


def _max_length(field: str, wanted: Any, got: Any) -> tuple[str, str]:
    return f"`{field}` has {len(got)} characters; at most {wanted} fit.", "Send less."


def _min_length(field: str, wanted: Any, _got: Any) -> tuple[str, str]:
    return f"`{field}` is too short.", f"Send at least {wanted} character(s)."


def _type(field: str, wanted: Any, got: Any) -> tuple[str, str]:
    kind = type(got).__name__
    return f"`{field or 'arguments'}` must be of type {wanted}, not {kind}.", f"Send a {wanted}."


def _enum(field: str, wanted: Any, got: Any) -> tuple[str, str]:
    known = ", ".join(f"`{value}`" for value in wanted)
    return f"`{field}` is {_shown(got)}, which is not one of its values.", f"Send one of {known}."


def _other(field: str, wanted: Any, got: Any) -> tuple[str, str]:
    return f"`{field}` is {_shown(got)}, which does not fit.", f"It must fit {_shown(wanted)}."


_SENTENCES = {
    "maximum": _maximum,
    "minimum": _minimum,
    "maxLength": _max_length,
    "minLength": _min_length,
    "type": _type,
    "enum": _enum,
}
