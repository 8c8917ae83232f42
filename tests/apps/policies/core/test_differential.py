"""`decide` against a second evaluator, written here from the policy page in the most obvious way.

The reference knows nothing of caches, folding or compiled patterns: strings in, a handful of facts
out. Where the two differ, one of them has misread the page.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given, settings
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

if TYPE_CHECKING:
    from collections.abc import Callable

RANK = {
    Action.DIRECT: 0,
    Action.ALLOW: 1,
    Action.ASK: 2,
    Action.APPROVE: 2,
    Action.DENY: 3,
}

OPTIONAL = (LayerKind.CEILING, LayerKind.AGENT, LayerKind.DELEGATION)
T = TypeVar("T")


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
        if action is Action.DIRECT and request.scheme == "http":
            action = Action.DENY
        answers.append((layer.kind, action))
        credentials.append((layer.kind, rule.agent_credentials if rule else None))
    action = strictest(bundle, answers)
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
        and one.pattern.partition(":")[0] not in ("*", "*.x")  # names that strangers register
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


HOSTS = ("a.x", "b.x", "x", "a.a.x", "y", "10.0.0.1", "8.8.8.8")
CLOSED_HOSTS = ("lens.x", "localhost", "169.254.169.254", "api.openai.com")
BODIES = ("*", "*", "a.x", "a.x", "*.x", "*.x", "*.a.x", "y", "10.0.0.0/8", "0.0.0.0/0")
GLOBS = (None, "/a", "/a/*", "/a/**", "/**", "/*/b", "/A")


class Dice:
    """Documents at random, evenly: hypothesis likes small ones, and those deny nearly everything.

    Hypothesis draws the seed, so that a failure comes back.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 (no secret depends on it)

    def one(self, *choices: T) -> T:
        return self.random.choice(choices)

    def some(self, make: Callable[[], T], most: int) -> tuple[T, ...]:
        return tuple(make() for _ in range(self.random.randint(0, most)))

    def pattern(self) -> str:
        return self.one(*BODIES) + self.one("", "", "", ":22", ":443")

    def http(self) -> HttpRule:
        action = self.one(Action.ALLOW, Action.ALLOW, Action.ALLOW, Action.ASK, Action.DENY)
        return HttpRule("h", self.one("*", "*", "GET", "POST"), self.one(*GLOBS), action)

    def domain(self) -> DomainRule:
        action = self.one(*[Action.ALLOW] * 5, Action.ASK, Action.DENY, *[Action.DIRECT] * 2)
        if action is Action.DIRECT:
            return DomainRule("t", self.one("a.x:443", "y:22", "b.x:80"), action)
        if action is Action.DENY:
            return DomainRule("n", self.pattern(), action)
        kept = self.one(AgentCredentials.DEFAULT, *AgentCredentials)
        http = self.one((), self.some(self.http, 4))
        return DomainRule("d", self.pattern(), action, http, kept)

    def tool(self) -> ToolRule:
        action = self.one(Action.ALLOW, Action.ALLOW, Action.APPROVE, Action.DENY)
        pattern = self.one("*", "a*", "*b", "ab", "a*b*", "b*")
        return ToolRule("r", pattern, action, self.one(None, None, "api", "background"))

    def layer(self, kind: LayerKind) -> Layer:
        last = self.one((), *[(DomainRule("last", "*", Action.ALLOW),)] * 3)
        domains = self.one(None, *[(*self.some(self.domain, 4), *last)] * 7)
        tools = self.one(None, *[self.some(self.tool, 4)] * 4)
        return Layer(kind, kind.value, "P", domains, tools)

    def binding(self) -> Binding:
        pattern = self.pattern()
        allowed = self.one((pattern,), self.some(self.pattern, 2))
        method = self.one("*", "*", "GET", "POST")
        path = self.one(None, *GLOBS)
        return Binding("b", "c", "C", pattern, Injection.BEARER, allowed, method, path)

    def connection(self) -> Connection:
        ranges = self.one(("10.0.0.0/24",), ("10.9.0.0/16",), ())
        return Connection(self.one("10.0.0.0/8", "*:22", "10.0.0.1:443"), ranges)

    def bundle(self) -> Bundle:
        kinds = [LayerKind.TEAM] if self.random.random() < 0.97 else []
        kinds += [kind for kind in OPTIONAL if self.random.random() < 0.4]
        self.random.shuffle(kinds)
        bindings = tuple(
            replace(binding, id=f"b{n}") for n, binding in enumerate(self.some(self.binding, 4))
        )
        return Bundle(
            BUNDLE_FORMAT,
            1,
            tuple(map(self.layer, kinds)),
            bindings,
            self.some(self.connection, 2),
            ("lens.x",),
            self.one((), ("api.openai.com",)),
        )


TARGETS = ("/", "/a", "/A", "/a/", "/a/b", "/b/b?q=1", "/a/b/c", "/a/../b", "//a")
TUNNELS = tuple(
    itertools.starmap(
        ConnectRequest,
        [*itertools.product(HOSTS, (443, 80, 22)), *itertools.product(CLOSED_HOSTS, (443,))],
    )
)
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
dice = st.integers(0, 2**32).map(Dice)
# Every bundle meets a thinned grid of requests, another one each time; 13 divides no axis of it.
samples = st.integers(0, 12).map(lambda start: REQUESTS[start::13])
pytestmark = pytest.mark.slow  # hundreds of policies meet a grid of requests
many = settings(max_examples=250)


@many
@given(dice, samples)
def test_http_requests(made: Dice, requests: tuple[HttpRequest, ...]) -> None:
    bundle = made.bundle()
    assert not bundle_problems(bundle)
    for request in requests:
        answer = evaluate(bundle, request)
        binding = answer.binding.id if answer.binding else ""
        found = (answer.action, binding, answer.strip_credentials)
        assert found == reference_http(bundle, request), (bundle, request, answer)


@many
@given(dice)
def test_tunnels(made: Dice) -> None:
    bundle = made.bundle()
    for tunnel in TUNNELS:
        answer = evaluate(bundle, tunnel)
        assert answer.action is reference_connect(bundle, tunnel), (bundle, tunnel, answer)


@many
@given(dice)
def test_tools(made: Dice) -> None:
    bundle = made.bundle()
    for request in TOOLS:
        answer = evaluate(bundle, request)
        assert answer.action is reference_tool(bundle, request), (bundle, request, answer)


@many
@given(dice, samples)
def test_a_tunnel_is_open_wherever_a_request_gets_through(
    made: Dice, requests: tuple[HttpRequest, ...]
) -> None:
    bundle = made.bundle()
    for request in requests:
        tunnel = evaluate(bundle, ConnectRequest(request.host, request.port))
        assert RANK[evaluate(bundle, request).action] >= RANK[tunnel.action], (bundle, request)


@many
@given(dice, samples, st.sampled_from(OPTIONAL))
def test_one_more_layer_only_takes_away(
    made: Dice, requests: tuple[HttpRequest, ...], kind: LayerKind
) -> None:
    bundle = made.bundle()
    rest = tuple(one for one in bundle.layers if one.kind is not kind)
    fewer, narrower = (
        replace(bundle, layers=rest),
        replace(bundle, layers=(*rest, made.layer(kind))),
    )
    for request in requests:
        before, after = evaluate(fewer, request), evaluate(narrower, request)
        assert RANK[after.action] >= RANK[before.action], (narrower, request)
        if after.allowed and after.action is before.action:
            assert after.binding == before.binding
            assert after.strip_credentials >= before.strip_credentials


@many
@given(dice, samples)
def test_answers_are_complete(made: Dice, requests: tuple[HttpRequest, ...]) -> None:
    bundle = made.bundle()
    for request in requests:
        answer = evaluate(bundle, request)
        assert answer.reason.endswith(".")
        assert answer.allowed or (answer.binding is None and not answer.strip_credentials)
        assert decide(bundle, request) == answer


def test_the_dice_are_fair() -> None:
    """A comparison that sees hardly any allowed request compares nothing."""
    made = Dice(1)
    answers = [
        evaluate(bundle, request)
        for bundle in (made.bundle() for _ in range(150))
        for request in REQUESTS[::13]
    ]
    assert sum(answer.action is Action.ALLOW for answer in answers) > len(answers) / 10
    for action in (Action.ASK, Action.DIRECT):
        assert sum(answer.action is action for answer in answers) > 10
    assert sum(answer.binding is not None for answer in answers) > 10
