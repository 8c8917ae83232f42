"""Each check switched off in turn: name → (module, attribute, what stands in its place, families).

The families are those in which at least one case must fail then.
"""

from __future__ import annotations

import dataclasses
import re
import ssl
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_HEAD = "apps.proxy.egress.head"
_PATHS = "apps.policies.core.paths"


@dataclass(frozen=True)
class Mutant:
    """One check and its replacement, made from the original."""

    name: str
    module: str
    attribute: str
    instead: Callable[[Any], Any]
    families: tuple[str, ...]

    def apply(self) -> None:
        """Switch the check off, in this process."""
        module = import_module(self.module)
        setattr(module, self.attribute, self.instead(getattr(module, self.attribute)))


def _always(value: Any) -> Callable[[Any], Any]:
    """A function that looks at nothing."""
    return lambda _: lambda *__, **___: value


def _set(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


def _last_one_wins(_: Any) -> Any:
    return lambda fields: {key: value for key, _, value in fields}


def _any_length(original: Any) -> Any:
    def lenient(values: dict[str, str]) -> Any:
        if "transfer-encoding" in values:
            values = {key: value for key, value in values.items() if key != "content-length"}
        return original(values)

    return lenient


def _no_upgrade(original: Any) -> Any:
    return lambda raw: dataclasses.replace(original(raw), upgrade=False)


def _trusting(original: Any) -> Any:
    def context(ca_file: Any) -> ssl.SSLContext:
        made: ssl.SSLContext = original(ca_file)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        return made

    return context


def _believing(original: Any) -> Any:
    """The hello is read, and the host that was allowed is believed to be in it."""

    def read(*args: Any) -> Any:
        first, name = original(*args)
        return first, "direct.example.com" if name else name

    return read


def _unfinished(original: Any) -> Any:
    original.finish = lambda _: None
    return original


def _unasked(original: Any) -> Any:
    """The URL with the credential in it is not decided on."""
    original.decide_unremembered = lambda *_: SimpleNamespace(allowed=True)
    return original


def _uncut(original: Any) -> Any:
    original._no_longer_allowed = lambda *_: False
    return original


MUTANTS = (
    Mutant("request line", _HEAD, "_REQUEST_LINE",
           _set(re.compile(r"([A-Za-z:\t-]+)[ \t]+([^ ]+)[ \t]*(?:HTTP/[0-9.]*([01]))")),
           ("method", "head")),
    Mutant("one field, one value", _HEAD, "_singles", _last_one_wins, ("head",)),
    Mutant("Host is the tunnel's", _HEAD, "_same_host", _always(None), ("head", "plain http")),
    Mutant("field names", _HEAD, "_NAME", _set(re.compile(r"[^:]+")), ("head",)),
    Mutant("control characters", _HEAD, "_CONTROL", _set(re.compile(r"(?!)")), ("head",)),
    Mutant("length is digits", _HEAD, "_LENGTH", _set(re.compile(r"[+0-9_]+")), ("head",)),
    Mutant("chunked only", _HEAD, "_chunked", _always(-1), ("head",)),
    Mutant("one length", _HEAD, "_request_body", _any_length, ("head",)),
    Mutant("underscore names", _HEAD, "_UNDERSCORE_ALIASES", _set(frozenset()), ("head",)),
    Mutant("number of fields", _HEAD, "_MAX_FIELDS", _set(10_000), ("head",)),
    Mutant("Connection options", _HEAD, "_connection_options", _always(frozenset()), ("head",)),
    Mutant("Expect", _HEAD, "_expects_continue", _always(False), ("head",)),  # noqa: FBT003
    Mutant("upgrade", "apps.proxy.egress.session", "parse_request", _no_upgrade, ("upgrade",)),
    Mutant("early bytes", "apps.proxy.egress.session", "check_first_bytes", _always(None),
           ("head",)),
    Mutant("chunk size", "apps.proxy.egress.body", "_SIZE",
           _set(re.compile(rb"[-+x_ 0-9A-Fa-f]+")), ("smuggling",)),
    Mutant("trailers", "apps.proxy.egress.body", "_TRAILER", _set(re.compile(rb".*", re.DOTALL)),
           ("smuggling",)),
    Mutant("dropped fields", "apps.proxy.egress.inject", "_DROPPED",
           lambda original: original - {"x-http-method-override", "x-original-url"}, ("method",)),
    Mutant("agent credentials", "apps.proxy.egress.inject", "AGENT_CREDENTIALS", _set(frozenset()),
           ("credential",)),
    Mutant("masking", "apps.proxy.egress.scrub", "mask", lambda _: lambda data, _: data,
           ("credential",)),
    Mutant("forms of a secret", "apps.proxy.egress.scrub", "forms", _always(()), ("credential",)),
    Mutant("held back bytes", "apps.proxy.egress.scrub", "overlap", _always(0), ("credential",)),
    Mutant("compressed answers", "apps.proxy.egress.response", "_check_coding", _always(None),
           ("credential",)),
    Mutant("size of what is inflated", "apps.proxy.egress.inflate", "MOST_RATIO", _set(10**9),
           ("credential",)),
    Mutant("end of what is inflated", "apps.proxy.egress.inflate", "Inflater", _unfinished,
           ("credential",)),
    Mutant("own parameters", "apps.proxy.egress.place", "_without",
           lambda _: lambda query, __: query, ("credential",)),
    Mutant("URLs with a credential", "apps.proxy.egress.gate", "Gate", _unasked, ("credential",)),
    Mutant("control characters in values", "apps.proxy.egress.inject", "_PRINTABLE",
           _set(re.compile(r"(?s).*")), ("credential",)),
    Mutant("path letters", _PATHS, "_text_problem", _always(""), ("path",)),
    Mutant("path segments", _PATHS, "segment_problem", _always(""), ("path",)),
    Mutant("letters that become slashes", _PATHS, "_becomes_separator", _always(False),  # noqa: FBT003
           ("path",)),
    Mutant("broken escapes", _PATHS, "_BAD_ESCAPE", _set(re.compile(r"(?!)")), ("path",)),
    Mutant("server name", "apps.proxy.egress.tls.ca", "_only", _always(lambda *_: None),
           ("server name",)),
    Mutant("upstream certificate", "apps.proxy.egress.upstream", "client_context", _trusting,
           ("upstream",)),
    Mutant("addresses", "apps.policies.core.decide", "_address_refusal", _always(None),
           ("address",)),
    Mutant("WebSocket handshakes", "apps.proxy.egress.websocket", "key_of", _always("x"),
           ("websocket",)),
    Mutant("WebSocket answers", "apps.proxy.egress.websocket", "check_answer", _always(None),
           ("websocket",)),
    Mutant("where a tunnel leads", "apps.proxy.egress.tunnel", "read_hello", _believing,
           ("direct",)),
    Mutant("paths of the platform", "apps.proxy.egress.platform", "target_for",
           lambda _: lambda __, target: target, ("platform",)),
    Mutant("ports of the platform", "apps.proxy.egress.platform", "check", _always(None),
           ("platform",)),
    Mutant("cuts", "apps.proxy.egress.plane", "Plane", _uncut, ("policy change",)),
    Mutant("seccomp", "apps.sandboxes.harness.seccomp", "install", _always(None),
           ("kernel calls",)),
    Mutant("capabilities", "apps.sandboxes.harness.syscalls", "drop_bounding", _always(None),
           ("processes",)),
    Mutant("Landlock", "apps.sandboxes.harness.landlock", "restrict", _always(None), ("files",)),
)  # fmt: skip
