"""What this app writes into the audit trail."""

from __future__ import annotations

from enum import StrEnum

from apps.audit.actions import actions


@actions
class OrgAction(StrEnum):
    """Changes of who exists and who may do what, and refusals of both."""

    ORGANIZATION_CREATE = "organization.create"
    ORGANIZATION_UPDATE = "organization.update"
    TEAM_CREATE = "team.create"
    TEAM_UPDATE = "team.update"
    TEAM_DELETE = "team.delete"
    PROJECT_CREATE = "project.create"
    PROJECT_UPDATE = "project.update"
    PROJECT_DELETE = "project.delete"
    MEMBERSHIP_CREATE = "membership.create"
    MEMBERSHIP_UPDATE = "membership.update"
    MEMBERSHIP_RENEW = "membership.renew"
    MEMBERSHIP_GROUPS = "membership.groups"
    MEMBERSHIP_EXPIRE = "membership.expire"
    MEMBERSHIP_KEEP = "membership.keep"
    MEMBERSHIP_FORGET = "membership.forget_sign_in"
    MEMBERSHIP_DELETE = "membership.delete"
    INVITATION_CREATE = "invitation.create"
    INVITATION_REVOKE = "invitation.revoke"
    INVITATION_ACCEPT = "invitation.accept"
    DOMAIN_CREATE = "domain.create"
    DOMAIN_VERIFY = "domain.verify"
    DOMAIN_MOVE = "domain.move"
    DOMAIN_DELETE = "domain.delete"
    MAPPING_CREATE = "mapping.create"
    MAPPING_UPDATE = "mapping.update"
    MAPPING_DELETE = "mapping.delete"
    GRANT_CREATE = "grant.create"
    GRANT_UPDATE = "grant.update"
    GRANT_DELETE = "grant.delete"
    ACCESS_REFUSED = "access.refuse"
    TOKEN_REFUSED = "token.refuse"  # noqa: S105  the name of an action


@actions
class SignInAction(StrEnum):
    """Coming in and going out, and the way there: set-up links, providers, identities."""

    SIGN_IN = "person.sign_in"
    SIGN_IN_REFUSED = "person.sign_in_refuse"
    SIGN_OUT = "person.sign_out"
    IDENTITY_BIND = "identity.bind"
    IDP_CREATE = "idp.create"
    IDP_UPDATE = "idp.update"
    IDP_PROVE = "idp.prove"
    IDP_ENABLE = "idp.enable"
    IDP_DISABLE = "idp.disable"
    IDP_DELETE = "idp.delete"
    SESSION_END = "session.end"
    SESSIONS_END = "session.end_by_provider"
    LOGOUT_REFUSED = "session.end_refuse"
    BREAK_GLASS_REQUEST = "break_glass.request"
    BREAK_GLASS_APPROVE = "break_glass.approve"
    BREAK_GLASS_REFUSE = "break_glass.refuse"
    BREAK_GLASS_OPEN = "break_glass.open"
    BREAK_GLASS_VIEW = "break_glass.view"
    BREAK_GLASS_END = "break_glass.end"
    RECOVERY_CREATE = "recovery.create"
    RECOVERY_USE = "recovery.use"
    SETUP_LINK_CREATE = "setup_link.create"
    SETUP_LINK_USE = "setup_link.use"
    SETUP_LINK_REFUSE = "setup_link.refuse"
    SETUP_ADMIN_CHANGE = "setup_admin.change"
