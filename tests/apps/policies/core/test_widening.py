"""What is called narrower takes away only: against brute force, and by examples."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.common.hosts import parse_pattern
from apps.policies.core.decide import evaluate
from apps.policies.core.widening import tunnels_credentials, widenings
from apps.policies.types import (
    STRICTNESS,
    WEBSOCKET,
    Action,
    AgentCredentials,
    Binding,
    Bundle,
    ConnectRequest,
    Decision,
    DomainRule,
    HttpRequest,
    HttpRule,
    Injection,
    Layer,
    LayerKind,
    ToolRule,
)
from tests.apps.policies.core.test_differential import HOSTS, TARGETS, TOOLS, Dice

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ENDS = ((), ("10.0.0.1",), ("8.8.8.8",), ("64:ff9b::808:808",), ("8.8.8.8", "10.0.1.1"))
MORE_HOSTS = (*HOSTS, "c.x", "d.a.x", "z", "64:ff9b::808:808")
TUNNELS = tuple(
    ConnectRequest(host, port, ends)
    for host, port, ends in itertools.product(MORE_HOSTS, (443, 80, 22, 7), ENDS)
)
REQUESTS = tuple(
    HttpRequest(scheme, tunnel.host, tunnel.port, method, target, tunnel.addresses, socket)
    for tunnel in TUNNELS
    for scheme, (method, socket), target in itertools.product(
        ("https", "http"),
        (("GET", False), ("GET", True), ("POST", False), ("PUT", False)),
        TARGETS[:6],
    )
)


class Editor(Dice):
    """Changes documents as people do, and sometimes thoroughly."""

    def http(self) -> HttpRule:
        rule = super().http()
        return replace(rule, method=WEBSOCKET) if self.random.random() < 0.2 else rule

    def domain(self) -> DomainRule:
        if self.random.random() < 0.1:
            return DomainRule(
                "n", self.one("8.8.8.0/24", "8.8.8.8", "::/0", "64:ff9b::/96"), Action.DENY
            )
        return super().domain()

    def edited(self, layer: Layer) -> Layer:
        changes = (self._domains, self._domains, self._tools, self._section)
        for _ in range(self.random.randint(1, 2)):
            layer = self.one(*changes)(layer)
        return layer

    def _domains(self, layer: Layer) -> Layer:
        rules = list(layer.domains or ())
        at = self.random.randint(0, len(rules))
        match self.random.randint(0, 5):
            case 0 | 1 if rules:
                del rules[min(at, len(rules) - 1)]
            case 2:
                rules.insert(at, DomainRule("new", self.pattern(), Action.DENY))
            case 3:
                rules.insert(at, self.domain())
            case 4 if rules:
                self.random.shuffle(rules)
            case _ if rules:
                at = min(at, len(rules) - 1)
                rules[at] = self._rule(rules[at])
        return replace(layer, domains=tuple(rules))

    def _rule(self, rule: DomainRule) -> DomainRule:
        if rule.action not in (Action.ALLOW, Action.ASK):
            return self.domain()
        http = list(rule.http)
        if http and self.random.random() < 0.5:
            del http[self.random.randrange(len(http))]
        else:
            http.insert(self.random.randint(0, len(http)), self.http())
        return replace(
            rule,
            action=self.one(rule.action, rule.action, Action.ASK),
            http=tuple(http),
            agent_credentials=self.one(rule.agent_credentials, *AgentCredentials),
        )

    def _tools(self, layer: Layer) -> Layer:
        rules = list(layer.tools or ())
        at = self.random.randint(0, len(rules))
        if rules and self.random.random() < 0.6:
            del rules[min(at, len(rules) - 1)]
        else:
            rules.insert(at, self.tool())
        return replace(layer, tools=tuple(rules))

    def _section(self, layer: Layer) -> Layer:
        if self.random.random() < 0.8:
            return layer
        if self.random.random() < 0.5:
            return replace(layer, tools=self.one(None, ()))
        return replace(layer, domains=self.one(None, ()))

    def rebound(self, bindings: tuple[Binding, ...]) -> tuple[Binding, ...]:
        if self.random.random() < 0.6:
            return bindings
        kept = [one for one in bindings if self.random.random() < 0.6]
        return tuple(kept) if self.random.random() < 0.8 else (*kept, self.binding())


def narrowed(made: Editor) -> tuple[Bundle, Bundle] | None:
    """A bundle and the same with one document changed, if that is called narrower."""
    before = made.bundle()
    named = replace(
        before,
        bindings=tuple(replace(b, credential_id=made.one("c", "d")) for b in before.bindings),
    )
    if not named.layers:
        return None
    old = made.one(*named.layers)
    new = made.edited(old)
    bindings = named.bindings
    if old.kind is LayerKind.TEAM:
        bindings = made.rebound(bindings)
    team = next((one for one in named.layers if one.kind is LayerKind.TEAM), None)
    patterns = [parse_pattern(one.pattern) for one in named.bindings]
    found = widenings(
        old,
        new,
        bindings=(named.bindings, bindings) if old.kind is LayerKind.TEAM else ((), ()),
        tunnelled_credentials=team is not None and tunnels_credentials(team, patterns),
    )
    if found:
        return None
    layers = tuple(new if one is old else one for one in named.layers)
    return named, replace(named, layers=layers, bindings=bindings)


def wider(pair: tuple[Bundle, Bundle], requests: Sequence[object]) -> Iterator[object]:
    """The requests that get more by the second bundle than by the first."""
    for request in requests:
        before, after = (evaluate(bundle, request) for bundle in pair)
        if gains(before, after):
            yield request, before, after


def gains(before: Decision, after: Decision) -> bool:
    """Whether the second decision gives anything that the first one did not."""
    if STRICTNESS[after.action] < STRICTNESS[before.action]:
        return True
    if after.binding is not None:
        return before.binding is None or content(after.binding) != content(before.binding)
    both = after.action is before.action is Action.ALLOW
    taken = before.strip_credentials or before.binding is not None
    return both and taken and not after.strip_credentials


def content(binding: Binding) -> Binding:
    return replace(binding, id="")


editor = st.integers(0, 2**32).map(Editor)
offsets = st.integers(0, 36)


@pytest.mark.slow
@settings(max_examples=400)
@given(editor, offsets)
def test_what_is_called_narrower_takes_away_only(made: Editor, start: int) -> None:
    pair = narrowed(made)
    if pair is not None:
        assert not list(wider(pair, [*REQUESTS[start::37], *TUNNELS, *TOOLS])), pair


def test_the_editor_is_fair() -> None:
    """A proof that is never found proves nothing; nor does one that is always found."""
    pairs = [narrowed(Editor(seed)) for seed in range(400)]
    proven = [pair for pair in pairs if pair is not None]
    assert 100 < len(proven) < 300
    assert sum(before != after for before, after in proven) > 60


def test_what_widens_for_nobody_is_mostly_found_to() -> None:
    """Not a promise, a measure: of changes that give no request of the grid more, most pass."""
    missed = 0
    for seed in range(100):
        made = Editor(seed)
        layer = replace(made.layer(LayerKind.TEAM), tools=None)
        new = made.edited(layer)
        alone = [Bundle(1, 1, (one,)) for one in (layer, new)]
        harmless = not list(wider((alone[0], alone[1]), [*REQUESTS[::23], *TUNNELS]))
        missed += harmless and bool(widenings(layer, replace(new, tools=None)))
    assert missed < 15


def team(*domains: DomainRule, tools: tuple[ToolRule, ...] | None = None) -> Layer:
    return Layer(LayerKind.TEAM, "t", "SRE", domains, tools)


def rule(pattern: str, action: Action = Action.ALLOW, *http: HttpRule) -> DomainRule:
    return DomainRule(f"id of {pattern}", pattern, action, http)


def get(path: str | None, action: Action = Action.ALLOW, method: str = "GET") -> HttpRule:
    return HttpRule("h", method, path, action)


DENY, ASK, ALLOW, DIRECT = Action.DENY, Action.ASK, Action.ALLOW, Action.DIRECT
BINDING = Binding("b", "c", "GitHub", "api.x", Injection.BEARER, ("api.x",))
OTHER = replace(BINDING, id="o", credential_id="d", credential_name="Other", pattern="*.x")
SAME = replace(BINDING, id="s", pattern="*.x")

NARROWER = {
    "the same": (team(rule("a.x")), team(rule("a.x"))),
    "a rule less": (team(rule("a.x"), rule("b.x")), team(rule("b.x"))),
    "a narrower pattern": (team(rule("*.x")), team(rule("a.x"), rule("b.x:443"))),
    "a denial in front": (team(rule("*.x")), team(rule("a.x", DENY), rule("*.x"))),
    "denials in another order": (
        team(rule("a.x", DENY), rule("b.x", DENY), rule("*.x")),
        team(rule("b.x", DENY), rule("a.x", DENY), rule("*.x")),
    ),
    "held back": (team(rule("*")), team(rule("*", ASK))),
    "a range less": (team(rule("10.0.0.0/8")), team(rule("10.0.0.0/9"), rule("10.128.0.0/9"))),
    "only some requests": (team(rule("a.x")), team(rule("a.x", ALLOW, get("/v1/**")))),
    "a narrower path": (
        team(rule("a.x", ALLOW, get("/v1/**"))),
        team(rule("a.x", ALLOW, get("/v1/*/b"), get("/v1/c"))),
    ),
    "a denied path in front": (
        team(rule("a.x", ALLOW, get("/**", method="*"))),
        team(rule("a.x", ALLOW, get("/Admin", DENY, "*"), get(None))),
    ),
    "a tool less": (
        team(tools=(ToolRule("1", "shell_*", ALLOW), ToolRule("2", "file_*", ALLOW))),
        team(tools=(ToolRule("2", "file_read", ALLOW),)),
    ),
    "no tools": (team(tools=(ToolRule("1", "*", ALLOW),)), team()),
    "a first ceiling": (
        Layer(LayerKind.CEILING, "c", "C"),
        Layer(LayerKind.CEILING, "c", "C", (rule("*"),)),
    ),
}
WIDER = {
    "a rule more": (team(rule("a.x")), team(rule("a.x"), rule("b.x")), "b.x:"),
    "a wider pattern": (team(rule("a.x")), team(rule("*.x")), "`*.x`"),
    "another port": (team(rule("a.x")), team(rule("a.x:8443")), "a.x:8443"),
    "a denial less": (team(rule("a.x", DENY), rule("*.x")), team(rule("*.x")), "a.x:"),
    "a denial too late": (
        team(rule("a.x", DENY), rule("*.x")),
        team(rule("*.x"), rule("a.x", DENY)),
        "a.x:",
    ),
    "no longer held": (team(rule("*", ASK)), team(rule("*")), "held"),
    "not read": (team(rule("a.x:443")), team(rule("a.x:443", DIRECT)), "read"),
    "read": (team(rule("a.x:443", DIRECT)), team(rule("a.x:443")), "tunnelled"),
    "an address range": (
        team(rule("10.0.0.0/8", DENY), rule("a.x")),
        team(rule("10.0.0.0/9", DENY), rule("a.x")),
        "resolves",
    ),
    "all requests": (team(rule("a.x", ALLOW, get("/v1"))), team(rule("a.x")), "easily"),
    "a denial that folds": (
        team(rule("a.x", ALLOW, get("/admin", DENY), get("/**"))),
        team(rule("a.x", ALLOW, get("/admin", ASK), get("/**"))),
        "/admin",
    ),
    "WebSockets": (
        team(rule("a.x", ALLOW, get("/**", method="*"))),
        team(rule("a.x", ALLOW, get("/**", method="*"), get("/ws", method=WEBSOCKET))),
        "WEBSOCKET /ws",
    ),
    "keep": (
        team(rule("a.x")),
        team(replace(rule("a.x"), agent_credentials=AgentCredentials.KEEP)),
        "credential",
    ),
    "a tool more": (team(), team(tools=(ToolRule("1", "shell_*", ALLOW),)), "shell_"),
    "a denied tool": (
        team(tools=(ToolRule("1", "shell_x", DENY), ToolRule("2", "shell_*", ALLOW))),
        team(tools=(ToolRule("2", "shell_*", ALLOW),)),
        "shell_x",
    ),
    "no ceiling on tools": (
        Layer(LayerKind.CEILING, "c", "C", None, (ToolRule("1", "*", ALLOW),)),
        Layer(LayerKind.CEILING, "c", "C"),
        "no longer governs tools",
    ),
    "no ceiling on domains": (
        Layer(LayerKind.CEILING, "c", "C", (rule("*"),)),
        Layer(LayerKind.CEILING, "c", "C"),
        "no longer governs domains",
    ),
}


@pytest.mark.parametrize("name", NARROWER)
def test_narrower(name: str) -> None:
    before, after = NARROWER[name]
    assert widenings(before, after) == []


@pytest.mark.parametrize("name", WIDER)
def test_wider(name: str) -> None:
    before, after, says = WIDER[name]
    found = widenings(before, after)
    assert found
    assert says in found[0].message


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ((BINDING, OTHER), (BINDING, OTHER), ""),
        ((BINDING,), (replace(BINDING, id="again"),), ""),
        ((), (BINDING,), "is new"),
        ((BINDING,), (replace(BINDING, method="POST"),), "is new"),
        ((BINDING, OTHER), (OTHER, BINDING), "is new"),
        ((BINDING, OTHER), (OTHER,), "Other instead"),
        ((OTHER, BINDING), (OTHER,), "own credential"),  # it may be another project's
        ((SAME, BINDING), (SAME,), ""),
        ((BINDING,), (), "own credential"),
    ],
)
def test_bindings(before: tuple[Binding, ...], after: tuple[Binding, ...], says: str) -> None:
    document = team(rule("*.x"))
    found = widenings(document, document, bindings=(before, after))
    assert bool(found) is bool(says)
    assert not found or says in found[0].message


def test_a_binding_goes_where_the_own_credential_is_taken_off_anyway() -> None:
    document = team(replace(rule("*.x"), agent_credentials=AgentCredentials.STRIP))
    assert widenings(document, document, bindings=((BINDING,), ())) == []


TOKEN = replace(BINDING, injection=Injection.HEADER, header="X-Tok", template="{value}")
KEY = replace(BINDING, injection=Injection.QUERY, parameter="key")


@pytest.mark.parametrize(
    ("said", "gone", "says"),
    [
        (AgentCredentials.KEEP, BINDING, "`Authorization`"),
        (AgentCredentials.KEEP, TOKEN, "`X-Tok`"),
        (AgentCredentials.STRIP, TOKEN, "`X-Tok`"),
        (AgentCredentials.DEFAULT, TOKEN, "`X-Tok`"),
        (AgentCredentials.DEFAULT, KEY, "`key`"),
        (AgentCredentials.DEFAULT, BINDING, ""),
    ],
)
def test_a_binding_also_keeps_back_what_it_puts_in_its_place(
    said: AgentCredentials, gone: Binding, says: str
) -> None:
    """The agent's own value of that header or parameter, which nothing else takes off."""
    document = team(replace(rule("*.x"), agent_credentials=said))
    found = widenings(document, document, bindings=((SAME, gone), (SAME,)))
    assert bool(found) is bool(says)
    assert not found or says in found[0].message


def test_a_first_ceiling_over_a_tunnel_to_a_host_with_a_credential() -> None:
    layer = team(rule("api.x:443", DIRECT))
    assert tunnels_credentials(layer, [parse_pattern("*.x")])
    assert not tunnels_credentials(layer, [parse_pattern("*.y")])
    before, after = NARROWER["a first ceiling"]
    (found,) = widenings(before, after, tunnelled_credentials=True)
    assert "tunnels" in found.message


def test_what_is_too_intricate_is_not_called_narrower() -> None:
    globs = tuple(
        get("/" + "/".join(["**", *(f"{letter}{n}" for n in range(6)), "**"]))
        for letter in "abcdefghijklmnopqrst"
    )
    before = team(rule("a.x", ALLOW, *globs))
    after = team(rule("a.x", ALLOW, *reversed(globs)))
    (found,) = widenings(before, after)
    assert "intricate" in found.message


def test_a_document_with_problems_is_not_called_narrower() -> None:
    (found,) = widenings(team(rule("a.x")), team(rule("not a host")))
    assert "problems" in found.message


def test_large_documents_are_compared_in_a_moment() -> None:
    rules = tuple(rule(f"h{n}.example.com:{n + 1}") for n in range(400))
    tools = tuple(ToolRule(f"t{n}", f"server{n}.tool_*", ALLOW) for n in range(400))
    before = team(*rules, tools=tools)
    assert widenings(before, team(*rules[1:], tools=tools[1:])) == []
