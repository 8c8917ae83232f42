"""What changed between two documents: complete, minimal for a move, and blind to ids."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from apps.policies.core.diffs import Change, changes, content, paired, text_diff


def doc(*patterns: str, **more: Any) -> dict[str, Any]:
    domains = [{"pattern": pattern, "action": "allow"} for pattern in patterns]
    return {"name": "P", "domains": domains, **more}


def ops(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str]]:
    return [(change.op, change.path) for change in changes(old, new)]


def test_nothing() -> None:
    assert changes(doc("a", "b"), doc("a", "b")) == []


def test_one_rule_to_the_top_is_one_move() -> None:
    old, new = doc("a", "b", "c", "d"), doc("d", "a", "b", "c")
    assert changes(old, new) == [Change("domains", "moved", "domains[0]", 4, 1)]


def test_added_removed_changed() -> None:
    old, new = doc("a", "b", "c"), doc("a", "x", "c")
    new["domains"][2]["action"] = "deny"
    assert ops(old, new) == [
        ("removed", "domains[1]"),
        ("added", "domains[1]"),
        ("changed", "domains[2]"),
    ]


def test_an_id_makes_a_renamed_rule_the_same_rule() -> None:
    old, new = doc("a"), doc("b")
    old["domains"][0]["id"] = new["domains"][0]["id"] = "1"
    (change,) = changes(old, new)
    assert (change.op, change.before["pattern"], change.after["pattern"]) == ("changed", "a", "b")
    assert "id" not in change.before


def test_http_rules_belong_to_their_domain_rule() -> None:
    old, new = doc("a"), doc("a")
    new["domains"][0]["http"] = [{"id": "9", "action": "allow"}]
    (change,) = changes(old, new)
    assert change.after["http"] == [{"action": "allow"}]


def test_a_section_that_comes_and_fields() -> None:
    old, new = doc("a"), doc("a", tools=[], name="Q")
    found = [(change.section, change.before, change.after) for change in changes(old, new)]
    assert found == [("name", "P", "Q"), ("tools", "not governed", "governed")]


def test_of_equal_rules_each_has_one_partner() -> None:
    old, new = doc("a", "a", "b"), doc("a", "b", "a", "a")
    assert ops(old, new) == [("moved", "domains[1]"), ("added", "domains[3]")] or ops(old, new) == [
        ("moved", "domains[2]"),
        ("added", "domains[3]"),
    ]


def test_text() -> None:
    text = text_diff(["a", "b"], ["a", "c"], ("v1", "v2"))
    assert text.splitlines()[:2] == ["--- v1", "+++ v2"]
    assert "-b" in text
    assert "+c" in text
    assert text_diff(["a"], ["a"], ("v1", "v2")) == ""


patterns = st.lists(st.sampled_from("abcd"), max_size=6)


@given(patterns, patterns)
def test_the_changes_lead_from_one_to_the_other(first: list[str], second: list[str]) -> None:
    old, new = doc(*first)["domains"], doc(*second)["domains"]
    pairs = paired("domains", old, new)
    assert len(set(pairs.values())) == len(pairs)
    assert all(content(old[was]) == content(new[now]) for now, was in pairs.items())
    found = changes(doc(*first), doc(*second))
    removed = [change.before["pattern"] for change in found if change.op == "removed"]
    added = [change.after["pattern"] for change in found if change.op == "added"]
    assert sorted([*first, *added]) == sorted([*second, *removed])
    assert (found == []) is (first == second)
