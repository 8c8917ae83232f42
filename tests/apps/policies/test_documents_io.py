"""Policy documents as YAML and JSON: nothing lost, nothing misread, every complaint at its path."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from apps.common.errors import Invalid, LensError
from apps.policies.documents import (
    DomainRuleDoc,
    ExpectationDoc,
    HttpRuleDoc,
    PolicyDocument,
    ToolRuleDoc,
    document_of,
)
from apps.policies.documents_io import check_schema, from_obj, parse, to_obj, to_yaml, with_ids
from apps.policies.schema import SCHEMA, published
from tests import factories
from tests.apps.policies.support import full_document, without_ids

if TYPE_CHECKING:
    from tests.factories import World

ROOT = Path(__file__).resolve().parents[3]
database = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture
def acme() -> World:
    return factories.acme()


def test_the_published_schema_is_the_one_that_is_used() -> None:
    text = (ROOT / "docs" / "policy.schema.json").read_text()
    assert text == published(), "run `python -m apps.policies.schema > docs/policy.schema.json`"
    Draft202012Validator.check_schema(SCHEMA)


def test_the_documents_of_the_page_are_documents() -> None:
    text = (ROOT / "docs" / "policies.md").read_text()
    found = [parse(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert len(found) == 2
    for plain in found:
        check_schema({"kind": "team", "team": "sre", "name": "P", **plain})


class TestRoundTrip:
    pytestmark = database

    def test_everything_through_yaml(self, acme: World) -> None:
        document = replace(
            full_document(acme),
            tests=(
                ExpectationDoc("deny", tool="whoami", agent="bot", tier="background"),
                ExpectationDoc("allow", method="GET", url="https://api.github.com/repos/a"),
            ),
        )
        text = to_yaml(document)
        assert "credential: github" in text
        assert from_obj(acme.org, parse(text)) == document
        assert from_obj(acme.org, parse(json.dumps(to_obj(document)))) == document

    def test_with_ids(self, acme: World) -> None:
        document = replace(document_of(acme.policy), version=None)
        again = from_obj(acme.org, to_obj(document, ids=True))
        assert again == document
        plain = from_obj(acme.org, to_obj(document))
        assert plain == without_ids(document)
        assert with_ids(plain, document) == document

    def test_an_absent_section_is_not_an_empty_one(self, acme: World) -> None:
        document = PolicyDocument("C", kind="ceiling", has_tools=False)
        plain = to_obj(document)
        assert "tools" not in plain
        assert plain["domains"] == []
        assert from_obj(acme.org, plain) == document


texts = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=20)
domain_rules = st.builds(
    DomainRuleDoc,
    pattern=texts,
    action=st.sampled_from(["allow", "direct", "ask", "deny"]),
    agent_credentials=st.sampled_from(["default", "keep", "strip"]),
    http=st.lists(
        st.builds(
            HttpRuleDoc,
            method=st.sampled_from(["*", "GET", "WEBSOCKET"]),
            path=texts | st.just(""),
            action=st.sampled_from(["allow", "ask", "deny"]),
        ),
        max_size=3,
    ).map(tuple),
)


@given(texts, st.lists(domain_rules, max_size=4).map(tuple), st.lists(texts, max_size=3))
def test_any_text_comes_back_as_it_was(
    name: str, domains: tuple[DomainRuleDoc, ...], tools: list[str]
) -> None:
    """Words that YAML reads as something else, quotes, colons, letters of every script."""
    document = PolicyDocument(
        name, kind="ceiling", domains=domains, tools=tuple(map(ToolRuleDoc, tools))
    )
    assert from_obj(None, parse(to_yaml(document))) == document  # type: ignore[arg-type]  # no slug


RULE = {"pattern": "a.x", "action": "allow"}
BASE: dict[str, Any] = {"kind": "team", "team": "sre", "name": "P", "domains": [RULE]}


@pytest.mark.parametrize(
    ("changed", "field", "says"),
    [
        ({"domain": []}, "domain", "no such key. Known here: format, kind"),
        ({"domains": [{**RULE, "methods": 1}]}, "domains[0].methods", "no such key"),
        ({"domains": [RULE, {"action": "allow"}]}, "domains[1].pattern", "missing"),
        (
            {"domains": [{**RULE, "http": [{"path": 1, "action": "deny"}]}]},
            "domains[0].http[0].path",
            "text",
        ),
        ({"domains": [{**RULE, "action": "maybe"}]}, "domains[0].action", "“maybe” is not one of"),
        ({"domains": {}}, "domains", "a list"),
        ({"domains": None}, "domains", "a list"),
        ({"domains": [RULE] * 501}, "domains", "At most 500 entries; there are 501"),
        ({"name": ""}, "name", "empty"),
        ({"name": "x" * 201}, "name", "At most 200 characters"),
        ({"name": "a\0b"}, "name", "Control characters"),
        ({"name": "\ud800"}, "name", "halves"),
        ({"format": 2}, "format", "“2” is not known"),
        ({"tests": [{"expect": "deny"}]}, "tests[0]", "either a tool"),
        (
            {"tests": [{"expect": "deny", "tool": "a", "url": "b", "method": "GET"}]},
            "tests[0]",
            "either",
        ),
        ({"tools": [{"pattern": "*", "action": "approve"}]}, "tools[0].action", "allow, deny"),
        ({"domains": [{**RULE, "id": "7"}]}, "domains[0].id", "not valid"),
        (
            {"bindings": [{"credential": "nope", "pattern": "a.x"}]},
            "bindings[0].credential",
            "no credential “nope”",
        ),
        ({"team": "nope"}, "team", "no team “nope”"),
        ({"kind": "agent", "agent": "nope"}, "agent", "no agent “nope”"),
    ],
)  # fmt: skip
@pytest.mark.django_db
@pytest.mark.database
def test_every_complaint_names_its_path(
    changed: dict[str, Any], field: str, says: str, acme: World
) -> None:
    with pytest.raises(Invalid, match=says) as refused:
        from_obj(acme.org, {**BASE, **changed})
    assert refused.value.field == field


@pytest.mark.django_db
@pytest.mark.database
def test_slugs_of_another_organization_do_not_exist(acme: World) -> None:
    stranger = factories.globex()
    with pytest.raises(Invalid, match="no team"):
        from_obj(stranger.org, {**BASE, "team": "ours"})
    found = from_obj(stranger.org, BASE)
    assert found.team == stranger.team


def test_of_many_complaints_the_first_is_enough() -> None:
    """All of a document of a megabyte took a minute and 5 GB."""
    started = time.process_time()
    with pytest.raises(Invalid) as refused:
        check_schema({**BASE, "tests": [{}] * 100_000})
    assert refused.value.field.startswith("tests[0]")
    assert time.process_time() - started < 2


def test_what_nests_too_deep_is_refused() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    with pytest.raises(Invalid, match="deeper"):
        check_schema({**BASE, "domains": deep})


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "just text", "{", "a: 1\na: 2", BOMB, "!!python/object:os.system {}"),
        *(b"\xff\xfe{", "x" * 2_000_000, "[" * 5_000, "? [a]\n: b"),
    ],
)
def test_what_is_no_document_is_refused_at_once(text: str | bytes) -> None:
    with pytest.raises(LensError) as refused:
        parse(text)
    assert refused.value.status in (400, 413)
