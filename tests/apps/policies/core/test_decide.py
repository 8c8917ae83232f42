"""Decisions as a reader of the policy page expects them, one small document each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.policies.core import decide as module
from apps.policies.core.decide import decide, evaluate, private_ranges
from apps.policies.types import (
    BUNDLE_FORMAT,
    Action,
    AgentCredentials,
    Binding,
    Bundle,
    Connection,
    ConnectRequest,
    Decision,
    DomainRule,
    HttpRequest,
    HttpRule,
    Injection,
    Layer,
    LayerKind,
    ToolRequest,
    ToolRule,
)

ALLOW, DENY, ASK, DIRECT, APPROVE = (
    Action.ALLOW,
    Action.DENY,
    Action.ASK,
    Action.DIRECT,
    Action.APPROVE,
)
CEILING, TEAM, AGENT, DELEGATION, BUILTIN = (
    LayerKind.CEILING,
    LayerKind.TEAM,
    LayerKind.AGENT,
    LayerKind.DELEGATION,
    LayerKind.BUILTIN,
)


def domains(kind: LayerKind, *rules: tuple[str, Action]) -> Layer:
    """A document with domain rules whose ids are their patterns."""
    return Layer(kind, kind, "SRE", tuple(DomainRule(text, text, action) for text, action in rules))


def bundle(*layers: Layer, **fields: Any) -> Bundle:
    return Bundle(BUNDLE_FORMAT, 1, layers, **fields)


def get(url: str = "https://a.x/", method: str = "GET", **fields: Any) -> HttpRequest:
    """An HTTP request from a URL that a reader can see at a glance."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    host, _, port = authority.partition(":")
    number = int(port or {"http": 80, "https": 443}[scheme])
    return HttpRequest(scheme, host, number, method, slash + path, **fields)


def both(rules: Bundle, host: str = "a.x", port: int = 443) -> Decision:
    """The decision of a tunnel, which must agree with that of a plain GET through it."""
    tunnel = evaluate(rules, ConnectRequest(host, port))
    plain = evaluate(rules, HttpRequest("https", host, port, "GET", "/"))
    assert tunnel.action is plain.action
    assert tunnel.rule == plain.rule
    return tunnel


OPEN = domains(TEAM, ("*", ALLOW))


@pytest.mark.parametrize("port", [1, 65535])
def test_the_first_and_the_last_port_can_be_opened(port: int) -> None:
    assert both(bundle(domains(TEAM, (f"a.x:{port}", ALLOW))), port=port).allowed


def test_the_first_rule_that_matches_decides() -> None:
    rules = bundle(domains(TEAM, ("a.x", DENY), ("*.x", ALLOW), ("*", ASK)))
    assert both(rules, "a.x").action is DENY
    assert both(rules, "b.x").action is ALLOW
    assert both(rules, "b.y").action is ASK
    assert not both(rules, "b.y").allowed


def test_no_match_denies_and_says_what_was_passed_over() -> None:
    answer = both(bundle(domains(TEAM, ("a.x", ALLOW), ("b.x:8443", ALLOW))), "b.x")
    assert (answer.action, answer.layer, answer.rule) == (DENY, TEAM, "")
    assert "No domain rule of the team policy “SRE” matches b.x:443" in answer.reason
    assert [entry.why for entry in answer.passed_over] == [
        "`a.x` does not cover this host",
        "`b.x:8443` covers this host on port 8443 only",
    ]


def test_other_ports_need_to_be_named_but_a_deny_closes_them_all() -> None:
    assert both(bundle(OPEN), port=8443).action is DENY
    rules = bundle(domains(TEAM, ("a.x", DENY), ("*:8443", ALLOW)))
    assert both(rules, port=8443).rule == "a.x"
    assert both(rules, "b.x", 8443).action is ALLOW


@pytest.mark.parametrize(
    ("layers", "word"),
    [
        ((), "no team policy"),
        ((domains(CEILING, ("*", ALLOW)),), "no team policy"),
        ((Layer(TEAM, "t", "SRE"),), "has no domain rules"),
        ((Layer(TEAM, "t", "SRE", ()),), "empty list of domain rules"),
        ((OPEN, Layer(CEILING, "c", "Acme", ())), "empty list"),
        ((OPEN, Layer(AGENT, "a", "bot", ())), "empty list"),
        ((OPEN, Layer(DELEGATION, "d", "", ())), "The delegation scope has an empty list"),
    ],
)
def test_what_is_missing_or_empty_denies(layers: tuple[Layer, ...], word: str) -> None:
    answer = both(bundle(*layers))
    assert answer.action is DENY
    assert word in answer.reason


@pytest.mark.parametrize("kind", [CEILING, AGENT, DELEGATION])
def test_an_absent_section_elsewhere_adds_nothing(kind: LayerKind) -> None:
    answer = both(bundle(OPEN, Layer(kind, "other", "other")))
    assert (answer.action, answer.layer) == (ALLOW, TEAM)


@pytest.mark.parametrize("kind", [CEILING, AGENT, DELEGATION])
@pytest.mark.parametrize("action", [ALLOW, ASK, DENY])
def test_the_strictest_layer_wins(kind: LayerKind, action: Action) -> None:
    answer = both(bundle(OPEN, domains(kind, ("*", action))))
    assert answer.action is action
    assert answer.layer is (TEAM if action is ALLOW else kind)


def test_the_order_of_layers_in_the_bundle_does_not_matter() -> None:
    layers = (domains(AGENT, ("*", DENY)), OPEN, domains(CEILING, ("*", DENY)))
    assert both(bundle(*layers)).layer is CEILING
    assert both(bundle(*reversed(layers))).layer is CEILING


def test_what_the_other_layers_say_is_among_what_was_passed_over() -> None:
    answer = both(bundle(domains(CEILING, ("*", ASK)), OPEN))
    assert answer.layer is CEILING
    assert (TEAM, "*") in {(entry.layer, entry.rule) for entry in answer.passed_over}


def test_direct_only_when_every_layer_says_so() -> None:
    direct = ("db.x:5432", DIRECT)
    team = domains(TEAM, direct)
    assert both(bundle(team), "db.x", 5432).action is DIRECT
    assert both(bundle(team, domains(CEILING, direct)), "db.x", 5432).action is DIRECT
    assert both(bundle(team, Layer(AGENT, "a", "a")), "db.x", 5432).action is DIRECT
    inspected = both(bundle(team, domains(CEILING, ("*:5432", ALLOW))), "db.x", 5432)
    assert (inspected.action, inspected.layer) == (ALLOW, CEILING)


def test_direct_gives_no_credential_and_never_carries_plain_http() -> None:
    binding = Binding("b", "c", "db", "db.x:5432", Injection.BEARER, ("db.x:5432",))
    rules = bundle(domains(TEAM, ("db.x:5432", DIRECT)), bindings=(binding,))
    answer = evaluate(rules, get("https://db.x:5432/"))
    assert (answer.action, answer.binding, answer.strip_credentials) == (DIRECT, None, False)
    plain = evaluate(rules, get("http://db.x:5432/"))
    assert (plain.action, plain.rule) == (DENY, "db.x:5432")


API = DomainRule(
    "api",
    "api.x",
    ALLOW,
    (
        HttpRule("no-admin", "*", "/admin/**", DENY),
        HttpRule("read", "GET", "/tickets/**", ALLOW),
        HttpRule("comment", "POST", "/tickets/*/comments", ALLOW),
        HttpRule("close", "DELETE", "/tickets/*", ASK),
    ),
)


@pytest.mark.parametrize(
    ("method", "path", "action", "rule"),
    [
        ("GET", "/tickets", ALLOW, "read"),
        ("GET", "/tickets/1?q=/admin", ALLOW, "read"),
        ("POST", "/tickets/1/comments", ALLOW, "comment"),
        ("POST", "/tickets/1/comments/", ALLOW, "comment"),
        ("POST", "/tickets", DENY, "api"),
        ("HEAD", "/tickets", DENY, "api"),
        ("GET", "/Tickets", DENY, "api"),
        ("DELETE", "/tickets/1", ASK, "close"),
        ("DELETE", "/tickets/1/2", DENY, "api"),
        ("GET", "/admin", DENY, "no-admin"),
        ("GET", "/ADMIN/users", DENY, "no-admin"),
        ("GET", "/%61dmin/", DENY, "no-admin"),
    ],
)
def test_http_rules(method: str, path: str, action: Action, rule: str) -> None:
    rules = bundle(Layer(TEAM, "t", "Support", (API, DomainRule("rest", "*", ALLOW))))
    answer = evaluate(rules, get("https://api.x" + path, method))
    assert (answer.action, answer.rule) == (action, rule)
    assert answer.path == path.partition("?")[0].replace("%61", "a")


def test_http_rules_of_every_layer_hold() -> None:
    narrow = replace(API, id="narrow", http=(HttpRule("only", "GET", None, ALLOW),))
    rules = bundle(Layer(TEAM, "t", "T", (API,)), Layer(AGENT, "a", "A", (narrow,)))
    assert evaluate(rules, get("https://api.x/tickets/1")).allowed
    answer = evaluate(rules, get("https://api.x/tickets/1/comments", "POST"))
    assert (answer.action, answer.layer) == (DENY, AGENT)
    assert not evaluate(rules, get("https://api.x/other")).allowed


def test_an_ask_on_the_domain_holds_what_its_http_rules_allow() -> None:
    held = replace(API, action=ASK)
    rules = bundle(Layer(TEAM, "t", "T", (held,)))
    assert evaluate(rules, get("https://api.x/tickets")).action is ASK
    assert evaluate(rules, get("https://api.x/tickets")).rule == "api"
    assert evaluate(rules, get("https://api.x/admin")).action is DENY


def test_a_tunnel_opens_when_some_request_could_be_allowed() -> None:
    def tunnel(*actions: Action) -> Action:
        http = tuple(HttpRule(str(n), "GET", "/a", action) for n, action in enumerate(actions))
        layer = Layer(TEAM, "t", "T", (replace(API, http=http),))
        return evaluate(bundle(layer), ConnectRequest("api.x", 443)).action

    assert tunnel(DENY, ALLOW) is ALLOW
    assert tunnel(DENY, ASK) is ASK
    assert tunnel(DENY, DENY) is DENY


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        ("lens.acme.test", "platform-host"),
        ("localhost", "loopback"),
        ("metadata.google.internal", "metadata"),
        ("127.0.0.1", "address"),
        ("[::1]", "address"),
        ("169.254.169.254", "address"),
        ("10.0.0.1", "address"),
        ("[fd00:ec2::254]", "address"),
        ("[64:ff9b::a9fe:a9fe]", "address"),
        ("api.openai.com", "model-provider"),
        ("127.1", "host"),
        ("2130706433", "host"),
        ("::ffff:127.0.0.1", "host"),
        ("a..x", "host"),
        ("up.test\x00.evil", "host"),
        ("user@a.x", "host"),
        ("", "host"),
    ],
)
def test_built_in_refusals_precede_every_rule(host: str, rule: str) -> None:
    rules = bundle(
        domains(TEAM, ("*", ALLOW), ("0.0.0.0/0", ALLOW), ("::/0", ALLOW)),
        platform_hosts=("lens.acme.test",),
        connections=(Connection("db.x", ("10.0.0.0/8",)),),
    )
    answer = both(rules, host)
    assert (answer.action, answer.layer, answer.rule) == (DENY, BUILTIN, rule)
    assert answer.reason.endswith(".")


def test_an_override_opens_one_provider_host() -> None:
    rules = bundle(OPEN, provider_override=("api.openai.com",))
    assert both(rules, "api.openai.com").action is ALLOW
    assert both(rules, "api.anthropic.com").rule == "model-provider"


def test_a_connection_opens_private_addresses_for_its_own_hosts_only() -> None:
    rules = bundle(
        domains(TEAM, ("*", ALLOW), ("*:6443", ALLOW)),
        connections=(
            Connection("10.1.0.0/16:6443", ("10.1.0.0/16",)),
            Connection("db.x", ("192.168.0.0/16", "169.254.0.0/16")),
        ),
    )
    assert both(rules, "10.1.2.3", 6443).action is ALLOW
    assert both(rules, "10.1.2.3", 443).rule == "address"
    assert both(rules, "10.2.2.3", 6443).rule == "address"
    assert private_ranges(rules, "db.x", 443) == ("192.168.0.0/16", "169.254.0.0/16")
    assert private_ranges(rules, "other.x", 443) == ()
    assert private_ranges(rules, "a..x", 443) == ()
    resolved = get("https://db.x/", addresses=("192.168.0.7",))
    assert evaluate(rules, resolved).allowed
    assert evaluate(rules, replace(resolved, host="other.x")).rule == "address"
    assert evaluate(rules, replace(resolved, addresses=("169.254.169.254",))).rule == "address"


def test_resolved_addresses_are_vetted_and_met_by_deny_rules_only() -> None:
    rules = bundle(domains(TEAM, ("8.8.8.0/24", DENY), ("1.1.1.0/24", ALLOW), ("a.x", ALLOW)))
    assert evaluate(rules, get(addresses=("1.0.0.1",))).rule == "a.x"
    assert evaluate(rules, get(addresses=("1.1.1.1",))).rule == "a.x"
    assert evaluate(rules, get(addresses=("1.0.0.1", "8.8.8.8"))).rule == "8.8.8.0/24"
    assert evaluate(rules, get("https://b.x/", addresses=("1.1.1.1",))).action is DENY
    assert evaluate(rules, get(addresses=("1.0.0.1", "127.0.0.1"))).rule == "address"
    assert evaluate(rules, get(addresses=("nonsense",))).rule == "address"


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "[64:ff9b::808:808]", "[2002:808:808::1]", "[2606:4700::5efe:808:808]"]
)
def test_a_denied_range_is_denied_in_its_ipv6_forms_too(host: str) -> None:
    rules = bundle(domains(TEAM, ("8.8.8.0/24", DENY), ("*", ALLOW), ("8.8.0.0/16", ALLOW)))
    assert evaluate(rules, ConnectRequest(host, 443)).rule == "8.8.8.0/24"
    assert evaluate(rules, ConnectRequest(host, 22)).rule == "8.8.8.0/24"
    assert evaluate(rules, get(addresses=("1.1.1.1", host.strip("[]")))).rule == "8.8.8.0/24"
    narrow = bundle(domains(TEAM, ("8.8.8.0/24", ALLOW)))
    assert evaluate(narrow, ConnectRequest(host, 443)).allowed is (host == "8.8.8.8")


def test_the_platforms_addresses_are_refused_under_other_names_too() -> None:
    own = ("lens.acme.test", "8.8.8.8", "9.9.9.9:5432")
    rules = bundle(domains(TEAM, ("*", ALLOW), ("*:5432", ALLOW)), platform_hosts=own)
    assert evaluate(rules, get(addresses=("8.8.8.8",))).rule == "address"
    assert evaluate(rules, get(addresses=("9.9.9.9",))).allowed
    assert evaluate(rules, get("https://a.x:5432/", addresses=("9.9.9.9",))).rule == "address"
    assert evaluate(rules, ConnectRequest("8.8.8.8", 443)).rule == "platform-host"


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (get(method="get"), "method"),
        (get(method=""), "method"),
        (get(method="GET /x"), "method"),
        (get(method="TRACE"), "method"),
        (get(method="CONNECT"), "method"),
        (replace(get(), scheme="ftp"), "scheme"),
        (replace(get(), scheme="HTTPS"), "scheme"),
        (replace(get(), target="*"), "path"),
        (replace(get(), target="http://a.x/"), "path"),
        (replace(get(), target="/a/../b"), "path"),
        (replace(get(), port=0), "port"),
        (replace(get(), port=65536), "port"),
        (replace(get(), port=-1), "port"),
        (replace(get(), port=True), "port"),
    ],
)
def test_malformed_requests_are_denied(request_: HttpRequest, rule: str) -> None:
    answer = evaluate(bundle(OPEN), request_)
    assert (answer.action, answer.layer, answer.rule) == (DENY, BUILTIN, rule)


GITHUB = Binding("b1", "c1", "GitHub", "a.x", Injection.BEARER, ("a.x",), path="/repos/**")


@pytest.mark.parametrize(
    ("url", "said", "binding", "strip"),
    [
        ("https://a.x/repos/1", AgentCredentials.DEFAULT, "b1", True),
        ("https://a.x/repos/1", AgentCredentials.KEEP, "b1", False),
        ("https://a.x/other", AgentCredentials.DEFAULT, "", True),
        ("https://b.x/repos/1", AgentCredentials.DEFAULT, "", False),
        ("https://b.x/repos/1", AgentCredentials.STRIP, "", True),
        ("http://a.x/repos/1", AgentCredentials.DEFAULT, "", True),
    ],
)
def test_credentials(url: str, said: AgentCredentials, binding: str, strip: bool) -> None:  # noqa: FBT001 (a table)
    team = Layer(TEAM, "t", "T", (DomainRule("d", "*", ALLOW, agent_credentials=said),))
    answer = evaluate(bundle(team, bindings=(GITHUB,)), get(url))
    assert answer.allowed
    assert (answer.binding.id if answer.binding else "") == binding
    assert answer.strip_credentials is strip


@pytest.mark.parametrize("action", [ASK, DENY])
def test_only_an_allowed_request_gets_a_credential(action: Action) -> None:
    rules = bundle(domains(TEAM, ("*", action)), bindings=(replace(GITHUB, path=None),))
    answer = evaluate(rules, get())
    assert (answer.binding, answer.strip_credentials) == (None, False)


def tools(kind: LayerKind, *rules: tuple[str, Action, str | None]) -> Layer:
    listed = tuple(ToolRule(text, text, action, tier) for text, action, tier in rules)
    return Layer(kind, kind, "SRE", tools=listed)


@pytest.mark.parametrize(
    ("name", "tier", "action", "rule"),
    [
        ("shell_exec", "api", ALLOW, "shell_*"),
        ("shell_exec", "background", APPROVE, "shell_exec"),
        ("github.create_issue", "api", DENY, "github.create_*"),
        ("github.list_issues", "api", ALLOW, "github.*"),
        ("file_read", "api", DENY, ""),
    ],
)
def test_tool_rules(name: str, tier: str, action: Action, rule: str) -> None:
    layer = tools(
        TEAM,
        ("shell_exec", APPROVE, "background"),
        ("shell_*", ALLOW, None),
        ("github.create_*", DENY, None),
        ("github.*", ALLOW, None),
    )
    answer = evaluate(bundle(layer), ToolRequest(name, tier))
    assert (answer.action, answer.rule) == (action, rule)
    assert answer.allowed is (action is ALLOW)


def test_tool_sections_follow_the_chain_too() -> None:
    team = tools(TEAM, ("*", ALLOW, None))
    assert evaluate(bundle(team, Layer(AGENT, "a", "a")), ToolRequest("x")).allowed
    assert not evaluate(bundle(OPEN), ToolRequest("x")).allowed
    assert not evaluate(bundle(team, Layer(AGENT, "a", "a", tools=())), ToolRequest("x")).allowed
    held = evaluate(bundle(team, tools(CEILING, ("*", APPROVE, None))), ToolRequest("x"))
    assert (held.action, held.layer) == (APPROVE, CEILING)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a\n", "é", "a\x00"])
def test_odd_tool_names_are_denied(name: str) -> None:
    rules = bundle(tools(TEAM, ("*", ALLOW, None)))
    assert evaluate(rules, ToolRequest(name)).rule == "tool-name"
    assert evaluate(rules, ToolRequest("x", "night")).rule == "tier"


@pytest.mark.parametrize(
    "broken",
    [
        None,
        "bundle",
        replace(bundle(OPEN), format=BUNDLE_FORMAT + 1),
        replace(bundle(OPEN), format=0),
        bundle(domains(TEAM, ("*", ALLOW), ("a..x", DENY))),
        bundle(OPEN, OPEN),
        bundle(OPEN, platform_hosts=("https://lens",)),
    ],
)
def test_a_broken_bundle_denies_everything(broken: Any) -> None:
    for request in (get(), ConnectRequest("a.x", 443), ToolRequest("x")):
        answer = evaluate(broken, request)
        assert (answer.action, answer.layer, answer.rule) == (DENY, BUILTIN, "bundle")


def test_an_unknown_kind_of_request_is_denied() -> None:
    assert evaluate(bundle(OPEN), object()).rule == "request"


@pytest.mark.parametrize(
    "request_",
    [
        HttpRequest(*[None] * 5),  # type: ignore[arg-type] # what a careless caller might pass
        HttpRequest(*[b"GET"] * 5),  # type: ignore[arg-type] # same
        ConnectRequest(None, None),  # type: ignore[arg-type] # same
        ConnectRequest("a.x", "443"),  # type: ignore[arg-type] # same
        ToolRequest(None, None),  # type: ignore[arg-type] # same
    ],
)
def test_wrong_types_are_denied(request_: Any) -> None:
    rules = bundle(replace(OPEN, tools=(ToolRule("t", "*", ALLOW),)))
    assert evaluate(rules, request_).action is DENY


def test_an_error_is_a_denial(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module, "compiled", broken)
    answer = decide(bundle(OPEN), get())
    assert (answer.action, answer.layer, answer.rule) == (DENY, BUILTIN, "internal")


odd = st.one_of(st.text(max_size=40), st.none(), st.binary(max_size=8), st.integers())


@given(odd, odd, odd, odd, odd)
def test_nothing_that_an_agent_sends_raises(
    scheme: Any, host: Any, port: Any, method: Any, target: Any
) -> None:
    rules = bundle(OPEN)
    assert not evaluate(rules, HttpRequest("https", host, 443, method, target)).allowed or (
        isinstance(host, str) and isinstance(target, str)
    )
    assert not evaluate(rules, HttpRequest(scheme, "a.x", port, "GET", "/")).allowed or (
        scheme in ("http", "https") and port in (80, 443)
    )


@given(st.text(max_size=60), st.text(max_size=60))
def test_reasons_never_repeat_what_cannot_be_a_host_or_a_path(host: str, target: str) -> None:
    rules = bundle(domains(TEAM, ("never.example", ALLOW)))
    answer = evaluate(rules, HttpRequest("https", host, 443, "GET", "/" + target))
    assert answer.reason.isprintable()
    assert all(entry.why.isprintable() for entry in answer.passed_over)
