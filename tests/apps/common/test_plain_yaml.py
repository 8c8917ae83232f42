"""What a YAML document may be; a bomb costs nothing."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.errors import Invalid, LensError, TooLarge
from apps.common.plain_yaml import MAX_BYTES, dump_yaml, load_yaml

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)
)
REFUSED = {
    "the laughs that never end": (LAUGHS, "Anchors"),
    "an anchor alone": ("a: &x 1", "Anchors"),
    "an alias to itself": ("a: &x [*x]", "Anchors"),
    "a merge key": ("b: {<<: *x}", "Anchors"),
    "a tag that makes objects": ("!!python/object/apply:os.system [id]", "Tags"),
    "a standard tag": ("a: !!set {b}", "Tags"),
    "two documents": ("a: 1\n---\nb: 2", "One document"),
    "deep lists": ("[" * 5_000, "deeper"),
    "deep blocks": ("- " * 200, "deeper"),
    "a key twice": ("a: 1\nb: {c: 1, c: 2}", "twice"),
    "a key that is a list": ("? [a]\n: 1", "key"),
    "an empty key": ("? ''\n: 1", "key"),
    "a control character": ("a: \x00", "not YAML"),
    "half a surrogate": ("a: \ud800", "not YAML"),
    "half a surrogate as an escape": (r'a: "\uD800"', "half"),
    "half a surrogate in a key": (r'"\uD800": 1', "half"),
    "an open bracket": ("a: [1", "line 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    text, said = REFUSED[name]
    started = time.process_time()
    with pytest.raises(Invalid, match=said):
        load_yaml(text)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("text", ["- a\n" * 60_000, "a: " + "x" * MAX_BYTES])
def test_what_is_too_large(text: str) -> None:
    with pytest.raises(TooLarge):
        load_yaml(text)


def test_an_error_names_the_key() -> None:
    with pytest.raises(Invalid) as refused:
        load_yaml("domains:\n- pattern: a\n  pattern: b\n")
    assert refused.value.field == "domains[0].pattern"


def test_words_and_dates_stay_text() -> None:
    text = "[no, yes, on, 2026-01-01, 0o17, 0x1f, 1_000, 1e3, .5, '1', ~, null, true, -3, 0.5]"
    words = ["no", "yes", "on", "2026-01-01", "0o17", "0x1f", "1_000", "1e3", ".5", "1"]
    assert load_yaml(text) == [*words, None, None, True, -3, 0.5]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc-_", min_size=1, max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_what_is_written_is_read_back(data: object) -> None:
    assert load_yaml(dump_yaml(data)) == data


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load_yaml(text)
    except LensError as refusal:
        assert refusal.status in (400, 413)  # noqa: PT017  either way it is an answer
