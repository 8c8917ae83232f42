"""Refusals reach the trail as rows, and a flood of them does not fill it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.agents.services import token_revoke
from apps.audit.models import AuditEvent
from apps.audit.writer import AuditWriter
from apps.common import ids
from apps.common.errors import LensError, Unauthenticated
from apps.orgs import refusals
from apps.orgs.access import require
from apps.orgs.authentication import authenticate
from apps.orgs.refusals import BURST, EVERY_SECONDS, REMEMBERED, Damper, Refusal, token_refused
from tests import factories
from tests.spooled import spooled

if TYPE_CHECKING:
    from pathlib import Path

    from tests.factories import World


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestDamper:
    """A burst, then one in a while that says how many it stands for."""

    def test_a_burst_passes_and_the_rest_is_counted(self, clock: Clock) -> None:
        damper = Damper(clock)
        assert [damper.admit("key") for _ in range(BURST)] == [0] * BURST
        assert [damper.admit("key") for _ in range(7)] == [None] * 7
        clock.now += EVERY_SECONDS
        assert damper.admit("key") == 7
        assert damper.admit("key") is None

    def test_after_a_pause_a_burst_passes_again(self, clock: Clock) -> None:
        damper = Damper(clock)
        for _ in range(BURST * 2):
            damper.admit("key")
        clock.now += EVERY_SECONDS * BURST * 10
        assert damper.admit("key") == BURST
        assert [damper.admit("key") for _ in range(BURST - 1)] == [0] * (BURST - 1)
        assert damper.admit("key") is None

    def test_keys_do_not_share(self, clock: Clock) -> None:
        damper = Damper(clock)
        for _ in range(BURST + 1):
            damper.admit("loud")
        assert damper.admit("quiet") == 0

    def test_it_remembers_a_bounded_number_of_keys(self, clock: Clock) -> None:
        damper = Damper(clock)
        for number in range(REMEMBERED + 100):
            damper.admit(str(number))
        assert len(damper._keys) == REMEMBERED

    @given(waits=st.lists(st.floats(0, 5), max_size=300))
    def test_nothing_is_forgotten(self, waits: list[float]) -> None:
        """Admitted ones and the numbers they tell of add up, but for those still held back."""
        clock = Clock()
        damper = Damper(clock)
        told = held = 0
        for wait in waits:
            clock.now += wait
            before = damper.admit("key")
            held = held + 1 if before is None else 0
            told += 0 if before is None else before + 1
        assert told + held == len(waits)


@pytest.mark.django_db
@pytest.mark.database
class TestRows:
    """Through the spool and the writer, as in an installation."""

    @pytest.fixture
    def acme(self) -> World:
        return factories.acme()

    def stored(self, root: Path) -> list[AuditEvent]:
        writer = AuditWriter(root)
        before = set(AuditEvent.objects.values_list("pk", flat=True))
        while writer.step():
            pass
        return list(AuditEvent.objects.exclude(pk__in=before))

    def test_a_known_token(self, acme: World, tmp_path: Path) -> None:
        token_revoke(acme.minted.token, actor=acme.admin)
        with spooled(tmp_path / "control"), pytest.raises(Unauthenticated):
            authenticate(acme.minted.value)
        (row,) = self.stored(tmp_path)
        assert (row.org_id, row.team_id, row.team_slug) == (acme.org.pk, acme.team.pk, "sre")
        assert (row.principal_kind, row.principal_id) == ("agent", str(acme.agent.pk))
        assert (row.action, row.result, row.status) == ("token.refuse", "denied", 401)
        assert (row.resource_type, row.resource_id) == ("token", str(acme.minted.token.pk))
        assert row.metadata["code"] == "token_revoked"
        assert row.reason == "This token was revoked."

    def test_an_unknown_token(self, tmp_path: Path) -> None:
        with spooled(tmp_path / "control"), pytest.raises(Unauthenticated):
            authenticate(ids.token("lns"))
        (row,) = self.stored(tmp_path)
        assert (row.org_id, row.principal_id, row.action) == (None, "", "token.refuse")

    def test_a_denied_change(self, acme: World, tmp_path: Path) -> None:
        with spooled(tmp_path / "control"), pytest.raises(LensError):
            require(acme.auditor, "team.delete", acme.team)
        (row,) = self.stored(tmp_path)
        assert (row.org_id, row.principal_name) == (acme.org.pk, acme.auditor.name)
        assert (row.surface, row.action) == ("admin_change", "access.refuse")
        assert row.metadata["verb"] == "team.delete"

    def test_a_flood_leaves_a_burst_and_a_count(
        self, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(refusals, "_damper", Damper(clock))
        unknown = Refusal("token_unknown", "This token is not known.")
        with spooled(tmp_path / "control") as events:
            for number in range(BURST * 20):
                token_refused(unknown, f"{number:064x}")
            clock.now += EVERY_SECONDS
            token_refused(unknown, "f" * 64)
        assert len(events) == BURST + 1
        assert events[-1]["metadata"]["more_like_this"] == BURST * 19
        assert len(self.stored(tmp_path)) == BURST + 1
