"""The three database roles, as settings know them; imports no Django."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SYSTEM_ALIAS: Final = "system"
OWNER_ALIAS: Final = "owner"
# Set on the owner's connection: its policy lets it see rows only while it says so.
EVERYTHING: Final = "lens.everything"


@dataclass(frozen=True, slots=True)
class Roles:
    """Who migrates, who serves requests, who works on all organizations."""

    owner: str
    application: str
    system: str
