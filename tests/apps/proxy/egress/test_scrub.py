"""Scrubbing as a property: cut a stream anywhere, no form of the secret comes out."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
import tracemalloc
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.connections.text import MAX_VALUE_BYTES
from apps.proxy.egress.scrub import SHORTEST, Needles, Scrubber, forms, mask, overlap

SECRET = 'aaaab/aaaa+aaab"aaaa=aaaab aaaa'
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=16, max_size=60)


def through(data: bytes, cuts: list[int], needles: Needles) -> bytes:
    scrubber = Scrubber(needles)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    parts = [scrubber.feed(data[a:b]) for a, b in itertools.pairwise(edges)]
    return b"".join(parts) + scrubber.flush()


@given(
    st.lists(
        st.sampled_from([SECRET, "aaaa", "aaaab/", "x", SECRET[:-1], SECRET[1:]]), max_size=12
    ),
    st.lists(st.integers(0, 400), max_size=20),
)
def test_the_raw_secret_never_passes(pieces: list[str], cuts: list[int]) -> None:
    data = "".join(pieces).encode()
    needles = forms(SECRET)
    clean = through(data, cuts, needles)
    assert len(clean) == len(data)
    assert SECRET.encode() not in clean
    if SECRET.encode() not in data:
        assert clean == mask(data, needles)


@given(PRINTABLE, st.binary(max_size=7), st.binary(max_size=7), st.lists(st.integers(0, 200)))
def test_no_encoded_form_passes(secret: str, before: bytes, after: bytes, cuts: list[int]) -> None:
    needles = forms(secret)
    encoded = [
        secret.encode(),
        urllib.parse.quote(secret, safe="").encode(),
        re.sub("%..", lambda match: match[0].lower(), urllib.parse.quote_plus(secret)).encode(),
        json.dumps(secret).encode(),
        json.dumps(secret).replace("/", "\\/").encode(),
        html.escape(secret).encode(),
        base64.b64encode(before + secret.encode() + after),
        base64.urlsafe_b64encode(before + secret.encode() + after),
    ]
    for text in encoded:
        clean = through(b"[" + text + b"]", cuts, needles)
        assert len(clean) == len(text) + 2
        assert text not in clean


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_other_bytes_pass_unchanged(data: bytes, cuts: list[int]) -> None:
    needles = forms("a secret that is not in there")
    assert through(data, cuts, needles) == data


def test_nothing_is_held_back_without_need() -> None:
    scrubber = Scrubber(forms(SECRET))
    assert scrubber.feed(b"data: hello\n\n") == b"data: hello\n\n"
    assert scrubber.feed(b"x" + SECRET[:5].encode()) == b"x"
    assert scrubber.feed(b"!") == SECRET[:5].encode() + b"!"


def test_a_secret_that_begins_within_a_false_start() -> None:
    needles = Needles([b"aaab" * 4])
    text = b"aaab" * 3 + b"aaaab" + b"aaab" * 3
    for cut in range(len(text)):
        assert needles[0] not in through(text, [cut], needles)


def test_short_secrets_are_left_alone() -> None:
    short = "x" * (SHORTEST - 1)
    assert short.encode() not in forms(short)


@pytest.mark.parametrize("shift", range(6))
def test_base64_in_every_alignment(shift: int) -> None:
    secret = "0123456789abcdefghij"
    text = base64.b64encode(b"\xff" * shift + secret.encode() + b"\xfe" * 5)
    assert through(text, [], forms(secret)) != text


LETTERS = st.lists(st.sampled_from([b"a", b"b", b"-", b"aaaaaaaa", b"abababab"]), max_size=12)
TEXT = LETTERS.map(b"".join)


@given(st.lists(TEXT.filter(bool), max_size=5), TEXT)
def test_the_fast_search_finds_what_a_plain_one_does(some: list[bytes], text: bytes) -> None:
    """The plain one tries every needle at every place, longest first."""
    needles = Needles(some)
    plain = text
    for needle in sorted(set(some), key=lambda one: (-len(one), one)):
        plain = plain.replace(needle, b"*" * len(needle))
    assert mask(text, needles) == plain
    begun = [
        length
        for needle in some
        for length in range(1, len(needle))
        if text.endswith(needle[:length])
    ]
    assert overlap(text, needles) == max(begun, default=0)


def test_the_longest_secret_that_can_be_stored_costs_little_memory() -> None:
    """A megabyte or so for each of its forms: all beginnings as they are would be two gigabytes."""
    secret = "".join(f"{number:05x}+" for number in range(MAX_VALUE_BYTES // 6))
    tracemalloc.start()
    try:
        needles = forms(secret)
        assert tracemalloc.get_traced_memory()[1] < 32_000_000
    finally:
        tracemalloc.stop()
    for needle in needles:
        for begun in (1, 7, 8, 9, len(needle) // 2, len(needle) - 1):
            assert overlap(b"x" + needle[:begun], needles) >= begun


def test_a_needle_within_another_is_in_its_group() -> None:
    needles = forms('p&ss<w>"o/r d+%=ABCDEFGHIJ0123')
    assert sorted(needle for _, group in needles.groups for needle in group) == sorted(needles)
    assert len(needles.groups) < len(needles)
