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
from django.utils.html import format_html, format_html_join
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from apps.common.admin_forms import OrgForm, is_new
from apps.common.inert import inert
from apps.policies.documents import HttpRuleDoc
from apps.policies.models import (
    CredentialBinding,
    DomainRule,
    Policy,
    PolicyKind,
    PolicyTest,
    ToolRule,
)
from apps.policies.questions import EXAMPLE as EXAMPLE_QUESTION
from apps.policies.questions import TOOL, parse_question

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.utils.safestring import SafeString

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


class NotedInput(UnfoldAdminTextInputWidget):
    """An input with sentences below it: (look, text), where look is good, warn, bad or info."""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        super().__init__({"spellcheck": "false", "autocomplete": "off", **(attrs or {})})
        self.notes: list[tuple[str, str]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> NotedInput:
        """Each form has notes of its own."""
        copied: NotedInput = super().__deepcopy__(memo)
        copied.notes = []
        return copied

    def render(self, *args: Any, **kwargs: Any) -> SafeString:
        """The input, then the sentences."""
        shown = super().render(*args, **kwargs)
        notes = format_html_join(
            "",
            '<p class="lens-effect lens-effect-{}" x-ignore>{}</p>',
            ((look, inert(text, limit=600)) for look, text in self.notes),
        )
        return format_html("{}{}", shown, notes)


class PolicyForm(OrgForm):
    """What the policy is about. `seen_version` finds out that somebody else saved in between."""

    fixed = ("kind", "team", "agent")
    seen_version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    reason = forms.CharField(
        label="Why this change",
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept with the version. Needed when policy tests fail and nothing is widened.",
    )

    class Meta:
        model = Policy
        fields = ("name", "kind", "team", "agent", "description", "has_domains", "has_tools")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not is_new(self):
            self.initial["seen_version"] = self.instance.version

    def is_valid(self) -> bool:
        """A form that is only looked at is never good enough to be saved."""
        return super().is_valid() and getattr(self.request, "preview", None) is None

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
        widgets = {"pattern": NotedInput}

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
        widgets = {"pattern": NotedInput}


class PolicyTestForm(OrderedForm):
    """A policy test: what is asked stands on one line."""

    asks = forms.CharField(
        label="Asks",
        max_length=2_100,
        widget=NotedInput(attrs={"placeholder": f"{EXAMPLE_QUESTION} or {TOOL} shell_exec"}),
    )

    class Meta:
        model = PolicyTest
        fields = ("position", "team", "agent", "tier", "expect", "note")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not is_new(self):
            self.initial["asks"] = test_asks(self.instance)

    def clean_asks(self) -> tuple[str, str, str]:
        """Tool, method and URL."""
        try:
            found = parse_question(self.cleaned_data["asks"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error
        return found.tool, found.method, found.url

    def _post_clean(self) -> None:
        """The row is valid with what it asks: its constraint wants one of tool and URL."""
        row = self.instance
        row.tool, row.method, row.url = self.cleaned_data.get("asks", ("-", "", ""))
        super()._post_clean()  # type: ignore[misc]  # Django's, unknown to its stubs


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


def test_asks(test: PolicyTest) -> str:
    """What a stored test asks, as `parse_question` reads it."""
    return f"{TOOL} {test.tool}" if test.tool else f"{test.method} {test.url}"
