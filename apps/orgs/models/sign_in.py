"""How the people of an organization come in: providers, domains, groups, invitations, sessions."""

from __future__ import annotations

from django.db import models

from apps.common.tenancy import TenantRow
from apps.orgs.models.people import User
from apps.orgs.models.tenants import OrgRole, Team

DEFAULT_SCOPES = "openid email profile"


def default_algorithms() -> list[str]:
    """What nearly every provider signs with."""
    return ["RS256", "ES256"]


class IdentityProvider(TenantRow):
    """An organization's OpenID provider.

    `working_at` says since when people sign in through it; None = not in use. It is set only while
    `proof` names the configuration as it is: the fingerprint with which an admin's test sign-in
    succeeded. What is changed on a provider in use waits in `staged` for a proof of its own.
    """

    name = models.CharField(max_length=200)
    issuer = models.CharField(max_length=500)
    client_id = models.CharField("client ID", max_length=255)
    secret_key_id = models.CharField(max_length=16, editable=False, default="")
    secret_iv = models.BinaryField(editable=False, default=b"")
    secret_ciphertext = models.BinaryField(editable=False, default=b"")
    scopes = models.CharField(
        max_length=500,
        default=DEFAULT_SCOPES,
        help_text="Words with a space between; “openid” and “email” are needed.",
    )
    group_claim = models.CharField(
        max_length=100,
        blank=True,
        default="",
        help_text="The claim of the ID token that holds a person's groups, usually “groups”. "
        "Empty: groups are not read.",
    )
    algorithms = models.JSONField("signing algorithms", default=default_algorithms)
    is_development = models.BooleanField(default=False, editable=False)
    working_at = models.DateTimeField("in use since", null=True, blank=True, editable=False)
    proof = models.CharField(max_length=64, editable=False, blank=True, default="")
    proved_at = models.DateTimeField("last test", null=True, blank=True, editable=False)
    proved_by = models.CharField("tested by", max_length=254, editable=False, blank=True)
    staged = models.JSONField(default=dict, blank=True, editable=False)

    class Meta:
        verbose_name = "identity provider"
        constraints = [models.UniqueConstraint(fields=["org", "issuer"], name="idp_issuer_in_org")]

    def __str__(self) -> str:
        return self.name


class Identity(TenantRow):
    """Whom a provider means by a subject (`sub`, OpenID Connect Core section 2).

    Of the provider and not of its issuer: many organizations may have connected one issuer, and
    what one of them lets it say is nothing to the others. It may also call a person otherwise to
    each of its clients (pairwise subjects, section 8).
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="identities")
    idp = models.ForeignKey(IdentityProvider, on_delete=models.CASCADE, related_name="identities")
    subject = models.CharField(max_length=255)
    last_login_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "identities"
        constraints = [
            models.UniqueConstraint(fields=["idp", "subject"], name="identity_subject_once"),
            models.UniqueConstraint(fields=["idp", "user"], name="identity_user_once"),
        ]

    def __str__(self) -> str:
        return f"{self.subject} at {self.idp}"


class EmailDomain(TenantRow):
    """A domain whose addresses are this provider's to vouch for, once it is verified.

    Of several organizations that claim one domain, only one can have it verified.
    """

    idp = models.ForeignKey(
        IdentityProvider,
        on_delete=models.CASCADE,
        related_name="domains",
        verbose_name="identity provider",
    )
    domain = models.CharField(max_length=253, help_text="For example “acme.com”.")
    challenge = models.CharField(max_length=64, editable=False)
    verified_at = models.DateTimeField(null=True, blank=True, editable=False)
    verified_by = models.CharField(
        max_length=16,
        choices=[("dns", "DNS record"), ("operator", "Operator")],
        blank=True,
        default="",
        editable=False,
    )

    class Meta:
        verbose_name = "e-mail domain"
        constraints = [
            models.UniqueConstraint(fields=["org", "domain"], name="domain_in_org"),
            models.UniqueConstraint(
                fields=["domain"],
                condition=models.Q(verified_at__isnull=False),
                name="domain_verified_once",
            ),
        ]

    def __str__(self) -> str:
        return self.domain


class GroupMapping(TenantRow):
    """What a group of the identity provider gives: a team, an organization role, or both."""

    idp = models.ForeignKey(
        IdentityProvider,
        on_delete=models.CASCADE,
        related_name="mappings",
        verbose_name="identity provider",
    )
    group = models.CharField(
        max_length=255,
        help_text="As the provider sends it: a name, or with Entra ID the object ID. A * stands "
        "for any characters.",
    )
    team = models.ForeignKey(
        Team, on_delete=models.CASCADE, related_name="mappings", null=True, blank=True
    )
    role = models.CharField(
        "organization role", max_length=16, choices=OrgRole, default=OrgRole.MEMBER
    )

    class Meta:
        verbose_name = "group mapping"
        constraints = [
            models.UniqueConstraint(fields=["idp", "group", "team"], name="mapping_to_team"),
            models.UniqueConstraint(
                fields=["idp", "group"], condition=models.Q(team=None), name="mapping_without_team"
            ),
            models.CheckConstraint(
                condition=models.Q(role__in=["admin", "auditor", "member"]), name="mapping_role"
            ),
        ]

    def __str__(self) -> str:
        return self.group


class Invitation(TenantRow):
    """A single-use link for one address. Nobody exists here before it is accepted."""

    email = models.EmailField("e-mail address")
    name = models.CharField(max_length=200, blank=True)
    role = models.CharField(max_length=16, choices=OrgRole, default=OrgRole.MEMBER)
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    expires_at = models.DateTimeField("ends", editable=False)
    accepted_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    mailed_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(role__in=["admin", "auditor", "member"]), name="invitation_role"
            )
        ]

    def __str__(self) -> str:
        return self.email


class InvitationTeam(TenantRow):
    """A team that the invited person joins."""

    invitation = models.ForeignKey(Invitation, on_delete=models.CASCADE, related_name="for_teams")
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["invitation", "team"], name="invitation_team_once")
        ]

    def __str__(self) -> str:
        return f"{self.invitation} in {self.team}"


class UserSession(TenantRow):
    """A browser's session, findable by what the provider calls it (`sid`, `subject`).

    The browser's cookie works only as long as this row exists and has not ended.
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sessions")
    idp = models.ForeignKey(IdentityProvider, on_delete=models.CASCADE, related_name="sessions")
    subject = models.CharField(max_length=255)
    sid = models.CharField(max_length=255, blank=True, default="")
    address = models.CharField(max_length=64, blank=True, default="")
    agent = models.CharField("browser", max_length=200, blank=True, default="")
    expires_at = models.DateTimeField("ends")
    ended_at = models.DateTimeField("ended", null=True, blank=True)
    ended_by = models.CharField("ended by", max_length=32, blank=True, default="")
    hint_key_id = models.CharField(max_length=16, editable=False, default="")
    hint_iv = models.BinaryField(editable=False, default=b"")
    hint_ciphertext = models.BinaryField(editable=False, default=b"")

    class Meta:
        verbose_name = "session"
        indexes = [
            models.Index(fields=["idp", "subject"], name="session_idp_subject"),
            models.Index(fields=["idp", "sid"], name="session_idp_sid"),
            models.Index(fields=["expires_at"], name="session_expires"),
        ]

    def __str__(self) -> str:
        return f"{self.user} since {self.created_at:%Y-%m-%d %H:%M}"


class BreakGlass(TenantRow):
    """An operator's emergency look into one organization: why, how long, and who agreed."""

    reason = models.CharField(max_length=500)
    minutes = models.PositiveSmallIntegerField()
    requested_by = models.CharField(max_length=200)
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    needs_consent = models.BooleanField(default=False)
    answered_at = models.DateTimeField("answered", null=True, blank=True, editable=False)
    answered_by = models.CharField("answered by", max_length=254, blank=True, default="")
    refused = models.BooleanField(default=False, editable=False)
    use_before = models.DateTimeField(editable=False)
    used_at = models.DateTimeField("opened", null=True, blank=True, editable=False)
    expires_at = models.DateTimeField("ends", null=True, blank=True, editable=False)
    ended_at = models.DateTimeField("ended", null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "operator access"
        verbose_name_plural = "operator access"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(minutes__range=(1, 60)), name="break_glass_minutes"
            )
        ]

    def __str__(self) -> str:
        return f"operator access of {self.created_at:%Y-%m-%d %H:%M}"
