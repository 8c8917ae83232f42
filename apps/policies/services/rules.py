"""The rows of a document's rules: replaced whole, and each keeps its id if it says whose it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from django.core.exceptions import ValidationError

from apps.common.errors import Invalid
from apps.policies.models import (
    CredentialBinding,
    DomainRule,
    HttpRule,
    Policy,
    PolicyTest,
    ToolRule,
)

if TYPE_CHECKING:
    import uuid

    from apps.common.tenancy import TenantRow
    from apps.policies.documents import PolicyDocument

    RowType = TypeVar("RowType", bound=TenantRow)


def write_rules(
    policy: Policy, document: PolicyDocument, known: frozenset[uuid.UUID] = frozenset()
) -> None:
    """Replace the rules. A rule that says whose it was keeps its id.

    `known` are ids of rules that the policy had once: those of a version that comes back.
    """
    kept = _Ids(policy, known)
    for owned in (policy.domain_rules, policy.tool_rules, policy.bindings, policy.tests):
        owned.all().delete()
    domains, https = _domain_rows(policy, document, kept)
    _insert(DomainRule, domains)
    _insert(HttpRule, https)
    _insert(ToolRule, _tool_rows(policy, document, kept))
    _insert(CredentialBinding, _binding_rows(policy, document, kept))
    _insert(PolicyTest, _test_rows(policy, document, kept))


class _Ids:
    """The ids of a policy's rules, each to be given out once; anything else gets a new id."""

    def __init__(self, policy: Policy, known: frozenset[uuid.UUID]) -> None:
        self._free: set[uuid.UUID] = {
            *known,
            *policy.domain_rules.values_list("pk", flat=True),
            *policy.tool_rules.values_list("pk", flat=True),
            *policy.bindings.values_list("pk", flat=True),
            *policy.tests.values_list("pk", flat=True),
            *HttpRule.objects.filter(domain_rule__policy=policy).values_list("pk", flat=True),
        }

    def take(self, wanted: uuid.UUID | None) -> dict[str, uuid.UUID]:
        """The `id` argument of the new row, or none."""
        if wanted not in self._free:
            return {}
        self._free.remove(wanted)
        return {"id": wanted}


def _domain_rows(
    policy: Policy, document: PolicyDocument, kept: _Ids
) -> tuple[dict[str, DomainRule], dict[str, HttpRule]]:
    domains: dict[str, DomainRule] = {}
    https: dict[str, HttpRule] = {}
    for index, rule in enumerate(document.domains):
        at = f"domains[{index}]"
        domains[at] = DomainRule(
            org_id=policy.org_id,
            policy=policy,
            position=index,
            pattern=rule.pattern,
            action=rule.action,
            agent_credentials=rule.agent_credentials,
            **kept.take(rule.id),
        )
        for number, http in enumerate(rule.http):
            https[f"{at}.http[{number}]"] = HttpRule(
                org_id=policy.org_id,
                domain_rule=domains[at],
                position=number,
                method=http.method,
                path=http.path,
                action=http.action,
                **kept.take(http.id),
            )
    return domains, https


def _tool_rows(policy: Policy, document: PolicyDocument, kept: _Ids) -> dict[str, ToolRule]:
    return {
        f"tools[{index}]": ToolRule(
            org_id=policy.org_id,
            policy=policy,
            position=index,
            pattern=rule.pattern,
            action=rule.action,
            **kept.take(rule.id),
        )
        for index, rule in enumerate(document.tools)
    }


def _binding_rows(
    policy: Policy, document: PolicyDocument, kept: _Ids
) -> dict[str, CredentialBinding]:
    return {
        f"bindings[{index}]": CredentialBinding(
            org_id=policy.org_id,
            policy=policy,
            position=index,
            credential=binding.credential,
            pattern=binding.pattern,
            method=binding.method,
            path=binding.path,
            injection=binding.injection,
            header=binding.header,
            template=binding.template,
            parameter=binding.parameter,
            env_name=binding.env_name,
            **kept.take(binding.id),
        )
        for index, binding in enumerate(document.bindings)
    }


def _test_rows(policy: Policy, document: PolicyDocument, kept: _Ids) -> dict[str, PolicyTest]:
    return {
        f"tests[{index}]": PolicyTest(
            org_id=policy.org_id,
            policy=policy,
            position=index,
            team=test.team,
            agent=test.agent,
            tier=test.tier,
            tool=test.tool,
            method=test.method,
            url=test.url,
            expect=test.expect,
            note=test.note,
            **kept.take(test.id),
        )
        for index, test in enumerate(document.tests)
    }


def _insert(model: type[RowType], found: dict[str, RowType]) -> None:
    """Check what the columns demand (lengths, choices), then insert; keys are field paths."""
    for at, row in found.items():
        try:
            row.clean_fields(exclude=_RELATIONS)
        except ValidationError as error:
            field, messages = next(iter(error.message_dict.items()))
            raise Invalid(messages[0], field=f"{at}.{field}") from error
    model._default_manager.bulk_create(found.values())  # noqa: SLF001  Django's documented name


_RELATIONS = {"org", "policy", "domain_rule", "credential"}
