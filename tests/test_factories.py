"""The worlds of the tests: whichever is built first, both stand beside each other."""

from __future__ import annotations

import pytest
from django.db import transaction

from apps.connections.models import Credential
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.database]


def test_worlds_that_were_built_alone_stand_beside_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which test builds a world first is chance: each was numbered from its own beginning."""
    monkeypatch.setattr(factories, "_built", {})
    for build in (factories.acme, factories.globex):
        with transaction.atomic():
            build()
            transaction.set_rollback(True)
    for world in (factories.acme(), factories.globex()):
        credential = Credential.objects.get(pk=world.credential.pk)
        assert list(credential.allowed_teams.all()) == [world.team]
