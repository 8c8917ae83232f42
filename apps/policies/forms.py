"""The policy as forms: one form a rule, and the HTTP rules of a domain rule as lines of text.

    GET /tickets/** allow
    POST /tickets allow
    * deny

A line is a method (or `*`), a path glob (left out = any path) and an action. The order of the lines
is the order of the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextareaWidget

from apps.common.admin_forms import OrgForm, is_new
from apps.policies.documents import HttpRuleDoc
from apps.policies.models import CredentialBinding, DomainRule, Policy, PolicyKind, ToolRule

if TYPE_CHECKING:
    from collections.abc import Iterable

HTTP_ACTIONS = ("allow", "ask", "deny")
EXAMPLE = "GET /tickets/** allow"


class LineError(ValueError):
    """A line that is no HTTP rule; the text names the line and what would be right."""


def parse_http_rules(text: str) -> list[tuple[int, HttpRuleDoc]]:
    """(line number from 1, rule) for each line that is not blank; raises LineError."""
    return [
        (number, _parse_line(line.split(), number))
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]


def render_http_rules(rules: Iterable[HttpRuleDoc]) -> str:
    """The lines that `parse_http_rules` reads."""
    return "\n".join(" ".join(filter(None, (r.method, r.path, r.action))) for r in rules)


def _parse_line(words: list[str], number: int) -> HttpRuleDoc:
    if not 2 <= len(words) <= 3:
        raise LineError(f"Line {number}: write a method, a path and an action, as in “{EXAMPLE}”.")
    method, action = words[0].upper(), words[-1].lower()
    path = words[1] if len(words) == 3 else ""
    if action not in HTTP_ACTIONS:
        raise LineError(f"Line {number}: “{words[-1][:50]}” is not one of allow, ask, deny.")
    if path and not path.startswith("/"):
        raise LineError(f"Line {number}: the path “{path[:100]}” must start with “/”.")
    return HttpRuleDoc(method=method, path=path, action=action)


class PolicyForm(OrgForm):
    """What the policy is about. `seen_version` finds out that somebody else saved in between."""

    fixed = ("kind", "team", "agent")
    seen_version = forms.IntegerField(required=False, widget=forms.HiddenInput)

    class Meta:
        model = Policy
        fields = ("name", "kind", "team", "agent", "description", "has_domains", "has_tools")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not is_new(self):
            self.initial["seen_version"] = self.instance.version

    def clean(self) -> dict[str, Any] | None:
        """A policy has the subject that its kind asks for, and no other."""
        data = super().clean() or {}
        for kind in (PolicyKind.TEAM, PolicyKind.AGENT):
            subject = str(kind)
            if data.get("kind") != kind:
                data[subject] = None
            elif not data.get(subject) and subject not in self.errors:
                self.add_error(subject, f"Choose the {subject} that this policy is for.")
        return data


class OrderedForm(OrgForm):
    """A rule with a place. A new rule without one goes to the end."""

    position = forms.IntegerField(
        label="Order",
        required=False,
        min_value=0,
        max_value=100_000,
        widget=UnfoldAdminIntegerFieldWidget(attrs={"class": "lens-order"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not is_new(self):  # people count from 1, and so do the sentences about rules
            self.initial["position"] = self.instance.position + 1

    def clean_position(self) -> int:
        """The number, or the end."""
        position: int | None = self.cleaned_data["position"]
        return 100_000 if position is None else position


class DomainRuleForm(OrderedForm):
    """A domain rule and its HTTP rules."""

    http = forms.CharField(
        label="HTTP rules",
        required=False,
        strip=False,  # a complaint counts lines as the person sees them
        max_length=50_000,
        widget=UnfoldAdminTextareaWidget(attrs={"placeholder": EXAMPLE, "spellcheck": "false"}),
    )

    class Meta:
        model = DomainRule
        fields = ("position", "pattern", "action", "agent_credentials")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        lines = "" if is_new(self) else http_lines(self.instance)
        self.initial["http"] = lines
        self.fields["http"].widget.attrs["rows"] = min(12, lines.count("\n") + 2 if lines else 1)

    def clean_pattern(self) -> str:
        """Host names have no letter case."""
        return str(self.cleaned_data["pattern"]).strip().lower()

    def clean_http(self) -> list[tuple[int, HttpRuleDoc]]:
        """The rules with their line numbers."""
        try:
            return parse_http_rules(self.cleaned_data["http"])
        except LineError as error:
            raise forms.ValidationError(str(error)) from error


class ToolRuleForm(OrderedForm):
    """A tool rule."""

    class Meta:
        model = ToolRule
        fields = ("position", "pattern", "action")


class BindingForm(OrderedForm):
    """A credential binding."""

    class Meta:
        model = CredentialBinding
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

    def clean_pattern(self) -> str:
        """Host names have no letter case."""
        return str(self.cleaned_data["pattern"]).strip().lower()

    def clean_method(self) -> str:
        """Methods are capitals (RFC 9110 section 9.1)."""
        return str(self.cleaned_data["method"]).strip().upper()


def http_lines(rule: DomainRule) -> str:
    """The stored HTTP rules of a domain rule as lines."""
    rows = rule.http_rules.all()
    return render_http_rules(HttpRuleDoc(row.method, row.path, row.action) for row in rows)
