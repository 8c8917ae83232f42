"""The pages beside a policy's form: simulate, versions, rollback, export; and import for all.

Each is reached through the admin's own door (`reached`): what one may not see is absent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path

from apps.common.admin_forms import fresh
from apps.common.errors import LensError
from apps.policies import preview, selectors, services
from apps.policies.documents import document_of
from apps.policies.documents_io import parse, to_yaml
from apps.policies.models import Policy, PolicyKind
from apps.policies.questions import ImportForm, RollbackForm, SimulateForm
from apps.policies.review import is_above, is_below
from apps.policies.versions import policy_diff, versions_of

if TYPE_CHECKING:
    from django.http import HttpRequest

    from apps.common.admin import OrgModelAdmin

    Base = OrgModelAdmin
else:
    Base = object

# Of many layers below a ceiling, so many are listed.
_LISTED = 20
_PAGES = (("change", "Policy"), ("simulate", "Simulate"), ("versions", "Versions"))


class PolicyPages(Base):
    """Pages about one policy, each with the way to the others."""

    def get_urls(self) -> list[Any]:
        """Ours first: the base ends with a pattern that takes everything."""
        named = [
            ("<path:object_id>/simulate/", self.simulate_page, "simulate"),
            ("<path:object_id>/versions/", self.versions_page, "versions"),
            ("<path:object_id>/rollback/<int:number>/", self.rollback_page, "rollback"),
            ("<path:object_id>/export/", self.export_page, "export"),
            ("import/", self.import_page, "import"),
        ]
        site: Any = self.admin_site
        own = [
            path(where, site.admin_view(view), name=f"policies_policy_{name}")
            for where, view, name in named
        ]
        return [*own, *super().get_urls()]

    def tabs(self, policy: Policy, current: str) -> list[tuple[str, str, bool]]:
        """Title, address, and whether it is the page itself."""
        found = [(title, self.url(name, policy.pk), name == current) for name, title in _PAGES]
        return [*found, ("Export as YAML", self.url("export", policy.pk), False)]

    def chain(self, request: Any, policy: Policy) -> dict[str, Any]:
        """The layers above and below the policy that this person may see, with links."""
        document = document_of(policy)
        rows = selectors.policies_visible(request.actor).filter(org=request.org)
        others = [row for row in rows.select_related("team", "agent__team") if row != policy]
        above = sorted(
            (row for row in others if is_above(row, document)),
            key=lambda row: row.kind != PolicyKind.CEILING,
        )
        below = [row for row in others if is_below(row, document)]
        below.sort(key=lambda row: (row.kind != PolicyKind.TEAM, row.name))
        return {
            "above": [(row, self.url("change", row.pk)) for row in above],
            "below": [(row, self.url("change", row.pk)) for row in below[:_LISTED]],
            "more": max(0, len(below) - _LISTED),
            "needs_team": policy.kind == PolicyKind.AGENT
            and not any(row.kind == PolicyKind.TEAM for row in above),
        }

    def simulate_page(self, request: Any, object_id: str) -> HttpResponse:
        """What would be decided by what is saved."""
        policy = self.reached(request, object_id, "view")
        form = SimulateForm(request.org, policy, request.POST or None)
        context = self.page(
            request,
            policy,
            title="Simulate",
            tabs=self.tabs(policy, "simulate"),
            chain=self.chain(request, policy),
            sim_form=form,
            answers=preview.answers(request, form, None) if request.POST else None,
            has_draft=False,
        )
        return TemplateResponse(request, "policies/simulate.html", context)

    def versions_page(self, request: Any, object_id: str) -> HttpResponse:
        """Who saved what when, and two of them compared."""
        policy = self.reached(request, object_id, "view")
        rows = list(versions_of(policy, actor=request.actor)[:200])
        numbers = [row.number for row in rows]
        new = _number(request.GET.get("new"), policy.version)
        old = _number(request.GET.get("old"), max(1, new - 1))
        diff = None
        if old != new:
            try:
                diff = policy_diff(policy, old=old, new=new, actor=request.actor)
            except LensError as error:
                messages.error(request, error.message)
        context = self.page(
            request,
            policy,
            title="Versions",
            tabs=self.tabs(policy, "versions"),
            versions=rows,
            old=old,
            new=new,
            diff=diff,
            comparable=len(numbers) > 1,
            may_change=self.admin_site.allows(request, "policy.update", policy),
        )
        return TemplateResponse(request, "policies/versions.html", context)

    def rollback_page(self, request: Any, object_id: str, number: int) -> HttpResponse:
        """Show what would change, ask why, and save the old document again."""
        policy = self.reached(request, object_id, "update")
        form = RollbackForm(request.POST or None, initial={"seen_version": policy.version})
        try:
            diff = policy_diff(policy, old=None, new=number, actor=request.actor)
        except LensError as error:
            messages.error(request, error.message)
            return HttpResponseRedirect(self.url("versions", policy.pk))
        if request.method == "POST" and form.is_valid():
            try:
                saved = services.policy_rollback(
                    fresh(policy),
                    number=number,
                    version=form.cleaned_data["seen_version"],
                    reason=form.cleaned_data["reason"],
                    actor=request.actor,
                )
            except LensError as error:
                form.refuse(error)
            else:
                text = f"Version {number} is back, as version {saved.policy.version}."
                messages.success(request, text)
                for warning in saved.warnings:
                    messages.warning(request, warning)
                return HttpResponseRedirect(self.url("versions", policy.pk))
        context = self.page(
            request,
            policy,
            title=f"Roll back to version {number}",
            number=number,
            form=form,
            diff=diff,
            back=self.url("versions", policy.pk),
        )
        return TemplateResponse(request, "policies/rollback.html", context)

    def export_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The saved document as a file."""
        policy = self.reached(request, object_id, "view")
        response = HttpResponse(to_yaml(document_of(policy)), content_type="application/yaml")
        subject = policy.team or policy.agent
        name = f"{policy.kind}-{subject.slug}" if subject else policy.kind
        response["Content-Disposition"] = f'attachment; filename="{name}.policy.yaml"'
        response["X-Content-Type-Options"] = "nosniff"
        return response

    def import_page(self, request: Any) -> HttpResponse:
        """A document that was written elsewhere, applied."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = ImportForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                saved = services.policy_apply(
                    request.org,
                    document=parse(form.cleaned_data["document"]),
                    reason=form.cleaned_data["reason"],
                    actor=request.actor,
                )
            except LensError as error:
                form.refuse(error)
            else:
                messages.success(request, f"{saved.policy}: version {saved.policy.version}.")
                for warning in saved.warnings:
                    messages.warning(request, warning)
                return HttpResponseRedirect(self.url("change", saved.policy.pk))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Import a policy",
            "form": form,
            "back": self.url("changelist"),
        }
        return TemplateResponse(request, "policies/import.html", context)


def _number(text: str | None, default: int) -> int:
    """A version's number from the address."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else default
