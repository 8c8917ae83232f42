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
    MEMBERSHIP_DELETE = "membership.delete"
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
    IDP_WORKING = "idp.working"
    SETUP_LINK_CREATE = "setup_link.create"
    SETUP_LINK_USE = "setup_link.use"
    SETUP_LINK_REFUSE = "setup_link.refuse"
    SETUP_ADMIN_CHANGE = "setup_admin.change"
