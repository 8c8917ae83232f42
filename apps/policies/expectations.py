"""Policy tests: what a document must decide, asked of the evaluator that enforcers call.

A test is asked of the documents alone, as if the team had the project that the agent works in: what
is tested is the policy. An agent that is gone, or has left the team, makes its test fail; it does
not keep the document from being saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.common.errors import Invalid
from apps.policies.compiler import platform_hosts
from apps.policies.core.asking import RequestError, answer, asked
from apps.policies.core.check import TIERS
from apps.policies.documents import test_line
from apps.policies.models import PolicyKind
from apps.policies.types import BUNDLE_FORMAT, Bundle, ToolRequest

if TYPE_CHECKING:
    from apps.policies.chains import Chains
    from apps.policies.documents import ExpectationDoc, PolicyDocument

DEFAULT_TIER = "api"
_TOOL_ANSWERS = frozenset({"allow", "approve", "deny"})
_REQUEST_ANSWERS = frozenset({"allow", "direct", "ask", "deny"})


@dataclass(frozen=True, slots=True)
class Tested:
    """How a test went. `field` is its place in the document; `reason` a sentence."""

    field: str
    line: str
    expected: str
    found: str
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the answer is the expected one."""
        return self.expected == self.found

    def as_obj(self) -> dict[str, Any]:
        """For an API."""
        return {
            "field": self.field,
            "test": self.line,
            "expected": self.expected,
            "found": self.found,
            "reason": self.reason,
            "passed": self.passed,
        }


def check_expectation(kind: str, test: ExpectationDoc, at: str) -> None:
    """Raise Invalid when it cannot be asked, or can never be answered as it expects."""
    _check_subject(kind, test, at)
    if bool(test.tool) == bool(test.url):
        raise Invalid("Name either a tool, or a method and a URL.", field=f"{at}.tool")
    if test.tier and test.tier not in TIERS:
        raise Invalid(f"A tier is one of {', '.join(sorted(TIERS))}.", field=f"{at}.tier")
    answers = _TOOL_ANSWERS if test.tool else _REQUEST_ANSWERS
    if test.expect not in answers:
        message = f"“{test.expect[:50]}” is not one of {', '.join(sorted(answers))}."
        raise Invalid(message, field=f"{at}.expect")
    if test.url:
        try:
            asked(test.method, test.url)
        except RequestError as error:
            field = "method" if error.code == "request_line" else "url"
            message = f"Nobody can ask for this: {error}."
            raise Invalid(message, field=f"{at}.{field}") from error
    elif test.method:
        raise Invalid("A tool has no method. Leave it empty.", field=f"{at}.method")


def _check_subject(kind: str, test: ExpectationDoc, at: str) -> None:
    if kind == PolicyKind.CEILING:
        if not (test.team or test.agent):
            message = "A ceiling decides nothing alone: name the team or the agent that asks."
            raise Invalid(message, field=f"{at}.team")
        if test.team and test.agent:
            message = "Name the team or the agent; an agent brings its team along."
            raise Invalid(message, field=f"{at}.team")
    elif test.team:
        raise Invalid("Only a ceiling's tests name a team. Leave it empty.", field=f"{at}.team")
    elif kind == PolicyKind.AGENT and test.agent:
        message = "An agent's policy is tested for its own agent. Leave it empty."
        raise Invalid(message, field=f"{at}.agent")


def run(document: PolicyDocument, chains: Chains) -> tuple[Tested, ...]:
    """All tests of a document, with whatever draft `chains` holds in the place of what is saved."""
    return tuple(
        _run(document, test, f"tests[{index}]", chains) for index, test in enumerate(document.tests)
    )


def _run(document: PolicyDocument, test: ExpectationDoc, at: str, chains: Chains) -> Tested:
    line = test_line(test)
    subject = chains.subject(document, team=test.team, agent=test.agent)
    if isinstance(subject, str):
        return Tested(at, line, test.expect, "", subject)
    bundle = Bundle(BUNDLE_FORMAT, 0, chains.layers(*subject), platform_hosts=platform_hosts())
    requests = (
        (ToolRequest(test.tool, test.tier or DEFAULT_TIER),)
        if test.tool
        else asked(test.method, test.url)
    )
    decision = answer(bundle, requests)
    return Tested(at, line, test.expect, str(decision.action), decision.reason)
