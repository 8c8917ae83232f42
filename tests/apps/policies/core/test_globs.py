"""Globs against brute force: matching by definition, covering by enumeration."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.policies.core.globs import (
    GlobError,
    covers_name,
    covers_path,
    fold,
    match_name,
    overlaps_name,
    parse_name_glob,
    parse_path_glob,
)
from apps.policies.core.paths import Ambiguous, canonical, segments


@pytest.mark.parametrize(
    ("glob", "path", "expected"),
    [
        ("/", "/", True),
        ("/", "/a", False),
        ("/a", "/a", True),
        ("/a", "/a/", True),
        ("/a/", "/a", True),
        ("/a", "/A", False),
        ("/a", "/a/b", False),
        ("/*", "/a", True),
        ("/*", "/", False),
        ("/*", "/a/b", False),
        ("/**", "/", True),
        ("/**", "/a/b/c", True),
        ("/a/**", "/a", True),
        ("/a/**", "/a/b/c", True),
        ("/a/**", "/ab", False),
        ("/a/*/c", "/a/b/c", True),
        ("/a/*/c", "/a/b/b/c", False),
        ("/a/**/c", "/a/c", True),
        ("/a/**/c", "/a/b/b/c", True),
        ("/a/**/c", "/a/b/b/d", False),
        ("/**/c/*", "/x/c/c/y", True),
        ("/**/b/**/b", "/b", False),
        ("/**/b/**/b", "/b/b", True),
        ("/a b", "/a b", True),
        ("/a%20b", "/a b", True),
        ("/%C3%A9t%C3%A9", "/été", True),
        ("/été", "/été", True),
        ("/%2A", "/*", True),
        ("/%2A", "/x", False),
    ],
)
def test_path_globs(glob: str, path: str, expected: bool) -> None:  # noqa: FBT001 (a table)
    assert parse_path_glob(glob).matches(segments(path)) is expected


@pytest.mark.parametrize("path", ["/Admin", "/ADMIN/", "/\uff41dmin"])
def test_a_deny_reads_past_case_and_letter_forms(path: str) -> None:
    folded = tuple(map(fold, segments(path)))
    assert parse_path_glob("/admin").matches_folded(folded)
    assert not parse_path_glob("/admin").matches(segments(path))


@pytest.mark.parametrize(
    ("glob", "word"),
    [
        ("", "starts with"),
        ("**", "starts with"),
        ("a", "starts with"),
        ("//", "empty segment"),
        ("/a//b", "empty segment"),
        ("/a*", "one whole segment"),
        ("/***", "one whole segment"),
        ("/a/../b", "dot segment"),
        ("/a?x=1", "queries"),
        ("/a#b", "queries"),
        ("/a;b", "semicolon"),
        ("/a%2fb", "encoded slash"),
        ("/a%zz", "no escape"),
        ("/a\\b", "backslash"),
        ("/a\x00", "control"),
        ("/é%20", "all as escapes"),
        ("/\uff0f", "slash or a dot"),
        ("/\udc80", "UTF-8"),
        ("/" + "a" * 2000, "at most"),
        ("/a" * 65, "at most"),
    ],
)
def test_bad_path_globs_name_their_remedy(glob: str, word: str) -> None:
    with pytest.raises(GlobError, match=word):
        parse_path_glob(glob)


def test_the_limits_themselves_are_fine() -> None:
    assert len(parse_path_glob("/a" * 64).parts) == 64
    assert parse_path_glob("/" + "a" * 1023).matches(("a" * 1023,))
    assert match_name(parse_name_glob("a" * 128), "a" * 128)


@pytest.mark.parametrize("glob", ["", "a b", "a?", "[a]", "é", "a" * 129, "a\n"])
def test_bad_name_globs_are_refused(glob: str) -> None:
    with pytest.raises(GlobError, match="tool pattern"):
        parse_name_glob(glob)


parts = st.sampled_from(["a", "b", "*", "**"])
globs = st.lists(parts, max_size=5).map(lambda listed: "/" + "/".join(listed))
PATHS = tuple(path for size in range(8) for path in itertools.product("abz", repeat=size))


def by_definition(glob: list[str], path: tuple[str, ...]) -> bool:
    """The meaning of a path glob, read off its definition."""
    if not glob:
        return not path
    if glob[0] == "**":
        return any(by_definition(glob[1:], path[at:]) for at in range(len(path) + 1))
    return bool(path) and glob[0] in ("*", path[0]) and by_definition(glob[1:], path[1:])


def words(glob: str) -> list[str]:
    return [] if glob == "/" else glob[1:].split("/")


@given(globs, st.lists(st.sampled_from("abz"), max_size=7).map(tuple))
def test_path_matching_by_definition(glob: str, path: tuple[str, ...]) -> None:
    assert parse_path_glob(glob).matches(path) == by_definition(words(glob), path)


@settings(max_examples=300)
@given(globs, globs)
def test_path_covering_against_brute_force(wide: str, narrow: str) -> None:
    first, second = parse_path_glob(wide), parse_path_glob(narrow)
    counter = [path for path in PATHS if second.matches(path) and not first.matches(path)]
    assert covers_path(first, second) == (not counter), counter[:3]


@given(globs, globs)
def test_folded_covering_ignores_case(wide: str, narrow: str) -> None:
    upper, plain = parse_path_glob(wide.upper()), parse_path_glob(wide)
    other = parse_path_glob(narrow)
    assert covers_path(upper, other, folded=True) == covers_path(plain, other)


def test_intricate_covering_is_bounded() -> None:
    wide = parse_path_glob("/**/x" + "/*" * 30)
    narrow = parse_path_glob("/**/x/**/x" + "/*" * 30)
    start = time.perf_counter()
    covers_path(wide, narrow)
    assert time.perf_counter() - start < 5


def test_hostile_matching_is_linear() -> None:
    glob = parse_path_glob("/**/a" * 30 + "/b")
    start = time.perf_counter()
    assert not glob.matches(("a",) * 256)
    assert not match_name(parse_name_glob("*a" * 60 + "b"), "a" * 64)
    assert time.perf_counter() - start < 5


name_globs = st.text("ab*", min_size=1, max_size=6)
NAMES = tuple("".join(name) for size in range(8) for name in itertools.product("abz", repeat=size))


@given(name_globs, st.text("abz", max_size=8))
def test_name_matching_by_definition(glob: str, name: str) -> None:
    pattern = re.compile(".*".join(map(re.escape, glob.split("*"))))
    assert match_name(parse_name_glob(glob), name) == bool(pattern.fullmatch(name))


@given(name_globs, name_globs)
def test_name_covering_and_overlap_against_brute_force(wide: str, narrow: str) -> None:
    first, second = parse_name_glob(wide), parse_name_glob(narrow)
    covered = {name for name in NAMES if match_name(second, name)}
    wider = {name for name in NAMES if match_name(first, name)}
    assert covers_name(wide, narrow) == (covered <= wider)
    if len(wide) + len(narrow) <= 7:
        assert overlaps_name(first, second) == bool(covered & wider)


@given(st.text(max_size=40))
def test_any_text_is_a_path_glob_or_a_glob_error(text: str) -> None:
    try:
        glob = parse_path_glob(text)
    except GlobError:
        return
    assert covers_path(parse_path_glob("/**"), glob)
    assert covers_path(glob, glob)


@given(st.text("/ab%2E._-~ é", max_size=20))
def test_a_path_without_wildcards_is_a_glob_for_itself(target: str) -> None:
    path = canonical(target)
    if isinstance(path, Ambiguous):
        return
    assert parse_path_glob(target).matches(segments(path))
