"""Forms of agents and tokens."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from django import forms
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from apps.agents.models import Agent
from apps.common import clock
from apps.common.admin_forms import OrgForm

if TYPE_CHECKING:
    from apps.common.errors import LensError

LIFETIMES = {"30": "30 days", "90": "90 days", "365": "1 year", "": "Until it is revoked"}


class AgentForm(OrgForm):
    """The slug is chosen once."""

    fixed = ("slug",)

    class Meta:
        model = Agent
        fields = ("name", "slug", "team", "description")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "team" in self.fields:
            self.fields["team"].help_text = "The agent works under this team's policy and grants."


class MintForm(forms.Form):
    """A new token."""

    name = forms.CharField(
        max_length=200,
        widget=UnfoldAdminTextInputWidget,
        help_text="Where it is used, for example “CI of the shop”.",
    )
    lifetime = forms.ChoiceField(
        label="Expires after",
        choices=list(LIFETIMES.items()),
        required=False,
        initial="90",
        widget=UnfoldAdminSelectWidget,
    )

    def expires_at(self) -> dt.datetime | None:
        """When the token ends; None = it does not."""
        days = self.cleaned_data["lifetime"]
        return clock.now() + dt.timedelta(days=int(days)) if days else None

    def refuse(self, error: LensError) -> None:
        """Show what the service refused."""
        field = str(error.data.get("field", ""))
        self.add_error(field if field in self.fields else None, error.message)
