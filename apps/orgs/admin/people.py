"""People: the members of the organization; never the users of the installation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db.models import Prefetch
from django.utils.html import format_html_join
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminEmailInputWidget,
    UnfoldAdminTextInputWidget,
)

from apps.common.admin import OrgModelAdmin
from apps.common.admin_display import badge, badge_column, button
from apps.common.admin_forms import OrgForm, is_new
from apps.orgs import selectors, services
from apps.orgs.models import Identity, Membership, Team

if TYPE_CHECKING:
    import datetime as dt

    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString

    from apps.common.admin_forms import TenantRequest
    from apps.orgs.types import Actor


class MembershipForm(OrgForm):
    """A person's role and teams."""

    aliases = {"teams": "member_of"}
    member_of = forms.ModelMultipleChoiceField(
        Team.objects.filter(deleted_at=None),
        label="Teams",
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="A person works under the policy of the team that they choose when they connect.",
    )

    class Meta:
        model = Membership
        fields = ("role",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not is_new(self):
            self.initial.setdefault("member_of", list(self.instance.teams.filter(deleted_at=None)))
            # The part by hand is what is edited; a group's part is not ours to change.
            self.initial["role"] = self.instance.manual_role or self.instance.role


class InvitationForm(MembershipForm):
    """A person who is not yet a member."""

    email = forms.EmailField(
        label="E-mail address",
        max_length=254,
        widget=UnfoldAdminEmailInputWidget,
        help_text="As the identity provider spells it. The person signs in there; no mail is sent.",
    )
    name = forms.CharField(max_length=200, required=False, widget=UnfoldAdminTextInputWidget)


@admin.register(Membership)
class MembershipAdmin(OrgModelAdmin):
    """People."""

    noun = "membership"
    palette = "person"
    form = MembershipForm
    list_display = (
        "person",
        "email",
        badge_column("role", "Role", {"admin": "warning", "auditor": "info"}),
        "team_names",
        "given_by",
        "last_login",
    )
    list_filter = ("role", ("teams", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("user",)
    search_fields = ("user__name", "user__email")
    ordering = ("user__email",)
    readonly_fields = ("person", "email", "last_login", "given_by")
    fieldsets = (
        (None, {"fields": (("person", "email"), ("last_login", "given_by"), "role", "member_of")}),
    )
    actions_detail = ("renew", "forget")
    add_fieldsets = ((None, {"fields": (("email", "name"), "role", "member_of")}),)

    def visible(self, actor: Actor) -> QuerySet[Membership]:
        """The members of the organization."""
        rows = selectors.memberships_visible(actor)
        # Where else somebody signs in is not this organization's to know.
        own = Prefetch("user__identities", Identity.objects.filter(org=actor.org_id))
        return rows.prefetch_related("teams", own)

    def get_form(self, request: Any, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002  Django's signature
        """A new person is asked for by address."""
        if obj is None:
            kwargs["form"] = InvitationForm
        return super().get_form(request, obj, change, **kwargs)

    def get_readonly_fields(self, request: Any, obj: Any = None) -> tuple[str, ...]:  # noqa: ARG002  Django's signature
        """The address of a new person is typed."""
        return self.readonly_fields if obj else ()

    def create(self, request: TenantRequest, data: dict[str, Any]) -> Membership:
        """The person becomes a member, then joins the teams."""
        membership = services.user_invite(
            request.org,
            email=data["email"],
            name=data["name"],
            role=data["role"],
            actor=request.actor,
        )
        return services.membership_update(
            membership, teams=list(data["member_of"]), actor=request.actor
        )

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """Role and teams."""
        shown = row.manual_role or row.role
        role = data["role"] if data["role"] != shown else None
        services.membership_update(
            row, role=role, teams=list(data["member_of"]), actor=request.actor
        )

    def remove(self, request: TenantRequest, row: Any) -> None:
        """The person leaves the organization at once."""
        services.membership_remove(row, actor=request.actor)

    def consequences(self, row: Any) -> list[str]:
        """Said before somebody clicks."""
        sentences = ["The person's sessions in this organization end."]
        if row.group_role:
            sentences.append("A group of the identity provider brings the person back.")
        return sentences

    def has_renew_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        ends = row is None or bool(row.manual_role)
        return ends and self.admin_site.allows(request, "membership.update", row)

    @button("Renew", permission="renew", icon="update")
    def renew(self, request: Any, object_id: str) -> HttpResponse:
        """What was given by hand goes on."""
        return self.confirmed(
            request,
            object_id,
            verb="update",
            title="Renew this membership",
            text=f"What was given by hand counts for {request.org.manual_days} days from now.",
            button="Renew",
            run=lambda row: services.membership_renew(row, actor=request.actor),
        )

    def has_forget_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        accounts = Identity.objects.filter(org=row.org_id, user=row.user_id) if row else None
        known = accounts is None or accounts.exists()
        return known and self.admin_site.allows(request, "membership.update", row)

    @button("Forget sign-in", permission="forget", icon="person_off", look="danger")
    def forget(self, request: Any, object_id: str) -> HttpResponse:
        """For a person whose account at the provider is another one now."""
        email = self.reached(request, object_id, "update").user.email
        return self.confirmed(
            request,
            object_id,
            verb="update",
            title="Forget this sign-in",
            text="The person's account at the provider is no longer known, and sessions here end. "
            f"The next account that comes with the verified address {email} is this person. "
            "Role and teams stay.",
            button="Forget sign-in",
            run=lambda row: services.identity_forget(row, actor=request.actor),
        )

    @admin.display(description="Given by")
    def given_by(self, membership: Membership) -> SafeString:
        """Hand, with its end, or group; both may be."""
        marks = []
        if membership.manual_role:
            end = membership.expires_at
            marks.append(badge(f"Hand, until {end:%Y-%m-%d}" if end else "Hand", "warning"))
        if membership.group_role:
            marks.append(badge("Group", "info"))
        return format_html_join(" ", "{}", ((mark,) for mark in marks))

    @admin.display(description="Person", ordering="user__name")
    def person(self, membership: Membership) -> str:
        """The name that the identity provider gave."""
        return str(membership.user)

    @admin.display(description="E-mail address", ordering="user__email")
    def email(self, membership: Membership) -> str:
        """The address."""
        return membership.user.email

    @admin.display(description="Teams", empty_value="-")
    def team_names(self, membership: Membership) -> str:
        """The teams, by name."""
        return ", ".join(t.name for t in membership.teams.all() if t.deleted_at is None)

    @admin.display(description="Teams", empty_value="-")
    def member_of(self, membership: Membership) -> str:
        """For those who may only read: the form's field of the same name is not on their page."""
        return self.team_names(membership)

    @admin.display(description="Last sign-in", empty_value="Never")
    def last_login(self, membership: Membership) -> dt.datetime | None:
        """The newest sign-in through a provider of the organization."""
        times = [i.last_login_at for i in membership.user.identities.all() if i.last_login_at]
        return max(times, default=None)
