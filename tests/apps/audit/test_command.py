"""`manage.py audit_writer`: stores, and ends in order when asked to."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest
from django.conf import settings
from django.core.management import call_command

from apps.audit.models import AuditEvent
from apps.audit.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_own_signals")
def test_sigterm_ends_it_after_what_was_spooled_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "SPOOL_DIR", tmp_path)
    spool = Spool(tmp_path / "control")

    def emit_and_end() -> None:
        spool.emit(
            {
                "org": None,
                "surface": "authentication",
                "action": "token.refuse",
                "result": "denied",
            }
        )
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(0.5, emit_and_end)
    timer.start()
    call_command("audit_writer")
    timer.join(5)
    assert AuditEvent.objects.get().action == "token.refuse"
