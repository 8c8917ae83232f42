"""Identifiers sort by time; tokens are long, random and hashed."""

from __future__ import annotations

import re
import time
import uuid

import pytest

from apps.common.ids import token, token_hash, uuid7


def test_a_uuid7_is_one() -> None:
    """RFC 9562 section 5.7: version 7, variant 10, 48 bits of milliseconds in front."""
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= after


def test_later_ones_sort_later() -> None:
    first = uuid7()
    time.sleep(0.002)
    assert first < uuid7()
    assert len({uuid7() for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("prefix", ["lns", "lnsb"])
def test_a_token_has_256_random_bits_behind_its_prefix(prefix: str) -> None:
    made = {token(prefix) for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(rf"{prefix}_[A-Za-z0-9_-]{{43}}", value) for value in made)


def test_the_hash_is_sha256() -> None:
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert token_hash("abc") == expected
