"""Hostile text, made harmless to look at."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.inert import MAX_SHOWN, inert, inert_csv


@given(st.text())
def test_nothing_invisible_is_left(text: str) -> None:
    shown = inert(text)
    assert all(
        char == "\n" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        for char in shown
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines", "two\nlines"),
        ("bell\x07", "bell\\x07"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
        ("a\u200bb", "a\\u200bb"),
        ("carriage\rreturn", "carriage\\x0dreturn"),
        ("é漢🙂", "é漢🙂"),
        (7, "7"),
    ],
)
def test_hidden_characters_become_visible(text: object, shown: str) -> None:
    assert inert(text) == shown


def test_markup_is_left_to_the_template() -> None:
    """A plain `str`, never marked safe: autoescape does the rest."""
    assert type(inert("<script>")) is str
    assert inert("<script>") == "<script>"


def test_long_text_is_cut_with_its_size() -> None:
    shown = inert("x" * (MAX_SHOWN + 1))
    assert shown.endswith(f"… ({MAX_SHOWN + 1} characters)")
    assert len(shown) < MAX_SHOWN + 30


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_spreadsheet_runs_nothing(start: str) -> None:
    assert inert_csv(f"{start}cmd|calc").startswith("'")
    assert inert_csv("plain") == "plain"
