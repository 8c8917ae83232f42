"""The form of a credential. Its value goes in and never comes out."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
)

from apps.common.admin_forms import OrgForm, is_new
from apps.connections.models import Credential
from apps.connections.registry import kinds
from apps.orgs.models import Team


def kind_choices() -> list[tuple[str, str]]:
    """The registered kinds."""
    return [(name, kind.label) for name, kind in kinds]


class CredentialForm(OrgForm):
    """Slug, project and kind are chosen once; an empty value keeps the one that is stored."""

    fixed = ("slug", "project", "kind")
    kind = forms.ChoiceField(choices=kind_choices, widget=UnfoldAdminSelectWidget)
    value = forms.CharField(
        label="Secret value",
        strip=False,
        max_length=20_000,
        widget=UnfoldAdminPasswordWidget(
            render_value=False, attrs={"autocomplete": "new-password"}
        ),
        help_text="Stored encrypted. Nobody can read it back, here or anywhere else.",
    )
    allowed_hosts = forms.CharField(
        label="Allowed hosts",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 4, "spellcheck": "false"}),
        help_text=(
            "Hosts to which this credential may ever be sent, one a line: “api.github.com”, "
            "“*.example.com”."
        ),
    )
    allowed_teams = forms.ModelMultipleChoiceField(
        Team.objects.filter(deleted_at=None),
        label="Allowed teams",
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="Only policies of these teams may bind it.",
    )

    class Meta:
        model = Credential
        fields = (
            "name",
            "slug",
            "project",
            "kind",
            "username",
            "allowed_hosts",
            "allowed_teams",
            "allow_in_url",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "project" in self.fields:
            self.fields[
                "project"
            ].help_text = "Leave it empty for a credential of the whole organization."
        if is_new(self):
            return
        self.initial["allowed_hosts"] = "\n".join(self.instance.allowed_hosts)
        if "value" in self.fields:
            self.fields["value"].required = False
            self.fields["value"].help_text = (
                f"Set on {self.instance.value_set_at:%Y-%m-%d at %H:%M} UTC. "
                "Leave it empty to keep it; it cannot be shown."
            )

    def clean_allowed_hosts(self) -> list[str]:
        """One host a line; host names have no letter case."""
        lines = str(self.cleaned_data["allowed_hosts"]).splitlines()
        return [line.strip().lower() for line in lines if line.strip()]
