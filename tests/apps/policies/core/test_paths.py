"""A path that two servers could read differently has no reading here."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.policies.core.paths import Ambiguous, canonical, segments


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/?x=/../", "/"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("/a/b.json?q=%2e%2e", "/a/b.json"),
        ("/a%20b", "/a b"),
        ("/%C3%A9t%C3%A9", "/été"),
        ("/a%2ejson", "/a.json"),
        ("/.well-known/x", "/.well-known/x"),
        ("/..a/b..", "/..a/b.."),
        ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
        ("/%41dmin", "/Admin"),
        ("/a?b?c", "/a"),
        ("/{id}|x", "/{id}|x"),
        ("/a?", "/a"),
    ],
)
def test_plain_paths(target: str, path: str) -> None:
    assert canonical(target) == path


# The path attacks of the research list, and their relatives.
ATTACKS = {
    "dot segment": [
        "/public/../admin",
        "/public/..",
        "/./admin",
        "/public/./../admin",
        "/public/%2e%2e/admin",
        "/public/%2E%2E/admin",
        "/public/.%2e/admin",
        "/public/%2e./admin",
        "/public/%2e",
        "/public/...",
        "/public/..%20/admin",
        "/public/%20../admin",
        "/public/..%C2%A0/admin",
    ],
    "encoded slash": [
        "/public/%2E%2E%2fadmin",
        "/public%2fadmin",
        "/public%2Fadmin",
        "/public/..%2f",
    ],
    "semicolon": [
        "/public/..;/admin",
        "/public/.;x/../admin",
        "/public/.;/admin",
        "/admin;x=1",
        "/admin%3bx",
        "/admin%3B/..",
        ";",
    ],
    "empty segment": ["//admin", "/public//admin", "//", "/admin//", "///"],
    "twice": ["/public/%252e%252e/admin", "/%2561dmin", "/100%25", "/a%25u002f"],
    "backslash": ["/public/..%5cadmin", "/public%5C..%5cadmin", "/%5c"],
    "control": [
        "/a%00",
        "/a%00.json",
        "/a%0d%0a",
        "/a%7f",
        "/a%C2%85",
        "/a%E2%80%AEb",
        "/%EF%BB%BFa",
    ],
    "UTF-8": ["/%c0%af", "/%c0%ae%c0%ae/admin", "/%ff", "/%ed%a0%80", "/%e0%80%af", "/a%C3"],
    "slash or a dot": [
        "/public/..%ef%bc%8fadmin",
        "/public%EF%BC%8Fadmin",
        "/%E2%80%A5/admin",
        "/%EF%BC%8E%EF%BC%8E/admin",
        "/a%E2%80%A6",
        "/%EF%BC%BC",
        "/a%EF%BC%9Bb",
        "/a%CD%BEb",
        "/a%EF%BC%85b",
        "/a%EF%BC%9Fb",
        "/a%E2%81%84b",
        "/a%E2%88%95b",
        "/a%C2%BDb",
    ],
    "no escape": ["/a%", "/a%2", "/a%zz", "/a%u002e", "/%%32%65"],
    "fragment": ["/a#b", "/a?x#b", "/#"],
    "spaces": ["/a b", "/a\tb", "/a\x00", "/é", "/a?x=\x7f", "/a?x y", "/a\r\nHost: x"],
    "a space": ["/a%20", "/%20a", "/a%20/b", "/%E3%80%80a"],
    "start with `/`": ["", "*", "a", "?x", "http://other.example/admin", "http:/a", "\\a", "%2fa"],
    "longer": ["/" + "a" * 20_000],
    "more than 256": ["/a" * 300],
}


@pytest.mark.parametrize(
    ("word", "target"), [(word, target) for word, listed in ATTACKS.items() for target in listed]
)
def test_ambiguous_paths_have_no_reading(word: str, target: str) -> None:
    found = canonical(target)
    assert isinstance(found, Ambiguous), found
    if word != "semicolon" or target != ";":
        assert word in found.reason


def test_the_limits_themselves_are_fine() -> None:
    assert canonical("/a" * 256) == "/a" * 256
    assert canonical("/" + "a" * 16_383) == "/" + "a" * 16_383
    assert isinstance(canonical("/" + "a" * 16_384), Ambiguous)


def test_case_is_kept() -> None:
    assert canonical("/Admin") == "/Admin"


def test_segments_ignore_one_trailing_slash() -> None:
    assert segments("/") == ()
    assert segments("/a") == segments("/a/") == ("a",)
    assert segments("/a/b") == ("a", "b")


def naive_readings(target: str) -> set[str]:
    """Paths that careless servers would read: decoded again, split at other letters, normalised."""
    path = target.partition("?")[0]
    readings = {path}
    for _ in range(3):
        readings |= {unquote(one) for one in readings}
        readings |= {one.replace("\\", "/") for one in readings}
        readings |= {unicodedata.normalize("NFKC", one) for one in readings}
        readings |= {
            "/".join(part.partition(";")[0] for part in one.split("/")) for one in readings
        }
    return readings


def resolved(path: str) -> tuple[str, ...]:
    """The path after removing dot segments and empty ones (RFC 3986 §5.2.4, carelessly)."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            kept = kept[:-1]
        elif part not in ("", "."):
            kept.append(part)
    return tuple(kept)


pieces = st.sampled_from(
    [
        *(
            "/",
            "//",
            ".",
            "..",
            "a",
            "b",
            "admin",
            ";",
            "%",
            "%2e",
            "%2E",
            "%2f",
            "%5c",
            "\\",
            "%25",
        ),
        *(
            "%252e",
            "%c0%af",
            "%ef%bc%8f",
            "%e2%80%a5",
            "%3b",
            "%00",
            " ",
            "?",
            "#",
            "%61",
            "é",
            "%20",
        ),
        *(
            "%c3%a9",
            "\u2024",
            "%e2%80%a4",
            "%2",
            "%u002e",
            "%ef%bc%85",
            "2e",
            "%E2%88%95",
            "%C2%AD",
        ),
    ]
)
targets = st.lists(pieces, max_size=12).map(lambda parts: "/" + "".join(parts))


@given(targets)
def test_every_careless_server_reads_what_we_read(target: str) -> None:
    found = canonical(target)
    if isinstance(found, Ambiguous):
        return
    ours = segments(found)
    for reading in naive_readings(target):
        normal = tuple(unicodedata.normalize("NFKC", part) for part in resolved(unquote(reading)))
        assert normal == tuple(unicodedata.normalize("NFKC", part) for part in ours)


@given(targets)
def test_canonical_is_stable(target: str) -> None:
    found = canonical(target)
    if isinstance(found, str):
        assert canonical(quote(found)) == found


@given(st.text(max_size=60))
def test_any_text_is_a_path_or_ambiguous(text: str) -> None:
    found = canonical(text)
    if isinstance(found, str):
        assert found.startswith("/")
        assert not {"", ".", ".."} & set(segments(found))


@given(st.lists(st.text("abcDEF019-_.~", min_size=1).filter(lambda s: s.strip(".")), max_size=6))
def test_ordinary_paths_are_read_as_they_are(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    assert canonical(path) == path
    assert segments(path) == tuple(parts)
