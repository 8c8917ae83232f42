"""Documents looked at without being saved: checked, and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apps.common.errors import Invalid
from apps.orgs.access import require
from apps.policies.documents import document_of
from apps.policies.documents_io import from_obj
from apps.policies.models import Policy
from apps.policies.review import Finding, Review, review

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apps.orgs.models import Organization
    from apps.orgs.types import Actor


def policy_validate(org: Organization, *, document: Mapping[str, Any], actor: Actor) -> Review:
    """What saving this plain document would say. For those who could save it.

    What is wrong with the document is in the review, not raised.
    """
    require(actor, "policy.create", org)
    try:
        read = from_obj(org, document)
    except Invalid as problem:
        return Review(problems=(Finding(problem.field, problem.message),))
    saved = Policy.objects.filter(org=org, kind=read.kind, team=read.team, agent=read.agent).first()
    return review(org, read, document_of(saved) if saved else None)
