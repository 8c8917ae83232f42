"""Every change of who exists and who may do what. One call = one transaction = one audit event."""

from apps.orgs.services.break_glass import (
    break_glass_approve,
    break_glass_end,
    break_glass_refuse,
    break_glass_request,
)
from apps.orgs.services.domains import (
    domain_create,
    domain_delete,
    domain_mark,
    domain_move,
    domain_verify,
)
from apps.orgs.services.grants import grant_remove, grant_set
from apps.orgs.services.identity_providers import (
    idp_create,
    idp_delete,
    idp_disable,
    idp_enable,
    idp_update,
)
from apps.orgs.services.invitations import Invited, invitation_create, invitation_revoke
from apps.orgs.services.mappings import mapping_create, mapping_delete, mapping_update
from apps.orgs.services.memberships import (
    identity_forget,
    membership_remove,
    membership_renew,
    membership_update,
    user_deprovision,
    user_invite,
)
from apps.orgs.services.organizations import organization_create, organization_update
from apps.orgs.services.projects import project_create, project_delete, project_update
from apps.orgs.services.sessions import session_end
from apps.orgs.services.teams import team_create, team_delete, team_update

__all__ = [
    "Invited",
    "break_glass_approve",
    "break_glass_end",
    "break_glass_refuse",
    "break_glass_request",
    "domain_create",
    "domain_delete",
    "domain_mark",
    "domain_move",
    "domain_verify",
    "grant_remove",
    "grant_set",
    "identity_forget",
    "idp_create",
    "idp_delete",
    "idp_disable",
    "idp_enable",
    "idp_update",
    "invitation_create",
    "invitation_revoke",
    "mapping_create",
    "mapping_delete",
    "mapping_update",
    "membership_remove",
    "membership_renew",
    "membership_update",
    "organization_create",
    "organization_update",
    "project_create",
    "project_delete",
    "project_update",
    "session_end",
    "team_create",
    "team_delete",
    "team_update",
    "user_deprovision",
    "user_invite",
]
