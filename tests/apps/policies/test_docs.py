"""Every example of `docs/policies.md` is tried against the evaluator itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apps.common.hosts import PatternError, parse_host, parse_pattern
from apps.policies.core.bindings import binding_refusal
from apps.policies.core.check import bundle_problems
from apps.policies.core.decide import evaluate
from apps.policies.core.hidden import hidden_rules
from apps.policies.core.paths import Ambiguous, canonical
from apps.policies.types import (
    BUNDLE_FORMAT,
    Action,
    Bundle,
    ConnectRequest,
    Decision,
    DomainRule,
    HttpRequest,
    HttpRule,
    Layer,
    LayerKind,
    ToolRequest,
    ToolRule,
)

PAGE = Path(__file__).resolve().parents[3] / "docs" / "policies.md"
TEXT = PAGE.read_text()
CODE = re.compile(r"`([^`]+)`")
EXAMPLE = re.compile(r"```policy\n((?:(?!```).*\n)+)```\n\n((?:[|>].*\n)+)")
EXAMPLES = EXAMPLE.findall(TEXT)


def table(header: str) -> list[list[str]]:
    """The cells of the table under a header row."""
    _, _, rest = TEXT.partition(f"| {header} |\n")
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    assert lines, header
    return [cells(line) for line in lines]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def code(cell: str) -> str:
    """The one piece of code in a cell."""
    (found,) = CODE.findall(cell)
    return str(found)


def split_port(authority: str) -> tuple[str, int]:
    host, _, port = authority.rpartition(":")
    return host, int(port)


def parse(text: str) -> Bundle:
    """The documents of an example, one rule a line."""
    layers: list[Layer] = []
    domains: list[DomainRule] = []
    tools: list[ToolRule] = []
    for line in [*text.splitlines(), "end ."]:
        words = line.split()
        if not line.startswith(" "):
            if layers:
                last = layers.pop()
                layers.append(
                    Layer(
                        last.kind, last.id, last.name, tuple(domains) or None, tuple(tools) or None
                    )
                )
            domains, tools = [], []
            if words[0] != "end":
                layers.append(Layer(LayerKind(words[0]), words[0], words[1]))
        elif words[0] == "tool":
            tools.append(ToolRule(line, words[1], Action(words[2]), *words[3:]))
        elif line.startswith("    "):
            rule = domains.pop()
            http = (*rule.http, HttpRule(line, words[0], words[1], Action(words[2])))
            domains.append(DomainRule(rule.id, rule.pattern, rule.action, http))
        else:
            domains.append(DomainRule(line, words[0], Action(words[1])))
    return Bundle(BUNDLE_FORMAT, 1, tuple(layers))


def ask(bundle: Bundle, text: str) -> Decision:
    """The decision of a request as the page writes it."""
    verb, _, rest = text.partition(" ")
    if verb == "TOOL":
        return evaluate(bundle, ToolRequest(*rest.split()))
    if verb == "CONNECT":
        return evaluate(bundle, ConnectRequest(*split_port(rest)))
    scheme, _, rest = rest.partition("://")
    host, slash, path = rest.partition("/")
    return evaluate(bundle, HttpRequest(scheme, host, 443, verb, slash + path))


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == TEXT.count("```policy") == 7


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (policy, line)
        for policy, below in EXAMPLES
        for line in below.splitlines()
        if line.startswith("| `")
    ],
)
def test_requests(policy: str, line: str) -> None:
    bundle = parse(policy)
    request, action, words = cells(line)
    assert not bundle_problems(bundle)
    answer = ask(bundle, code(request))
    assert answer.action == action, answer
    assert words.replace("`", "") in answer.reason.replace("`", "")


@pytest.mark.parametrize(
    ("policy", "line"),
    [(policy, below.splitlines()[0]) for policy, below in EXAMPLES if below.startswith(">")],
)
def test_hidden_rules(policy: str, line: str) -> None:
    (layer,) = parse(policy).layers
    (found,) = hidden_rules(layer)
    assert f"> {found.message}" == line


@pytest.mark.parametrize("row", table("pattern | covers | does not cover"))
def test_patterns(row: list[str]) -> None:
    pattern, covered, others = code(row[0]), CODE.findall(row[1]), CODE.findall(row[2])
    assert covered
    assert others
    for authority in (*covered, *others):
        host, port = split_port(authority)
        matched = parse_pattern(pattern).matches(parse_host(host), port)
        assert matched is (authority in covered), authority


@pytest.mark.parametrize("row", table("pattern | answer"))
def test_patterns_that_cannot_be_used(row: list[str]) -> None:
    with pytest.raises(PatternError) as error:
        parse_pattern(code(row[0]))
    assert str(error.value) == row[1]


@pytest.mark.parametrize("row", table("path | the path …"))
def test_paths(row: list[str]) -> None:
    assert canonical(code(row[0])) == Ambiguous(row[1])


@pytest.mark.parametrize("row", table("binding | the owner allows | saved"))
def test_bindings(row: list[str]) -> None:
    refusal = binding_refusal(code(row[0]), (code(row[1]),))
    assert ("no" if refusal else "yes") == row[2]


def test_what_is_absent_or_empty() -> None:
    absent, empty = Layer(LayerKind.TEAM, "t", "T"), Layer(LayerKind.TEAM, "t", "T", (), ())
    for team in (absent, empty):
        assert ask(Bundle(BUNDLE_FORMAT, 1, (team,)), "CONNECT a.x:443").action is Action.DENY
        assert ask(Bundle(BUNDLE_FORMAT, 1, (team,)), "TOOL a api").action is Action.DENY
    team = parse("team T\n  * allow\n  tool * allow\n").layers[0]
    for kind in (LayerKind.CEILING, LayerKind.AGENT, LayerKind.DELEGATION):
        for sections, expected in (((None, None), Action.ALLOW), (((), ()), Action.DENY)):
            bundle = Bundle(BUNDLE_FORMAT, 1, (team, Layer(kind, "o", "O", *sections)))
            assert ask(bundle, "CONNECT a.x:443").action is expected
            assert ask(bundle, "TOOL a api").action is expected
