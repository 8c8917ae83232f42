"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# A deadline for one example measures the machine's other tenants, not our code.
settings.register_profile("lens", deadline=None)
settings.load_profile("lens")
