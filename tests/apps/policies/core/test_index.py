"""The index finds what trying every pattern in order would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apps.common.hosts import parse_host, parse_pattern
from apps.policies.core.index import build_index

TEXTS = ("*", "*:22", "x", "a.x", "a.x:22", "*.x", "*.a.x", "10.0.0.0/8", "10.0.0.1", "::/0", "*.b")
HOSTS = (
    "x",
    "a.x",
    "b.a.x",
    "c.b.a.x",
    "b",
    "ax",
    "10.0.0.1",
    "10.0.0.2",
    "2606:4700::1",
    "8.8.8.8",
)
texts = st.lists(st.sampled_from(TEXTS), max_size=12)


@given(texts, st.sampled_from(HOSTS))
def test_covering_is_what_trying_all_would_find(listed: list[str], name: str) -> None:
    patterns, host = [parse_pattern(text) for text in listed], parse_host(name)
    expected = [at for at, pattern in enumerate(patterns) if pattern.matches_host(host)]
    assert build_index(patterns).covering(host) == expected


def test_behind_looks_at_where_a_connection_ends() -> None:
    patterns = map(parse_pattern, ("a.x", "8.8.8.0/24", "10.0.0.0/8", "64:ff9b::/96"))
    index = build_index(patterns)
    assert index.behind(parse_host("a.x"), ()) == []
    assert index.behind(parse_host("a.x"), ("8.8.8.8", "nonsense")) == [1]
    assert index.behind(parse_host("8.8.8.8"), ("10.1.1.1",)) == [1, 2]
    assert index.behind(parse_host("64:ff9b::808:808"), ()) == [1, 3]
    assert build_index([parse_pattern("*")]).behind(parse_host("8.8.8.8"), ("10.1.1.1",)) == []
