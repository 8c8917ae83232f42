"""What may stand in a header: RFC 9110 and RFC 7617, against everything one can type."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.connections.text import MAX_VALUE_BYTES, user_name_problem, value_problem

ANYTHING = st.text(max_size=40) | st.text(st.characters(max_codepoint=0x17F), max_size=40)


@given(ANYTHING)
def test_an_accepted_value_is_one_whole_field_value(value: str) -> None:
    if value_problem(value) == "":
        assert value == value.strip() != ""
        assert all(" " <= char <= "~" for char in value)


@given(ANYTHING)
def test_a_refusal_never_quotes_the_value(value: str) -> None:
    problem = value_problem("\x00" + value)
    assert problem
    assert len(value) < 6 or value not in problem


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1))
def test_visible_ascii_is_a_secret(value: str) -> None:
    assert value_problem(value) == ""


@given(ANYTHING)
def test_an_accepted_user_name_comes_back_out_of_basic_credentials(name: str) -> None:
    if user_name_problem(name) == "":
        packed = base64.b64encode(f"{name}:pass:word".encode("ascii"))
        assert base64.b64decode(packed).decode().split(":", 1) == [name, "pass:word"]


@pytest.mark.parametrize("size", [MAX_VALUE_BYTES, MAX_VALUE_BYTES + 1])
def test_the_size_has_a_bound(size: int) -> None:
    assert (value_problem("x" * size) == "") == (size <= MAX_VALUE_BYTES)
