"""What all tests share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from django.db import connections
from hypothesis import settings

from tests import tenancy

if TYPE_CHECKING:
    from collections.abc import Iterator

# A deadline for one example measures the machine's other tenants, not our code. Where a change is
# judged, its judgement can be repeated; everywhere else each run looks for other examples.
settings.register_profile("lens", deadline=None, derandomize=os.environ.get("CI") == "true")  # noqa: TID251  the test run's own switch
settings.load_profile("lens")
tenancy.begin()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """On PostgreSQL the owner makes the test database."""
    if connections["default"].vendor == "postgresql":
        tenancy.sign_in_as("owner")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> Iterator[None]:
    """On PostgreSQL the tests then run as the application's role."""
    if connections["default"].vendor != "postgresql":
        yield
        return
    tenancy.sign_in_as("default")
    yield
    tenancy.sign_in_as("owner")
