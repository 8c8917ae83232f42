"""Organizations and what they are made of: teams, projects, memberships, grants."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from apps.common.tenancy import Row, SlugField, TenantRow
from apps.orgs.models.people import User


def _between(low: int, high: int) -> list[MinValueValidator | MaxValueValidator]:
    return [MinValueValidator(low), MaxValueValidator(high)]


class Organization(Row):
    """The top-level tenant. Closed (never deleted) when it ends: its audit trail outlives it."""

    slug = SlugField(unique=True)
    name = models.CharField(max_length=200)
    time_zone = models.CharField(max_length=64, default="UTC")
    closed_at = models.DateTimeField(null=True, blank=True, editable=False)
    sandbox_idle_minutes = models.PositiveIntegerField(
        "stop a sandbox after minutes without a call",
        default=30,
        validators=_between(1, 24 * 60),
        help_text="1 to 1440. Its files are gone then; the next tool call gets a new sandbox.",
    )
    sandbox_max_age_hours = models.PositiveIntegerField(
        "stop a sandbox at the age of hours",
        default=12,
        validators=_between(1, 7 * 24),
        help_text="1 to 168. One that is in use then has 30 more minutes.",
    )
    sandboxes_per_principal = models.PositiveIntegerField(
        "sandboxes of one agent or person",
        default=10,
        validators=_between(1, 1_000),
        help_text="How many one principal may have at once, 1 to 1000.",
    )
    sandboxes_total = models.PositiveIntegerField(
        "sandboxes of the organization",
        default=100,
        validators=_between(1, 10_000),
        help_text="How many there may be at once, 1 to 10000. The host has a limit of its own.",
    )
    allow_degraded = models.BooleanField(
        "allow degraded sandboxes",
        default=False,
        help_text="On a host that has neither namespaces nor network rules by user, a sandbox is "
        "held by Landlock and seccomp alone. Its self-test names what is open then.",
    )
    manual_days = models.PositiveSmallIntegerField(
        "days until a membership given by hand ends",
        default=90,
        validators=_between(1, 3_650),
        help_text="1 to 3650. What groups of the identity provider give does not end by itself.",
    )
    break_glass_consent = models.BooleanField(
        "operators must ask before they look",
        default=False,
        help_text="An operator's emergency access waits until an organization admin approves it.",
    )

    class Meta:
        verbose_name = "organization"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(
                    sandbox_idle_minutes__range=(1, 24 * 60),
                    sandbox_max_age_hours__range=(1, 7 * 24),
                    sandboxes_per_principal__range=(1, 1_000),
                    sandboxes_total__range=(1, 10_000),
                ),
                name="organization_sandbox_limits",
            )
        ]

    def __str__(self) -> str:
        return self.name


class Team(TenantRow):
    """A group of people and agents that shares one policy and its project grants."""

    slug = SlugField()
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "slug"], name="team_slug_in_org")]

    def __str__(self) -> str:
        return self.name


class Project(TenantRow):
    """A bundle of connections and credentials that teams are granted access to."""

    slug = SlugField()
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["org", "slug"], name="project_slug_in_org")]

    def __str__(self) -> str:
        return self.name


class OrgRole(models.TextChoices):
    """What a person may do in an organization as such."""

    ADMIN = "admin", "Admin"
    AUDITOR = "auditor", "Auditor"
    MEMBER = "member", "Member"


class ProjectRole(models.TextChoices):
    """What a team may do in a project."""

    ADMIN = "admin", "Admin"
    MEMBER = "member", "Member"


class Membership(TenantRow):
    """A person in an organization. `role` is the stronger of two parts, either of which may be
    empty: what an admin gave (`manual_role`, which ends at `expires_at`; None = never) and what the
    groups of the identity provider gave at the last sign-in (`group_role`).
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=OrgRole, default=OrgRole.MEMBER)
    manual_role = models.CharField(
        "role given by hand", max_length=16, choices=OrgRole, blank=True, default=""
    )
    group_role = models.CharField(
        "role from groups", max_length=16, choices=OrgRole, blank=True, default="", editable=False
    )
    expires_at = models.DateTimeField("ends", null=True, blank=True, editable=False)
    teams = models.ManyToManyField(Team, through="TeamMembership", related_name="memberships")

    class Meta:
        verbose_name_plural = "people"
        constraints = [
            models.UniqueConstraint(fields=["org", "user"], name="membership_user_in_org"),
            models.CheckConstraint(
                condition=models.Q(role__in=["admin", "auditor", "member"]), name="membership_role"
            ),
            models.CheckConstraint(
                condition=~models.Q(manual_role="", group_role=""), name="membership_has_a_part"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.get_role_display()})"


class TeamMembership(TenantRow):
    """A member of an organization in one of its teams, given by hand (until `expires_at`; None =
    never), by a group of the identity provider, or by both.
    """

    membership = models.ForeignKey(
        Membership, on_delete=models.CASCADE, related_name="team_memberships"
    )
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="team_memberships")
    by_hand = models.BooleanField(default=True, editable=False)
    by_group = models.BooleanField(default=False, editable=False)
    expires_at = models.DateTimeField("ends", null=True, blank=True, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["membership", "team"], name="team_membership_once"),
            models.CheckConstraint(
                condition=models.Q(by_hand=True) | models.Q(by_group=True),
                name="team_membership_has_a_part",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.membership} in {self.team}"


class ProjectGrant(TenantRow):
    """Gives a team a role on a project."""

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="grants")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="grants")
    role = models.CharField(max_length=16, choices=ProjectRole, default=ProjectRole.MEMBER)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["team", "project"], name="grant_team_project"),
            models.CheckConstraint(
                condition=models.Q(role__in=["admin", "member"]), name="grant_role"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.team}: {self.get_role_display().lower()} of {self.project}"


class Revision(models.Model):
    """One row: the number that every change of who-may-do-what increments in its transaction.

    Processes read it at least every 250 ms and drop their cached principals when it moved; a
    process that cannot read it for longer than its lease denies.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    seq = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="revision_one_row")]

    def __str__(self) -> str:
        return str(self.seq)
