"""Where a credential stands in a URL: as one parameter or one segment, and alone."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.policies.core.paths import canonical
from apps.policies.types import Injection
from apps.proxy.egress.inject import render
from apps.proxy.egress.place import InjectionError, placeholder, query
from tests.apps.proxy.egress.conftest import SECRET, binding

VALUE = "a/b c&d=e#f?g%h+i;j"
ESCAPED = "a%2Fb%20c%26d%3De%23f%3Fg%25h%2Bi%3Bj"
WORD = "LENS_TOKEN"


@pytest.mark.parametrize(
    ("target", "placed"),
    [
        ("/x", "/x?key="),
        ("/x?", "/x?key="),
        ("/x?a=1", "/x?a=1&key="),
        ("/x?key=mine", "/x?key="),
        ("/x?key=mine&a=1", "/x?a=1&key="),
        ("/x?a=1&key=mine&b=2&key=again", "/x?a=1&b=2&key="),
        ("/x?a=1;key=mine;b", "/x?a=1;b&key="),
        ("/x?KEY=mine", "/x?key="),
        ("/x?%6bey=mine", "/x?key="),
        ("/x?%256bey=mine", "/x?key="),
        ("/x?key[]=mine&key[a]=mine", "/x?key="),
        ("/x?key%5B%5D=mine", "/x?key="),
        ("/x?+key=mine&%20key=mine", "/x?key="),
        ("/x?key%00z=mine", "/x?key="),
        ("/x?key", "/x?key="),
        ("/x?monkey=1&key2=2&a=key", "/x?monkey=1&key2=2&a=key&key="),
        ("/x?a=%2F&&b=", "/x?a=%2F&&b=&key="),
    ],
)
def test_the_query_has_the_parameter_once_and_the_rest_as_it_was(target: str, placed: str) -> None:
    assert query("key", VALUE).put(target) == placed + ESCAPED


def test_a_name_with_a_dot_is_also_removed_as_php_spells_it() -> None:
    assert query("api.key", "v").put("/x?api_key=mine&api.key=mine&a=1") == "/x?a=1&api.key=v"


@pytest.mark.parametrize("name", ["", "a b", "a&b", "a=b", "a[]", "a%62", "é", "a" * 65])
def test_parameters_that_may_not_be_set(name: str) -> None:
    with pytest.raises(InjectionError):
        query(name, "v")


def test_the_word_in_the_path_is_replaced_and_nothing_else() -> None:
    placed = placeholder(WORD, VALUE).put(f"/bot{WORD}/send?text={WORD}")
    assert placed == f"/bot{ESCAPED}/send?text={WORD}"


@pytest.mark.parametrize(
    "target", ["/x", f"/x?{WORD}", f"/{WORD}/{WORD}", "/lens_token", "/%4cENS_TOKEN"]
)
def test_a_path_without_the_word_is_refused(target: str) -> None:
    with pytest.raises(InjectionError, match=WORD):
        placeholder(WORD, VALUE).put(target)


@pytest.mark.parametrize("name", ["", "short", "{token}", "a/b/c/d", "......", "é" * 8, "a" * 65])
def test_placeholders_that_may_not_be_used(name: str) -> None:
    with pytest.raises(InjectionError):
        placeholder(name, "v")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40))
def test_a_value_stays_within_its_place(value: str) -> None:
    path, _, asked = query("key", value).put("/x?a=1").partition("?")
    assert (path, parse_qsl(asked, keep_blank_values=True)) == ("/x", [("a", "1"), ("key", value)])
    placed = placeholder(WORD, value).put(f"/a/{WORD}/b?q")
    assert [unquote(part) for part in placed.removesuffix("?q").split("/")] == ["", "a", value, "b"]
    # What a server could read in another way is refused when the URL is decided on again.
    refused = set(value) & set("/\\;%") or not value.strip(".")
    assert refused or canonical(placed) == f"/a/{value}/b"


@pytest.mark.parametrize("kind", [Injection.QUERY, Injection.URI_PLACEHOLDER])
def test_the_secret_does_not_show_in_a_repr(kind: Injection) -> None:
    made = render(binding("a.test", kind, parameter=WORD), SECRET)
    assert SECRET[:10] not in repr(made)


@pytest.mark.parametrize("value", ["", "a\r\nb", "a\0b", "é", " a"])
@pytest.mark.parametrize("kind", [Injection.QUERY, Injection.URI_PLACEHOLDER])
def test_values_that_may_not_be_placed(kind: Injection, value: str) -> None:
    with pytest.raises(InjectionError):
        render(binding("a.test", kind, parameter=WORD), value)
