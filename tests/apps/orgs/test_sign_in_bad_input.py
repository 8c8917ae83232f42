"""What providers and strangers send that nobody meant: a page that says so, and nobody comes in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from apps.common import rows
from apps.common.errors import Conflict, Invalid
from apps.orgs import revision, services
from apps.orgs.models import Identity, Membership, Organization, User
from apps.orgs.oidc.logout import EVENT
from apps.orgs.services.domains import plain_address
from apps.orgs.types import SYSTEM
from tests.apps.orgs.providers import Tenant, signed_in, tenant, twins
from tests.twins.idp import CLIENT_ID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from django.test import Client

    from apps.common.tenancy import Row

pytestmark = [pytest.mark.database, pytest.mark.django_db]
ANA = "ana@acme.test"


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tenant]:
    for running in twins(tmp_path, monkeypatch, "login.acme.test"):
        found = tenant("acme", running[0])
        found.invite(ANA, role="admin")
        found.knows("ana-sub", ANA)
        yield found


@pytest.fixture
def by_group(acme: Tenant) -> Tenant:
    """Whoever is in the group comes in, known or not."""
    claimed = services.domain_create(acme.idp, domain="acme.test", actor=SYSTEM)
    services.domain_mark(claimed, reason="it is theirs", actor=SYSTEM)
    services.mapping_create(acme.idp, group="devs", actor=SYSTEM)
    services.idp_update(acme.idp, group_claim="groups", actor=SYSTEM)
    return acme


# ---- addresses

UNUSABLE = (
    "a b@acme.test",
    "@acme.test",
    "x@y@acme.test",
    f"{'x' * 250}@acme.test",
    "<b>@acme.test",
    "x@acme.test.",
    "a\0b@acme.test",
    "a\ud800@acme.test",
    '"a\x01"@acme.test',
)


@pytest.mark.parametrize("email", UNUSABLE, ids=ascii)
def test_address_that_is_none_is_refused(by_group: Tenant, client: Client, email: str) -> None:
    by_group.knows("new", email, groups=["devs"])
    before = User.objects.count()
    page = by_group.sign_in(client)
    assert page.status_code == 403
    assert b"cannot be used here" in page.content
    assert User.objects.count() == before


@pytest.mark.parametrize(
    "email", ["m\u0131ke@acme.test", "mike@g\u0131thub.test", "bo\u017fs@acme.test"]
)
def test_letters_that_look_alike_are_nobody_else(acme: Tenant, client: Client, email: str) -> None:
    """PostgreSQL compares in upper case, where a dotless i is an i and a long s an s."""
    acme.invite("mike@acme.test")
    acme.invite("mike@github.test")
    acme.invite("boss@acme.test")
    acme.knows("evil-sub", email)
    assert acme.sign_in(client).status_code == 403
    assert not signed_in(client)
    assert not Identity.objects.exists()


def test_addresses_are_kept_in_one_form(acme: Tenant) -> None:
    assert plain_address(" Ana@bücher.test ") == "Ana@xn--bcher-kva.test"
    assert acme.invite("Ana@bücher.test").user.email == "ana@xn--bcher-kva.test"
    with pytest.raises(Invalid):
        acme.invite("m\u0131ke@acme.test")
    with pytest.raises(Invalid):
        services.invitation_create(acme.org, email="m\u0131ke@acme.test", actor=SYSTEM)


# ---- at the same moment


@pytest.mark.parametrize("kind", [User, Membership, Identity])
def test_who_is_overtaken_gets_a_page_and_leaves_nothing_behind(
    by_group: Tenant, client: Client, monkeypatch: pytest.MonkeyPatch, kind: type[Row]
) -> None:
    """Two first sign-ins of one person: the database refuses the slower one's row."""
    insert = rows.insert

    def overtaken(row: Row, *, taken: str) -> Row:
        if isinstance(row, kind):
            raise Conflict(taken)
        return insert(row, taken=taken)

    monkeypatch.setattr(rows, "insert", overtaken)
    by_group.knows("new", "new@acme.test", groups=["devs"])
    page = by_group.sign_in(client)
    assert page.status_code == 403
    assert b"could not be completed" in page.content
    assert not signed_in(client)
    assert not User.objects.filter(email="new@acme.test").exists()
    assert not Identity.objects.exists()


def test_provider_taken_out_of_use_brings_nobody_in_who_was_under_way(
    acme: Tenant, client: Client
) -> None:
    url = acme.twin.authorize(acme.leave(client))
    services.idp_disable(acme.idp, actor=SYSTEM)
    assert acme.arrive(client, url).status_code == 403
    assert not Identity.objects.exists()


@pytest.mark.parametrize("way", ["sign in", "invite", "make a team", "change a team"])
def test_organization_is_locked_before_the_revision_is_bumped(
    acme: Tenant, client: Client, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The other way round, two changes of one organization wait for each other for ever."""
    invited = services.invitation_create(acme.org, email="guest@acme.test", actor=SYSTEM)
    client.post("/invitation/open/", {"token": invited.token})
    acme.knows("guest-sub", "guest@acme.test")
    team = services.team_create(acme.org, slug="sre", name="SRE", actor=SYSTEM)
    order: list[str] = []
    lock, bump = Organization.objects.select_for_update, revision.bump

    def locking(**more: Any) -> Any:
        order.append("organization")
        return lock(**more)

    def bumping() -> None:
        order.append("revision")
        bump()

    monkeypatch.setattr(Organization.objects, "select_for_update", locking)
    monkeypatch.setattr(revision, "bump", bumping)
    if way == "sign in":
        acme.sign_in(client)
        assert signed_in(client)
    elif way == "invite":
        acme.invite("other@acme.test")
    elif way == "make a team":
        services.team_create(acme.org, slug="new", name="New", actor=SYSTEM)
    else:
        services.team_update(team, name="Reliability", actor=SYSTEM)
    assert order[0] == "organization"
    assert "revision" in order


# ---- text that no database keeps

STRANGE = ("a\0b", "a\ud800")
CLAIMS = ("sub", "nonce", "at_hash", "azp", "iss", "aud")


@pytest.mark.parametrize("text", STRANGE, ids=ascii)
@pytest.mark.parametrize("claim", CLAIMS)
def test_strange_text_in_a_token_is_refused(
    acme: Tenant, client: Client, claim: str, text: str
) -> None:
    acme.twin.claims = {claim: text}
    assert acme.sign_in(client).status_code == 403
    assert not Identity.objects.exists()


@pytest.mark.parametrize("text", STRANGE, ids=ascii)
def test_strange_text_that_is_not_needed_is_left_out(
    acme: Tenant, client: Client, text: str
) -> None:
    acme.twin.claims = {"sid": text, "name": text}
    acme.sign_in(client)
    assert signed_in(client)


@pytest.mark.parametrize("token", ["\u00e9", "\ud800", "a\nb", "a\0b"], ids=ascii)
def test_access_token_that_no_header_carries_is_refused(
    acme: Tenant, client: Client, token: str
) -> None:
    acme.twin.claims = {"email": None, "at_hash": None}
    acme.twin.token_reply = {"access_token": token}
    assert acme.sign_in(client).status_code == 403


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "sid", "jti", "iat"])
@pytest.mark.parametrize("value", [*STRANGE, "123", ["\ud800"]], ids=ascii)
def test_strange_logout_token_is_refused(
    acme: Tenant, client: Client, claim: str, value: object
) -> None:
    """Anybody may send one; `iss` and `aud` are looked at before the signature."""
    honest = {"iss": acme.twin.issuer, "aud": CLIENT_ID, "iat": int(time.time()), "jti": "1"}
    token = acme.twin.sign({**honest, "events": {EVENT: {}}, "sub": "x", claim: value})
    answer = client.post("/oidc/logout/", {"logout_token": token})
    assert answer.status_code == (200 if value == "123" and claim in ("sub", "sid", "jti") else 400)


@pytest.mark.parametrize("name", ["a%00b", "%00", "a%ED%A0%80b"])
def test_strange_short_name_is_unknown(acme: Tenant, client: Client, name: str) -> None:
    page = client.get(f"/login/?organization={name}")
    assert page.status_code == 200
    assert b"There is no sign-in for" in page.content
