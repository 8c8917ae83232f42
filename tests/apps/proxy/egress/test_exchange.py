"""Allowed requests: what arrives upstream, what comes back, and what is recorded."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import ssl
import time
from typing import TYPE_CHECKING

import pytest

from apps.policies.types import Action, DomainRule
from tests.apps.proxy.egress.conftest import request
from tests.twins.upstream import pattern

if TYPE_CHECKING:
    from tests.apps.proxy.egress.conftest import Rig

H = "api.example.com"


def test_the_request_line_host_and_fields_arrive_in_order(rig: Rig) -> None:
    assert rig.get(H, "/open/x?q=1", "B: 2", "A: 1", "Cookie: c", "A: 3").status == 200
    (seen,) = rig.up.seen
    assert seen.line == "GET /open/x?q=1 HTTP/1.1"
    assert seen.headers == [("host", H), ("b", "2"), ("a", "1"), ("cookie", "c"), ("a", "3")]
    assert seen.sni == H


def test_keep_alive_reuses_both_connections(rig: Rig) -> None:
    with rig.tunnel() as agent:
        for number in range(20):
            assert agent.ask(request(H, f"/open/{number}")).status == 200
    assert len({seen.connection for seen in rig.up.seen}) == 1


def test_connection_close_is_honoured(rig: Rig) -> None:
    with rig.tunnel() as agent:
        reply = agent.ask(request(H, "/open/x", "Connection: close"))
        assert reply.header("connection") == "close"
        assert agent.ended()


def test_content_length_upload(rig: Rig) -> None:
    body = pattern(300_000)
    reply_fields = f"Content-Length: {len(body)}"
    with rig.tunnel() as agent:
        reply = agent.ask(request(H, "/open/x", reply_fields, method="POST", body=body))
    assert reply.json["sha256"] == hashlib.sha256(body).hexdigest()
    assert rig.egress.wait_for_event(path="/open/x", bytes_out=300_000, method="POST")


def test_chunked_upload_of_3_megabytes(rig: Rig) -> None:
    body = pattern(3_000_000)
    with rig.tunnel() as agent:
        agent.send(request(H, "/open/x", "Transfer-Encoding: chunked", method="POST"))
        for at in range(0, len(body), 70_001):
            piece = body[at : at + 70_001]
            agent.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        reply = agent.ask(b"0\r\n\r\n")
    assert reply.json["sha256"] == hashlib.sha256(body).hexdigest()
    assert reply.json["size"] == 3_000_000


def test_empty_chunked_body(rig: Rig) -> None:
    with rig.tunnel() as agent:
        data = request(H, "/open/x", "Transfer-Encoding: chunked", method="POST", body=b"0\r\n\r\n")
        assert agent.ask(data).json["size"] == 0


def test_expect_continue(rig: Rig) -> None:
    with rig.tunnel() as agent:
        head = request(H, "/open/x", "Content-Length: 3", "Expect: 100-continue", method="POST")
        agent.send(head)
        assert agent.reply("HEAD").status == 100
        assert agent.ask(b"abc").json["body"] == "abc"
    assert rig.up.seen[0].header("expect") is None


def test_expect_continue_is_not_granted_to_a_denied_request(rig: Rig) -> None:
    with rig.tunnel() as agent:
        data = request(H, "/admin/x", "Content-Length: 3", "Expect: 100-continue", method="POST")
        assert agent.ask(data).status == 403
        assert agent.ended()
    assert rig.untouched()


def test_denied_upload_still_reads_its_answer(rig: Rig) -> None:
    body = pattern(2_000_000)
    with rig.tunnel() as agent:
        data = request(H, "/admin/x", f"Content-Length: {len(body)}", method="POST", body=body)
        assert agent.ask(data).status == 403
    assert rig.untouched()


def test_large_download_is_whole_and_memory_stays_flat(rig: Rig) -> None:
    rig.get(H, "/bytes/1000000")
    size = 256 << 20
    before = rig.egress.memory_kb()
    peak = 0
    with rig.tunnel() as agent:
        agent.send(request(H, f"/bytes/{size}"))
        while b"\r\n\r\n" not in agent._held:
            agent.more()
        rest = agent._held.partition(b"\r\n\r\n")[2]
        agent._held = b""
        digest, count, buffer = hashlib.sha256(rest), len(rest), memoryview(bytearray(1 << 18))
        while count < size:
            got = agent.sock.recv_into(buffer)
            assert got
            digest.update(buffer[:got])
            count += got
            if count % (32 << 20) < got:
                peak = max(peak, rig.egress.memory_kb())
    expected = hashlib.sha256()
    block = pattern(1 << 20)
    for _ in range(256):
        expected.update(block)
    assert digest.digest() == expected.digest()
    assert peak - before < 15_000
    assert rig.egress.wait_for_event(bytes_in=size)["status"] == 200


def test_chunked_download(rig: Rig) -> None:
    reply = rig.get(H, "/chunked/1000003")
    assert reply.body == pattern(1_000_003)
    assert reply.header("x-trailer") is None


def test_a_body_until_close_comes_in_chunks(rig: Rig) -> None:
    with rig.tunnel() as agent:
        reply = agent.ask(request(H, "/close"))
        assert reply.header("transfer-encoding") == "chunked"
        assert reply.body == b"until the end"
        assert agent.ask(request(H, "/open/x")).status == 200


def test_head_and_bodiless_statuses(rig: Rig) -> None:
    with rig.tunnel() as agent:
        head = agent.ask(request(H, "/status/200", method="HEAD"))
        assert (head.status, head.header("content-length")) == (200, "1234")
        for status in (204, 304):
            reply = agent.ask(request(H, f"/status/{status}"))
            assert (reply.status, reply.header("content-length")) == (status, None)
            assert reply.header("transfer-encoding") is None
        assert agent.ask(request(H, "/status/500")).body == b"status"


def test_interim_responses_are_skipped(rig: Rig) -> None:
    assert rig.get(H, "/interim").body == b"final"


def test_events_arrive_while_the_stream_goes_on(rig: Rig) -> None:
    with rig.tunnel() as agent:
        started = time.monotonic()
        agent.send(request(H, "/drip/3"))
        while b"data: 1" not in agent._held:
            agent.more()
        assert time.monotonic() - started < 1.5


def test_an_early_answer_to_an_upload_is_passed_on(rig: Rig) -> None:
    body = pattern(8_000_000)
    with rig.tunnel() as agent:
        data = request(H, "/early", f"Content-Length: {len(body)}", method="POST")
        agent.send(data)
        with contextlib.suppress(OSError):
            agent.send(body)
        reply = agent.reply()
        assert (reply.status, reply.header("connection")) == (413, "close")


@pytest.mark.parametrize("name", ["garbage", "two-lengths", "both", "fold", "large", "split"])
def test_an_answer_that_is_none_is_502(rig: Rig, name: str) -> None:
    with rig.tunnel() as agent:
        reply = agent.ask(request(H, f"/raw/{name}"))
        assert (reply.status, reply.json["error"]) == (502, "upstream_failed")
        assert agent.ask(request(H, "/open/x")).status == 200
    assert rig.egress.event(reply.json["decision_id"])["result"] == "error"


def test_an_unasked_101_is_502_and_opens_nothing(rig: Rig) -> None:
    with rig.tunnel() as agent:
        assert agent.ask(request(H, "/switch")).status == 502
        assert agent.ask(request(H, "/admin/x")).status == 403


def test_a_padded_chunk_size_of_a_server_is_understood(rig: Rig) -> None:
    assert rig.get(H, "/raw/padded").body == b"hello"


def test_a_malformed_chunk_of_a_server_ends_the_connection(rig: Rig) -> None:
    with rig.tunnel() as agent, pytest.raises(EOFError):
        agent.ask(request(H, "/raw/bad-chunk"))
    assert rig.egress.wait_for_event(path="/raw/bad-chunk")["result"] == "failure"


def test_a_truncated_answer_is_not_completed(rig: Rig) -> None:
    with rig.tunnel() as agent, pytest.raises(EOFError):
        agent.ask(request(H, "/truncate"))
    event = rig.egress.wait_for_event(path="/truncate")
    assert (event["result"], event["metadata"]["bytes_in"]) == ("failure", 9)


def test_response_fields_that_would_mislead_are_dropped(rig: Rig) -> None:
    reply = rig.get(H, "/raw/alt-svc")
    assert reply.header("alt-svc") is None
    assert reply.header("x-lens-decision") is None


def test_no_answer_in_time_is_504(rig: Rig) -> None:
    reply = rig.get(H, "/slow/5")
    assert (reply.status, reply.json["error"]) == (504, "upstream_timeout")


def test_no_answer_at_all_is_502(rig: Rig) -> None:
    reply = rig.get(H, "/silent")
    assert (reply.status, reply.json["error"]) == (502, "upstream_failed")


def test_a_refused_connection_is_502(rig: Rig) -> None:
    reply = rig.get("closed.wild.example.com", "/")
    assert (reply.status, reply.json["error"]) == (502, "upstream_failed")


@pytest.mark.parametrize("host", ["evil.wild.example.com", "wrong.wild.example.com"])
def test_an_upstream_that_cannot_prove_its_name_gets_nothing(rig: Rig, host: str) -> None:
    reply = rig.get(host, "/")
    assert (reply.status, reply.json["error"]) == (502, "upstream_tls")
    assert rig.untouched()


def test_a_reused_connection_that_died_is_replaced(rig: Rig) -> None:
    with rig.tunnel() as agent:
        assert agent.ask(request(H, "/open/1")).status == 200
        rig.up.drop()
        time.sleep(0.05)
        assert agent.ask(request(H, "/open/2")).status == 200


def test_plain_http_is_governed_and_forwarded(rig: Rig) -> None:
    host = "plain.example.com"
    with rig.agent() as agent:
        assert agent.ask(request(host, f"http://{host}/x?y=1")).status == 200
        assert agent.ask(request(host, f"http://{host}", "A: b")).status == 200
        assert agent.ask(request(host, f"http://{host}?z", "A: b")).status == 200
        denied = agent.ask(request(host, f"http://{host}/x", method="DELETE"))
        assert denied.status == 403
    assert [seen.target for seen in rig.plain.seen] == ["/x?y=1", "/", "/?z"]
    assert rig.plain.seen[0].header("host") == host
    assert rig.egress.event(denied.json["decision_id"])["metadata"]["scheme"] == "http"


def test_a_denial_explains_itself_and_is_recorded(rig: Rig) -> None:
    reply = rig.get(H, "/admin/x?token=hidden")
    assert reply.status == 403
    said = reply.json
    assert said["error"] == "egress_denied"
    assert (said["rule"], said["layer"]) == ("no-admin", "team")
    assert said["explain"] == f"https://lens.test/decisions/{said['decision_id']}"
    assert reply.header("x-lens-decision") == said["decision_id"]
    event = rig.egress.event(said["decision_id"])
    assert event["id"] == said["decision_id"]
    assert (event["surface"], event["action"]) == ("forward_proxy", "egress.request")
    assert (event["result"], event["status"], event["reason"]) == ("denied", 403, said["reason"])
    assert (event["org_slug"], event["principal_name"]) == ("acme", "tester")
    metadata = event["metadata"]
    assert (metadata["method"], metadata["host"], metadata["port"]) == ("GET", H, 443)
    assert (metadata["path"], metadata["rule"], metadata["layer"]) == (
        "/admin/x",
        "no-admin",
        "team",
    )
    assert "hidden" not in json.dumps(rig.egress.events())


def test_ask_is_refused_with_its_own_reason(rig: Rig) -> None:
    with rig.agent() as agent:
        reply = agent.ask(b"CONNECT ask.example.com:443 HTTP/1.0\r\n\r\n")
    assert reply.status == 403
    assert "needs approval; approvals are not available here yet" in reply.json["reason"]
    assert reply.json["rule"] == "ask"


def test_one_event_for_each_request(rig: Rig) -> None:
    targets = ["/open/one-1", "/admin/one-1", "/open/one-2"]
    with rig.tunnel() as agent:
        for target in targets:
            agent.ask(request(H, target))
    rig.egress.wait_for_event(path="/open/one-2")
    events = [event for event in rig.egress.events() if event["metadata"]["path"] in targets]
    assert [event["metadata"]["path"] for event in events] == targets
    assert [event["result"] for event in events] == ["success", "denied", "success"]
    assert len({event["decision_id"] for event in events}) == 3


def test_dns_answers_are_vetted(rig: Rig) -> None:
    # not in the address map, so the name is really resolved: to loopback, or not at all
    rig.apply(DomainRule("local", "*.local.example.com", Action.ALLOW))
    try:
        reply = rig.get("x.local.example.com", "/")
    finally:
        rig.apply()
    assert reply.status in (403, 502)
    assert rig.untouched()


def test_python_http_client(rig: Rig) -> None:
    connection = http.client.HTTPSConnection(
        "127.0.0.1", rig.egress.port, context=rig.context, timeout=10
    )
    connection.set_tunnel(H)
    for number in range(3):
        connection.request("GET", f"/open/{number}", headers={"X-N": str(number)})
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["target"] == f"/open/{number}"
    connection.request("POST", "/open/x", body=iter([b"a" * 1000, b"b"]), encode_chunked=True)
    assert json.loads(connection.getresponse().read())["size"] == 1001
    connection.close()


def test_the_certificate_names_the_host_and_nothing_else(rig: Rig) -> None:
    with rig.tunnel() as agent:
        assert isinstance(agent.sock, ssl.SSLSocket)
        certificate = agent.sock.getpeercert()
    assert certificate is not None
    assert certificate["subjectAltName"] == (("DNS", H),)
