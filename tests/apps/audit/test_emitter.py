"""The process-wide spool, and events built from who acts."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings

from apps.audit import emitter
from apps.audit.models import AuditEvent
from apps.audit.writer import AuditWriter
from apps.orgs.models import Organization
from apps.orgs.types import Principal, PrincipalKind, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def spool_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A spool of this test's own."""
    monkeypatch.setattr(settings, "SPOOL_DIR", tmp_path)
    monkeypatch.setattr(emitter, "_spool", None)
    yield tmp_path
    emitter.spool().close()


@pytest.mark.django_db
@pytest.mark.database
def test_what_a_principal_did_is_stored_under_its_names(spool_dir: Path) -> None:
    org = Organization.objects.create(slug="acme", name="Acme Corp")
    principal = Principal(
        kind=PrincipalKind.SUBAGENT,
        id=uuid.uuid4(),
        name="triage",
        org_id=org.pk,
        org_slug="acme",
        team_id=uuid.uuid4(),
        team_slug="sre",
        tier=Tier.SUBAGENT,
        token_id=uuid.uuid4(),
        on_behalf_of="ada@acme.test",
        chain=("planner",),
    )
    project: Any = SimpleNamespace(id=uuid.uuid4(), slug="production")
    emitter.emit(
        emitter.event_of(
            principal,
            surface="mcp_tool",
            action="tool.call",
            result="success",
            project=project,
            resource_id="shell_exec",
            duration_ms=12.5,
        )
    )
    AuditWriter(spool_dir).step()
    row = AuditEvent.objects.get()
    assert row.org_id == org.pk
    assert (row.team_id, row.team_slug) == (principal.team_id, "sre")
    assert (row.project_id, row.project_slug) == (project.id, "production")
    assert (row.principal_kind, row.principal_name, row.tier) == ("subagent", "triage", "subagent")
    assert (row.on_behalf_of, row.chain) == ("ada@acme.test", ["planner"])


def test_one_spool_a_process(spool_dir: Path) -> None:
    assert emitter.spool() is emitter.spool()
    assert (
        emitter.event_of(None, surface="authentication", action="token.refuse", result="denied")[
            "org"
        ]
        is None
    )
