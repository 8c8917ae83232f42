"""The vault: credentials that agents use and never see."""

from __future__ import annotations

from django.db import models

from apps.common.tenancy import SlugField, TenantRow


class Credential(TenantRow):
    """A secret of an organization, sealed with AES-256-GCM; the value is write-only.

    `allowed_hosts` (patterns as in domain rules) and `allowed_teams` are set by its owner: a
    binding must be a subset, checked at save and again at each injection. Without a project it
    belongs to the organization; with one, only sandboxes of that project may use it. `allow_in_url`
    is for organization admins to set: URLs end up in the logs of whoever receives them.
    """

    project = models.ForeignKey(
        "orgs.Project", on_delete=models.PROTECT, related_name="credentials", null=True, blank=True
    )
    slug = SlugField()
    name = models.CharField(max_length=200)
    kind = models.CharField(max_length=50, default="static")
    username = models.CharField(max_length=200, blank=True, help_text="For basic authentication.")
    key_id = models.CharField(max_length=16, editable=False)
    iv = models.BinaryField(editable=False)
    ciphertext = models.BinaryField(editable=False)
    value_set_at = models.DateTimeField(editable=False)
    allowed_hosts = models.JSONField(
        default=list, help_text="Hosts to which this credential may ever be sent, one a line."
    )
    allowed_teams = models.ManyToManyField("orgs.Team", related_name="credentials", blank=True)

    allow_in_url = models.BooleanField(
        "allow in URLs",
        default=False,
        help_text=(
            "Bindings may put it into the query or the path of a URL, which servers log. Only an "
            "organization admin can allow this."
        ),
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["org", "slug"], name="credential_slug_in_org")
        ]

    def __str__(self) -> str:
        return self.name
