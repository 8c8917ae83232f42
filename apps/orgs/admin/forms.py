"""Forms of the pages about signing in."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminEmailInputWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
)

from apps.common.admin_forms import OrgForm, is_new
from apps.orgs.models import EmailDomain, GroupMapping, IdentityProvider, Invitation, Team
from apps.orgs.oidc.algorithms import KEY_TYPES
from apps.orgs.services.identity_providers import configured

WAITING = ("client_id", "scopes", "algorithms")


class ProviderForm(OrgForm):
    """The issuer is chosen once: another one names others. The secret is never shown."""

    fixed = ("issuer",)
    aliases = {"secret": "client_secret"}
    client_secret = forms.CharField(
        max_length=500,
        required=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off"}),
        help_text="Stored encrypted and shown to nobody. Empty keeps what is stored.",
    )
    algorithms = forms.MultipleChoiceField(
        label="Signing algorithms",
        choices=[(name, name) for name in KEY_TYPES],
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="What ID tokens of this provider may be signed with.",
    )

    class Meta:
        model = IdentityProvider
        fields = ("name", "issuer", "client_id", "scopes", "group_claim", "algorithms")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["client_secret"].required = is_new(self)
        # What waits for a test is what the next change starts from.
        wanted = configured(self.instance)
        self.initial.update({name: getattr(wanted, name) for name in WAITING})


class DomainForm(OrgForm):
    """A domain is claimed once; it may move to another provider."""

    fixed = ("domain",)

    class Meta:
        model = EmailDomain
        fields = ("domain", "idp")


class MappingForm(OrgForm):
    """The provider of a mapping stays."""

    fixed = ("idp",)

    class Meta:
        model = GroupMapping
        fields = ("idp", "group", "team", "role")


class InvitationForm(OrgForm):
    """An address, what it gets, and how long the link works."""

    email = forms.EmailField(
        label="E-mail address",
        max_length=254,
        widget=UnfoldAdminEmailInputWidget,
        help_text="The identity provider must have verified this very address.",
    )
    teams = forms.ModelMultipleChoiceField(
        Team.objects.filter(deleted_at=None),
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )
    days = forms.TypedChoiceField(
        label="The link works for",
        coerce=int,
        choices=[(1, "1 day"), (7, "7 days"), (30, "30 days")],
        initial=7,
        widget=UnfoldAdminSelectWidget,
    )

    class Meta:
        model = Invitation
        fields = ("email", "name", "role")
