"""Cleaning: whatever comes in, both databases can store it, and it is bounded."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.audit.cleaning import (
    MAX_METADATA_BYTES,
    MAX_TEXT,
    clean_changes,
    clean_json,
    clean_metadata,
    clean_text,
)
from apps.audit.types import SECRET

TOKEN = "lns_" + "a1-_" * 10 + "xyz"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES, max_size=6))
def test_metadata_is_always_storable_json(metadata: dict[str, Any]) -> None:
    text = json.dumps(clean_metadata(metadata), allow_nan=False, ensure_ascii=False)
    assert "\x00" not in text
    assert "\\u0000" not in text
    text.encode()  # no lone surrogate
    assert len(text) <= MAX_METADATA_BYTES


@given(st.text(alphabet=st.characters()), st.integers(1, 100))
def test_text_is_bounded_and_storable(text: str, limit: int) -> None:
    cleaned = clean_text(text, limit)
    assert len(cleaned) <= limit
    assert "\x00" not in cleaned
    cleaned.encode()


def test_text_that_is_fine_is_kept_as_it_is() -> None:
    for text in ("", "plain", "<script>alert(1)</script>", "\u202eevil", "日本", "x" * MAX_TEXT):
        assert clean_text(text) == text


@pytest.mark.parametrize("around", ["{}", "a {} b", "Bearer {}", "url/{}?x", "({})"])
def test_tokens_are_masked(around: str) -> None:
    assert TOKEN not in clean_text(around.format(TOKEN))


@pytest.mark.parametrize(
    "name", ["password", "Value", "api-key", "Authorization", "client_secret", "ciphertext"]
)
def test_secret_names_hide_their_values(name: str) -> None:
    assert clean_json({name: "hunter2"}) == {name: "[secret]"}
    assert clean_json({name: {"deep": "hunter2"}}) == {name: "[secret]"}
    assert clean_changes({name: ("hunter1", "hunter2")}) == {name: "changed"}


def test_counts_are_no_secrets() -> None:
    assert clean_json({"tokens": 17, "value": None, "secret": ""}) == {
        "tokens": 17,
        "value": None,
        "secret": "",
    }


def test_common_python_values_become_json() -> None:
    key = uuid.uuid4()
    day = dt.date(2026, 1, 2)
    given_values = {"id": key, "day": day, "money": Decimal("1.50"), "set": {1}, "gone": SECRET}
    assert clean_json(given_values) == {
        "id": str(key),
        "day": "2026-01-02",
        "money": "1.50",
        "set": [1],
        "gone": "[secret]",
    }


def test_nesting_and_length_end_somewhere() -> None:
    deep: Any = "end"
    for _ in range(500):
        deep = [deep]
    assert len(json.dumps(clean_json(deep))) < 3 * MAX_TEXT
    assert len(clean_json(list(range(10_000)))) == 200
