"""Whose trail a sandbox's proxy may write into."""

from __future__ import annotations

import pytest

from apps.audit import sources
from apps.common.ids import uuid7
from apps.sandboxes.models import Sandbox
from apps.sandboxes.spools import organization_of
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_a_folder_belongs_to_the_organization_of_its_sandbox() -> None:
    acme, _ = factories.acme(), factories.globex()
    sandbox = Sandbox.objects.create(
        org=acme.org,
        key="k",
        principal_kind="agent",
        principal_id=str(uuid7()),
        principal_name="triage",
        team=acme.team,
        project=acme.project,
    )
    assert organization_of(sandbox.pk) == acme.org.pk
    assert organization_of(uuid7()) is None


def test_the_audit_writer_asks_us() -> None:
    assert sources.resolver() is organization_of
