"""A world with an agent, and sandboxd's twin where the settings expect the real one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.conf import settings

from apps.orgs.authentication import authenticate
from tests import factories
from tests.twins.sandboxd import SandboxdTwin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps.orgs.types import Principal
    from tests.factories import World


@pytest.fixture
def world(db: None) -> World:
    return factories.acme()


@pytest.fixture
def principal(world: World) -> Principal:
    """Acme's agent, as its token authenticates."""
    return authenticate(world.minted.value)


@pytest.fixture
def sandboxd(tmp_path: Path) -> Iterator[SandboxdTwin]:
    socket_path = Path(settings.DATA_DIR) / "run" / "sandboxd.sock"
    socket_path.parent.mkdir(parents=True, exist_ok=True)
    with SandboxdTwin(socket_path, tmp_path / "boxes") as twin:
        yield twin
