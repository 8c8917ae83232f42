"""Questions as people type them, one a line, and the form that asks them of a policy.

GET https://api.github.com/repos
WEBSOCKET wss://live.example.com/feed
CONNECT db.example.com:5432
TOOL shell_exec
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from unfold.widgets import (
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from apps.common.addresses import parse_address
from apps.orgs.models import Project, Team
from apps.policies.models import Policy, PolicyKind
from apps.policies.schema import TIERS
from apps.policies.simulator import DEFAULT_TIER, MAX_QUESTIONS, Query, Question

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from apps.common.errors import LensError
    from apps.orgs.models import Organization

TOOL = "TOOL"
EXAMPLE = "GET https://api.example.com/path"
_ASKED = 2_100


def parse_question(line: str) -> Question:
    """A line as a question; raises ValueError with a sentence."""
    words = line.split()
    if len(line) > _ASKED or len(words) != 2:
        raise ValueError(f"Write a method and a URL, or {TOOL} and a tool: “{EXAMPLE}”.")
    first = words[0].upper()
    return Question(tool=words[1]) if first == TOOL else Question(method=first, url=words[1])


def parse_questions(text: str) -> list[Question]:
    """The questions of all lines that are not blank; ValueError names the line."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                found.append(parse_question(line))
            except ValueError as error:
                raise ValueError(f"Line {number}: {error}") from error
    return found


class SimulateForm(forms.Form):
    """Who asks, where, and what. A policy says for whom: a team's for its team, and so on."""

    team = forms.ModelChoiceField(
        Team.objects.none(), widget=UnfoldAdminSelectWidget, empty_label=None
    )
    agent = forms.ModelChoiceField(
        Team.objects.none(),
        required=False,
        widget=UnfoldAdminSelectWidget,
        empty_label="Anybody of the team",
    )
    project = forms.ModelChoiceField(
        Project.objects.none(),
        required=False,
        widget=UnfoldAdminSelectWidget,
        empty_label="The first that the team works in",
    )
    tier = forms.ChoiceField(
        choices=[(tier, tier.capitalize()) for tier in TIERS],
        initial=DEFAULT_TIER,
        widget=UnfoldAdminSelectWidget,
    )
    addresses = forms.CharField(
        label="The host resolves to",
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "optional: 203.0.113.7"}),
        help_text="Names are not looked up. Give addresses to have them judged, too.",
    )
    requests = forms.CharField(
        label="What is asked",
        max_length=400_000,
        widget=UnfoldAdminTextareaWidget(
            attrs={"rows": 4, "spellcheck": "false", "placeholder": f"{EXAMPLE}\n{TOOL} shell_exec"}
        ),
        help_text=f"One a line: a method and a URL, or {TOOL} and a tool's name.",
    )

    def __init__(self, org: Organization, policy: Policy, data: Any = None) -> None:
        super().__init__(data, prefix="sim")
        self._policy = policy
        teams = Team.objects.filter(org=org, deleted_at=None).order_by("name")
        projects = Project.objects.filter(org=org, deleted_at=None).order_by("name")
        if policy.kind != PolicyKind.CEILING:
            teams = teams.filter(pk=self._team_id)
            projects = projects.filter(grants__team=self._team_id)
            del self.fields["team"]
        else:
            self._choose("team", teams)
        if policy.kind == PolicyKind.AGENT:
            del self.fields["agent"]
        else:
            agents = Policy._meta.get_field("agent").related_model._default_manager  # noqa: SLF001  documented by Django
            rows = agents.filter(org=org, team__in=teams).order_by("name")
            self._choose("agent", rows)
        self._choose("project", projects.distinct())

    @property
    def _team_id(self) -> Any:
        return self._policy.team_id or (self._policy.agent and self._policy.agent.team_id)

    def _choose(self, name: str, rows: QuerySet[Any]) -> None:
        field = self.fields[name]
        field.queryset = rows  # type: ignore[attr-defined]  # a choice of rows has one

    def clean_requests(self) -> list[Question]:
        """At least one question, and not too many."""
        try:
            found = parse_questions(self.cleaned_data["requests"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error
        if len(found) > MAX_QUESTIONS:
            raise forms.ValidationError(f"At most {MAX_QUESTIONS} lines at a time.")
        return found

    def clean_addresses(self) -> tuple[str, ...]:
        """Addresses, apart by blanks or commas."""
        found = tuple(self.cleaned_data["addresses"].replace(",", " ").split())
        for text in found:
            if parse_address(text) is None:
                raise forms.ValidationError(f"“{text[:60]}” is no IP address.")
        return found

    def query(self) -> Query:
        """What `simulate` takes; the form is valid."""
        data = self.cleaned_data
        agent = data.get("agent") or self._policy.agent
        team: Any = agent.team if agent else data.get("team") or self._policy.team
        questions = [
            Question(one.tool, one.method, one.url, () if one.tool else data["addresses"])
            for one in data["requests"]
        ]
        return Query(team, questions, agent, data["project"], data["tier"])


class RefusableForm(forms.Form):
    """A form of ours that a service may refuse: the sentence comes to stand at its field."""

    def refuse(self, error: LensError) -> None:
        """Say it at the field that the error names, with that place where it has none here."""
        field = str(error.data.get("field", ""))
        if field in self.fields:
            self.add_error(field, error.message)
        else:
            self.add_error(None, f"{field}: {error.message}" if field else error.message)


class RollbackForm(RefusableForm):
    """Why an old version comes back. `seen_version` finds out that somebody saved in between."""

    seen_version = forms.IntegerField(min_value=1, widget=forms.HiddenInput)
    reason = forms.CharField(
        label="Why",
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept with the version. Needed when policy tests fail and nothing is widened.",
    )


class ImportForm(RefusableForm):
    """A document as text."""

    document = forms.CharField(
        label="Document (YAML or JSON)",
        strip=False,
        max_length=1_000_000,
        widget=UnfoldAdminTextareaWidget(
            attrs={"rows": 18, "spellcheck": "false", "class": "lens-code"}
        ),
        help_text="It makes a new policy, or replaces that of the same kind, team or agent.",
    )
    reason = forms.CharField(
        label="Why", required=False, max_length=500, widget=UnfoldAdminTextInputWidget
    )
