"""`decide` against a second evaluator, written here from the policy page in the most obvious way.

The reference knows nothing of caches, folding or compiled patterns: strings in, a handful of facts
out. Where the two differ, one of them has misread the page.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.policies.core.check import bundle_problems
from apps.policies.core.decide import decide, evaluate
from apps.policies.types import (
    BUNDLE_FORMAT,
    Action,
    AgentCredentials,
    Binding,
    Bundle,
    Connection,
    ConnectRequest,
    DomainRule,
    HttpRequest,
    HttpRule,
    Injection,
    Layer,
    LayerKind,
    ToolRequest,
    ToolRule,
)

RANK = {
    Action.DIRECT: 0,
    Action.ALLOW: 1,
    Action.ASK: 2,
    Action.APPROVE: 2,
    Action.DENY: 3,
}


def host_fits(body: str, host: str) -> bool:
    if body == "*":
        return True
    if "/" in body:
        try:
            return ip_address(host) in ip_network(body)
        except ValueError:
            return False
    if body.startswith("*."):
        return host.endswith(body[1:]) and not host.replace(".", "").isdigit()
    return body == host


def pattern_fits(text: str, host: str, port: int, *, deny: bool = False) -> bool:
    body, colon, number = text.partition(":")
    ports = [int(number)] if colon else [port] if deny else [80, 443]
    return port in ports and host_fits(body, host)


def glob_fits(glob: list[str], path: list[str]) -> bool:
    if not glob:
        return not path
    if glob[0] == "**":
        return glob_fits(glob[1:], path) or (bool(path) and glob_fits(glob, path[1:]))
    return bool(path) and glob[0] in ("*", path[0]) and glob_fits(glob[1:], path[1:])


def path_fits(glob: str | None, path: str, *, deny: bool = False) -> bool:
    if glob is None:
        return True
    if deny:
        glob, path = glob.lower(), path.lower()
    return glob_fits(glob.strip("/").split("/"), [part for part in path.split("/") if part])


def http_of(rule: DomainRule, method: str, path: str) -> Action:
    """What the HTTP rules of a domain rule make of a request."""
    if not rule.http:
        return rule.action
    for http in rule.http:
        deny = http.action is Action.DENY
        if http.method in ("*", method) and path_fits(http.path, path, deny=deny):
            return max(rule.action, http.action, key=RANK.__getitem__)
    return Action.DENY


def rule_of(layer: Layer, host: str, port: int) -> DomainRule | None:
    for rule in layer.domains or ():
        if pattern_fits(rule.pattern, host, port, deny=rule.action is Action.DENY):
            return rule
    return None


def strictest(bundle: Bundle, answers: list[tuple[LayerKind, Action]]) -> Action:
    if LayerKind.TEAM not in {layer.kind for layer in bundle.layers}:
        return Action.DENY
    return max((action for _, action in answers), key=RANK.__getitem__)


def refused(bundle: Bundle, host: str, port: int) -> bool:
    """The built-in refusals, for the few hosts of this test."""
    if host in ("lens.x", "localhost", "169.254.169.254", "api.openai.com"):
        return host != "api.openai.com" or host not in bundle.provider_override
    if host.startswith("10."):
        ranges = [
            text
            for one in bundle.connections
            if pattern_fits(one.pattern, host, port)
            for text in one.addresses
        ]
        return not any(ip_address(host) in ip_network(text) for text in ranges)
    return False


def reference_http(bundle: Bundle, request: HttpRequest) -> tuple[Action, str, bool]:
    """Action, id of the binding, and whether the agent's credential is taken off."""
    path = request.target.partition("?")[0]
    if refused(bundle, request.host, request.port) or ".." in path or "//" in path:
        return Action.DENY, "", False
    answers = []
    credentials = []
    for layer in bundle.layers:
        if layer.domains is None and layer.kind is not LayerKind.TEAM:
            continue
        rule = rule_of(layer, request.host, request.port)
        action = http_of(rule, request.method, path) if rule else Action.DENY
        answers.append((layer.kind, action))
        credentials.append((layer.kind, rule.agent_credentials if rule else None))
    action = strictest(bundle, answers)
    if action is Action.DIRECT and request.scheme == "http":
        return Action.DENY, "", False
    if action is not Action.ALLOW:
        return action, "", False
    return (action, *injected(bundle, request, path, credentials))


def injected(
    bundle: Bundle,
    request: HttpRequest,
    path: str,
    credentials: list[tuple[LayerKind, AgentCredentials | None]],
) -> tuple[str, bool]:
    on_host = [
        one for one in bundle.bindings if pattern_fits(one.pattern, request.host, request.port)
    ]
    fitting = [
        one.id
        for one in on_host
        if request.scheme == "https"
        and one.method in ("*", request.method)
        and path_fits(one.path, path)
        and any(pattern_fits(text, request.host, request.port) for text in one.allowed_hosts)
        and one.pattern != "*"
    ]
    if any(said is AgentCredentials.STRIP for _, said in credentials):
        strip = True
    elif (LayerKind.TEAM, AgentCredentials.KEEP) in credentials:
        strip = False
    else:
        strip = bool(on_host)
    return (fitting or [""])[0], strip


def reference_connect(bundle: Bundle, request: ConnectRequest) -> Action:
    if refused(bundle, request.host, request.port):
        return Action.DENY
    answers = []
    for layer in bundle.layers:
        if layer.domains is None and layer.kind is not LayerKind.TEAM:
            continue
        rule = rule_of(layer, request.host, request.port)
        if rule is None:
            answers.append((layer.kind, Action.DENY))
            continue
        possible = [max(rule.action, http.action, key=RANK.__getitem__) for http in rule.http]
        answers.append((layer.kind, min(possible or [rule.action], key=RANK.__getitem__)))
    return strictest(bundle, answers)


def name_fits(glob: str, name: str) -> bool:
    if not glob:
        return not name
    if glob[0] == "*":
        return name_fits(glob[1:], name) or (bool(name) and name_fits(glob, name[1:]))
    return name[:1] == glob[0] and name_fits(glob[1:], name[1:])


def reference_tool(bundle: Bundle, request: ToolRequest) -> Action:
    answers = []
    for layer in bundle.layers:
        if layer.tools is None and layer.kind is not LayerKind.TEAM:
            continue
        found = [
            rule.action
            for rule in layer.tools or ()
            if name_fits(rule.pattern, request.name) and rule.tier in (None, request.tier)
        ]
        answers.append((layer.kind, (found or [Action.DENY])[0]))
    return strictest(bundle, answers)


HOSTS = ("a.x", "b.x", "x", "a.a.x", "y", "10.0.0.1", "8.8.8.8", "lens.x", "localhost")
MORE_HOSTS = (*HOSTS, "169.254.169.254", "api.openai.com")
bodies = st.sampled_from(
    ["*", "*", "a.x", "*.x", "*.a.x", "y", "10.0.0.0/8", "8.0.0.0/8", "0.0.0.0/0"]
)
patterns = st.builds(
    lambda body, port: body + port, bodies, st.sampled_from(["", "", ":22", ":443"])
)
globs = st.none() | st.sampled_from(["/a", "/a/*", "/a/**", "/**", "/*/b", "/A"])
methods = st.sampled_from(["GET", "POST"])
credentials = st.sampled_from([AgentCredentials.DEFAULT, *AgentCredentials])
http_rules = st.builds(
    HttpRule,
    id=st.just("h"),
    method=methods | st.just("*"),
    path=globs,
    action=st.sampled_from([Action.ALLOW, Action.ALLOW, Action.ASK, Action.DENY]),
)
open_rules = st.builds(
    DomainRule,
    id=st.just("d"),
    pattern=patterns,
    action=st.sampled_from([Action.ALLOW, Action.ALLOW, Action.ASK]),
    http=st.lists(http_rules, max_size=3).map(tuple),
    agent_credentials=credentials,
)
closed_rules = st.builds(DomainRule, id=st.just("n"), pattern=patterns, action=st.just(Action.DENY))
direct_rules = st.builds(
    DomainRule,
    id=st.just("t"),
    pattern=st.sampled_from(["a.x:443", "y:22", "b.x:80"]),
    action=st.just(Action.DIRECT),
)
domain_lists = st.lists(open_rules | open_rules | closed_rules | direct_rules, max_size=4).map(
    tuple
)
tool_rules = st.builds(
    ToolRule,
    id=st.just("r"),
    pattern=st.sampled_from(["*", "a*", "*b", "ab", "a*b*"]),
    action=st.sampled_from([Action.ALLOW, Action.APPROVE, Action.DENY]),
    tier=st.none() | st.sampled_from(["api", "background"]),
)
tool_lists = st.lists(tool_rules, max_size=3).map(tuple)


def layer(kind: LayerKind) -> st.SearchStrategy[Layer]:
    return st.builds(
        Layer,
        kind=st.just(kind),
        id=st.just(kind.value),
        name=st.just("P"),
        domains=st.none() | domain_lists,
        tools=st.none() | tool_lists,
    )


bindings = st.builds(
    Binding,
    id=st.sampled_from(["b1", "b2"]),
    credential_id=st.just("c"),
    credential_name=st.just("C"),
    pattern=patterns.filter(lambda text: not text.startswith("*:")),
    injection=st.just(Injection.BEARER),
    allowed_hosts=st.lists(patterns, max_size=2).map(tuple),
    method=methods | st.just("*"),
    path=globs,
)
connections = st.builds(
    Connection,
    pattern=st.sampled_from(["10.0.0.0/8", "*:22", "10.0.0.1:443"]),
    addresses=st.sampled_from([("10.0.0.0/24",), ("10.9.0.0/16",), ()]),
)
layer_sets = st.tuples(
    st.none() | layer(LayerKind.CEILING),
    # Mostly present: without a team policy there is nothing to see.
    layer(LayerKind.TEAM) | layer(LayerKind.TEAM) | layer(LayerKind.TEAM) | st.none(),
    st.none() | layer(LayerKind.AGENT),
    st.none() | layer(LayerKind.DELEGATION),
).map(lambda listed: tuple(one for one in listed if one is not None))
bundles = st.builds(
    Bundle,
    format=st.just(BUNDLE_FORMAT),
    version=st.just(1),
    layers=layer_sets,
    bindings=st.lists(bindings, max_size=3).map(tuple),
    connections=st.lists(connections, max_size=2).map(tuple),
    platform_hosts=st.just(("lens.x",)),
    provider_override=st.sampled_from([(), ("api.openai.com",)]),
)

TARGETS = ("/", "/a", "/A", "/a/", "/a/b", "/b/b?q=1", "/a/b/c", "/a/../b", "//a")
TUNNELS = tuple(itertools.starmap(ConnectRequest, itertools.product(MORE_HOSTS, (443, 80, 22))))
REQUESTS = tuple(
    HttpRequest(scheme, tunnel.host, tunnel.port, method, target)
    for tunnel in TUNNELS
    for scheme, method, target in itertools.product(("https", "http"), ("GET", "POST"), TARGETS)
)
TOOLS = tuple(
    ToolRequest("".join(name), tier)
    for size in range(1, 4)
    for name in itertools.product("ab", repeat=size)
    for tier in ("api", "background")
)
# Every bundle meets a thinned grid of requests, another one each time; 13 divides no axis of it.
samples = st.integers(0, 12).map(lambda start: REQUESTS[start::13])
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(bundles, samples)
def test_http_requests(bundle: Bundle, requests: tuple[HttpRequest, ...]) -> None:
    assert not bundle_problems(bundle)
    for request in requests:
        answer = evaluate(bundle, request)
        binding = answer.binding.id if answer.binding else ""
        found = (answer.action, binding, answer.strip_credentials)
        assert found == reference_http(bundle, request), (request, answer)


@many
@given(bundles)
def test_tunnels(bundle: Bundle) -> None:
    for tunnel in TUNNELS:
        answer = evaluate(bundle, tunnel)
        assert answer.action is reference_connect(bundle, tunnel), (tunnel, answer)


@many
@given(bundles)
def test_tools(bundle: Bundle) -> None:
    for request in TOOLS:
        answer = evaluate(bundle, request)
        assert answer.action is reference_tool(bundle, request), (request, answer)


@many
@given(bundles, samples)
def test_a_tunnel_is_open_wherever_a_request_gets_through(
    bundle: Bundle, requests: tuple[HttpRequest, ...]
) -> None:
    for request in requests:
        tunnel = evaluate(bundle, ConnectRequest(request.host, request.port))
        assert RANK[evaluate(bundle, request).action] >= RANK[tunnel.action], request


@many
@given(
    bundles.filter(lambda bundle: any(one.kind is LayerKind.TEAM for one in bundle.layers)),
    samples,
    layer(LayerKind.DELEGATION) | layer(LayerKind.AGENT) | layer(LayerKind.CEILING),
)
def test_one_more_layer_only_takes_away(
    bundle: Bundle, requests: tuple[HttpRequest, ...], more: Layer
) -> None:
    rest = tuple(one for one in bundle.layers if one.kind is not more.kind)
    fewer, narrower = replace(bundle, layers=rest), replace(bundle, layers=(*rest, more))
    for request in requests:
        before, after = evaluate(fewer, request), evaluate(narrower, request)
        assert RANK[after.action] >= RANK[before.action], request
        if after.allowed and after.action is before.action:
            assert after.binding == before.binding
            assert after.strip_credentials >= before.strip_credentials


@many
@given(bundles, samples)
def test_answers_are_complete(bundle: Bundle, requests: tuple[HttpRequest, ...]) -> None:
    for request in requests:
        answer = evaluate(bundle, request)
        assert answer.reason.endswith(".")
        assert answer.allowed or (answer.binding is None and not answer.strip_credentials)
        assert decide(bundle, request) == answer
