"""Arguments against schemas: the field, what is wrong with it, what would be right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from apps.common.errors import Invalid
from apps.mcp.arguments import Arguments
from apps.mcp.tool import tools

EVERY_TOOL = [tool for _, tool in tools]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("tool", EVERY_TOOL, ids=lambda tool: tool.name)
def test_every_tool_has_a_closed_and_bounded_schema(tool: Any) -> None:
    Draft202012Validator.check_schema(tool.schema)
    assert tool.schema["additionalProperties"] is False
    assert len(tool.name) <= 40
    assert tool.description.endswith(".")
    for name, part in tool.schema["properties"].items():
        assert part["description"], name
        if part["type"] == "integer":
            assert {"minimum", "maximum"} <= part.keys(), name
        if part["type"] == "string":
            assert {"maxLength", "enum"} & part.keys(), name
        if "default" in part:
            Arguments(tool.schema | {"required": []}).check({name: part["default"]})


@pytest.mark.parametrize("tool", EVERY_TOOL, ids=lambda tool: tool.name)
@given(st.data())
def test_whatever_is_sent_fits_or_is_refused_with_a_remedy(tool: Any, data: st.DataObject) -> None:
    names = st.sampled_from([*tool.schema["properties"], "other"])
    sent = data.draw(st.dictionaries(names, json_values, max_size=4))
    arguments = Arguments(tool.schema)
    if Draft202012Validator(tool.schema).is_valid(sent):
        checked = arguments.check(sent)
        assert checked == {**checked, **sent}
        return
    with pytest.raises(Invalid) as caught:
        arguments.check(sent)
    assert caught.value.error_code == "invalid_arguments"
    assert caught.value.data["remedy"]
    assert len(caught.value.message) < 400


def test_defaults_are_filled_in_and_what_was_sent_stays() -> None:
    schema = next(tool for tool in EVERY_TOOL if tool.name == "shell_exec").schema
    checked = Arguments(schema).check({"command": "id", "timeout": 5})
    assert checked["timeout"] == 5
    assert checked["workdir"] == "/workspace"
    assert checked["max_output_bytes"] == 65536


def test_a_hostile_value_is_shown_short() -> None:
    schema = next(tool for tool in EVERY_TOOL if tool.name == "file_write").schema
    with pytest.raises(Invalid) as caught:
        Arguments(schema).check({"path": "a", "content": "", "mode": "m" * 10_000})
    assert len(caught.value.message) < 300
