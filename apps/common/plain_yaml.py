"""YAML of plain data, bounded: what a document may be before anybody looks at what it says.

No tags, no anchors or aliases at all, since a document of a few bytes can stand for gigabytes (the
"YAML bomb"); keys are text and occur once in a mapping; the scalars are those of JSON, so that `no`
is a word and 2026-01-01 is no date. All of that is judged from the stream of events, before
anything is built.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from django.core.serializers.json import DjangoJSONEncoder

from apps.common.errors import Invalid, TooLarge

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 50_000


def dump_yaml(data: Any) -> str:
    """The data as YAML; what JSON turns into text (times, ids) is text here too."""
    plain = json.loads(json.dumps(data, cls=DjangoJSONEncoder))
    return str(yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def load_yaml(text: str) -> Any:
    """Plain data from YAML. Raises Invalid (malformed) or TooLarge."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise TooLarge(f"The document is larger than {MAX_BYTES} bytes.")
    try:
        return _build(text)
    except yaml.YAMLError as error:
        raise Invalid(f"The body is not YAML{_where(error)}.", code="malformed") from None
    except (ValueError, RecursionError):
        raise Invalid("The body is not YAML of plain data.", code="malformed") from None


class _Dumper(yaml.SafeDumper):
    """Never writes anchors: what is equal is written twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  the library's signature
        return True


class _Loader(yaml.SafeLoader):
    """The scalars of JSON and nothing else: no dates, no `yes`, no octal numbers."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _starts in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("int", r"^-?(?:0|[1-9][0-9]{0,18})$", "-0123456789"),
    ("float", r"^-?(?:0|[1-9][0-9]{0,18})\.[0-9]{1,18}$", "-0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_starts))


def _build(text: str) -> Any:
    """Look at the events before anything is built: what is refused costs nothing."""
    depth = documents = 0
    for nodes, event in enumerate(yaml.parse(text, Loader=_Loader)):
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise Invalid("Anchors and aliases are not read. Write it out.", code="malformed")
        if getattr(event, "tag", None):
            raise Invalid("Tags are not read. Write plain data.", code="malformed")
        if isinstance(event, yaml.ScalarEvent):
            _check_whole(event.value)
        if depth > MAX_DEPTH:
            raise Invalid(f"The body nests deeper than {MAX_DEPTH} levels.", code="malformed")
        if nodes > MAX_NODES:
            raise TooLarge(f"The document has more than {MAX_NODES} parts.")
        if documents > 1:
            raise Invalid("One document at a time.", code="malformed")
    node = yaml.compose(text, Loader=_Loader)
    return None if node is None else _value(node, "")


def _check_whole(text: str) -> None:
    """An escape can say half a letter, which cannot be stored and not be sent in an answer."""
    try:
        text.encode()
    except UnicodeEncodeError:
        message = "The document holds a half letter (a lone surrogate)."
        raise Invalid(message, code="malformed") from None


def _value(node: Any, at: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, at)
    if isinstance(node, yaml.SequenceNode):
        return [_value(inner, f"{at}[{index}]") for index, inner in enumerate(node.value)]
    return _SCALARS.get(node.tag.rpartition(":")[2], str)(node.value)


_SCALARS: dict[str, Any] = {
    "null": lambda _: None,
    "bool": lambda text: text == "true",
    "int": int,
    "float": float,
}


def _mapping(node: yaml.MappingNode, at: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.value:
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
        path = f"{at}.{name}" if at else name
        if not name:
            raise Invalid("A key must be text.", field=at, code="malformed")
        if name in found:
            raise Invalid("This key is there twice.", field=path, code="malformed")
        found[name] = _value(value, path)
    return found


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
