"""Bytes as text or as base64, never as something in between."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from apps.mcp.core.output import as_text, stream


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@given(st.binary(max_size=200))
def test_nothing_is_lost(data: bytes) -> None:
    fields, _ = stream("stdout", encoded(data), len(data))
    if "stdout" in fields:
        assert fields["stdout"].encode() == data
    else:
        assert base64.b64decode(fields["stdout_base64"]) == data
    assert fields["stdout_bytes"] == len(data)
    assert not fields["stdout_truncated"]


@given(st.text(alphabet=st.characters(exclude_characters="\0"), min_size=1), st.data())
def test_a_cut_text_stays_text(text: str, draws: st.DataObject) -> None:
    whole = text.encode(errors="ignore")
    end = draws.draw(st.integers(0, len(whole)))
    shown = as_text(whole[:end], cut=True)
    assert shown is not None
    assert whole.startswith(shown.encode())
    assert end - len(shown.encode()) < 4


def test_a_cut_that_is_none_makes_it_binary() -> None:
    assert as_text("ü".encode()[:1], cut=False) is None
    assert as_text(b"\xff", cut=True) is None
    assert as_text(b"a\0b", cut=False) is None


def test_what_was_cut_says_so_with_the_size_of_the_whole() -> None:
    fields, text = stream("stderr", encoded(b"abc"), 1000)
    assert fields["stderr_truncated"]
    assert fields["stderr_bytes"] == 1000
    assert "3 of 1000 bytes" in text
