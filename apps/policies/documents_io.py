"""Policy documents as YAML or JSON: exported, and imported with every complaint at its path.

A plain document names team, agent and credentials by their slugs, so that it can be kept in a
repository and applied to another organization. Values that are the default are left out. What the
schema (`apps.policies.schema`) does not know is refused: a key that is spelt wrongly would
otherwise be a rule that does nothing.
"""

from __future__ import annotations

import unicodedata
from dataclasses import fields, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from jsonschema import Draft202012Validator

from apps.common.errors import Invalid
from apps.common.plain_yaml import MAX_DEPTH, dump_yaml, load_yaml
from apps.connections.models import Credential
from apps.orgs.models import Team
from apps.policies.core.diffs import paired
from apps.policies.documents import (
    BindingDoc,
    DomainRuleDoc,
    ExpectationDoc,
    HttpRuleDoc,
    PolicyDocument,
    ToolRuleDoc,
)
from apps.policies.models import Policy
from apps.policies.schema import FORMAT, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from apps.orgs.models import Organization

    Doc = HttpRuleDoc | DomainRuleDoc | ToolRuleDoc | BindingDoc | ExpectationDoc
    Built = TypeVar("Built", HttpRuleDoc, ToolRuleDoc, ExpectationDoc)

_SHOWN = 60
# A document of a megabyte can have a third of a million, each with all that led to it.
_COMPLAINTS = 100
# Text that a rule cannot do without, even when it is the default.
_ALWAYS = frozenset({"pattern", "action", "credential", "expect"})


def parse(text: str | bytes) -> dict[str, Any]:
    """The plain document in a YAML or JSON text; raises Invalid or TooLarge."""
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Invalid("The document is not UTF-8.", code="malformed") from error
    found = load_yaml(text)
    if not isinstance(found, dict):
        raise Invalid("A policy document is a mapping: `kind`, `name`, …", code="malformed")
    return found


def to_obj(document: PolicyDocument, *, ids: bool = False) -> dict[str, Any]:
    """The document as plain data; with `ids` also those of its rules."""
    found: dict[str, Any] = {"format": FORMAT, "kind": str(document.kind)}
    for kind, row in (("team", document.team), ("agent", document.agent)):
        if row is not None:
            found[kind] = row.slug
    found["name"] = document.name
    if document.description:
        found["description"] = document.description
    if document.has_domains:
        found["domains"] = [_domain_obj(rule, ids=ids) for rule in document.domains]
    if document.has_tools:
        found["tools"] = [_rule_obj(rule, ids=ids) for rule in document.tools]
    if document.bindings:
        found["bindings"] = [_rule_obj(binding, ids=ids) for binding in document.bindings]
    if document.tests:
        found["tests"] = [_rule_obj(test, ids=ids) for test in document.tests]
    return found


def to_yaml(document: PolicyDocument) -> str:
    """The document as people keep it in a repository."""
    return dump_yaml(to_obj(document))


def from_obj(org: Organization, obj: Mapping[str, Any]) -> PolicyDocument:
    """The document of this organization that plain data says; raises Invalid at its first problem.

    Nothing but the schema and the slugs is checked here.
    """
    check_schema(obj)
    credentials = _credentials(org, obj)
    return PolicyDocument(
        name=obj["name"],
        kind=obj["kind"],
        team=_team(org, obj),
        agent=_agent(org, obj),
        description=obj.get("description", ""),
        has_domains="domains" in obj,
        has_tools="tools" in obj,
        domains=tuple(map(_domain, obj.get("domains", ()))),
        tools=tuple(_built(ToolRuleDoc, rule) for rule in obj.get("tools", ())),
        bindings=tuple(
            BindingDoc(**_values(rule) | {"credential": credentials[rule["credential"]]})
            for rule in obj.get("bindings", ())
        ),
        tests=tuple(_built(ExpectationDoc, test) for test in obj.get("tests", ())),
    )


def check_schema(obj: object) -> None:
    """Raise Invalid at the first place (in the order of the document) that is not as it must be."""
    for path, text in _texts(obj, ""):
        if any(_forbidden(letter) for letter in text):
            message = "Control characters and halves of letters cannot be stored. Remove them."
            raise Invalid(message, field=path)
    found = islice(_validator().iter_errors(obj), _COMPLAINTS)
    errors = sorted(found, key=lambda error: str(error.absolute_path))
    for error in errors:
        raise _told(error)


@lru_cache(maxsize=1)
def _validator() -> Draft202012Validator:
    return Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)


def _told(error: Any) -> Invalid:
    """A complaint of the schema in our words, at its path."""
    path = _path(error.absolute_path)
    shown = str(error.instance)[:_SHOWN]
    match error.validator:
        case "additionalProperties":
            known = error.schema["properties"]
            unknown = next(key for key in error.instance if key not in known)
            path = f"{path}.{unknown}" if path else str(unknown)
            message = f"There is no such key. Known here: {', '.join(known)}."
        case "required":
            missing = next(key for key in error.validator_value if key not in error.instance)
            path = f"{path}.{missing}" if path else missing
            message = "This is missing."
        case "type":
            names = {"object": "a mapping", "array": "a list", "string": "text"}
            message = f"This must be {names.get(error.validator_value, error.validator_value)}."
        case "enum":
            message = f"“{shown}” is not one of {', '.join(error.validator_value)}."
        case "const":
            message = f"The format is {error.validator_value}; “{shown}” is not known here."
        case "oneOf":
            message = "Name either a tool, or a method and a URL."
        case "maxLength" | "maxItems":
            what = "characters" if error.validator == "maxLength" else "entries"
            message = f"At most {error.validator_value} {what}; there are {len(error.instance)}."
        case "minLength":
            message = "This must not be empty."
        case _:
            message = f"“{shown}” is not valid here ({error.validator})."
    return Invalid(message, field=path)


def _path(parts: Any) -> str:
    """`domains[0].http[2].path`."""
    found = ""
    for part in parts:
        found += f"[{part}]" if isinstance(part, int) else f".{part}" if found else str(part)
    return found


def _texts(value: object, path: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    if depth > MAX_DEPTH:
        raise Invalid(f"This nests deeper than {MAX_DEPTH} levels.", field=path[:_SHOWN])
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{index}]", depth + 1)


def _forbidden(letter: str) -> bool:
    return letter not in "\n\t" and unicodedata.category(letter) in ("Cc", "Cs")


def _domain_obj(rule: DomainRuleDoc, *, ids: bool) -> dict[str, Any]:
    found = _rule_obj(rule, ids=ids)
    if rule.http:
        found["http"] = [_rule_obj(http, ids=ids) for http in rule.http]
    return found


def _rule_obj(rule: Doc, *, ids: bool) -> dict[str, Any]:
    """What differs from the defaults, in the order of the fields; the id first."""
    found: dict[str, Any] = {"id": str(rule.id)} if ids and rule.id else {}
    for field in fields(rule):
        value = getattr(rule, field.name)
        if field.name == "credential":
            found["credential"] = value.slug
        elif field.name not in ("id", "http") and (value != field.default or field.name in _ALWAYS):
            found[field.name] = str(value)
    return found


def _domain(rule: Mapping[str, Any]) -> DomainRuleDoc:
    values = _values(rule)
    https = tuple(_built(HttpRuleDoc, http) for http in values.pop("http", ()))
    return DomainRuleDoc(**values, http=https)


def _built(kind: type[Built], rule: Mapping[str, Any]) -> Built:
    return kind(**_values(rule))


def _values(rule: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(rule)
    if "id" in found:
        found["id"] = UUID(found["id"])
    return found


def _team(org: Organization, obj: Mapping[str, Any]) -> Team | None:
    if "team" not in obj:
        return None
    team = Team.objects.filter(org=org, slug=obj["team"], deleted_at=None).first()
    if team is None:
        raise Invalid(f"There is no team “{obj['team'][:_SHOWN]}”.", field="team")
    return team


def _agent(org: Organization, obj: Mapping[str, Any]) -> Any:
    return agent_with_slug(org, obj["agent"], field="agent") if "agent" in obj else None


def agent_with_slug(org: Organization, slug: str, *, field: str, team: Team | None = None) -> Any:
    """The agent (a row of an app above this one), of this team if one is given; raises Invalid."""
    agents = Policy._meta.get_field("agent").related_model  # noqa: SLF001  documented by Django
    rows = agents._default_manager.filter(org=org, slug=slug)  # noqa: SLF001  likewise
    found = (rows.filter(team=team) if team else rows).first()
    if found is None:
        raise Invalid(f"There is no agent “{slug[:_SHOWN]}”.", field=field)
    return found


def _credentials(org: Organization, obj: Mapping[str, Any]) -> dict[str, Credential]:
    """The credentials that the bindings name, by slug."""
    wanted = [rule["credential"] for rule in obj.get("bindings", ())]
    found = {row.slug: row for row in Credential.objects.filter(org=org, slug__in=wanted)}
    for index, slug in enumerate(wanted):
        if slug not in found:
            raise Invalid(
                f"There is no credential “{slug[:_SHOWN]}”.", field=f"bindings[{index}].credential"
            )
    return found


def with_ids(document: PolicyDocument, saved: PolicyDocument) -> PolicyDocument:
    """The document with the ids of the saved rules that it keeps, where it names none itself."""
    now, before = to_obj(document, ids=True), to_obj(saved, ids=True)
    for section in ("domains", "tools", "bindings", "tests"):
        rules, old = now.get(section, []), before.get(section, [])
        for at, was in paired(section, old, rules).items():
            _take_id(rules[at], old[was])
            https, old_https = rules[at].get("http", []), old[was].get("http", [])
            for number, earlier in paired("http", old_https, https).items():
                _take_id(https[number], old_https[earlier])
    return replace(
        document,
        domains=tuple(map(_domain, now.get("domains", ()))),
        tools=tuple(_built(ToolRuleDoc, rule) for rule in now.get("tools", ())),
        bindings=tuple(
            replace(binding, id=UUID(rule["id"]) if "id" in rule else None)
            for binding, rule in zip(document.bindings, now.get("bindings", ()), strict=True)
        ),
        tests=tuple(_built(ExpectationDoc, test) for test in now.get("tests", ())),
    )


def _take_id(rule: dict[str, Any], saved: Mapping[str, Any]) -> None:
    if "id" in saved:
        rule.setdefault("id", saved["id"])
