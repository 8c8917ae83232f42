"""The one evaluator: `decide(bundle, request) -> Decision`.

Rules of the chain, which the enforcers, the simulator and the policy tests share:

1. Built-in refusals come first, and no policy opens them.
2. Every layer must allow: organization ceiling, team policy, agent policy, delegation scope. The
   strictest answer wins (deny, then ask and approve, then allow, then direct); a layer can only
   take away.
3. Within a document the first rule that matches decides. Nothing matches: deny.
4. The team policy must have the section that is asked for; in the other layers an absent section
   adds nothing. A section that is there and empty denies.
5. With HTTP rules in a domain rule, a request that none of them matches is denied.
6. Whatever cannot be read, understood or evaluated is denied. Nothing here raises.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from apps.common.hosts import HostError, parse_host
from apps.policies.core.bindings import Outgoing, choose_binding, strips
from apps.policies.core.builtin import (
    Refusal,
    address_refusal,
    name_refusal,
    platform_refusal,
    provider_refusal,
)
from apps.policies.core.chain import Answer, Http, combine, domain_answer, tool_answer
from apps.policies.core.check import METHOD, TIERS
from apps.policies.core.compiled import Compiled, compiled
from apps.policies.core.paths import Ambiguous, canonical, segments
from apps.policies.types import (
    WEBSOCKET,
    Action,
    Bundle,
    ConnectRequest,
    Decision,
    HttpRequest,
    LayerKind,
    ToolRequest,
)

if TYPE_CHECKING:
    from apps.common.hosts import Host

_TOOL_NAME = re.compile(r"[A-Za-z0-9_./-]{1,64}")
# TRACE sends the request back, and with it the credential that was injected.
_REFUSED_METHODS = frozenset({"CONNECT", "TRACE", "TRACK", WEBSOCKET})


def decide(bundle: Bundle | None, request: ConnectRequest | HttpRequest | ToolRequest) -> Decision:
    """Decide one request. Pure; never raises: an error is a denial."""
    try:
        return evaluate(bundle, request)
    except Exception:  # noqa: BLE001 (an enforcer must get a denial, whatever went wrong)
        reason = "The policy could not be evaluated, so the request is denied."
        return _refused(Refusal("internal", reason))


def evaluate(bundle: object, request: object) -> Decision:
    """`decide` without its net: tests call it, so that the net hides nothing."""
    if not isinstance(bundle, Bundle):
        return _refused(Refusal("bundle", "There is no policy here yet, so all is denied."))
    ready = compiled(bundle)
    if ready.problem:
        return _refused(Refusal("bundle", ready.problem))
    if isinstance(request, ToolRequest):
        return _decide_tool(ready, request)
    if isinstance(request, HttpRequest):
        return _decide_http(ready, request)
    if isinstance(request, ConnectRequest):
        return _decide_connect(ready, request)
    return _refused(Refusal("request", "This kind of request is not known here."))


def private_ranges(bundle: Bundle, host: str, port: int) -> tuple[str, ...]:
    """The private ranges (CIDR) that connections list for this host: `allow` for `vet`."""
    try:
        return _ranges(compiled(bundle), parse_host(host), port)
    except HostError:
        return ()


def _decide_tool(ready: Compiled, request: ToolRequest) -> Decision:
    if not _TOOL_NAME.fullmatch(_text(request.name)):
        reason = "A tool name has 1 to 64 letters, digits, `_`, `-`, `.` and `/`; this one has not."
        return _refused(Refusal("tool-name", reason))
    if request.tier not in TIERS:
        return _refused(Refusal("tier", "The invocation tier is not known, so it is denied."))
    return combine(ready, lambda entry: tool_answer(entry, request.name, request.tier)).decision()


def _decide_connect(ready: Compiled, request: ConnectRequest) -> Decision:
    found = _destination(ready, request)
    if isinstance(found, Refusal):
        return _refused(found)
    return _network(ready, request, found, None).decision()


def _decide_http(ready: Compiled, request: HttpRequest) -> Decision:
    host = _destination(ready, request)
    if isinstance(host, Refusal):
        return _refused(host)
    refusal = _http_refusal(request)
    if refusal is not None:
        return _refused(refusal)
    path = canonical(_text(request.target))
    if isinstance(path, Ambiguous):
        reason = f"The path {path.reason}: it could be read in two ways, so it is denied."
        return _refused(Refusal("path", reason))
    method = WEBSOCKET if request.websocket else request.method
    outgoing = Outgoing(request.scheme, host, request.port, method, segments(path))
    answer = _network(ready, request, host, (request.scheme, method, outgoing.segments))
    return _with_credential(ready, answer, outgoing, path)


def _with_credential(ready: Compiled, answer: Answer, outgoing: Outgoing, path: str) -> Decision:
    if answer.action is not Action.ALLOW:
        return answer.decision(path=path)
    binding, passed = choose_binding(ready.bindings, outgoing)
    strip = strips(answer.credentials, ready.bindings, outgoing.host, outgoing.port)
    return answer.decision(path=path, binding=binding, strip=strip, passed=passed)


def _network(
    ready: Compiled,
    request: ConnectRequest | HttpRequest,
    host: Host,
    http: Http | None,
) -> Answer:
    return combine(
        ready, lambda entry: domain_answer(entry, host, request.port, request.addresses, http)
    )


def _destination(ready: Compiled, request: ConnectRequest | HttpRequest) -> Host | Refusal:
    """The host in its one spelling, or the built-in refusal of host, port or address."""
    port = request.port
    if type(port) is not int or not 1 <= port <= 65535:
        return Refusal("port", "The port is no number from 1 to 65535.")
    try:
        host = parse_host(_text(request.host))
    except HostError as error:
        return Refusal("host", f"The host {error}.")
    return (
        platform_refusal(host, ready.platform, port)
        or name_refusal(host)
        or _address_refusal(ready, host, port, request.addresses)
        or provider_refusal(host, ready.overrides)
        or host
    )


def _address_refusal(
    ready: Compiled, host: Host, port: int, addresses: tuple[str, ...]
) -> Refusal | None:
    if host.address is None and not addresses:
        return None
    allow = _ranges(ready, host, port)
    platform = [
        pattern.network
        for pattern in ready.platform
        if pattern.network is not None and pattern.matches_port(port, every_port=True)
    ]
    judged = [(host.name, host.name)] if host.address is not None else []
    judged += [(f"{host.name} resolves to an address that", address) for address in addresses]
    refusals = (address_refusal(*pair, allow, platform) for pair in judged)
    return next(filter(None, refusals), None)


def _ranges(ready: Compiled, host: Host, port: int) -> tuple[str, ...]:
    return tuple(
        text
        for pattern, connection in ready.connections
        if pattern.matches(host, port)
        for text in connection.addresses
    )


def _http_refusal(request: HttpRequest) -> Refusal | None:
    if request.scheme not in ("http", "https"):
        return Refusal("scheme", "Only http and https requests are let through.")
    if not METHOD.fullmatch(_text(request.method)):
        return Refusal("method", "The method is not a word in capitals.")
    if request.websocket and request.method != "GET":
        return Refusal("method", "A WebSocket begins with a GET.")
    if request.method in _REFUSED_METHODS:
        return Refusal("method", f"{request.method} is never let through.")
    return None


def _text(value: object) -> str:
    """The value when it is text. The empty text that stands for others is refused everywhere."""
    return value if isinstance(value, str) else ""


def _refused(refusal: Refusal) -> Decision:
    return Decision(Action.DENY, LayerKind.BUILTIN, refusal.rule, refusal.reason)
