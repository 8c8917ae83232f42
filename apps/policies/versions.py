"""The versions of a policy: listed, and compared with each other or with a document in hand.

A version is kept as long as its policy. Deleting the policy deletes its versions; its last document
stays in the audit event of the deletion.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.common.errors import NotFound
from apps.orgs.access import require
from apps.policies.core.diffs import Change, changes, text_diff
from apps.policies.documents import document_of, obj_lines
from apps.policies.documents_io import to_obj
from apps.policies.models import PolicyVersion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django.db.models import QuerySet

    from apps.orgs.types import Actor
    from apps.policies.models import Policy


@dataclass(frozen=True, slots=True)
class Diff:
    """`text` is for people: one rule a line, unified. What it shows may be hostile."""

    old: str
    new: str
    changes: tuple[Change, ...]
    text: str

    @property
    def summary(self) -> str:
        """“1 added, 2 moved”."""
        counted = Counter(change.op for change in self.changes)
        return ", ".join(f"{number} {op}" for op, number in sorted(counted.items()))

    @property
    def moves(self) -> list[str]:
        """What a diff as text shows badly: rules that changed their place only."""
        return [
            f"{change.section}: rule {change.before} is now rule {change.after}"
            for change in self.changes
            if change.op == "moved"
        ]

    def as_obj(self) -> dict[str, Any]:
        """For an API."""
        return {
            "old": self.old,
            "new": self.new,
            "changes": [change.as_obj() for change in self.changes],
            "text": self.text,
        }


def versions_of(policy: Policy, *, actor: Actor) -> QuerySet[PolicyVersion]:
    """The newest first. For those who may view the policy."""
    require(actor, "policy.view", policy)
    return PolicyVersion.objects.filter(org=policy.org_id, policy=policy)


def policy_diff(
    policy: Policy,
    *,
    old: int | Mapping[str, Any] | None = None,
    new: int | Mapping[str, Any] | None = None,
    actor: Actor,
) -> Diff:
    """Compare two versions by number, or plain documents; None = what is saved now.

    Raises NotFound for a version that was not kept.
    """
    require(actor, "policy.view", policy)
    first, first_name = _document(policy, old)
    second, second_name = _document(policy, new)
    return Diff(
        first_name,
        second_name,
        tuple(changes(first, second)),
        text_diff(obj_lines(first), obj_lines(second), (first_name, second_name)),
    )


def _document(policy: Policy, wanted: int | Mapping[str, Any] | None) -> tuple[Any, str]:
    if wanted is None or wanted == policy.version:
        return to_obj(document_of(policy), ids=True), f"version {policy.version}"
    if not isinstance(wanted, int):
        return wanted, "the draft"
    found = PolicyVersion.objects.filter(org=policy.org_id, policy=policy, number=wanted).first()
    if found is None:
        raise NotFound("There is no such version.")
    return found.document, f"version {wanted}"
