"""A person whose account at the provider is another one now is bound anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.test import Client

from apps.audit.models import AuditEvent
from apps.common.errors import Conflict
from apps.orgs import services
from apps.orgs.models import Identity, Membership, UserSession
from apps.orgs.types import SYSTEM
from tests.apps.admin_support import url
from tests.apps.orgs.providers import Tenant, member, signed_in, tenant, twins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.database, pytest.mark.django_db]
ANA, BOSS = "ana@acme.test", "boss@acme.test"


@pytest.fixture
def tenants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tenant]]:
    """Two organizations at one issuer, and Ana in both."""
    for (running,) in twins(tmp_path, monkeypatch, "login.vendor.test"):
        found = [tenant("acme", running), tenant("globex", running)]
        for one in found:
            one.invite(ANA)
        found[0].invite(BOSS, role="admin")
        yield found


def come(at: Tenant, sub: str, email: str = ANA) -> Client:
    at.knows(sub, email)
    browser = Client()
    at.sign_in(browser)
    return browser


def membership(at: Tenant, email: str = ANA) -> Membership:
    return Membership.objects.get(org=at.org, user__email=email)


def test_an_admin_lets_the_new_account_in(tenants: list[Tenant]) -> None:
    acme, globex = tenants
    boss, old, there = come(acme, "boss", BOSS), come(acme, "old"), come(globex, "old")
    assert not signed_in(come(acme, "new"))
    page = url(Membership, "forget", membership(acme).pk)
    assert f"verified address {ANA}" in boss.get(page).content.decode()
    assert boss.post(page).status_code == 302
    assert old.get("/").status_code == 302
    assert there.get("/").status_code == 200
    assert signed_in(come(acme, "new")) == str(member(acme, ANA).pk)
    assert not signed_in(come(acme, "old"))
    event = AuditEvent.objects.get(action="membership.forget_sign_in")
    assert event.principal_name == BOSS
    assert event.metadata["changes"] == {"accounts": [["old"], []]}
    assert event.metadata["sessions_ended"] == 1
    held = Identity.objects.filter(user__email=ANA).values_list("idp", "subject")
    assert set(held) == {(acme.idp.pk, "new"), (globex.idp.pk, "old")}
    assert UserSession.objects.filter(org=globex.org, ended_at=None).exists()


def test_nobody_else_may(tenants: list[Tenant]) -> None:
    acme, _ = tenants
    ana = come(acme, "ana")
    come(acme, "boss", BOSS)
    page = url(Membership, "forget", membership(acme, BOSS).pk)
    assert ana.post(page).status_code in (403, 404)
    assert Identity.objects.filter(idp=acme.idp).count() == 2


def test_the_last_admin_is_not_forgotten(tenants: list[Tenant]) -> None:
    come(tenants[0], "boss", BOSS)
    with pytest.raises(Conflict, match="last admin"):
        services.identity_forget(membership(tenants[0], BOSS), actor=SYSTEM)


def test_there_must_be_something_to_forget(tenants: list[Tenant]) -> None:
    boss = come(tenants[0], "boss", BOSS)
    row = membership(tenants[0])
    page = boss.get(url(Membership, "change", row.pk)).content.decode()
    assert "Forget sign-in" not in page
    with pytest.raises(Conflict, match="nothing to forget"):
        services.identity_forget(row, actor=SYSTEM)
