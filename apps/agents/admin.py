"""Agents and their tokens. A token's value is on the page that mints it, once, and nowhere else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib import admin, messages
from django.db import transaction
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.views.decorators.debug import sensitive_variables

from apps.agents import selectors, services
from apps.agents.forms import AgentForm, MintForm
from apps.agents.models import Agent, AgentToken
from apps.common import clock
from apps.common.admin import OrgInline, OrgModelAdmin
from apps.common.admin_display import NOTHING, badge, button, counted
from apps.common.admin_forms import fresh
from apps.common.admin_scope import READ_ONLY
from apps.common.errors import LensError

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString

    from apps.common.admin_forms import TenantRequest
    from apps.orgs.types import Actor

TOKEN_VARIABLE = "LENS_TOKEN"  # noqa: S105  the name of an environment variable


@admin.display(description="Token", ordering="hint")
def hint(token: AgentToken) -> SafeString:
    """How it starts: enough to recognise it, useless to anybody."""
    return format_html("<code>{}…</code>", token.hint)


@admin.display(description="State")
def token_state(token: AgentToken) -> SafeString:
    """Whether it would be accepted now."""
    if token.revoked_at:
        return badge("Revoked", "danger")
    return badge("Active", "success") if usable(token) else badge("Expired", "warning")


def usable(token: AgentToken) -> bool:
    """Neither revoked nor expired."""
    return token.revoked_at is None and (token.expires_at is None or token.expires_at > clock.now())


@admin.display(description="State")
def agent_state(agent: Agent) -> SafeString:
    """Whether it may act at all."""
    return badge("Disabled", "danger") if agent.disabled_at else badge("Active", "success")


class TokenInline(OrgInline):
    """The agent's tokens. They are minted and revoked on pages of their own."""

    model = AgentToken
    noun = "token"
    verbs = READ_ONLY
    tab = False
    fields = ("name", hint, token_state, "expires_at", "last_used_at", "revoke_link")
    readonly_fields = (hint, token_state, "expires_at", "last_used_at", "revoke_link")
    ordering = ("-created_at",)
    verbose_name_plural = "tokens"

    @admin.display(description="Revoke")
    def revoke_link(self, token: AgentToken) -> SafeString | str:
        """To the page that asks first."""
        if token.revoked_at:
            return NOTHING
        return format_html(
            '<a class="lens-link" href="{}">Revoke</a>',
            reverse(f"{self.admin_site.name}:agents_agenttoken_revoke", args=(token.pk,)),
        )


@admin.register(Agent)
class AgentAdmin(OrgModelAdmin):
    """Agents: who acts with a token."""

    noun = "agent"
    palette = "smart_toy"
    form = AgentForm
    list_display = ("name", "slug", "team", "kind", agent_state, "token_count", "created_at")
    list_filter = (("team", admin.RelatedOnlyFieldListFilter), "kind")
    list_select_related = ("team",)
    search_fields = ("name", "slug", "team__name", "description")
    ordering = ("name",)
    fieldsets = ((None, {"fields": ("name", "slug", "team", "description")}),)
    inlines = (TokenInline,)
    actions_detail = ("mint", "disable", "enable")

    def visible(self, actor: Actor) -> QuerySet[Agent]:
        """Those of the person's teams; all for readers."""
        return selectors.agents_visible(actor).prefetch_related("tokens")

    def create(self, request: TenantRequest, data: dict[str, Any]) -> Agent:
        """One agent."""
        return services.agent_create(request.org, **data, actor=request.actor)

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """Name, description and team."""
        services.agent_update(
            row,
            name=data["name"],
            description=data["description"],
            team=data["team"],
            actor=request.actor,
        )

    def remove(self, request: TenantRequest, row: Any) -> None:
        """With its tokens and its own policy."""
        services.agent_delete(row, actor=request.actor)

    def consequences(self, row: Any) -> list[str]:
        """Said before somebody clicks."""
        return [
            f"{counted(row.tokens.count(), 'token')} refused at the next request.",
            "Its own policy goes with it. The audit trail keeps its name.",
        ]

    @admin.display(description="Tokens")
    def token_count(self, agent: Any) -> int:
        """How many would be accepted now."""
        return sum(usable(token) for token in agent.tokens.all())

    def has_mint_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        enabled = row is None or row.disabled_at is None
        return enabled and self.admin_site.allows(request, "token.create", row)

    def has_disable_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        enabled = row is None or row.disabled_at is None
        return enabled and self.admin_site.allows(request, "agent.update", row)

    def has_enable_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether to offer the button."""
        row = self.row(request, obj)
        disabled = row is None or row.disabled_at is not None
        return disabled and self.admin_site.allows(request, "agent.update", row)

    @button("New token", permission="mint", icon="add", look="primary")
    def mint(self, request: Any, object_id: str) -> HttpResponse:
        """Ask for a name and an expiry, then show the value once."""
        agent = self.reached(request, object_id, "view")
        form = MintForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                minted = services.token_create(
                    fresh(agent),
                    name=form.cleaned_data["name"],
                    expires_at=form.expires_at(),
                    actor=request.actor,
                )
            except LensError as error:
                form.refuse(error)
            else:
                return self.show_once(request, agent, minted)
        context = self.page(request, agent, title="New token", form=form)
        return TemplateResponse(request, "agents/mint.html", context)

    @sensitive_variables("minted", "context")
    def show_once(
        self, request: HttpRequest, agent: Agent, minted: services.Minted
    ) -> HttpResponse:
        """The only page that ever holds the value; no cache may keep it."""
        context = self.page(
            request,
            agent,
            title="New token",
            token=minted.token,
            value=minted.value,
            snippets=snippets(minted.value),
        )
        response = TemplateResponse(request, "agents/minted.html", context)
        response["Cache-Control"] = "no-store"
        return response

    @button("Disable", permission="disable", icon="block", look="danger")
    def disable(self, request: Any, object_id: str) -> HttpResponse:
        """The kill switch."""
        return self.confirmed(
            request,
            object_id,
            verb="update",
            title="Disable this agent",
            text="All its tokens are refused from now on, and what it has open is cut. "
            "Nothing is deleted; you can enable it again.",
            button="Disable agent",
            run=lambda row: services.agent_disable(row, actor=request.actor),
        )

    @button("Enable", permission="enable", icon="check_circle")
    def enable(self, request: Any, object_id: str) -> HttpResponse:
        """Undo the kill switch."""
        return self.confirmed(
            request,
            object_id,
            verb="update",
            title="Enable this agent",
            text="Its tokens that are neither revoked nor expired are accepted again.",
            button="Enable agent",
            run=lambda row: services.agent_enable(row, actor=request.actor),
        )


@admin.register(AgentToken)
class AgentTokenAdmin(OrgModelAdmin):
    """Every token of the organization on one page; minted at the agent."""

    noun = "token"
    verbs = READ_ONLY
    list_display = ("name", "agent", hint, token_state, "expires_at", "last_used_at", "created_at")
    list_filter = (
        ("agent", admin.RelatedOnlyFieldListFilter),
        ("revoked_at", admin.EmptyFieldListFilter),
    )
    list_select_related = ("agent",)
    search_fields = ("name", "agent__name", "hint")
    ordering = ("-created_at",)
    fields = (
        ("name", "agent"),
        (hint, token_state),
        ("created_at", "expires_at"),
        ("last_used_at", "revoked_at"),
    )
    readonly_fields = (hint, token_state, "created_at", "last_used_at", "revoked_at")
    actions = ("revoke_selected",)
    actions_detail = ("revoke",)

    def visible(self, actor: Actor) -> QuerySet[AgentToken]:
        """The organization's."""
        return selectors.tokens_visible(actor)

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Only what was not revoked."""
        row = self.row(request, obj)
        if row is not None and row.revoked_at:
            return False
        return self.admin_site.allows(request, "token.delete", row)

    @button("Revoke", permission="revoke", icon="block", look="danger")
    def revoke(self, request: Any, object_id: str) -> HttpResponse:
        """For ever."""
        return self.confirmed(
            request,
            object_id,
            verb="delete",
            title="Revoke this token",
            text="It is refused from now on, and what was opened with it is cut. "
            "A revoked token never comes back.",
            button="Revoke token",
            run=lambda row: services.token_revoke(row, actor=request.actor),
        )

    @admin.action(description="Revoke the selected tokens", permissions=["revoke"])
    def revoke_selected(self, request: Any, queryset: QuerySet[AgentToken]) -> None:
        """All or none."""
        with transaction.atomic():
            for token in queryset.filter(revoked_at=None):
                services.token_revoke(token, actor=request.actor)
        self.message_user(request, "The selected tokens are revoked.", messages.SUCCESS)


def snippets(value: str) -> list[tuple[str, str]]:
    """(title, text) of ready configurations; the file for a repository names the variable only."""
    endpoint = f"{settings.PUBLIC_URL}/mcp"
    server = {
        "type": "http",
        "url": endpoint,
        "headers": {"Authorization": f"Bearer ${{{TOKEN_VARIABLE}}}"},
    }
    return [
        ("In the shell that starts the agent", f"export {TOKEN_VARIABLE}={value}"),
        (
            "Claude Code",
            (
                f"claude mcp add --transport http lens {endpoint} "
                f'--header "Authorization: Bearer ${TOKEN_VARIABLE}"'
            ),
        ),
        (
            ".mcp.json of a project (Claude Code reads the variable)",
            json.dumps({"mcpServers": {"lens": server}}, indent=2),
        ),
    ]
