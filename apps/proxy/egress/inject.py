"""What goes upstream in place of what the agent sent: fields kept, dropped, and the credential.

The head is written anew. Dropped: hop-by-hop fields and what `Connection` names, fields that would
change the method or path behind our back, forwarding claims, and, under a credential binding, the
agent's own credentials. A credential is added last and never over plain http. Those that go into
the URL are placed by `place`.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apps.policies.types import IN_URL, Injection
from apps.proxy.egress import place, scrub
from apps.proxy.egress.head import CHUNKED
from apps.proxy.egress.place import InjectionError

if TYPE_CHECKING:
    from apps.policies.types import Binding
    from apps.proxy.egress.head import RequestHead, ResponseHead
    from apps.proxy.egress.scrub import Needles

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)
# Written anew from what the parser understood.
_OWN = frozenset({"host", "content-length", "expect"})
# Servers and frameworks let these override the method, path or host that was decided on.
_OVERRIDES = frozenset(
    {
        "forwarded",
        "x-host",
        "x-http-host-override",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-original-host",
        "x-original-method",
        "x-original-uri",
        "x-original-url",
        "x-real-ip",
        "x-rewrite-url",
    }
)
_DROPPED = _HOP_BY_HOP | _OWN | _OVERRIDES
AGENT_CREDENTIALS = frozenset(
    {
        "api-key",
        "authorization",
        "cookie",
        "job-token",
        "private-token",
        "x-amz-security-token",
        "x-api-key",
        "x-auth-token",
        "x-goog-api-key",
    }
)
# `Alt-Svc` would send the client around the proxy; a decision's id is ours to say.
_DROPPED_FROM_RESPONSE = _HOP_BY_HOP | {"content-length", "alt-svc", "x-lens-decision"}

_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_PRINTABLE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_NEVER_INJECTED = _DROPPED | {"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}


@dataclass(frozen=True, slots=True)
class Injected:
    """A credential as it enters a request, and the forms in which it must not come back.

    Either a header (`key` is its lower-case name, `line` the whole of it) or a `place` in the URL.
    """

    key: str
    line: str = field(repr=False)
    needles: Needles = field(repr=False)
    place: place.Place | None = None


def render(binding: Binding, value: str) -> Injected:
    """What a credential becomes under a binding; raises InjectionError."""
    if _PRINTABLE.fullmatch(value) is None:
        raise InjectionError("the credential's value is empty or has control characters")
    if binding.injection in IN_URL:
        make = place.query if binding.injection is Injection.QUERY else place.placeholder
        where = make(binding.parameter, value)
        return Injected("", "", scrub.forms(value, where.text), where)
    return _header(binding, value)


def _header(binding: Binding, value: str) -> Injected:
    other: tuple[str, ...] = ()
    if binding.injection is Injection.BEARER:
        name, text = "Authorization", f"Bearer {value}"
    elif binding.injection is Injection.BASIC:
        pair = base64.b64encode(f"{binding.username}:{value}".encode()).decode()
        name, text, other = "Authorization", f"Basic {pair}", (pair,)
    else:
        name, text = binding.header, _fill(binding.template, value)
    _check_name(name)
    return Injected(name.lower(), f"{name}: {text}", scrub.forms(value, *other))


def _fill(template: str, value: str) -> str:
    if template.count("{value}") != 1:
        raise InjectionError("the binding's template must contain {value} once")
    text = template.replace("{value}", value)
    if _PRINTABLE.fullmatch(text) is None:
        raise InjectionError("the binding's template has control characters")
    return text


def _check_name(name: str) -> None:
    if _FIELD_NAME.fullmatch(name) is None or name.lower() in _NEVER_INJECTED:
        raise InjectionError("the binding's header name is not one that may be set")


def request_bytes(
    head: RequestHead,
    target: str,
    host: str,
    *,
    strip: bool,
    injected: Injected | None,
    last: tuple[str, ...] = (),
) -> bytes:
    """The head to send upstream, `last` lines and a blank one included."""
    gone = _DROPPED | head.options
    if strip:
        gone |= AGENT_CREDENTIALS
    if injected:
        gone |= {_read(injected.key), "accept-encoding", "sec-websocket-extensions"}
    lines = [f"{head.method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for key, name, value in head.fields if not _is_in(key, gone)]
    if head.body == CHUNKED:
        lines.append("Transfer-Encoding: chunked")
    elif head.body or head.first("content-length") is not None:
        lines.append(f"Content-Length: {head.body}")
    if injected:
        lines += ["Accept-Encoding: identity", *filter(None, [injected.line])]
    lines += [*last, "\r\n"]
    return "\r\n".join(lines).encode("latin-1")


def _is_in(key: str, gone: frozenset[str]) -> bool:
    """Whether a field is dropped; `gone` holds names as `_read` gives them."""
    key = _read(key)
    return key in gone or key.startswith("x-forwarded-")


def _read(key: str) -> str:
    """A field's name as the laxest server reads it: `_` for `-`."""
    return key.replace("_", "-") if "_" in key else key


def response_fields(response: ResponseHead) -> list[str]:
    """The lines of a response that are passed on to the agent."""
    gone = _DROPPED_FROM_RESPONSE | response.options
    return [f"{name}: {value}" for key, name, value in response.fields if key not in gone]
