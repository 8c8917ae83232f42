"""HTTP rules as lines of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.policies.documents import HttpRuleDoc
from apps.policies.forms import LineError, parse_http_rules, render_http_rules

words = st.text(
    st.characters(exclude_categories=("Z", "C"), exclude_characters="\x85"), min_size=1, max_size=20
)
rules = st.builds(
    HttpRuleDoc,
    method=words.map(str.upper).filter(lambda text: text == text.upper()),
    path=st.one_of(st.just(""), words.map(lambda text: f"/{text}")),
    action=st.sampled_from(["allow", "ask", "deny"]),
)


@given(st.lists(rules, max_size=8))
def test_what_is_rendered_is_read_back(written: list[HttpRuleDoc]) -> None:
    assert [rule for _, rule in parse_http_rules(render_http_rules(written))] == written


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_its_line(text: str) -> None:
    found, complaint = [], ""
    try:
        found = parse_http_rules(text)
    except LineError as error:
        complaint = str(error)
    assert complaint.startswith("Line ") or not complaint
    assert all(rule.action in ("allow", "ask", "deny") for _, rule in found)


def test_blank_lines_are_skipped_and_counted() -> None:
    found = parse_http_rules("\n get /tickets/** Allow \n\n* deny\n")
    assert found == [
        (2, HttpRuleDoc("GET", "/tickets/**", "allow")),
        (4, HttpRuleDoc("*", "", "deny")),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("GET", "Line 1: write a method"),
        ("GET /a /b allow", "Line 1: write a method"),
        ("GET /a allow\nGET /b permit", "Line 2: “permit” is not one of"),
        ("GET tickets allow", "Line 1: the path “tickets” must start"),
    ],
)
def test_a_bad_line_is_named(text: str, complaint: str) -> None:
    with pytest.raises(LineError, match=complaint):
        parse_http_rules(text)
