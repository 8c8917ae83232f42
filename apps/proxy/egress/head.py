"""Strict HTTP/1.1 message heads: what is accepted has one meaning, everything else is refused.

A proxy that decides on one reading of a message and forwards bytes which the next hop reads in
another way can be walked around. So this module

1. accepts a head only if the grammar of RFC 9110 section 5 and RFC 9112 sections 2, 3, 5 and 6
   gives it exactly one meaning: CRLF line ends, no folding, no space before the colon, one `Host`,
   one length (`Content-Length` digits or `Transfer-Encoding: chunked`, never both);
2. returns values, never bytes to be forwarded: what goes on is written anew from them;
3. judges names as the laxest reader would: `Content_Length` is refused where `Content-Length`
   would matter, since CGI-like servers fold `_` and `-` into one.

All checks are linear in the size of the head.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from apps.policies.core import asking
from apps.policies.core.asking import (
    HTTP_PORT,
    HTTPS_PORT,
    METHOD,
    TARGET,
    Authority,
    RequestError,
)

CHUNKED = -1
UNTIL_CLOSE = -2

# (lower-case name, name as received, value)
Field = tuple[str, str, str]

_REQUEST_LINE = re.compile(rf"({METHOD}) ({TARGET}) HTTP/1\.([01])")
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[^\t\r\n -~\x80-\xff]")
_LENGTH = re.compile(r"[0-9]{1,18}")
_MAX_FIELDS = 200

# One occurrence each; also refused when spelt with underscores.
_SINGLE = frozenset(
    {
        "authorization",
        "content-length",
        "content-type",
        "expect",
        "host",
        "transfer-encoding",
        "upgrade",
    }
)
_UNDERSCORE_ALIASES = _SINGLE | {"connection", "proxy-authorization", "te", "trailer"}


class HeadError(Exception):
    """A message head that is not accepted: HTTP status, machine code and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def _bad(code: str, message: str) -> NoReturn:
    raise HeadError(400, code, message)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request head. `body` is a length in bytes or CHUNKED; `minor` the HTTP/1 minor version.

    `options` are the lower-case names listed in `Connection`: hop-by-hop fields (RFC 9110 7.6.1).
    """

    method: str
    target: str
    minor: int
    fields: tuple[Field, ...]
    options: frozenset[str]
    body: int
    expects_continue: bool
    keep_alive: bool
    upgrade: bool

    def first(self, name: str) -> str | None:
        """The value of the first field with this lower-case name, or None."""
        return next((value for key, _, value in self.fields if key == name), None)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A response head. `body` is a length in bytes, CHUNKED or UNTIL_CLOSE; `options` as above."""

    status: int
    reason: str
    fields: tuple[Field, ...]
    options: frozenset[str]
    body: int
    keep_alive: bool

    def first(self, name: str) -> str | None:
        """The value of the first field with this lower-case name, or None."""
        return next((value for key, _, value in self.fields if key == name), None)


def check_first_bytes(received: bytes) -> None:
    """Refuse early what can never become a head; raises HeadError.

    Called while the blank line is still missing, so that HTTP/0.9, bare line feeds and other
    protocols get their answer at once and not at the deadline.
    """
    text = received.decode("latin-1")
    if text.count("\n") != text.count("\r\n"):
        _bad("bare_line_feed", "line ends must be CRLF")
    line, end, _ = text.partition("\r\n")
    if end:
        _request_line(line)
    elif not ("A" <= text[:1] <= "Z"):
        _bad("not_http", "this is not an HTTP/1.1 request")


def parse_request(raw: bytes) -> RequestHead:
    """Parse a request head without its closing blank line; raises HeadError (400)."""
    lines = _lines(raw)
    method, target, minor = _request_line(lines[0])
    fields = _fields(lines)
    values = _singles(fields)
    if minor == 0 and method != "CONNECT":
        # Old libraries open their tunnels with HTTP/1.0; a request itself needs 1.1 framing.
        _bad("http_version", "use HTTP/1.1")
    options = _connection_options(fields)
    return RequestHead(
        method=method,
        target=target,
        minor=minor,
        fields=fields,
        options=options,
        body=_request_body(values),
        expects_continue=_expects_continue(values),
        keep_alive=minor == 1 and "close" not in options,
        upgrade="upgrade" in values or "upgrade" in options,
    )


def parse_response(raw: bytes, method: str) -> ResponseHead:
    """Parse the head of the response to a `method` request; raises HeadError (502)."""
    try:
        return _parse_response(raw, method)
    except HeadError as error:
        raise HeadError(502, error.code, f"the upstream's answer: {error.message}") from None


def _parse_response(raw: bytes, method: str) -> ResponseHead:
    lines = _lines(raw)
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        _bad("status_line", "malformed status line")
    minor, status, reason = int(match[1]), int(match[2]), match[3] or ""
    fields = _fields(lines)
    options = _connection_options(fields)
    return ResponseHead(
        status=status,
        reason=reason,
        fields=fields,
        options=options,
        body=_response_body(status, method, fields),
        keep_alive=minor == 1 and "close" not in options,
    )


def _lines(raw: bytes) -> list[str]:
    text = raw.decode("latin-1")
    if _CONTROL.search(text):
        _bad("control_character", "control characters are not accepted")
    lines = text.split("\r\n")
    ends = len(lines) - 1
    if text.count("\r") != ends or text.count("\n") != ends:
        _bad("bare_line_feed", "line ends must be CRLF")
    return lines


def _request_line(line: str) -> tuple[str, str, int]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        _bad("request_line", "malformed request line (METHOD SP target SP HTTP/1.1 is expected)")
    return match[1], match[2], int(match[3])


def _fields(lines: list[str]) -> tuple[Field, ...]:
    if len(lines) - 1 > _MAX_FIELDS:
        raise HeadError(431, "too_many_fields", f"more than {_MAX_FIELDS} header fields")
    return tuple(_field(line) for line in lines[1:])


def _field(line: str) -> Field:
    name, colon, value = line.partition(":")
    if not colon or _NAME.fullmatch(name) is None:
        _bad("header_field", "malformed header field (folding and spaces in names are refused)")
    key = name.lower()
    if "_" in key and key.replace("_", "-") in _UNDERSCORE_ALIASES:
        _bad("header_alias", "a header name is spelt with an underscore")
    return key, name, value.strip(" \t")


def _singles(fields: tuple[Field, ...]) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, _, value in fields:
        if key in _SINGLE:
            if key in values:
                _bad("duplicate_field", f"{key} is given more than once")
            values[key] = value
    return values


def _connection_options(fields: tuple[Field, ...]) -> frozenset[str]:
    named = [value for key, _, value in fields if key in ("connection", "proxy-connection")]
    if not named:
        return frozenset()
    options = frozenset(name.strip(" \t").lower() for name in ",".join(named).split(","))
    if options & {"host", "content-length", "transfer-encoding"}:
        _bad("connection_option", "Connection must not name a framing header")
    return options


def _expects_continue(values: dict[str, str]) -> bool:
    expect = values.get("expect")
    if expect is None:
        return False
    if expect.lower() != "100-continue":
        _bad("expectation", "only 100-continue may be expected")
    return True


def _request_body(values: dict[str, str]) -> int:
    coding = values.get("transfer-encoding")
    length = values.get("content-length")
    if coding is not None:
        if length is not None:
            _bad("two_lengths", "Content-Length and Transfer-Encoding exclude each other")
        return _chunked(coding)
    return 0 if length is None else _length(length)


def _chunked(coding: str) -> int:
    if coding.lower() != "chunked":
        _bad("transfer_coding", "the only transfer coding accepted is chunked")
    return CHUNKED


def _length(value: str) -> int:
    if _LENGTH.fullmatch(value) is None:
        _bad("content_length", "Content-Length must be decimal digits")
    return int(value)


def _response_body(status: int, method: str, fields: tuple[Field, ...]) -> int:
    """Length of a response body, RFC 9112 section 6.3; both lengths at once are refused."""
    lengths = [value for key, _, value in fields if key == "content-length"]
    codings = [value for key, _, value in fields if key == "transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        _bad("two_lengths", "more than one body length")
    framing = UNTIL_CLOSE
    if codings:
        framing = _chunked(codings[0])
    elif lengths:
        framing = _length(lengths[0])
    bodiless = method == "HEAD" or status in (204, 304) or status < 200
    return 0 if bodiless else framing


def parse_authority(text: str, default_port: int | None) -> Authority:
    """`host[:port]` as `apps.policies.core.asking` reads it; raises HeadError (400)."""
    try:
        return asking.parse_authority(text, default_port)
    except RequestError as error:
        _bad(error.code, str(error))


def connect_authority(head: RequestHead) -> Authority:
    """Where a CONNECT wants to go; raises HeadError. A `Host`, when given, must agree."""
    if head.body or head.first("content-length") is not None:
        _bad("connect_body", "CONNECT must not have a body")
    authority = parse_authority(head.target, None)
    host = head.first("host")
    if host is None:
        if head.minor == 1:
            _bad("host_missing", "Host is missing")
    elif parse_authority(host, authority.port) != authority:
        _bad("host_mismatch", "Host differs from the CONNECT target")
    return authority


def plain_target(head: RequestHead) -> tuple[Authority, str]:
    """Authority and origin-form target of a plain `http://` request; raises HeadError."""
    scheme, separator, rest = head.target.partition("://")
    if not separator or scheme.lower() != "http":
        _bad("target_form", "use http://host/path, or CONNECT for https")
    try:
        authority, target = asking.split_target(rest, HTTP_PORT)
    except RequestError as error:
        _bad(error.code, str(error))
    _same_host(head, authority, HTTP_PORT)
    return authority, _origin_form(target)


def tunnel_target(head: RequestHead, authority: Authority) -> str:
    """The origin-form target of a request inside a TLS tunnel to `authority`; raises HeadError."""
    if head.method == "CONNECT":
        _bad("connect_inside", "CONNECT inside a tunnel is refused")
    if not head.target.startswith("/"):
        _bad("target_form", "inside a tunnel the target must start with /")
    _same_host(head, authority, HTTPS_PORT)
    return _origin_form(head.target)


def _same_host(head: RequestHead, authority: Authority, default_port: int) -> None:
    host = head.first("host")
    if host is None:
        _bad("host_missing", "Host is missing")
    if parse_authority(host, default_port) != authority:
        _bad("host_mismatch", "Host differs from the host of this connection")


def _origin_form(target: str) -> str:
    if "#" in target:
        _bad("target_form", "a fragment is not part of a request target")
    return target
