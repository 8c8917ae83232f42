"""The menu of the admin, by task and not by table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.urls import reverse

if TYPE_CHECKING:
    from django.http import HttpRequest

# group → (title, icon, model label); a person sees what `can` lets them view
MENU: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "People & teams",
        (
            ("People", "group", "orgs.membership"),
            ("Invitations", "mail", "orgs.invitation"),
            ("Teams", "groups", "orgs.team"),
            ("Projects", "folder", "orgs.project"),
            ("Project access", "rule_folder", "orgs.projectgrant"),
        ),
    ),
    (
        "Governance",
        (
            ("Policies", "policy", "policies.policy"),
            ("Connections", "key", "connections.credential"),
        ),
    ),
    (
        "Runtime",
        (
            ("Agents", "smart_toy", "agents.agent"),
            ("Agent tokens", "token", "agents.agenttoken"),
            ("Sandboxes", "deployed_code", "sandboxes.sandbox"),
        ),
    ),
    ("Audit", (("Audit trail", "receipt_long", "audit.auditevent"),)),
    (
        "Settings",
        (
            ("Organization", "domain", "orgs.organization"),
            ("Sign-in", "passkey", "orgs.identityprovider"),
            ("E-mail domains", "alternate_email", "orgs.emaildomain"),
            ("Group mappings", "lan", "orgs.groupmapping"),
            ("Sessions", "devices", "orgs.usersession"),
            ("Operator access", "visibility", "orgs.breakglass"),
            ("Background jobs", "work_history", "jobs.job"),
        ),
    ),
)


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """The theme's navigation structure, with what this person may not view left out."""
    overview = {"title": "Overview", "icon": "space_dashboard", "link": reverse("admin:index")}
    groups: list[dict[str, Any]] = [{"items": [overview]}]
    for title, entries in MENU:
        items = [_item(*entry) for entry in entries if _visible(request, entry[2])]
        if items:
            groups.append({"title": title, "items": items})
    return groups


def organization_name(request: HttpRequest) -> str:
    """The organization that this session works in."""
    org = getattr(request, "org", None)
    return org.name if org else "No organization"


def _item(title: str, icon: str, label: str) -> dict[str, Any]:
    return {
        "title": title,
        "icon": icon,
        "link": reverse(f"admin:{label.replace('.', '_')}_changelist"),
    }


def _visible(request: HttpRequest, label: str) -> bool:
    for model, model_admin in admin.site._registry.items():  # noqa: SLF001  no public look-up by label
        if model._meta.label_lower == label:  # noqa: SLF001  Django's documented API
            return bool(model_admin.has_view_permission(request))
    return False
