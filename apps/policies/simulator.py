"""What would be decided: asked of the evaluator and the bundle that enforcers have.

What is saved is asked with the very bundle that sandboxes and the MCP endpoint get
(`compiler.compile_bundle`), through the request constructors of the egress proxy (`core.asking`). A
draft is put in the place of its saved document in that same bundle. Names are not resolved: the
caller may say what a host resolves to, and that is judged then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from apps.common.errors import Invalid, NotFound
from apps.orgs.access import can, require
from apps.orgs.models import Project, ProjectGrant
from apps.policies.chains import Chains
from apps.policies.checks import binding_of, layer_of
from apps.policies.compiler import compile_bundle
from apps.policies.core.asking import RequestError, answer, asked
from apps.policies.core.check import TIERS
from apps.policies.models import Policy
from apps.policies.types import Action, LayerKind, ToolRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from apps.orgs.models import Organization, Team
    from apps.orgs.types import Actor
    from apps.policies.core.asking import Request
    from apps.policies.documents import PolicyDocument
    from apps.policies.types import Binding, Bundle, Decision, Layer

MAX_QUESTIONS = 200
MAX_PASSED = 100
DEFAULT_TIER = "api"
# The layer that is named where the proxy refuses by its own rules, before any policy is asked.
PROXY = "proxy"
GRANT = "grant"


@dataclass(frozen=True, slots=True)
class Question:
    """A tool, or a method (also `WEBSOCKET` and `CONNECT`) and a URL (`host:port` for CONNECT).

    `addresses` are what the host resolves to, when that shall be judged too.
    """

    tool: str = ""
    method: str = ""
    url: str = ""
    addresses: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The question as it is typed."""
        return f"TOOL {self.tool}" if self.tool else f"{self.method} {self.url}"


@dataclass(frozen=True, slots=True)
class Query:
    """Who asks (anybody of a team, or an agent of it), where, and what.

    `project` decides about credentials only; None = the first one that the team may work in.
    """

    team: Team
    questions: Sequence[Question]
    agent: Any = None
    project: Project | None = None
    tier: str = DEFAULT_TIER


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A rule that did not decide, and why."""

    layer: str
    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision for people: `rule` is its id, `rule_text` the rule as it is written."""

    action: str
    layer: str
    layer_name: str
    rule: str
    rule_text: str
    reason: str
    credential: str = ""
    strips_credentials: bool = False
    path: str = ""
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the request may go on now."""
        return self.action in (Action.ALLOW, Action.DIRECT)

    def as_obj(self) -> dict[str, Any]:
        """For an API."""
        return {
            "action": self.action,
            "layer": self.layer,
            "layer_name": self.layer_name,
            "rule": self.rule,
            "rule_text": self.rule_text,
            "reason": self.reason,
            "credential": self.credential,
            "strips_credentials": self.strips_credentials,
            "path": self.path,
            "passed_over": [
                {"layer": one.layer, "rule_text": one.rule, "why": one.why}
                for one in self.passed_over
            ],
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes of a question now, and with the draft when there is one."""

    question: Question
    now: Outcome
    draft: Outcome | None = None

    @property
    def differs(self) -> bool:
        """Whether the draft decides otherwise."""
        return self.draft is not None and self.draft.action != self.now.action

    def as_obj(self) -> dict[str, Any]:
        """For an API."""
        return {
            "request": self.question.line,
            "now": self.now.as_obj(),
            "draft": self.draft.as_obj() if self.draft else None,
        }


def simulate(
    org: Organization, query: Query, *, actor: Actor, draft: PolicyDocument | None = None
) -> list[Answer]:
    """The answers in the order of the questions. Reads only, and leaves no event.

    For those who may view the team's policy; a draft is for those who may change policies. Layers
    that the actor may not view decide, as they do for an agent, but are not listed as passed over.
    """
    _check(org, query, actor)
    if draft is not None:
        require(actor, "policy.create", org)
    project = query.project or _any_project(org, query.team)
    agent_id = query.agent.pk if query.agent else None
    if project is None or not _granted(org, query.team, project):
        where = f"the project {project}" if project else "any project"
        return [Answer(question, _no_grant(query.team, where)) for question in query.questions]
    saved = compile_bundle(
        org_id=org.pk, team_id=query.team.pk, project_id=project.pk, agent_id=agent_id
    )
    seen = _Seen(actor, org, query)
    mine = None
    if draft is not None and Chains.concerns(draft, query.team.pk, agent_id):
        mine = _with_draft(saved, draft, project)
    found = []
    for question in query.questions:
        then = None if draft is None else seen.outcome(mine or saved, question)
        found.append(Answer(question, seen.outcome(saved, question), then))
    return found


def _check(org: Organization, query: Query, actor: Actor) -> None:
    if query.team.org_id != org.pk or query.team.deleted_at is not None:
        raise NotFound("Not found.")
    policy = Policy.objects.filter(org=org, team=query.team).first()
    if policy is None:
        require(actor, "team.view", query.team)
    else:
        require(actor, "policy.view", policy)
    if query.agent is not None and (
        query.agent.org_id != org.pk or query.agent.team_id != query.team.pk
    ):
        raise Invalid("There is no such agent in this team.", field="agent")
    if query.project is not None and query.project.org_id != org.pk:
        raise Invalid("There is no such project.", field="project")
    if query.tier not in TIERS:
        raise Invalid(f"A tier is one of {', '.join(sorted(TIERS))}.", field="tier")
    if not 0 < len(query.questions) <= MAX_QUESTIONS:
        raise Invalid(f"Ask from 1 to {MAX_QUESTIONS} questions at a time.", field="requests")


def _any_project(org: Organization, team: Team) -> Project | None:
    grants = ProjectGrant.objects.filter(org=org, team=team, project__deleted_at=None)
    grant = grants.select_related("project").order_by("project__slug").first()
    return grant.project if grant else None


def _granted(org: Organization, team: Team, project: Project) -> bool:
    return ProjectGrant.objects.filter(org=org, team=team, project=project).exists()


def _no_grant(team: Team, where: str) -> Outcome:
    reason = f"The team {team} has no access to {where}, so everything is denied."
    return Outcome(str(Action.DENY), GRANT, "", "", "", reason)


def _with_draft(bundle: Bundle, draft: PolicyDocument, project: Project) -> Bundle:
    """The bundle with the draft in the place of its saved document."""
    layer = replace(layer_of(draft), id="draft")
    layers = (*(one for one in bundle.layers if one.kind is not layer.kind), layer)
    bindings = bundle.bindings
    if layer.kind is LayerKind.TEAM:
        bindings = tuple(_usable(draft, project))
    return replace(bundle, layers=layers, bindings=bindings)


def _usable(draft: PolicyDocument, project: Project) -> list[Binding]:
    """The draft's bindings that the compiler would put into a bundle for this project."""
    return [
        binding_of(binding, f"bindings[{at}]")
        for at, binding in enumerate(draft.bindings)
        if binding.credential.project_id in (None, project.pk)
        and draft.team in binding.credential.allowed_teams.all()
    ]


class _Seen:
    """Answers as one actor may see them."""

    def __init__(self, actor: Actor, org: Organization, query: Query) -> None:
        self._tier = query.tier
        readers = can(actor, "policy.view", org).allowed
        self._shown = set(LayerKind) if readers else {LayerKind.BUILTIN, LayerKind.TEAM}
        self._texts: dict[int, Mapping[str, str]] = {}

    def outcome(self, bundle: Bundle, question: Question) -> Outcome:
        """The decision on one question."""
        requests: tuple[Request, ...]
        if question.tool:
            requests = (ToolRequest(question.tool, self._tier),)
        else:
            try:
                requests = asked(question.method, question.url, question.addresses)
            except RequestError as error:
                return Outcome(str(Action.DENY), PROXY, "", error.code, "", str(error))
        return self._told(bundle, answer(bundle, requests))

    def _told(self, bundle: Bundle, decision: Decision) -> Outcome:
        if id(bundle) not in self._texts:
            self._texts[id(bundle)] = rule_texts(bundle)
        texts = self._texts[id(bundle)]
        names = {layer.kind: layer.name for layer in bundle.layers}
        passed = [one for one in decision.passed_over if one.layer in self._shown]
        return Outcome(
            action=str(decision.action),
            layer=str(decision.layer),
            layer_name=names.get(decision.layer, ""),
            rule=decision.rule,
            rule_text=texts.get(decision.rule, ""),
            reason=decision.reason,
            credential=decision.binding.credential_name if decision.binding else "",
            strips_credentials=decision.strip_credentials,
            path=decision.path,
            passed_over=tuple(
                PassedOver(str(one.layer), texts.get(one.rule, one.rule), one.why)
                for one in passed[:MAX_PASSED]
            ),
        )


def rule_texts(bundle: Bundle) -> dict[str, str]:
    """How each rule of the bundle is written, with its number, by its id."""
    found = {
        binding.id: f"binding of {binding.credential_name} to `{binding.pattern}`"
        for binding in bundle.bindings
    }
    for layer in bundle.layers:
        found |= _layer_texts(layer)
    return found


def _layer_texts(layer: Layer) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, rule in enumerate(layer.domains or (), start=1):
        found[rule.id] = f"{number}. {rule.pattern} {rule.action}"
        for index, http in enumerate(rule.http, start=1):
            path = http.path or "any path"
            found[http.id] = f"{number}.{index} {http.method} {path} {http.action} ({rule.pattern})"
    for number, tool in enumerate(layer.tools or (), start=1):
        found[tool.id] = f"{number}. {tool.pattern} {tool.action}"
    return found
