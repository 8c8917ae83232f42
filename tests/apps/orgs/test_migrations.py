"""What a migration makes of rows that are there already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from apps.common import clock, row_security
from apps.orgs.models import Identity, IdentityProvider, Membership, User, UserSession
from tests import factories, tenancy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.factories import World

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]
BEFORE, AFTER = "0005_idempotent_requests", "0006_identity_of_a_provider"


def migrated(name: str) -> Any:
    """The models as they are after this migration."""
    executor = MigrationExecutor(connection)
    executor.migrate([("orgs", name)])
    return MigrationExecutor(connection).loader.project_state([("orgs", name)]).apps


@pytest.fixture
def old(transactional_db: None) -> Iterator[Any]:
    """The models as they were before; afterwards everything is as it was."""
    on_postgresql = connection.vendor == "postgresql"
    if on_postgresql:
        tenancy.sign_in_as("owner")
        with connection.cursor() as cursor:
            cursor.execute("DROP POLICY lens_organization ON orgs_identity")
    try:
        yield migrated(BEFORE)
    finally:
        migrated(AFTER)
        if on_postgresql:
            roles: Any = settings.LENS_DATABASE_ROLES
            row_security.apply(connection, roles)
            tenancy.sign_in_as("default")


def connect(world: World, issuer: str) -> IdentityProvider:
    return IdentityProvider.objects.create(
        org=world.org, name=issuer, issuer=f"https://{issuer}.example", client_id="lens"
    )


def came(user: User, idp: IdentityProvider, subject: str) -> None:
    now = clock.now()
    UserSession.objects.create(
        org=idp.org, user=user, idp=idp, subject=subject, expires_at=now, ended_at=now
    )


def test_an_account_stays_with_the_provider_that_surely_means_it(old: Any) -> None:
    acme, globex = factories.acme(), factories.globex()
    alone, ours, theirs = connect(acme, "one"), connect(acme, "two"), connect(globex, "two")
    ana, sam, *_ = [row.user for row in Membership.objects.filter(org=acme.org)]
    for person in (ana, sam):
        Membership.objects.create(org=globex.org, user=person, role="member", manual_role="member")
    stranger = User.objects.create(email="nobody@example.com")
    when = clock.now()
    for user, issuer, subject in (
        (ana, alone.issuer, "ana"),
        (ana, ours.issuer, "a stranger whom Globex let in as Ana"),
        (sam, ours.issuer, "sam"),
        (stranger, alone.issuer, "gone"),
    ):
        old.get_model("orgs", "Identity").objects.create(
            user_id=user.pk, issuer=issuer, subject=subject, last_login_at=when
        )
    came(ana, theirs, "a stranger whom Globex let in as Ana")
    came(sam, ours, "sam")
    came(sam, theirs, "sam")
    migrated(AFTER)
    assert set(Identity.objects.values_list("org", "idp", "user", "subject", "last_login_at")) == {
        (acme.org.pk, alone.pk, ana.pk, "ana", when),
        (globex.org.pk, theirs.pk, ana.pk, "a stranger whom Globex let in as Ana", when),
        (acme.org.pk, ours.pk, sam.pk, "sam", when),
        (globex.org.pk, theirs.pk, sam.pk, "sam", when),
    }
