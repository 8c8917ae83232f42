"""Policies: one document a layer, shown as forms. Rules are ordered; the first match wins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models

from apps.common.tenancy import TenantRow

if TYPE_CHECKING:
    from typing import Any


class PolicyKind(models.TextChoices):
    """Which layer of the chain a document is."""

    CEILING = "ceiling", "Organization ceiling"
    TEAM = "team", "Team policy"
    AGENT = "agent", "Agent policy"


class Policy(TenantRow):
    """One policy document. `version` grows with every change.

    `has_domains` and `has_tools` say whether the section is present: in ceiling and agent policies
    an absent section adds nothing and a present, empty one denies.
    """

    name = models.CharField(max_length=200)
    kind = models.CharField(max_length=16, choices=PolicyKind, default=PolicyKind.TEAM)
    team = models.OneToOneField(
        "orgs.Team", on_delete=models.PROTECT, related_name="policy", null=True, blank=True
    )
    agent = models.OneToOneField(
        "agents.Agent", on_delete=models.PROTECT, related_name="policy", null=True, blank=True
    )
    description = models.TextField(blank=True)
    version = models.PositiveIntegerField(default=1, editable=False)
    has_domains = models.BooleanField("governs domains", default=True)
    has_tools = models.BooleanField("governs tools", default=True)

    class Meta:
        verbose_name_plural = "policies"
        constraints = [
            models.UniqueConstraint(
                fields=["org"], condition=models.Q(kind="ceiling"), name="policy_one_ceiling"
            ),
            models.CheckConstraint(
                name="policy_subject_fits_kind",
                condition=(
                    models.Q(kind="ceiling", team=None, agent=None)
                    | models.Q(kind="team", team__isnull=False, agent=None)
                    | models.Q(kind="agent", team=None, agent__isnull=False)
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class DomainRule(TenantRow):
    """A host pattern and what happens to requests to it."""

    policy = models.ForeignKey(Policy, on_delete=models.CASCADE, related_name="domain_rules")
    position = models.PositiveIntegerField(default=0)
    pattern = models.CharField(max_length=255)
    action = models.CharField(
        max_length=8,
        choices=[("allow", "Allow"), ("direct", "Direct"), ("ask", "Ask"), ("deny", "Deny")],
        default="allow",
    )
    agent_credentials = models.CharField(
        max_length=8,
        choices=[("default", "Default"), ("keep", "Keep"), ("strip", "Strip")],
        default="default",
    )

    class Meta:
        ordering = ["position", "id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(action__in=["allow", "direct", "ask", "deny"]),
                name="domain_rule_action",
            )
        ]

    def __str__(self) -> str:
        return f"{self.pattern} → {self.action}"


class HttpRule(TenantRow):
    """A method and path inside a domain rule. When a domain rule has any, no match = deny."""

    domain_rule = models.ForeignKey(DomainRule, on_delete=models.CASCADE, related_name="http_rules")
    position = models.PositiveIntegerField(default=0)
    method = models.CharField(max_length=16, default="*")
    path = models.CharField(max_length=500, blank=True, help_text="Empty = any path.")
    action = models.CharField(
        max_length=8,
        choices=[("allow", "Allow"), ("ask", "Ask"), ("deny", "Deny")],
        default="allow",
    )

    class Meta:
        verbose_name = "HTTP rule"
        ordering = ["position", "id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(action__in=["allow", "ask", "deny"]), name="http_rule_action"
            )
        ]

    def __str__(self) -> str:
        return f"{self.method} {self.path or 'any path'} → {self.action}"


class ToolRule(TenantRow):
    """Which tools are visible and callable: a glob on the tool's name."""

    policy = models.ForeignKey(Policy, on_delete=models.CASCADE, related_name="tool_rules")
    position = models.PositiveIntegerField(default=0)
    pattern = models.CharField(max_length=64)
    action = models.CharField(
        max_length=8, choices=[("allow", "Allow"), ("deny", "Deny")], default="allow"
    )

    class Meta:
        ordering = ["position", "id"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(action__in=["allow", "deny"]), name="tool_rule_action"
            )
        ]

    def __str__(self) -> str:
        return f"{self.pattern} → {self.action}"


class CredentialBinding(TenantRow):
    """Where the team policy injects a credential. Never wider than the credential allows."""

    policy = models.ForeignKey(Policy, on_delete=models.CASCADE, related_name="bindings")
    position = models.PositiveIntegerField(default=0)
    credential = models.ForeignKey(
        "connections.Credential", on_delete=models.PROTECT, related_name="bindings"
    )
    pattern = models.CharField("host pattern", max_length=255)
    method = models.CharField(max_length=16, default="*")
    path = models.CharField(max_length=500, blank=True, help_text="Empty = any path.")
    injection = models.CharField(
        max_length=16,
        choices=[
            ("bearer", "Bearer token"),
            ("header", "Header"),
            ("basic", "Basic"),
            ("query", "Query parameter"),
            ("uri_placeholder", "Placeholder in the path"),
        ],
        default="bearer",
    )
    header = models.CharField(max_length=100, blank=True)
    template = models.CharField(
        max_length=200, blank=True, help_text="For a header: text with {value}."
    )
    parameter = models.CharField(
        "parameter or placeholder",
        max_length=64,
        blank=True,
        help_text="For a query: its parameter. For a path: the word that the value replaces.",
    )
    env_name = models.CharField(
        "environment variable",
        max_length=64,
        blank=True,
        help_text=(
            "A tool that insists on a token finds a placeholder here, as in GITHUB_TOKEN. Never "
            "the credential."
        ),
    )

    class Meta:
        ordering = ["position", "id"]

    def __str__(self) -> str:
        return f"{self.credential} on {self.pattern}"


class PolicyTest(TenantRow):
    """What the policy must decide for a tool or for a method and URL.

    Asked for anybody of a team, or for an agent: both by slug, since a test outlives them. `team`
    is for the ceiling only; `agent` is left out in an agent policy, which is about its own.
    """

    policy = models.ForeignKey(Policy, on_delete=models.CASCADE, related_name="tests")
    position = models.PositiveIntegerField(default=0)
    team = models.CharField(max_length=63, blank=True)
    agent = models.CharField(max_length=63, blank=True)
    tier = models.CharField(
        max_length=16,
        blank=True,
        choices=[
            ("interactive", "Interactive"),
            ("subagent", "Subagent"),
            ("background", "Background"),
            ("api", "API"),
        ],
    )
    tool = models.CharField(max_length=64, blank=True)
    method = models.CharField(max_length=16, blank=True)
    url = models.CharField("URL", max_length=2000, blank=True)
    expect = models.CharField(
        max_length=8,
        choices=[
            ("allow", "Allow"),
            ("direct", "Direct"),
            ("ask", "Ask"),
            ("approve", "Approve"),
            ("deny", "Deny"),
        ],
        default="deny",
    )
    note = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["position", "id"]
        constraints = [
            models.CheckConstraint(
                name="policy_test_expect",
                condition=models.Q(expect__in=["allow", "direct", "ask", "approve", "deny"]),
            ),
            models.CheckConstraint(
                name="policy_test_asks_one_thing",
                condition=models.Q(tool="") ^ models.Q(url=""),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tool or f'{self.method} {self.url}'} → {self.expect}"


class PolicyVersion(TenantRow):
    """A document as it was saved once: never changed, gone only with its policy.

    `restored_from` is the version that a rollback brought back. The author is kept by name, too:
    people and agents go, what they did stays.
    """

    policy = models.ForeignKey(Policy, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    document = models.JSONField()
    author_kind = models.CharField(max_length=16)
    author_id = models.CharField(max_length=64)
    author_name = models.CharField("author", max_length=255)
    reason = models.CharField(max_length=500, blank=True)
    restored_from = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["policy", "number"], name="policy_version_number")
        ]

    def __str__(self) -> str:
        return f"{self.policy} v{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Once."""
        if not self._state.adding:
            raise TypeError("A version of a policy is never changed.")
        super().save(*args, **kwargs)
