"""What comes in and goes out of the REST API: JSON and YAML, both bounded in size and depth."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer, JSONRenderer

from apps.common.errors import Invalid
from apps.common.plain_yaml import MAX_DEPTH, dump_yaml, load_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

MAX_BODY_BYTES = 1_000_000
JSON = "application/json"
YAML = "application/yaml"
# Half a letter beyond the first 65,536, as only an escape can say it.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class JsonParser(BaseParser):
    """`application/json`, strict: UTF-8, no NaN, no half letter, not deeper than `MAX_DEPTH`."""

    media_type = JSON

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,  # noqa: ARG002  the framework's signature
        parser_context: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Any:
        text = _text(stream.read())
        try:
            found = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise ParseError("The body is not JSON.") from None
        check_depth(found)
        if _HALF.search(text):
            _check_whole(found)
        return found


class YamlParser(BaseParser):
    """`application/yaml` (RFC 9512): one document of plain data."""

    media_type = YAML

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,  # noqa: ARG002  the framework's signature
        parser_context: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Any:
        return load_yaml(_text(stream.read()))


class JsonRenderer(JSONRenderer):
    """Plain JSON."""

    charset = None


class YamlRenderer(BaseRenderer):
    """Block style, keys in the order of the document."""

    media_type = YAML
    format = "yaml"
    charset = "utf-8"

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,  # noqa: ARG002  the framework's signature
        renderer_context: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> bytes:
        return b"" if data is None else dump_yaml(data).encode()


def check_depth(value: Any) -> None:
    """Raise Invalid when containers nest deeper than `MAX_DEPTH`."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise Invalid(f"The body nests deeper than {MAX_DEPTH} levels.", code="malformed")


def _check_whole(value: Any) -> None:
    """A half letter cannot be stored, and an answer that repeats one cannot be sent."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ParseError("The body holds a half letter (a lone surrogate).") from None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise ParseError("The body is not UTF-8.") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)
