"""Ways into a tunnel and around it: CONNECT, plain http, server names.

As in `test_attacks`: each case says what must be answered, and that nothing reached an upstream.
"""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING

import pytest

from tests.apps.proxy.egress.conftest import raw, request

if TYPE_CHECKING:
    from tests.apps.proxy.egress.conftest import Rig

H = "api.example.com"
HOST = f"Host: {H}"
CHUNKED = "Transfer-Encoding: chunked"
CONNECTS = {
    "v4": "10.0.0.1:443",
    "loopback": "127.0.0.1:443",
    "metadata": "169.254.169.254:80",
    "Azure metadata": "168.63.129.16:80",
    "decimal": "2130706433:443",
    "hex": "0x7f000001:443",
    "hex parts": "0x7f.0.0.1:443",
    "octal": "0177.0.0.1:443",
    "short": "127.1:443",
    "v6 loopback": "[::1]:443",
    "v6 metadata": "[fd00:ec2::254]:80",
    "mapped": "[::ffff:169.254.169.254]:80",
    "mapped hex": "[::ffff:a9fe:a9fe]:80",
    "NAT64": "[64:ff9b::a9fe:a9fe]:80",
    "6to4": "[2002:a9fe:a9fe::1]:80",
    "v4-compatible": "[::169.254.169.254]:80",
    "v6 zone": "[fe80::1%25eth0]:443",
    "v6 without brackets": "::1:443",
    "localhost": "localhost:443",
    "metadata name": "metadata.google.internal:80",
    "prefix look-alike": "evil-api.example.com:443",
    "suffix look-alike": "api.example.com.evil.test:443",
    "parent of a wildcard": "wild.example.com:443",
    "look-alike of a wildcard": "evilwild.example.com:443",
    "escaped dot": "api%2eexample.com:443",
    "null": "api.example.com%00.evil.test:443",
    "raw null": "api.example.com\0.evil.test:443",
    "userinfo": "user@api.example.com:443",
    "userinfo the other way": "api.example.com:443@evil.test:443",
    "userinfo with password": "api.example.com:x@evil.test:443",
    "punycode look-alike": "xn--pi-7ka.example.com:443",
    "raw unicode": "\xe4pi.example.com:443",
    "empty label": "api..example.com:443",
    "leading dot": ".example.com:443",
    "leading dash": "-api.example.com:443",
    "underscore only": "_.example.com:443",
    "no host": ":443",
    "no port": "api.example.com",
    "empty port": "api.example.com:",
    "port 0": "api.example.com:0",
    "port overflow": "api.example.com:65979",
    "port leading zero": "api.example.com:0443",
    "port plus": "api.example.com:+443",
    "port letters": "api.example.com:https",
    "ssh": "api.example.com:22",
    "other port": "api.example.com:8443",
    "with path": "api.example.com:443/x",
    "with scheme": "https://api.example.com:443",
    "long name": "a" * 250 + ".example.com:443",
    "long label": "a" * 64 + ".wild.example.com:443",
    "asterisk": "*.wild.example.com:443",
    "not listed": "other.example.com:443",
}


@pytest.mark.parametrize("target", CONNECTS.values(), ids=CONNECTS.keys())
def test_connect_is_refused_at_once(rig: Rig, target: str) -> None:
    with rig.agent() as agent:
        started = time.monotonic()
        # HTTP/1.0 needs no Host, so it is the target alone that is judged
        reply = agent.ask(f"CONNECT {target} HTTP/1.0\r\n\r\n".encode("latin-1"))
        assert time.monotonic() - started < 5
        assert reply.status in (400, 403)
        assert reply.json["reason"]
        assert agent.ended()
    assert rig.up.opened == rig.plain.opened == 0
    event = rig.egress.event(reply.json["decision_id"])
    assert event["result"] == "denied"
    assert bool(event["metadata"]["host"]) == (event["status"] == 403)
    assert "user" not in str(event["metadata"])


CONNECT = f"CONNECT {H}:443 HTTP/1.1"
CONNECT_HEADS = {
    "Host missing": raw(CONNECT),
    "Host mismatch": raw(CONNECT, "Host: other.example.com:443"),
    "Host of another port": raw(CONNECT, f"Host: {H}:80"),
    "Host twice": raw(CONNECT, HOST, HOST),
    "with Content-Length": raw(CONNECT, HOST, "Content-Length: 3") + b"abc",
    "with Content-Length 0": raw(CONNECT, HOST, "Content-Length: 0"),
    "chunked": raw(CONNECT, HOST, CHUNKED) + b"0\r\n\r\n",
    "upgrade": raw(CONNECT, HOST, "Connection: Upgrade", "Upgrade: h2c"),
    "early data": raw(CONNECT, HOST) + b"\x16\x03\x01\x00\x05hello",
    "early request": raw(CONNECT, HOST) + request(H, "/open/x"),
    "obs-fold": raw(CONNECT, HOST, " x: y"),
    "bare LF": f"{CONNECT}\n{HOST}\n\n".encode(),
    "lower case": raw(f"connect {H}:443 HTTP/1.1", HOST),
    "large head": raw(CONNECT, HOST, "X-A: " + "a" * 70_000),
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "SOCKS 5": b"\x05\x01\x00",
    "SOCKS 4": b"\x04\x01\x01\xbb\x7f\x00\x00\x01\x00",
    "PROXY protocol": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + raw(CONNECT, HOST),
}


@pytest.mark.parametrize("data", CONNECT_HEADS.values(), ids=CONNECT_HEADS.keys())
def test_connect_head_is_refused(rig: Rig, data: bytes) -> None:
    with rig.agent() as agent:
        reply = agent.ask(data)
        assert reply.status in (400, 403, 431)
        assert agent.ended()
    assert rig.up.opened == 0


PLAIN = {
    "denied host": ("http://other.example.com/", "other.example.com", 403),
    "metadata": ("http://169.254.169.254/latest/meta-data/", "169.254.169.254", 403),
    "denied path": ("http://plain.example.com/a//b", "plain.example.com", 403),
    "Host mismatch": ("http://plain.example.com/x", "other.example.com", 400),
    "Host mismatch, denied URI": ("http://other.example.com/x", "plain.example.com", 400),
    "https in the clear": ("https://api.example.com/x", "api.example.com", 400),
    "ftp": ("ftp://plain.example.com/x", "plain.example.com", 400),
    "origin form": ("/x", "plain.example.com", 400),
    "userinfo": ("http://user:pw@plain.example.com/x", "plain.example.com", 400),
    "userinfo the other way": ("http://plain.example.com@other.example.com/", "x.test", 400),
    "backslash": ("http://plain.example.com\\@other.example.com/", "plain.example.com", 400),
    "fragment": ("http://plain.example.com/x#y", "plain.example.com", 400),
    "fragment for a path": ("http://plain.example.com#@other.example.com/", "x.test", 400),
    "path dots": ("http://plain.example.com/open/../admin", "plain.example.com", 403),
    "other port": ("http://plain.example.com:8080/x", "plain.example.com:8080", 403),
    "empty host": ("http:///x", "plain.example.com", 400),
    "tls port in the clear": ("http://api.example.com:443/admin/x", "api.example.com:443", 403),
}


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN.keys())
def test_plain_http_is_refused(rig: Rig, case: tuple[str, str, int]) -> None:
    target, host, status = case
    with rig.agent() as agent:
        assert agent.ask(request(host, target)).status == status
    assert rig.untouched()


@pytest.mark.parametrize("sni", ["other.example.com", "a.wild.example.com", "xapi.example.com"])
def test_wrong_server_name_ends_the_handshake(rig: Rig, sni: str) -> None:
    with pytest.raises(ssl.SSLError), rig.tunnel(sni=sni):
        pass
    assert rig.up.opened == 0
    reason = "the TLS server name differs from the CONNECT host"
    assert rig.egress.wait_for_event(method="CONNECT", host=H, result="denied", reason=reason)


def test_missing_server_name_ends_the_handshake(rig: Rig) -> None:
    context = ssl.create_default_context(cadata=rig.egress.ca_pem)
    context.check_hostname = False
    with rig.agent() as agent:
        agent.ask(raw(CONNECT, HOST))
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(agent.sock)
    assert rig.up.opened == 0


def test_http2_is_not_negotiated(rig: Rig) -> None:
    context = ssl.create_default_context(cadata=rig.egress.ca_pem)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with rig.agent() as agent:
        agent.ask(raw(CONNECT, HOST))
        secured = context.wrap_socket(agent.sock, server_hostname=H)
        assert secured.selected_alpn_protocol() == "http/1.1"
        secured.close()


CONNECT_CONTROLS = {
    "HTTP/1.0 without Host": raw(f"CONNECT {H}:443 HTTP/1.0"),
    "Host without port": raw(CONNECT, HOST),
    "Host with port": raw(CONNECT, f"{HOST}:443"),
    "capitals": raw("CONNECT API.Example.COM:443 HTTP/1.1", HOST),
    "trailing dot": raw(f"CONNECT {H}.:443 HTTP/1.1", HOST),
    "keep-alive": raw(CONNECT, HOST, "Proxy-Connection: Keep-Alive", "User-Agent: x"),
}


@pytest.mark.parametrize("data", CONNECT_CONTROLS.values(), ids=CONNECT_CONTROLS.keys())
def test_control_connect_is_answered(rig: Rig, data: bytes) -> None:
    with rig.agent() as agent:
        assert agent.ask(data).status == 200
        agent.sock = rig.context.wrap_socket(agent.sock, server_hostname=H)
        assert agent.ask(request(H, "/open/x")).status == 200
    assert rig.up.seen[0].header("host") == H
    assert rig.up.seen[0].sni == H
