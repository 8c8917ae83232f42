"""Audit's own actions: what the trail says about itself."""

from __future__ import annotations

from enum import StrEnum

from apps.audit.actions import actions


@actions
class AuditAction(StrEnum):
    """`gap`: events are missing, with their count."""

    GAP = "audit.gap"
