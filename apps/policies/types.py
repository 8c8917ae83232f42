"""The values of a decision: what is asked, what it is asked of, and the answer.

Frozen, stdlib-only, importable on a sandbox host without Django. `apps.policies.core` decides
with them, `apps.policies.codec` carries them between processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What a rule or a decision says; see `STRICTNESS` for the order between layers."""

    DIRECT = "direct"
    ALLOW = "allow"
    ASK = "ask"
    APPROVE = "approve"
    DENY = "deny"


STRICTNESS: dict[Action, int] = {
    Action.DIRECT: 0,
    Action.ALLOW: 1,
    Action.ASK: 2,
    Action.APPROVE: 2,
    Action.DENY: 3,
}


class LayerKind(StrEnum):
    """The chain of layers, in the order in which they are asked."""

    BUILTIN = "builtin"
    CEILING = "ceiling"
    TEAM = "team"
    AGENT = "agent"
    DELEGATION = "delegation"


class AgentCredentials(StrEnum):
    """What happens to the credential the agent itself sent; `DEFAULT` strips under a binding."""

    DEFAULT = "default"
    KEEP = "keep"
    STRIP = "strip"


class Injection(StrEnum):
    """How a bound credential enters the request."""

    BEARER = "bearer"
    HEADER = "header"
    BASIC = "basic"
    QUERY = "query"
    URI_PLACEHOLDER = "uri_placeholder"


# URLs end up in logs: only a credential whose admin said so goes there.
IN_URL = frozenset({Injection.QUERY, Injection.URI_PLACEHOLDER})


# The method of rules that open WebSockets; requests never carry it.
WEBSOCKET = "WEBSOCKET"


@dataclass(frozen=True, slots=True)
class HttpRule:
    """`method` is upper-case, `*`, or `WEBSOCKET`; `path` a glob, or None for any path.

    In a glob `*` is one segment and `**` any number of them.
    """

    id: str
    method: str
    path: str | None
    action: Action


@dataclass(frozen=True, slots=True)
class DomainRule:
    """`pattern`: host, `*.suffix`, `*`, CIDR, or any of the host forms with `:port`.

    With `http` rules present, a request that none of them matches is denied.
    """

    id: str
    pattern: str
    action: Action
    http: tuple[HttpRule, ...] = ()
    agent_credentials: AgentCredentials = AgentCredentials.DEFAULT


@dataclass(frozen=True, slots=True)
class ToolRule:
    """`pattern` is a glob on the tool name; `tier` None means every invocation tier."""

    id: str
    pattern: str
    action: Action
    tier: str | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One policy document. `None` = the section is absent; `()` = present and empty (denies).

    In the team layer an absent section denies too.
    """

    kind: LayerKind
    id: str
    name: str
    domains: tuple[DomainRule, ...] | None = None
    tools: tuple[ToolRule, ...] | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """A credential bound to requests by the team policy. Never carries the secret value.

    `allowed_hosts` is copied from the credential: checked at save and again at injection.
    `header` and `template` (with `{value}`) are for `HEADER`, `username` for `BASIC`. `parameter`
    is the query parameter's name, or the word in the path that the value replaces. Commands find
    `sentinel` in the environment variable `env_name`, where there is one. `credential_version`
    changes with the value, so that a proxy with a copy of the old one gets a new bundle.
    """

    id: str
    credential_id: str
    credential_name: str
    pattern: str
    injection: Injection
    allowed_hosts: tuple[str, ...]
    method: str = "*"
    path: str | None = None
    header: str = ""
    template: str = ""
    username: str = ""
    parameter: str = ""
    env_name: str = ""
    sentinel: str = ""
    credential_version: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """A project connection that lists private address ranges (CIDR) its hosts may resolve to."""

    pattern: str
    addresses: tuple[str, ...]


BUNDLE_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Bundle:
    """All that an enforcer needs to decide for one principal in one team and project; immutable.

    `format` is the wire format (`BUNDLE_FORMAT`), `version` the policy stamp it was compiled from.
    `platform_hosts` are the platform's and its stores' own names, refused before every rule;
    `provider_override` names model-provider hosts for which an explicit, audited override exists.
    """

    format: int
    version: int
    layers: tuple[Layer, ...]
    bindings: tuple[Binding, ...] = ()
    connections: tuple[Connection, ...] = ()
    platform_hosts: tuple[str, ...] = ()
    provider_override: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """A tunnel is asked for (CONNECT, before any method or path is known).

    `addresses`: what the host resolved to, when the caller knows. They are vetted as a literal
    address would be, and deny rules with a CIDR apply to them; other rules never look at them.
    """

    host: str
    port: int
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request. `target` is the origin-form request target exactly as received.

    `addresses` as in `ConnectRequest`. `websocket`: it is a GET that asks to become a WebSocket.
    """

    scheme: str
    host: str
    port: int
    method: str
    target: str
    addresses: tuple[str, ...] = ()
    websocket: bool = False


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """One tool call (or its place in a tool list)."""

    name: str
    tier: str = "api"


@dataclass(frozen=True, slots=True)
class Passed:
    """A rule that was looked at and did not decide, and why."""

    layer: LayerKind
    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. `rule` is the deciding rule's id, or "" when the absence of one decided.

    `binding` is the credential binding to inject (allowed requests only); `strip_credentials` says
    whether the agent's own credential is removed; `path` is the canonical path decided on.
    """

    action: Action
    layer: LayerKind
    rule: str
    reason: str
    passed_over: tuple[Passed, ...] = ()
    binding: Binding | None = None
    strip_credentials: bool = False
    path: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the request may go on now (an `ask` may not)."""
        return self.action in (Action.ALLOW, Action.DIRECT)
