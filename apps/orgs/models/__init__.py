"""Who exists: people, organizations, teams, projects and the OAuth tables."""

from apps.orgs.models.idempotency import IdempotentRequest
from apps.orgs.models.oauth import (
    OAuthAccessToken,
    OAuthApplication,
    OAuthDeviceGrant,
    OAuthGrant,
    OAuthIDToken,
    OAuthRefreshToken,
)
from apps.orgs.models.people import SetupLink, User
from apps.orgs.models.sign_in import (
    BreakGlass,
    EmailDomain,
    GroupMapping,
    Identity,
    IdentityProvider,
    Invitation,
    InvitationTeam,
    UserSession,
)
from apps.orgs.models.tenants import (
    Membership,
    Organization,
    OrgRole,
    Project,
    ProjectGrant,
    ProjectRole,
    Revision,
    Team,
    TeamMembership,
)

__all__ = [
    "BreakGlass",
    "EmailDomain",
    "GroupMapping",
    "IdempotentRequest",
    "Identity",
    "IdentityProvider",
    "Invitation",
    "InvitationTeam",
    "Membership",
    "OAuthAccessToken",
    "OAuthApplication",
    "OAuthDeviceGrant",
    "OAuthGrant",
    "OAuthIDToken",
    "OAuthRefreshToken",
    "OrgRole",
    "Organization",
    "Project",
    "ProjectGrant",
    "ProjectRole",
    "Revision",
    "SetupLink",
    "Team",
    "TeamMembership",
    "User",
    "UserSession",
]
