"""Sandbox tokens `lnsb_…`: they live as long as their sandbox and speak for its principal, capped.

A sandbox is never more than a project member, in the one project it was made for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.common.lookups import TEXT, LookUp
from apps.common.tenancy import scope
from apps.orgs.authentication import Holder, token_kinds
from apps.orgs.refusals import Refusal
from apps.orgs.types import Grant, Principal, PrincipalKind, Tier
from apps.sandboxes.models import LIVE_STATES, Sandbox

if TYPE_CHECKING:
    import datetime as dt
    import uuid

PREFIX = "lnsb"


OWNER = LookUp(
    "sandbox_token",
    "SELECT org_id FROM sandboxes_sandbox WHERE token_hash = %s AND token_hash <> ''",
    takes=(TEXT,),
)


@token_kinds.register(PREFIX)
class SandboxTokens:
    """The kind of token that each sandbox's proxy holds. The agent inside never sees it."""

    @staticmethod
    def find(digest: str) -> Holder | Refusal | None:
        """Whose sandbox it is; a stopped sandbox has forgotten its token's hash."""
        org_id = OWNER.id(digest)
        if org_id is None:
            return None
        with scope(org_id):
            return SandboxTokens._find(digest)

    @staticmethod
    def _find(digest: str) -> Holder | Refusal | None:
        rows = Sandbox.objects.select_related("org", "team", "project", "agent")
        row = rows.filter(token_hash=digest).exclude(token_hash="").first()
        if row is None:
            return None
        who = audit_columns(row)
        problem = SandboxTokens.problem(row)
        if problem:
            return Refusal(*problem, who)
        return Holder(principal=principal_of(row), who=who)

    @staticmethod
    def used(token_id: uuid.UUID, at: dt.datetime) -> None:
        """Nothing to write: tool calls say when a sandbox was used."""

    @staticmethod
    def problem(row: Sandbox) -> tuple[str, str] | None:
        """(code, sentence) of why this sandbox may do nothing any more."""
        if row.state not in LIVE_STATES:
            return "token_sandbox_over", "The sandbox of this token is over."
        if row.org.closed_at is not None:
            return "token_organization_closed", "The organization of this token was closed."
        if row.team.deleted_at is not None:
            return "token_team_gone", "The team of this token was deleted."
        if row.principal_kind == PrincipalKind.AGENT and row.agent is None:
            return "token_agent_gone", "The agent of this token was deleted."
        if row.agent is not None and row.agent.disabled_at is not None:
            return "token_agent_disabled", "The agent of this token is disabled."
        return None


def principal_of(row: Sandbox) -> Principal:
    """The sandbox as a principal: its own kind, its one project, the role of a member."""
    return Principal(
        kind=PrincipalKind.SANDBOX,
        id=row.pk,
        name=row.principal_name,
        org_id=row.org_id,
        org_slug=row.org.slug,
        team_id=row.team_id,
        team_slug=row.team.slug,
        tier=Tier.API,
        token_id=row.pk,
        grants=(Grant(row.project_id, row.project.slug, "member"),),
        on_behalf_of=row.on_behalf_of,
        chain=(row.principal_name,),
    )


def audit_columns(row: Sandbox) -> dict[str, str | None]:
    """What the audit trail says of a sandbox's owner and place."""
    return {
        "org": str(row.org_id),
        "org_slug": row.org.slug,
        "team": str(row.team_id),
        "team_slug": row.team.slug,
        "project": str(row.project_id),
        "project_slug": row.project.slug,
        "principal_kind": row.principal_kind,
        "principal_id": row.principal_id,
        "principal_name": row.principal_name,
        "on_behalf_of": row.on_behalf_of,
    }
