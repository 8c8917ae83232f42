"""The forms of the set-up. What a service refuses is shown at the field that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django import forms

from apps.common.tenancy import SLUG_HELP, slug_validator

if TYPE_CHECKING:
    from apps.common.errors import LensError


class SetupForm(forms.Form):
    """Shows errors of services beside its own."""

    def refuse(self, error: LensError) -> None:
        """Put a service's refusal at its field, or at the top."""
        field = getattr(error, "field", "")
        self.add_error(field if field in self.fields else None, error.message)


class OrganizationForm(SetupForm):
    """The first organization and its first admin."""

    name = forms.CharField(max_length=200, label="Organization", help_text="For example “Acme”.")
    slug = forms.CharField(
        max_length=63, validators=[slug_validator], label="Short name", help_text=SLUG_HELP
    )
    admin_name = forms.CharField(max_length=200, required=False, label="Your name")
    email = forms.EmailField(
        max_length=254,
        label="Your e-mail address",
        help_text="As your identity provider knows it. You become the first admin.",
    )


class AdminForm(SetupForm):
    """Another address for the first admin."""

    email = forms.EmailField(max_length=254, label="E-mail address of the first admin")


class ProviderForm(SetupForm):
    """An OpenID Connect provider."""

    name = forms.CharField(max_length=200, label="Name", help_text="Shown on the sign-in page.")
    issuer = forms.CharField(
        max_length=500, label="Issuer", help_text="For example https://acme.okta.com"
    )
    client_id = forms.CharField(max_length=255, label="Client ID")
    client_secret = forms.CharField(
        max_length=500, label="Client secret", widget=forms.PasswordInput({"autocomplete": "off"})
    )
