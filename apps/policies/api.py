"""`/policies`: documents in JSON or YAML, their versions, and what they would decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.db import transaction
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.response import Response

from apps.common.api_bodies import JSON, YAML, JsonParser, JsonRenderer, YamlParser, YamlRenderer
from apps.common.api_fields import Choice, Key, Many, Number, Strict, Text, WholeNumber
from apps.common.errors import Invalid, NotFound
from apps.orgs.access import require
from apps.orgs.api.base import Created, Deleted, Listed, Shown
from apps.orgs.selectors import projects_visible, teams_visible
from apps.policies import services
from apps.policies.api_shapes import (
    DOCUMENT,
    DRAFT,
    AnswersOut,
    DiffOut,
    PolicyOut,
    PolicyWithDocument,
    ReviewOut,
    SavedOut,
    VersionOut,
    VersionWithDocument,
)
from apps.policies.core.check import TIERS
from apps.policies.documents import document_of
from apps.policies.documents_io import agent_with_slug, from_obj, to_obj, with_ids
from apps.policies.models import Policy, PolicyKind
from apps.policies.selectors import policies_visible
from apps.policies.simulator import MAX_QUESTIONS, Query, Question, simulate
from apps.policies.validation import policy_validate
from apps.policies.versions import policy_diff, versions_of

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from rest_framework.request import Request

TAKES_DOCUMENT = frozenset({"create", "update", "apply", "validate", "diff"})
SHOWS_DOCUMENT = frozenset({"retrieve", "version"})
NUMBER = 2**31 - 1


class PolicyFilters(Strict):
    """Which policies."""

    kind = Choice(choices=PolicyKind.choices, required=False)
    team = Key(required=False)
    agent = Key(required=False)


class Why(Strict):
    """The reason of a save, for its version and the audit trail."""

    reason = Text(max_length=500, required=False, help_text="Why; needed when tests fail.")


class Apply(Why):
    """How a document is applied."""

    version = WholeNumber(
        required=False, help_text="The version that you saw; 0 = there was none. Else 409."
    )


class Rollback(Why):
    """Which version is saved again."""

    number = Number(min_value=1, max_value=NUMBER)


class Versions(Strict):
    """Which two versions."""

    old = WholeNumber(help_text="The number of a version.")
    new = WholeNumber(required=False, help_text="Left out: what is saved now.")


class Ask(Strict):
    """A tool, or a method and a URL."""

    tool = Text(max_length=64, required=False)
    method = Text(max_length=16, required=False, help_text="Also CONNECT and WEBSOCKET.")
    url = Text(max_length=2_000, required=False, help_text="For CONNECT: host:port.")
    addresses = Many(
        child=Text(max_length=64),
        required=False,
        max_length=16,
        help_text="What the host resolves to, when that shall be judged too.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One of the two, whole."""
        if ("tool" in attrs) == ("method" in attrs and "url" in attrs) or (
            "tool" in attrs and len(attrs) > 1
        ):
            raise serializers.ValidationError("Name either a tool, or a method and a URL.")
        return attrs


class Simulation(Strict):
    """Who asks, where, and what."""

    team = Key()
    agent = Text(max_length=63, required=False, help_text="The slug of an agent of the team.")
    project = Key(required=False, help_text="Decides about credentials only.")
    tier = Choice(choices=sorted(TIERS), required=False)
    requests = Many(child=Ask(), min_length=1, max_length=MAX_QUESTIONS)
    draft = serializers.DictField(
        required=False, help_text="A policy document that is asked in place of the saved one."
    )


class PoliciesApi(Listed, Shown, Created, Deleted):
    """One document a layer: the ceiling, a team's policy, an agent's. Saved whole or not at all.

    Documents are JSON or YAML (`application/yaml`) and name team, agent and credentials by slug,
    so that they can be kept in a repository. YAML is plain data: no tags, no anchors.
    """

    resource = "policies"
    noun, one, many = "policy", "a policy", "policies"
    say = {
        "apply": "Apply a document",
        "validate": "Check a document",
        "diff": "Compare a document with what is saved",
        "simulate": "Ask what would be decided",
        "versions": "List the versions of {one}",
        "version": "Get a version of {one}",
        "changes": "Compare two versions of {one}",
        "rollback": "Save an old version of {one} again",
    }
    queryset = Policy.objects.none()
    serializer_class = PolicyWithDocument
    filters = PolicyFilters
    inputs = {"rollback": Rollback, "simulate": Simulation}
    documents = {**dict.fromkeys(TAKES_DOCUMENT, DOCUMENT), "validate": DRAFT}
    asks = {"create": Why, "update": Why, "apply": Apply, "changes": Versions}
    outputs = {
        "list": PolicyOut,
        "create": SavedOut,
        "update": SavedOut,
        "apply": SavedOut,
        "rollback": SavedOut,
        "validate": ReviewOut,
        "diff": DiffOut,
        "changes": DiffOut,
        "simulate": AnswersOut,
        "versions": VersionOut,
        "version": VersionWithDocument,
    }
    pages = frozenset({"list", "versions"})
    pure = frozenset({"validate", "diff", "simulate"})

    def visible(self) -> QuerySet[Policy]:
        return policies_visible(self.actor)

    def get_parsers(self) -> list[Any]:
        """YAML where a document comes in."""
        takes = getattr(self, "action", "") in TAKES_DOCUMENT
        return [JsonParser(), YamlParser()] if takes else [JsonParser()]

    def get_renderers(self) -> list[Any]:
        """YAML where a document alone goes out."""
        shows = getattr(self, "action", "") in SHOWS_DOCUMENT
        return [JsonRenderer(), YamlRenderer()] if shows else [JsonRenderer()]

    def responses_of(self, action: str) -> dict[Any, Any]:
        """In YAML a policy is its document and nothing else."""
        if action not in SHOWS_DOCUMENT:
            return super().responses_of(action)
        return {(200, JSON): self.output_of(action), (200, YAML): DOCUMENT}

    def retrieve(self, _request: Request, **_: Any) -> Response:
        """The policy; as YAML its document, to be applied somewhere."""
        row = self.get_object()
        if self._wants_yaml():
            return Response(to_obj(document_of(row)), headers={"ETag": self.etag(row)})
        return self.one_of(row)

    def create(self, _request: Request) -> Response:
        """Save a document as a new policy."""
        self.allow("create")
        document = from_obj(self.org, self._plain())
        saved = services.policy_save(self.org, document=document, actor=self.actor, **self.query())
        return self._saved(saved, status=201)

    def update(self, _request: Request, **_: Any) -> Response:
        """Replace the document. What it names as team or agent stays what it was."""
        row = self.get_object()
        require(self.actor, "policy.update", row)
        with transaction.atomic(), self.changing(row):
            read = from_obj(self.org, self._plain())
            document = replace(with_ids(read, document_of(row)), version=row.version)
            saved = services.policy_save(
                self.org, document=document, policy=row, actor=self.actor, **self.query()
            )
        return self._saved(saved)

    def perform_destroy(self, instance: Policy) -> None:
        services.policy_delete(instance, actor=self.actor)

    @action(detail=False, methods=["post"])
    def apply(self, _request: Request) -> Response:
        """Make the policy of that kind, team or agent what the document says; create it if new.

        Without `version` the last one wins: a repository that is the truth wants that.
        """
        self.allow("create")
        saved = services.policy_apply(
            self.org, document=self._plain(), actor=self.actor, **self.query()
        )
        return self._saved(saved)

    @action(detail=False, methods=["post"])
    def validate(self, _request: Request) -> Response:
        """What saving the document would say: problems, warnings, its tests, what it widens."""
        self.allow("create")
        review = policy_validate(self.org, document=self._plain(), actor=self.actor)
        return Response(review.as_obj())

    @action(detail=False, methods=["post"])
    def diff(self, _request: Request) -> Response:
        """What applying the document would change."""
        self.allow("create")
        plain = self._plain()
        read = from_obj(self.org, plain)
        saved = self.visible().filter(kind=read.kind, team=read.team, agent=read.agent).first()
        if saved is None:
            raise NotFound("There is no such policy yet. Applying the document would create it.")
        return Response(policy_diff(saved, new=plain, actor=self.actor).as_obj())

    @action(detail=False, methods=["post"])
    def simulate(self, _request: Request) -> Response:
        """What would be decided, by the evaluator that enforces: nothing is sent anywhere.

        With a draft each answer is there twice: as it is now, and as the draft would have it.
        """
        self.allow("view")
        asked = self.body()
        draft = asked.get("draft")
        if draft is not None:
            self.allow("create")
        query = self._query(asked)
        document = None if draft is None else from_obj(self.org, draft)
        answers = simulate(self.org, query, actor=self.actor, draft=document)
        return Response({"answers": [answer.as_obj() for answer in answers]})

    @action(detail=True, methods=["get"])
    def versions(self, _request: Request, **_: Any) -> Response:
        """Every document that was saved, newest first."""
        return self.page(versions_of(self.get_object(), actor=self.actor))

    @action(detail=True, methods=["get"], url_path="versions/<int:number>")
    def version(self, _request: Request, *, number: int, **_: Any) -> Response:
        """One document that was saved."""
        found = versions_of(self.get_object(), actor=self.actor)
        row = found.filter(number=number).first() if number <= NUMBER else None
        if row is None:
            raise NotFound("Not found.")
        return Response(row.document if self._wants_yaml() else self.shown(row))

    @action(detail=True, methods=["get"])
    def changes(self, _request: Request, **_: Any) -> Response:
        """What changed between two versions."""
        row = self.get_object()
        return Response(policy_diff(row, **self.query(), actor=self.actor).as_obj())

    @action(detail=True, methods=["post"])
    def rollback(self, _request: Request, **_: Any) -> Response:
        """Save an old version as the newest. What it names must still be there."""
        row = self.get_object()
        require(self.actor, "policy.update", row)
        return self._saved(services.policy_rollback(row, **self.body(), actor=self.actor))

    def is_tagged(self, action: str, /) -> bool:
        """Every save answers with the policy."""
        return action in ("create", "retrieve", "update", "apply", "rollback")

    def _wants_yaml(self) -> bool:
        return isinstance(self.request.accepted_renderer, YamlRenderer)

    def _plain(self) -> Mapping[str, Any]:
        """The plain document of the body."""
        found = self.request.data if self.request.stream else None
        if not isinstance(found, Mapping):
            raise Invalid("A policy document is a mapping: `kind`, `name`, …", code="malformed")
        return found

    def _saved(self, saved: services.Saved, *, status: int = 200) -> Response:
        row = Policy.objects.get(pk=saved.policy.pk, org=self.org)
        return self.one_of(row, status=status, warnings=list(saved.warnings))

    def _query(self, asked: dict[str, Any]) -> Query:
        team = self.named(teams_visible(self.actor), asked["team"], "team")
        agent = None
        if "agent" in asked:
            # Of another team's agent the caller may not learn that there is one.
            agent = agent_with_slug(self.org, asked["agent"], field="agent", team=team)
        return Query(
            team=team,
            questions=[Question(**{**ask, **_addresses(ask)}) for ask in asked["requests"]],
            agent=agent,
            project=self.named(projects_visible(self.actor), asked.get("project"), "project"),
            **({"tier": asked["tier"]} if "tier" in asked else {}),
        )


def _addresses(ask: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {"addresses": tuple(ask.get("addresses", ()))}
