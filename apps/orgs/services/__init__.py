"""Every change of who exists and who may do what. One call = one transaction = one audit event."""

from apps.orgs.services.grants import grant_remove, grant_set
from apps.orgs.services.memberships import membership_remove, membership_update, user_invite
from apps.orgs.services.organizations import organization_create, organization_update
from apps.orgs.services.projects import project_create, project_delete, project_update
from apps.orgs.services.teams import team_create, team_delete, team_update

__all__ = [
    "grant_remove",
    "grant_set",
    "membership_remove",
    "membership_update",
    "organization_create",
    "organization_update",
    "project_create",
    "project_delete",
    "project_update",
    "team_create",
    "team_delete",
    "team_update",
    "user_invite",
]
