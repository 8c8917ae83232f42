"""How the organization signs in: providers, their domains and groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html

from apps.common.admin import OrgModelAdmin
from apps.common.admin_display import NOTHING, badge, button
from apps.orgs import services
from apps.orgs.admin.forms import DomainForm, MappingForm, ProviderForm
from apps.orgs.guide import guide
from apps.orgs.models import EmailDomain, GroupMapping, IdentityProvider
from apps.orgs.services.domains import record_name, record_value
from apps.orgs.services.identity_providers import is_proven

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString

    from apps.common.admin_forms import TenantRequest
    from apps.orgs.types import Actor


@admin.register(IdentityProvider)
class IdentityProviderAdmin(OrgModelAdmin):
    """Identity providers. None comes into use before a test, and the last one stays."""

    noun = "idp"
    form = ProviderForm
    list_display = ("name", "issuer", "state", "domain_names", "proved_at", "working_at")
    search_fields = ("name", "issuer")
    ordering = ("name",)
    actions_detail = ("test", "enable", "disable")
    readonly_fields = ("state", "proved_at", "proved_by", "working_at")

    def visible(self, actor: Actor) -> QuerySet[IdentityProvider]:
        """The organization's."""
        return IdentityProvider.objects.filter(org=actor.org_id).prefetch_related("domains")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """What to register at the provider stands above what to copy from there."""
        settings = ("name", "issuer", "client_id", "client_secret")
        readable = self.has_change_permission(request, obj) or obj is None
        shown = settings if readable else settings[:-1]
        more = ("scopes", "group_claim", "algorithms")
        org = getattr(request, "org", None)
        steps = guide(request, org) if org else ""
        register = ("At the provider", {"fields": (), "description": steps})
        state = (None, {"fields": (("state", "working_at"), ("proved_at", "proved_by"))})
        own = ("Settings", {"fields": shown})
        rest = ("More settings", {"fields": more})
        return (state, own, rest, register) if obj else (register, own, rest)

    def get_readonly_fields(self, request: Any, obj: Any = None) -> tuple[str, ...]:  # noqa: ARG002  Django's signature
        """A new one has no state."""
        return self.readonly_fields if obj else ()

    def create(self, request: TenantRequest, data: dict[str, Any]) -> IdentityProvider:
        """One provider, not in use yet."""
        secret = data.pop("client_secret")
        return services.idp_create(request.org, secret=secret, **data, actor=request.actor)

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """All settings; an empty secret keeps what is stored."""
        services.idp_update(
            row,
            name=data["name"],
            client_id=data["client_id"],
            secret=data["client_secret"] or None,
            scopes=data["scopes"],
            group_claim=data["group_claim"],
            algorithms=data["algorithms"],
            actor=request.actor,
        )

    def remove(self, request: TenantRequest, row: Any) -> None:
        """With its domains and mappings; refused while it is in use."""
        services.idp_delete(row, actor=request.actor)

    def consequences(self, row: Any) -> list[str]:
        """Said before somebody clicks."""
        return [
            f"{row.domains.count()} e-mail domains and {row.mappings.count()} group mappings go.",
            "Who signed in through it stays a member, and signs in through another provider.",
            "Connected again, it knows nobody: the verified address binds each account anew.",
        ]

    @admin.display(description="State")
    def state(self, idp: Any) -> SafeString:
        """In use, ready, or still to be tested."""
        if idp.working_at and idp.staged:
            return badge("In use; changes wait for a test", "warning")
        if idp.working_at:
            return badge("In use", "success")
        return badge("Tested", "info") if is_proven(idp) else badge("Not tested")

    @admin.display(description="Domains", empty_value=NOTHING)
    def domain_names(self, idp: Any) -> str:
        """Those that are verified."""
        return ", ".join(row.domain for row in idp.domains.all() if row.verified_at)

    def has_test_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        return self.admin_site.allows(request, "idp.update", self.row(request, obj))

    def has_enable_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        waits = row is None or (row.working_at is None and is_proven(row))
        return waits and self.admin_site.allows(request, "idp.update", row)

    def has_disable_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        used = row is None or row.working_at is not None
        return used and self.admin_site.allows(request, "idp.update", row)

    @button("Test sign-in", permission="test", icon="login", look="primary")
    def test(self, request: Any, object_id: str) -> HttpResponse:
        """Off to the provider; it comes back to this page."""
        idp = self.reached(request, object_id, "update")
        return HttpResponseRedirect(reverse("oidc_test", args=[idp.pk]))

    @button("Enable", permission="enable", icon="check_circle")
    def enable(self, request: Any, object_id: str) -> HttpResponse:
        """People come in through it."""
        return self.confirmed(
            request,
            object_id,
            verb="update",
            title="Enable this provider",
            text="From now on it stands on the sign-in page, and people come in through it.",
            button="Enable provider",
            run=lambda row: services.idp_enable(row, actor=request.actor),
        )

    @button("Disable", permission="disable", icon="block", look="danger")
    def disable(self, request: Any, object_id: str) -> HttpResponse:
        """Nobody comes in through it."""
        return self.confirmed(
            request,
            object_id,
            verb="update",
            title="Disable this provider",
            text="Nobody comes in through it any more, and sessions that it began open nothing. "
            "Nothing is deleted; you can enable it again.",
            button="Disable provider",
            run=lambda row: services.idp_disable(row, actor=request.actor),
        )


@admin.register(EmailDomain)
class EmailDomainAdmin(OrgModelAdmin):
    """Domains: whose addresses a provider vouches for."""

    noun = "domain"
    form = DomainForm
    list_display = ("domain", "idp", "state", "verified_at")
    list_select_related = ("idp",)
    search_fields = ("domain",)
    ordering = ("domain",)
    actions_detail = ("verify",)
    readonly_fields = ("state", "verified_at", "record")
    fieldsets = ((None, {"fields": ("domain", "idp", ("state", "verified_at"), "record")}),)
    add_fieldsets = ((None, {"fields": ("domain", "idp")}),)

    def visible(self, actor: Actor) -> QuerySet[EmailDomain]:
        """The organization's."""
        return EmailDomain.objects.filter(org=actor.org_id)

    def create(self, request: TenantRequest, data: dict[str, Any]) -> EmailDomain:
        """A claim, to be verified."""
        return services.domain_create(data["idp"], domain=data["domain"], actor=request.actor)

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """Another provider."""
        services.domain_move(row, idp=data["idp"], actor=request.actor)

    def remove(self, request: TenantRequest, row: Any) -> None:
        """The claim goes."""
        services.domain_delete(row, actor=request.actor)

    @admin.display(description="State")
    def state(self, row: EmailDomain) -> SafeString:
        """Verified or not, and how."""
        if row.verified_at:
            return badge(f"Verified: {row.get_verified_by_display()}", "success")
        return badge("Not verified", "warning")

    @admin.display(description="TXT record to publish")
    def record(self, row: EmailDomain) -> SafeString | str:
        """What proves the domain; it may stay."""
        if not row.pk:
            return NOTHING
        return format_html(
            "<code>{}</code><br><code>{}</code>", record_name(row), record_value(row)
        )

    def has_verify_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        waits = row is None or row.verified_at is None
        return waits and self.admin_site.allows(request, "domain.update", row)

    @button("Verify", permission="verify", icon="dns", look="primary")
    def verify(self, request: Any, object_id: str) -> HttpResponse:
        """Look the record up."""
        return self.confirmed(
            request,
            object_id,
            verb="update",
            title="Verify this domain",
            text="The name servers are asked for the TXT record of this page. Once it is found, "
            "addresses of the domain sign in through this provider and through no other.",
            button="Look the record up",
            run=lambda row: services.domain_verify(row, actor=request.actor),
        )


@admin.register(GroupMapping)
class GroupMappingAdmin(OrgModelAdmin):
    """What groups give. It counts from each person's next sign-in."""

    noun = "mapping"
    form = MappingForm
    list_display = ("group", "idp", "team", "role")
    list_select_related = ("idp", "team")
    list_filter = ("role",)
    search_fields = ("group", "team__name")
    ordering = ("group",)
    fields = ("idp", "group", "team", "role")

    def visible(self, actor: Actor) -> QuerySet[GroupMapping]:
        """The organization's."""
        return GroupMapping.objects.filter(org=actor.org_id)

    def create(self, request: TenantRequest, data: dict[str, Any]) -> GroupMapping:
        """One mapping."""
        return services.mapping_create(data.pop("idp"), **data, actor=request.actor)

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """Group, team and role."""
        services.mapping_update(
            row, group=data["group"], team=data["team"], role=data["role"], actor=request.actor
        )

    def remove(self, request: TenantRequest, row: Any) -> None:
        """The group gives nothing any more."""
        services.mapping_delete(row, actor=request.actor)
