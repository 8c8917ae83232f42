"""What counts as the id of a decision."""

from __future__ import annotations

import pytest

from apps.common.ids import uuid7
from apps.mcp.core.decisions import is_decision


def test_ids_of_the_platform_count() -> None:
    assert is_decision(str(uuid7()))


DECISION = "01a1fc4f-4561-7141-b0e9-da883c979dea"


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "",
        "unknown",
        "d" * 65,
        f"{{{DECISION}}}",
        DECISION.replace("-", ""),
        DECISION.upper(),
    ],
)
def test_nothing_else_does(value: object) -> None:
    assert not is_decision(value)
