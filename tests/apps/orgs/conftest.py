"""A development identity provider and a server, and a browser that talks to both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.core.cache import cache

from apps.orgs.devidp import DevIdp
from tests.apps.orgs.browser import Browser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_django.live_server_helper import LiveServer


@pytest.fixture
def dev_idp(tmp_path: Path) -> Iterator[DevIdp]:
    """The real provider on a free port of loopback."""
    cache.clear()
    provider = DevIdp(tmp_path, bind="127.0.0.1", loopback=True)
    provider.start()
    yield provider
    provider.stop()


@pytest.fixture
def browser(live_server: LiveServer) -> Iterator[Browser]:
    """A browser on the live server, whose brakes have counted nothing yet."""
    cache.clear()
    with Browser(live_server.url) as found:
        yield found
