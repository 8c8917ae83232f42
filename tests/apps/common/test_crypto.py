"""Sealing: what opens, what does not, and what is never said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.crypto import IV_BYTES, CryptoError, KeyRing, key_id

KEY, OTHER = b"k" * 32, b"o" * 32


@given(value=st.binary(max_size=200), context=st.text(max_size=50))
def test_what_is_sealed_opens(value: bytes, context: str) -> None:
    sealed = KeyRing([KEY]).seal(value, context=context)
    assert KeyRing([KEY]).open(sealed, context=context) == value
    assert len(sealed.iv) == IV_BYTES
    assert len(sealed.ciphertext) == len(value) + 16


@given(bit=st.integers(0, 8 * (5 + 16) - 1))
def test_one_changed_bit_is_noticed(bit: int) -> None:
    sealed = KeyRing([KEY]).seal(b"value", context="row")
    changed = bytearray(sealed.ciphertext)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CryptoError):
        KeyRing([KEY]).open(replace(sealed, ciphertext=bytes(changed)), context="row")


def test_another_row_another_key_or_another_iv_does_not_open() -> None:
    ring = KeyRing([KEY])
    sealed = ring.seal(b"value", context="row 1")
    with pytest.raises(CryptoError, match="does not belong here"):
        ring.open(sealed, context="row 2")
    with pytest.raises(CryptoError, match="no key"):
        KeyRing([OTHER]).open(sealed, context="row 1")
    with pytest.raises(CryptoError):
        ring.open(replace(sealed, iv=bytes(IV_BYTES)), context="row 1")
    with pytest.raises(CryptoError):
        KeyRing([OTHER]).open(replace(sealed, key_id=key_id(OTHER)), context="row 1")


def test_ivs_never_repeat_here() -> None:
    ring = KeyRing([KEY])
    assert len({ring.seal(b"", context="").iv for _ in range(1_000)}) == 1_000


def test_the_first_key_seals_and_all_open() -> None:
    old = KeyRing([KEY]).seal(b"value", context="row")
    ring = KeyRing([OTHER, KEY])
    assert ring.open(old, context="row") == b"value"
    assert ring.seal(b"value", context="row").key_id == key_id(OTHER)


@pytest.mark.parametrize("keys", [[], [b"short"], [KEY, b"x" * 31], [b"x" * 33]])
def test_a_ring_needs_whole_keys(keys: list[bytes]) -> None:
    with pytest.raises(CryptoError):
        KeyRing(keys)


def test_nothing_shows_a_key() -> None:
    ring = KeyRing([KEY, OTHER])
    assert "kkkk" not in repr(ring)
    assert key_id(KEY) in repr(ring)
    assert KEY.hex()[:8] != key_id(KEY)
