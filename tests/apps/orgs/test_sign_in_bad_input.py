"""What providers and strangers send that nobody meant: a page that says so, and nobody comes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apps.common.errors import Invalid
from apps.orgs import services
from apps.orgs.models import Identity, User
from apps.orgs.services.domains import plain_address
from apps.orgs.types import SYSTEM
from tests.apps.orgs.providers import Tenant, signed_in, tenant, twins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from django.test import Client

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
