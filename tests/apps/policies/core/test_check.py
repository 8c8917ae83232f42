"""Each mistake of a document is named, with its field, in a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apps.policies.core.check import bundle_problems, layer_problems
from apps.policies.types import (
    BUNDLE_FORMAT,
    Action,
    AgentCredentials,
    Binding,
    Bundle,
    Connection,
    DomainRule,
    HttpRule,
    Injection,
    Layer,
    LayerKind,
    ToolRule,
)

ALLOW = DomainRule("d1", "a.x", Action.ALLOW)
GET = HttpRule("h1", "GET", "/a/**", Action.ALLOW)
TOOL = ToolRule("t1", "shell_*", Action.ALLOW)
BINDING = Binding("b1", "c1", "GitHub", "a.x", Injection.BEARER, ("a.x",))
QUERY = replace(BINDING, injection=Injection.QUERY, parameter="api_key")
PATH = replace(BINDING, injection=Injection.URI_PLACEHOLDER, parameter="LENS_TOKEN")
SENTINEL = replace(BINDING, env_name="GITHUB_TOKEN", sentinel="lens-sentinel-github")
HEADER = replace(BINDING, injection=Injection.HEADER, header="X-Api-Key", template="Key {value}")


def team(*domains: DomainRule, tools: tuple[ToolRule, ...] = ()) -> Layer:
    return Layer(LayerKind.TEAM, "team", "SRE", domains, tools)


def test_a_sound_document_has_no_problems() -> None:
    direct = DomainRule("d3", "db.x:5432", Action.DIRECT)
    tier = replace(TOOL, tier="background", action=Action.APPROVE)
    layer = team(replace(ALLOW, http=(GET,)), DomainRule("d2", "*", Action.ASK), direct)
    assert layer_problems(replace(layer, tools=(TOOL, tier))) == []
    bundle = Bundle(
        BUNDLE_FORMAT,
        1,
        (layer,),
        (BINDING, HEADER, QUERY, PATH, SENTINEL),
        (Connection("a.x", ("10.0.0.0/8",)),),
    )
    assert bundle_problems(bundle) == []


@pytest.mark.parametrize(
    ("rule", "field", "word"),
    [
        (replace(ALLOW, pattern="a..x"), "pattern", "empty label"),
        (replace(ALLOW, action=Action.APPROVE), "action", "`ask`"),
        (replace(ALLOW, action=Action.DENY, http=(GET,)), "http", "no HTTP rules"),
        (replace(ALLOW, action=Action.DIRECT), "pattern", "and its port"),
        (replace(ALLOW, action=Action.DIRECT, pattern="*:443"), "pattern", "and its port"),
        (replace(ALLOW, action=Action.DIRECT, pattern="*.x:443"), "pattern", "and its port"),
        (replace(ALLOW, action=Action.DIRECT, pattern="10.0.0.0/8:443"), "pattern", "its port"),
        (replace(ALLOW, action=Action.DIRECT, pattern="a.x:443", http=(GET,)), "http", "not read"),
        (
            replace(
                ALLOW,
                action=Action.DIRECT,
                pattern="a.x:443",
                agent_credentials=AgentCredentials.STRIP,
            ),
            "agent_credentials",
            "not read",
        ),
        (replace(ALLOW, http=(replace(GET, method="get"),)), "method", "capitals"),
        (replace(ALLOW, http=(replace(GET, method=""),)), "method", "capitals"),
        (replace(ALLOW, http=(replace(GET, path="a"),)), "path", "starts with"),
        (replace(ALLOW, http=(replace(GET, action=Action.DIRECT),)), "action", "HTTP rule"),
        (replace(ALLOW, http=(replace(GET, action=Action.APPROVE),)), "action", "HTTP rule"),
    ],
)
def test_domain_rules(rule: DomainRule, field: str, word: str) -> None:
    (problem,) = layer_problems(team(rule))
    assert problem.field == field
    assert word in problem.message
    assert problem.rule in {"d1", "h1"}


@pytest.mark.parametrize(
    ("rule", "field", "word"),
    [
        (replace(TOOL, pattern=""), "pattern", "empty"),
        (replace(TOOL, pattern="a b"), "pattern", "letters"),
        (replace(TOOL, action=Action.ASK), "action", "approve"),
        (replace(TOOL, action=Action.DIRECT), "action", "approve"),
        (replace(TOOL, tier="night"), "tier", "interactive"),
        (replace(TOOL, tier=""), "tier", "interactive"),
    ],
)
def test_tool_rules(rule: ToolRule, field: str, word: str) -> None:
    (problem,) = layer_problems(team(tools=(rule,)))
    assert (problem.rule, problem.field) == ("t1", field)
    assert word in problem.message


@pytest.mark.parametrize(
    ("binding", "field"),
    [
        (replace(BINDING, pattern="http://a.x"), "pattern"),
        (replace(BINDING, method="get"), "method"),
        (replace(BINDING, path="a"), "path"),
        (replace(BINDING, allowed_hosts=("a.x", "a..x")), "allowed_hosts"),
        (replace(HEADER, header="X Key"), "header"),
        (replace(HEADER, header=""), "header"),
        (replace(HEADER, header="X-Key\r\nHost"), "header"),
        (replace(HEADER, template="no placeholder"), "template"),
        (replace(HEADER, template="{value}{value}"), "template"),
        (replace(HEADER, template="{value}\r\nX: y"), "template"),
        (replace(HEADER, template="{value}\0"), "template"),
        (replace(HEADER, template="Schlüssel {value}"), "template"),
        (replace(HEADER, template=" {value}"), "template"),
        (replace(HEADER, template="{value} "), "template"),
        (replace(SENTINEL, env_name="github_token"), "env_name"),
        (replace(SENTINEL, env_name="A=B"), "env_name"),
        (replace(SENTINEL, env_name="A\n"), "env_name"),
        (replace(SENTINEL, env_name="A" * 65), "env_name"),
        (replace(SENTINEL, env_name="HTTPS_PROXY"), "env_name"),
        (replace(SENTINEL, env_name="LD_PRELOAD"), "env_name"),
        (replace(SENTINEL, sentinel=""), "sentinel"),
        (replace(SENTINEL, sentinel="a secret"), "sentinel"),
        (replace(QUERY, parameter=""), "parameter"),
        (replace(QUERY, parameter="a&b"), "parameter"),
        (replace(QUERY, parameter="a\r\nb"), "parameter"),
        (replace(PATH, parameter="short"), "parameter"),
        (replace(PATH, parameter="a/b/c/d"), "parameter"),
        (replace(PATH, parameter="{token}"), "parameter"),
    ],
)
def test_bindings(binding: Binding, field: str) -> None:
    (problem,) = bundle_problems(Bundle(BUNDLE_FORMAT, 1, (team(ALLOW),), (binding,)))
    assert (problem.rule, problem.field) == ("b1", field)


@pytest.mark.parametrize(
    "bundle",
    [
        Bundle(BUNDLE_FORMAT, 1, (team(ALLOW), team(ALLOW))),
        Bundle(BUNDLE_FORMAT, 1, (Layer(LayerKind.CEILING, "c", ""),) * 2),
        Bundle(BUNDLE_FORMAT, 1, (Layer(LayerKind.BUILTIN, "b", ""),)),
        Bundle(BUNDLE_FORMAT, 1, (), platform_hosts=("a..x",)),
        Bundle(BUNDLE_FORMAT, 1, (), provider_override=("https://api.openai.com",)),
        Bundle(BUNDLE_FORMAT, 1, (), provider_override=("*",)),
        Bundle(BUNDLE_FORMAT, 1, (), connections=(Connection("a..x", ()),)),
        Bundle(BUNDLE_FORMAT, 1, (), connections=(Connection("a.x", ("10.0.0.1/8",)),)),
    ],
)
def test_bundles(bundle: Bundle) -> None:
    assert len(bundle_problems(bundle)) == 1
