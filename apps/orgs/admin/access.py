"""Who was invited, who is signed in, and which operator looked in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.views.decorators.debug import sensitive_variables

from apps.common import clock
from apps.common.admin import OrgModelAdmin
from apps.common.admin_display import badge, button, hostile_column
from apps.orgs import services
from apps.orgs.admin.forms import InvitationForm
from apps.orgs.models import BreakGlass, Invitation, UserSession
from apps.orgs.services.invitations import invitation_mail

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString

    from apps.common.admin_forms import TenantRequest
    from apps.orgs.types import Actor


@admin.register(Invitation)
class InvitationAdmin(OrgModelAdmin):
    """Invitations: links for people whom no group brings."""

    noun = "invitation"
    verbs = {"view": "view", "add": "create"}
    form = InvitationForm
    list_display = ("email", "role", "state", "expires_at")
    search_fields = ("email", "name")
    ordering = ("-created_at",)
    actions_detail = ("revoke",)
    fields = ("email", "name", "role", "state", "expires_at", "mailed_at")
    add_fieldsets = ((None, {"fields": (("email", "name"), "role", "teams", "days")}),)
    readonly_fields = ("state", "expires_at", "mailed_at")

    def visible(self, actor: Actor) -> QuerySet[Invitation]:
        """The organization's."""
        return Invitation.objects.filter(org=actor.org_id)

    def get_readonly_fields(self, request: Any, obj: Any = None) -> tuple[str, ...]:  # noqa: ARG002  Django's signature
        """A new one has no state."""
        return self.readonly_fields if obj else ()

    def create(self, request: TenantRequest, data: dict[str, Any]) -> Invitation:
        """One invitation; its link is on the next page and nowhere else."""
        invited = services.invitation_create(
            request.org,
            email=data["email"],
            name=data["name"],
            role=data["role"],
            teams=list(data["teams"]),
            days=data["days"],
            actor=request.actor,
        )
        request.invited = invited  # type: ignore[attr-defined]  # for the page that shows it once
        return invited.invitation

    @sensitive_variables("response", "shown")
    def changeform_view(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """As Django's; the mail goes out after its transaction: mail servers may be slow."""
        response = super().changeform_view(request, *args, **kwargs)
        shown = getattr(response, "context_data", None) or {}
        if "link" in shown:
            shown["mailed"] = invitation_mail(request.invited, shown["link"])
        return response

    @sensitive_variables("invited", "link", "context")
    def response_add(self, request: Any, obj: Any, post_url_continue: Any = None) -> HttpResponse:  # noqa: ARG002  Django's signature
        """Show the link once, where it is not mailed."""
        invited: services.Invited = request.invited
        link = f"{request.build_absolute_uri(reverse('invitation'))}#{invited.token}"
        context = self.page(request, obj, title="Invitation", link=link)
        response = TemplateResponse(request, "orgs/admin/invited.html", context)
        response["Cache-Control"] = "no-store"
        return response

    @admin.display(description="State")
    def state(self, row: Invitation) -> SafeString:
        """Whether its link still works."""
        if row.accepted_at:
            return badge("Accepted", "success")
        if row.revoked_at:
            return badge("Withdrawn")
        return badge("Open", "info") if row.expires_at > clock.now() else badge("Expired")

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        is_open = row is None or not (row.accepted_at or row.revoked_at)
        return is_open and self.admin_site.allows(request, "invitation.delete", row)

    @button("Withdraw", permission="revoke", icon="block", look="danger")
    def revoke(self, request: Any, object_id: str) -> HttpResponse:
        """Its link stops working."""
        return self.confirmed(
            request,
            object_id,
            verb="delete",
            title="Withdraw this invitation",
            text="Its link stops working at once.",
            button="Withdraw invitation",
            run=lambda row: services.invitation_revoke(row, actor=request.actor),
        )


@admin.register(UserSession)
class UserSessionAdmin(OrgModelAdmin):
    """Browsers in which somebody is signed in, or was in the last days."""

    noun = "session"
    verbs = {"view": "view"}
    keeps_history = True
    list_display = (
        "user",
        "state",
        "idp",
        "address",
        hostile_column("agent", "Browser", limit=60),
        "created_at",
        "expires_at",
    )
    list_select_related = ("user", "idp")
    search_fields = ("user__email", "user__name")
    ordering = ("-created_at",)
    actions_detail = ("end",)
    fields = (
        ("user", "state"),
        ("idp", "address"),
        hostile_column("agent", "Browser"),
        ("created_at", "expires_at"),
        ("ended_at", "ended_by"),
    )

    def visible(self, actor: Actor) -> QuerySet[UserSession]:
        """Sessions that a provider of the organization began."""
        return UserSession.objects.filter(org=actor.org_id)

    @admin.display(description="State")
    def state(self, row: UserSession) -> SafeString:
        """Whether it still opens anything."""
        live = row.ended_at is None and row.expires_at > clock.now()
        return badge("Signed in", "success") if live else badge("Ended")

    def has_end_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        live = row is None or row.ended_at is None
        return live and self.admin_site.allows(request, "session.end", row)

    @button("End session", permission="end", icon="logout", look="danger")
    def end(self, request: Any, object_id: str) -> HttpResponse:
        """Out with the next click."""
        return self.confirmed(
            request,
            object_id,
            verb="end",
            title="End this session",
            text="The person is signed out with the next click, and may sign in again. To keep "
            "somebody out, remove the person.",
            button="End session",
            run=lambda row: services.session_end(row, actor=request.actor),
        )


@admin.register(BreakGlass)
class BreakGlassAdmin(OrgModelAdmin):
    """Operators who looked in, look in, or ask to."""

    noun = "break_glass"
    verbs = {"view": "view"}
    list_display = ("requested_by", "state", "reason", "minutes", "created_at", "used_at")
    ordering = ("-created_at",)
    actions_detail = ("approve", "refuse", "end")
    fields = (
        ("requested_by", "state"),
        "reason",
        ("minutes", "needs_consent"),
        ("answered_at", "answered_by"),
        ("used_at", "expires_at", "ended_at"),
        "trail",
    )

    def visible(self, actor: Actor) -> QuerySet[BreakGlass]:
        """The organization's."""
        return BreakGlass.objects.filter(org=actor.org_id)

    @admin.display(description="State")
    def state(self, row: BreakGlass) -> SafeString:
        """Where it stands."""
        now = clock.now()
        if row.refused:
            return badge("Refused")
        if row.used_at and row.expires_at and row.expires_at > now and not row.ended_at:
            return badge("Looking in now", "danger")
        if row.used_at or row.ended_at or row.use_before <= now:
            return badge("Over")
        if row.needs_consent and not row.answered_at:
            return badge("Waits for your approval", "warning")
        return badge("About to begin", "warning")

    @admin.display(description="What was seen")
    def trail(self, row: BreakGlass) -> SafeString:
        """The pages, in the audit trail."""
        page = reverse("admin:audit_auditevent_changelist")
        return format_html(
            '<a class="lens-link" href="{}?q={}">In the audit trail</a>', page, row.pk
        )

    def has_approve_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        asks = row is None or (row.needs_consent and not row.answered_at and not row.ended_at)
        return asks and self.admin_site.allows(request, "break_glass.update", row)

    has_refuse_permission = has_approve_permission

    def has_end_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        live = row is None or (row.ended_at is None and not row.refused)
        return live and self.admin_site.allows(request, "break_glass.update", row)

    @button("Approve", permission="approve", icon="check_circle", look="primary")
    def approve(self, request: Any, object_id: str) -> HttpResponse:
        """The operator may begin."""
        return self.confirmed(
            request,
            object_id,
            verb="update",
            title="Let this operator look in",
            text="The operator may read everything in this organization for the minutes asked for, "
            "change nothing, and see no credential value. Each page view is audited.",
            button="Approve",
            run=lambda row: services.break_glass_approve(row, actor=request.actor),
        )

    @button("Refuse", permission="refuse", icon="block", look="danger")
    def refuse(self, request: Any, object_id: str) -> HttpResponse:
        """The link is void."""
        return self.confirmed(
            request,
            object_id,
            verb="update",
            title="Refuse this operator",
            text="The operator's link stops working. A new request is possible.",
            button="Refuse",
            run=lambda row: services.break_glass_refuse(row, actor=request.actor),
        )

    @button("End now", permission="end", icon="logout", look="danger")
    def end(self, request: Any, object_id: str) -> HttpResponse:
        """With the operator's next click."""
        return self.confirmed(
            request,
            object_id,
            verb="update",
            title="End this access",
            text="The operator sees nothing more with the next click.",
            button="End access",
            run=lambda row: services.break_glass_end(row, actor=request.actor),
        )
