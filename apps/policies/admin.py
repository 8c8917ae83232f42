"""Policies as forms. All that the page shows is one document, saved whole by one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages

from apps.common.admin import OrgInline, OrgModelAdmin
from apps.common.admin_display import badge_column
from apps.common.admin_forms import adopt, fresh, is_new
from apps.common.errors import LensError
from apps.orgs.access import can
from apps.policies import preview, selectors, services
from apps.policies.documents import (
    BindingDoc,
    DomainRuleDoc,
    ExpectationDoc,
    HttpRuleDoc,
    PolicyDocument,
    ToolRuleDoc,
)
from apps.policies.forms import (
    BindingForm,
    DomainRuleForm,
    PolicyForm,
    PolicyTestForm,
    ToolRuleForm,
    http_lines,
    test_asks,
)
from apps.policies.models import (
    CredentialBinding,
    DomainRule,
    Policy,
    PolicyKind,
    PolicyTest,
    ToolRule,
)
from apps.policies.pages import PolicyPages

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable

    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

    from apps.common.admin_forms import TenantRequest
    from apps.orgs.types import Actor


class RuleInline(OrgInline):
    """Rules belong to the policy: who may change it may change them. `PolicyAdmin` saves them."""

    noun = "policy"
    verbs = {"view": "view", "add": "update", "change": "update", "delete": "update"}
    section = ""
    readonly_fields = ("place",)
    ordering_field: str | None = "position"
    tab = False

    def get_fields(self, request: Any, obj: Any = None) -> Any:
        """Who only reads is shown the place as a number, and nothing to drag."""
        fields = super().get_fields(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return fields
        self.ordering_field = None  # of this inline, which was made for this request
        return ["place" if name == "position" else name for name in fields]

    @admin.display(description="Order")
    def place(self, rule: Any) -> int:
        """People count from 1."""
        return int(rule.position) + 1


class DomainRuleInline(RuleInline):
    """Where agents may connect."""

    model = DomainRule
    form = DomainRuleForm
    section = "domains"
    fields = ("position", "pattern", "action", "http", "agent_credentials")
    verbose_name_plural = "domain rules"
    template_before = "policies/domain_rules.html"

    def visible(self, actor: Actor) -> QuerySet[DomainRule]:
        """With their HTTP rules, in one query."""
        return super().visible(actor).prefetch_related("http_rules")

    @admin.display(description="HTTP rules", empty_value="-")
    def http(self, rule: DomainRule) -> str:
        """For those who may only read."""
        return http_lines(rule)


class ToolRuleInline(RuleInline):
    """Which tools agents see."""

    model = ToolRule
    form = ToolRuleForm
    section = "tools"
    fields = ("position", "pattern", "action")
    template_before = "policies/tool_rules.html"


class BindingInline(RuleInline):
    """Which credentials are injected where."""

    model = CredentialBinding
    form = BindingForm
    section = "bindings"
    fields = (
        "position",
        "credential",
        "pattern",
        "method",
        "path",
        "injection",
        "header",
        "template",
        "parameter",
        "env_name",
    )
    template_before = "policies/bindings.html"


class PolicyTestInline(RuleInline):
    """What the policy must decide."""

    model = PolicyTest
    form = PolicyTestForm
    section = "tests"
    fields = ("position", "team", "agent", "tier", "asks", "expect", "note")
    verbose_name_plural = "tests"
    template_before = "policies/tests.html"

    def get_fields(self, request: Any, obj: Any = None) -> Any:
        """A team is named in a ceiling only, an agent everywhere but in its own policy."""
        fields = super().get_fields(request, obj)
        left_out = _NOT_NAMED.get(obj.kind, set()) if obj is not None else set()
        return [name for name in fields if name not in left_out]

    @admin.display(description="Asks")
    def asks(self, test: PolicyTest) -> str:
        """For those who may only read."""
        return test_asks(test)


_NOT_NAMED: dict[str, set[str]] = {PolicyKind.TEAM: {"team"}, PolicyKind.AGENT: {"team", "agent"}}


@admin.register(Policy)
class PolicyAdmin(PolicyPages, OrgModelAdmin):
    """Policies: every layer must allow."""

    noun = "policy"
    palette = "policy"
    form = PolicyForm
    list_display = (
        "name",
        badge_column("kind", "Layer", {"ceiling": "warning", "team": "info"}),
        "subject",
        "version",
        "updated_at",
    )
    list_filter = ("kind",)
    list_select_related = ("team", "agent")
    search_fields = ("name", "description", "team__name", "domain_rules__pattern")
    ordering = ("kind", "name")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("name", "kind"),
                    "team",
                    "agent",
                    "description",
                    ("has_domains", "has_tools"),
                    "reason",
                    "seen_version",
                )
            },
        ),
    )
    conditional_fields = {"team": "kind == 'team'", "agent": "kind == 'agent'"}
    inlines = (DomainRuleInline, BindingInline, ToolRuleInline, PolicyTestInline)
    list_before_template = "policies/list.html"
    change_form_outer_before_template = "policies/layers.html"
    change_form_after_template = "policies/preview.html"

    def visible(self, actor: Actor) -> QuerySet[Policy]:
        """Those of the person's teams; all for readers."""
        return selectors.policies_visible(actor)

    def get_fieldsets(self, request: Any, obj: Any = None) -> Any:
        """Who only reads is shown whom it is for, and no fields that a form would switch."""
        if obj is None or self.has_change_permission(request, obj):
            return super().get_fieldsets(request, obj)
        shown = (("name", "kind"), ("subject", "version"), "description")
        return ((None, {"fields": (*shown, ("has_domains", "has_tools"))}),)

    def save_model(self, request: TenantRequest, obj: Any, form: Any, change: Any) -> None:
        """Nothing yet: the document is not complete without its rules."""

    def save_related(
        self, request: TenantRequest, form: Any, formsets: Iterable[Any], change: Any
    ) -> None:
        """The whole document, by one call."""
        kept = preview.sections(formsets)
        policy = fresh(form.instance) if change else None
        document = collect(form.cleaned_data, kept, policy)
        if preview.wanted(request):
            raise preview.Previewed(document)
        try:
            saved = services.policy_save(
                request.org,
                document=document,
                policy=policy,
                actor=request.actor,
                reason=form.cleaned_data["reason"],
            )
        except LensError as error:
            request.refused_document = document  # type: ignore[attr-defined]  # read below
            preview.place(error, kept)
            raise
        adopt(form.instance, saved.policy)
        for warning in saved.warnings:
            messages.warning(request, warning)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """As the base's; a form that is only looked at comes back with what was found."""
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except preview.Previewed as previewed:
            request.preview = previewed.document  # type: ignore[attr-defined]  # read by PolicyForm
        return super().changeform_view(request, object_id, form_url, extra_context)

    def render_change_form(
        self, request: Any, context: dict[str, Any], **kwargs: Any
    ) -> HttpResponse:
        """With the layers around the policy, and what is to be said of each rule."""
        policy = kwargs.get("obj")
        draft = getattr(request, "preview", None)
        shown = draft or getattr(request, "refused_document", None)
        formsets = [inline.formset for inline in context["inline_admin_formsets"]]
        reads_all = can(request.actor, "policy.view", request.org).allowed
        if reads_all and (shown is not None or request.method != "POST"):
            found = preview.found_in(request, policy, shown)
            kept = preview.sections(formsets)
            context["found"] = found
            context["elsewhere"] = preview.annotate(found, kept, problems=draft is not None)
        context["previewed"] = draft is not None
        if policy is not None:
            context |= {"chain": self.chain(request, policy), "tabs": self.tabs(policy, "change")}
            if self.has_change_permission(request, policy):
                context |= preview.simulation(request, policy, draft)
        return super().render_change_form(request, context, **kwargs)

    def remove(self, request: TenantRequest, row: Any) -> None:
        """Its team may do nothing from then on."""
        services.policy_delete(row, actor=request.actor)

    def consequences(self, row: Any) -> list[str]:
        """Said before somebody clicks."""
        if row.team_id:
            return [f"Agents of {row.team} may do nothing until the team has a policy again."]
        return []

    @admin.display(description="For")
    def subject(self, policy: Policy) -> str:
        """The team, the agent, or everybody."""
        return str(policy.team or policy.agent or "The whole organization")


def collect(
    data: dict[str, Any], kept: dict[str, list[Any]], policy: Policy | None
) -> PolicyDocument:
    """The document that the page shows."""
    return PolicyDocument(
        name=data["name"],
        kind=data["kind"],
        team=data["team"],
        agent=data["agent"],
        description=data["description"],
        has_domains=data["has_domains"],
        has_tools=data["has_tools"],
        domains=tuple(_domain(form) for form in kept.get("domains", [])),
        tools=tuple(
            ToolRuleDoc(form.cleaned_data["pattern"], form.cleaned_data["action"], _id(form))
            for form in kept.get("tools", [])
        ),
        bindings=tuple(_binding(form) for form in kept.get("bindings", [])),
        tests=tuple(_test(form) for form in kept.get("tests", [])),
        version=data["seen_version"] if policy else None,
    )


def _domain(form: Any) -> DomainRuleDoc:
    data = form.cleaned_data
    return DomainRuleDoc(
        pattern=data["pattern"],
        action=data["action"],
        agent_credentials=data["agent_credentials"],
        http=_with_ids([rule for _, rule in data["http"]], form.instance),
        id=_id(form),
    )


def _with_ids(rules: list[HttpRuleDoc], row: DomainRule) -> tuple[HttpRuleDoc, ...]:
    """Lines that did not change keep their rule: what the audit trail names is still found."""
    stored: dict[tuple[str, str, str], list[uuid.UUID]] = {}
    if not row._state.adding:  # noqa: SLF001  documented by Django
        for http in row.http_rules.all():
            stored.setdefault((http.method, http.path, http.action), []).append(http.pk)
    result = []
    for rule in rules:
        ids = stored.get((rule.method, rule.path, rule.action))
        result.append(HttpRuleDoc(rule.method, rule.path, rule.action, ids.pop(0) if ids else None))
    return tuple(result)


def _binding(form: Any) -> BindingDoc:
    data = form.cleaned_data
    return BindingDoc(
        credential=data["credential"],
        pattern=data["pattern"],
        injection=data["injection"],
        method=data["method"],
        path=data["path"],
        header=data["header"],
        template=data["template"],
        parameter=data["parameter"],
        env_name=data["env_name"],
        id=_id(form),
    )


def _test(form: Any) -> ExpectationDoc:
    data = form.cleaned_data
    tool, method, url = data["asks"]
    return ExpectationDoc(
        expect=data["expect"],
        tool=tool,
        method=method,
        url=url,
        team=data.get("team", ""),
        agent=data.get("agent", ""),
        tier=data["tier"],
        note=data["note"],
        id=_id(form),
    )


def _id(form: Any) -> uuid.UUID | None:
    return None if is_new(form) else form.instance.pk
