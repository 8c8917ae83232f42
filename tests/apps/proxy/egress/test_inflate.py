"""Inflating as a stream: whatever the cuts, the same bytes come out, and never too many."""

from __future__ import annotations

import gzip
import os
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.proxy.egress.inflate import MOST_BYTES, InflateError, Inflater

if TYPE_CHECKING:
    from collections.abc import Callable


def raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


FORMS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "two members": (
        "gzip",
        lambda data: gzip.compress(data[:5], mtime=0) + gzip.compress(data[5:], mtime=0),
    ),
    "zlib": ("deflate", zlib.compress),
    "raw": ("deflate", raw),
}


def inflate(coding: str, packed: bytes, step: int = 1 << 20, most: int = MOST_BYTES) -> bytes:
    inflater = Inflater(coding, most)
    parts = []
    for at in range(0, len(packed), step):
        parts += list(inflater.feed(packed[at : at + step]))
    inflater.finish()
    return b"".join(parts)


@pytest.mark.parametrize("form", FORMS)
@given(data=st.binary(max_size=300), step=st.integers(1, 50), times=st.integers(1, 50))
def test_the_same_bytes_come_out(form: str, data: bytes, step: int, times: int) -> None:
    coding, pack = FORMS[form]
    assert inflate(coding, pack(data * times), step) == data * times


@pytest.mark.parametrize("form", FORMS)
def test_a_long_answer(form: str) -> None:
    coding, pack = FORMS[form]
    data = b"".join(os.urandom(3000) + b"x" * 7000 for _ in range(100))
    assert inflate(coding, pack(data), 10_007) == data


@pytest.mark.parametrize("form", FORMS)
def test_a_bomb_is_stopped_early(form: str) -> None:
    coding, pack = FORMS[form]
    packed = pack(b"\0" * 20_000_000)
    inflater = Inflater(coding)
    gave: list[int] = []
    with pytest.raises(InflateError, match="too large"):
        gave.extend(
            len(piece)
            for at in range(0, len(packed), 1000)
            for piece in inflater.feed(packed[at : at + 1000])
        )
    assert max(gave) <= 65536
    assert sum(gave) <= 100 * len(packed)
    assert sum(gave) < 1_000_000


def test_more_than_the_most_is_refused_whatever_the_ratio() -> None:
    packed = gzip.compress(os.urandom(100_000))
    assert len(inflate("gzip", packed, most=100_000)) == 100_000
    with pytest.raises(InflateError, match="too large"):
        inflate("gzip", packed, most=99_999)


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_that_breaks_off(form: str) -> None:
    coding, pack = FORMS[form]
    packed = pack(b"some text " * 10)
    with pytest.raises(InflateError, match="broke off"):
        inflate(coding, packed[:-1])


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", b"no gzip at all"),
        ("gzip", zlib.compress(b"x")),
        ("gzip", gzip.compress(b"x", mtime=0) + b"garbage"),
        ("gzip", gzip.compress(b"x", mtime=0)[:-8] + b"\0" * 8),
        ("deflate", b"\xff\xff\xff\xff"),
        ("deflate", zlib.compress(b"x") + b"garbage"),
        ("deflate", zlib.compress(b"x") + zlib.compress(b"y")),
    ],
)
def test_malformed(coding: str, packed: bytes) -> None:
    with pytest.raises(InflateError):
        inflate(coding, packed)


def test_nothing_at_all_is_an_empty_answer() -> None:
    assert inflate("gzip", b"") == b""
