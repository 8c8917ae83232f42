"""What a save would do, found out without saving: problems, rules without effect, tests, widening.

Both a save and a check ask here, so that a check promises what a save does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from apps.common.errors import Conflict, Invalid
from apps.common.hosts import parse_pattern
from apps.policies.chains import Chains
from apps.policies.checks import binding_of, layer_of, problems_of
from apps.policies.compiler import layer_from, platform_hosts
from apps.policies.core.moot import moot_rules
from apps.policies.core.widening import Widening, tunnels_credentials, widenings
from apps.policies.documents import document_of
from apps.policies.expectations import Tested, run
from apps.policies.models import PolicyKind
from apps.policies.types import Layer, LayerKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps.orgs.models import Organization
    from apps.policies.documents import PolicyDocument
    from apps.policies.models import Policy

TESTS_FAILED = "policy_tests_failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence about a place in the document ("" for none in it)."""

    field: str
    message: str

    def as_obj(self) -> dict[str, str]:
        """For an API."""
        return {"field": self.field, "message": self.message}


@dataclass(frozen=True, slots=True)
class Review:
    """With `problems` nothing else is known: such a document cannot be saved.

    `tests` are the document's own, `below` the failing ones of documents that it is a layer over;
    `widens` says what it may let through that the saved document does not.
    """

    problems: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    tests: tuple[Tested, ...] = ()
    below: tuple[Finding, ...] = ()
    widens: tuple[Finding, ...] = ()

    @property
    def failing(self) -> tuple[Tested, ...]:
        """The tests that block a save, unless it only takes away."""
        return tuple(test for test in self.tests if not test.passed)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a person is told after a save that went through."""
        failing = (f"A test fails: {test.line}, but {test.reason}" for test in self.failing)
        return (*failing, *(finding.message for finding in (*self.warnings, *self.below)))

    def as_obj(self) -> dict[str, Any]:
        """For an API."""
        return {
            "valid": not self.problems,
            "problems": [finding.as_obj() for finding in self.problems],
            "warnings": [finding.as_obj() for finding in (*self.warnings, *self.below)],
            "tests": [test.as_obj() for test in self.tests],
            "widens": [finding.as_obj() for finding in self.widens],
        }

    def require_saveable(self, reason: str) -> None:
        """Raise unless the tests allow it: Conflict when it widens, Invalid without a reason."""
        failing = [test.as_obj() for test in self.failing]
        if not failing:
            return
        number = "1 policy test fails" if len(failing) == 1 else f"{len(failing)} policy tests fail"
        first = f"{self.failing[0].line}, but {self.failing[0].reason or 'is not'}"
        if self.widens:
            raise Conflict(
                f"{number} ({first}), and this save lets more through than before: "
                f"{self.widens[0].message} Mend the policy or the tests.",
                code=TESTS_FAILED,
                failing=failing,
                widens=[finding.as_obj() for finding in self.widens],
            )
        if not reason.strip():
            raise Invalid(
                f"{number} ({first}). This save only takes away, so it may go on: say why.",
                field="reason",
                code=TESTS_FAILED,
                failing=failing,
            )


def review(org: Organization, document: PolicyDocument, before: PolicyDocument | None) -> Review:
    """Look at a document that is to replace `before` (None: it is new)."""
    problems = tuple(
        Finding(str(problem.data.get("field", "")), problem.message)
        for problem in problems_of(document)
    )
    if problems:
        return Review(problems)
    chains = Chains(org, document)
    return Review(
        warnings=tuple(_moot(document, chains)),
        tests=run(document, chains),
        below=tuple(_failing_below(document, chains)),
        widens=tuple(
            Finding(found.rule, found.message) for found in _widens(document, before, chains)
        ),
    )


def _moot(document: PolicyDocument, chains: Chains) -> Iterator[Finding]:
    """Rules of this document that a layer above makes moot; for a ceiling, of those below."""
    own, hosts = layer_of(document), platform_hosts()
    if document.kind == PolicyKind.CEILING:
        for policy in chains.policies:
            if policy.kind == PolicyKind.TEAM:
                for moot in moot_rules([own, layer_from(policy)], hosts):
                    if moot.layer != own.id:
                        yield Finding("", f"{policy}: {moot.message}")
        return
    above = [layer_from(policy) for policy in chains.policies if is_above(policy, document)]
    for moot in moot_rules([*above, own], hosts):
        if moot.layer == own.id:
            yield Finding(moot.rule, moot.message)


def is_above(policy: Policy, document: PolicyDocument) -> bool:
    """Whether the policy is a layer over the document: the ceiling, and an agent's team's."""
    if policy.kind == PolicyKind.CEILING:
        return document.kind != PolicyKind.CEILING
    return document.kind == PolicyKind.AGENT and policy.team_id == document.agent.team_id


def is_below(policy: Policy, document: PolicyDocument) -> bool:
    """Whether the document is a layer over the policy."""
    if document.kind == PolicyKind.CEILING:
        return policy.kind != PolicyKind.CEILING
    if document.kind != PolicyKind.TEAM or document.team is None or policy.agent is None:
        return False
    return bool(policy.agent.team_id == document.team.pk)


def _failing_below(document: PolicyDocument, chains: Chains) -> Iterator[Finding]:
    """Tests of other documents that this one would break: a warning, they are not its author's."""
    for policy in chains.policies:
        if is_below(policy, document) and policy.tests.all():
            for test in run(document_of(policy), chains):
                if not test.passed:
                    message = f"{policy}: its test fails: {test.line}, but {test.reason}"
                    yield Finding("", message)


def _widens(
    document: PolicyDocument, before: PolicyDocument | None, chains: Chains
) -> list[Widening]:
    after = layer_of(document)
    old = layer_of(before) if before else replace(after, domains=None, tools=None)
    bindings = [
        tuple(binding_of(binding, f"bindings[{at}]") for at, binding in enumerate(one.bindings))
        if one
        else ()
        for one in (before, document)
    ]
    return widenings(
        old,
        after,
        bindings=(bindings[0], bindings[1]),
        tunnelled_credentials=after.kind is not LayerKind.TEAM
        and old.domains is None
        and any(_tunnels(policy) for policy in chains.policies),
    )


def _tunnels(policy: Policy) -> bool:
    """Whether a team's policy tunnels to a host to which it also binds a credential."""
    if policy.kind != PolicyKind.TEAM:
        return False
    patterns = [parse_pattern(row.pattern) for row in policy.bindings.all()]
    layer: Layer = layer_from(policy)
    return bool(patterns) and tunnels_credentials(layer, patterns)
