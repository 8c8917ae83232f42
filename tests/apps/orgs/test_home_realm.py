"""Domains, and how an e-mail address finds its provider."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest
from django.core.cache import cache
from django.test import Client

from apps.audit.models import AuditEvent
from apps.common.errors import Conflict, Denied, Invalid, NotFound, Upstream
from apps.orgs import dns_proof, services
from apps.orgs.models import EmailDomain, Identity
from apps.orgs.services.domains import domain_name, record_name, record_value
from apps.orgs.types import SYSTEM
from tests import factories
from tests.apps.orgs.providers import Tenant, signed_in, tenant, twins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.database, pytest.mark.django_db]
ANA = "ana@acme.test"


class NameServer:
    """A real name server for TXT records on a free port of loopback."""

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        self.broken = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            wire, address = self._socket.recvfrom(4096)
            if wire == b"stop":
                return
            asked = dns.message.from_wire(wire)
            answer = dns.message.make_response(asked)
            name = asked.question[0].name
            texts = self.records.get(name.to_text(omit_final_dot=True))
            if self.broken:
                answer.set_rcode(dns.rcode.SERVFAIL)
            elif texts is None:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            else:
                quoted = [f'"{text}"' for text in texts]
                answer.answer.append(dns.rrset.from_text_list(name, 60, "IN", "TXT", quoted))
            self._socket.sendto(answer.to_wire(), address)

    def stop(self) -> None:
        self._socket.sendto(b"stop", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._socket.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], server.port
    monkeypatch.setattr(dns_proof, "_resolver", lambda: resolver)
    monkeypatch.setattr(dns_proof, "SECONDS", 1.0)
    yield server
    server.stop()


@pytest.fixture
def tenants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tenant]]:
    for running in twins(tmp_path, monkeypatch, "login.acme.test", "login.globex.test"):
        yield [tenant("acme", running[0]), tenant("globex", running[1])]


def claim(of: Tenant, domain: str, *, verified: bool = True) -> EmailDomain:
    row = services.domain_create(of.idp, domain=domain, actor=SYSTEM)
    return services.domain_mark(row, reason="a test", actor=SYSTEM) if verified else row


# ---- the proof


def test_record_proves_a_domain(tenants: list[Tenant], names: NameServer) -> None:
    row = claim(tenants[0], "Acme.Test", verified=False)
    assert (row.domain, row.verified_at) == ("acme.test", None)
    names.records[record_name(row)] = ["something else", record_value(row)]
    row = services.domain_verify(row, actor=SYSTEM)
    assert row.verified_by == "dns"
    event = AuditEvent.objects.get(action="domain.verify")
    assert event.org_id == tenants[0].org.pk


@pytest.mark.parametrize("found", [None, [], ["lens-agents-verify="], ["x" * 200]])
def test_absent_or_other_record_proves_nothing(
    tenants: list[Tenant], names: NameServer, found: list[str] | None
) -> None:
    row = claim(tenants[0], "acme.test", verified=False)
    if found:
        names.records[record_name(row)] = found
    with pytest.raises(Invalid, match="TXT record") as refused:
        services.domain_verify(row, actor=SYSTEM)
    assert refused.value.field == "domain"
    assert not EmailDomain.objects.filter(verified_at__isnull=False).exists()


def test_record_of_another_claim_proves_nothing(tenants: list[Tenant], names: NameServer) -> None:
    """Two organizations claim one domain: each has a challenge of its own."""
    ours, theirs = (claim(one, "acme.test", verified=False) for one in tenants)
    names.records[record_name(ours)] = [record_value(ours)]
    with pytest.raises(Invalid):
        services.domain_verify(theirs, actor=SYSTEM)
    services.domain_verify(ours, actor=SYSTEM)
    names.records[record_name(ours)] = [record_value(ours), record_value(theirs)]
    with pytest.raises(Conflict, match="Another organization"):
        services.domain_verify(theirs, actor=SYSTEM)


def test_name_server_that_fails_is_no_proof(tenants: list[Tenant], names: NameServer) -> None:
    row = claim(tenants[0], "acme.test", verified=False)
    names.broken = True
    with pytest.raises(Upstream, match="do not answer"):
        services.domain_verify(row, actor=SYSTEM)


@pytest.mark.parametrize(
    "text", ["", "acme", "acme..com", "-a.com", "127.0.0.1", "a b.com", "acme.com/x", "x" * 300]
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        domain_name(text)
    assert refused.value.field == "domain"


def test_domains_are_compared_as_dns_does() -> None:
    assert domain_name(" BÜCHER.example. ") == "xn--bcher-kva.example"


def test_only_the_operator_marks_and_only_admins_verify(names: NameServer) -> None:
    world, stranger = factories.acme(), factories.globex()
    idp = services.idp_create(
        world.org,
        name="SSO",
        issuer="https://sso.example.com",
        client_id="lens",
        secret="x",
        actor=world.admin,
    )
    row = services.domain_create(idp, domain="acme.example", actor=world.admin)
    with pytest.raises(Denied):
        services.domain_mark(row, reason="I say so", actor=world.admin)
    with pytest.raises(Denied):
        services.domain_verify(row, actor=world.auditor)
    with pytest.raises(NotFound):
        services.domain_verify(row, actor=stranger.admin)


# ---- finding the provider


def ask(client: Client, email: str, **more: str) -> str:
    cache.clear()
    return client.post("/login/", {"email": email, **more}).content.decode()


def test_address_leads_to_its_provider(tenants: list[Tenant], client: Client) -> None:
    claim(tenants[0], "acme.test")
    page = ask(client, "Somebody.New@ACME.test", next="/?page=1")
    assert "Sign in with acme login" in page
    assert "?next=/%3Fpage%3D1" in page or "?next=%2F%3Fpage%3D1" in page
    assert "globex" not in page
    url = client.get(f"/oidc/start/{tenants[0].idp.pk}/").headers["Location"]
    assert "login_hint=Somebody.New%40ACME.test" in url


def test_unknown_address_gets_one_page_whatever_it_is(
    tenants: list[Tenant], client: Client
) -> None:
    """Not the domain, not the person, not an unverified claim changes a word of it."""
    tenants[0].invite(ANA)
    claim(tenants[1], "acme.test", verified=False)
    plain = [
        ask(Client(), email).replace(email, "").partition("<form")[0]
        for email in (ANA, "nobody@acme.test", "x@nowhere.test", "no-address", "a@b@c")
    ]
    assert "No sign-in is connected for this address" in plain[0]
    assert len(set(plain)) == 1
    assert "acme login" not in plain[0]


def test_same_page_for_every_person_of_a_domain(tenants: list[Tenant]) -> None:
    tenants[0].invite(ANA)
    claim(tenants[0], "acme.test")
    pages = {ask(Client(), email).partition("<form")[0] for email in (ANA, "x@acme.test")}
    assert len(pages) == 1


def test_provider_out_of_use_is_not_offered(tenants: list[Tenant], client: Client) -> None:
    claim(tenants[0], "acme.test")
    services.idp_disable(tenants[0].idp, actor=SYSTEM)
    assert "acme login" not in ask(client, ANA)


# ---- who may vouch for whom


def test_address_of_another_domain_is_refused(tenants: list[Tenant], client: Client) -> None:
    acme = tenants[0]
    claim(acme, "acme.test")
    acme.invite("guest@elsewhere.test")
    acme.knows("guest-sub", "guest@elsewhere.test")
    assert acme.sign_in(client).status_code == 403
    assert not signed_in(client)
    assert not Identity.objects.exists()


def test_address_of_a_domain_that_another_verified_is_refused(
    tenants: list[Tenant], client: Client
) -> None:
    """Globex has invited Ana's address and its provider says that it is she; the domain is not."""
    acme, globex = tenants
    claim(acme, "acme.test")
    globex.invite(ANA)
    globex.knows("evil-sub", ANA)
    assert globex.sign_in(client).status_code == 403
    assert not Identity.objects.exists()


@pytest.mark.parametrize(
    "email",
    [
        "ana@acme.test@evil.test",
        "ana@acme.test.evil.test",
        "ana@evil.test\n@acme.test",
        "ana@\u0430cme.test",
        "ana@sub.acme.test",
        "acme.test",
    ],
)
def test_address_that_only_looks_right_is_refused(
    tenants: list[Tenant], client: Client, email: str
) -> None:
    acme = tenants[0]
    claim(acme, "acme.test")
    acme.invite(ANA)
    acme.knows("ana-sub", email)
    assert acme.sign_in(client).status_code == 403
    assert not Identity.objects.exists()


def test_bound_account_that_leaves_the_domain_is_refused(
    tenants: list[Tenant], client: Client
) -> None:
    acme = tenants[0]
    claim(acme, "acme.test")
    acme.invite(ANA)
    acme.knows("ana-sub", ANA)
    acme.sign_in(client)
    assert signed_in(client)
    acme.knows("ana-sub", "ana@elsewhere.test")
    assert acme.sign_in(Client()).status_code == 403


def test_domain_moves_with_its_people(tenants: list[Tenant], client: Client) -> None:
    acme, globex = tenants
    row = claim(acme, "acme.test")
    with pytest.raises(Invalid):
        services.domain_move(row, idp=globex.idp, actor=SYSTEM)
    services.domain_delete(row, actor=SYSTEM)
    assert "acme login" not in ask(client, ANA)
