"""The policy form before it is saved: checked in place, and asked what it would decide.

*Check* and *Simulate* post the form as *Save* does. It is read the same way up to the call of the
service; there the document is taken out, the transaction is rolled back, and the page comes again
with what was found. So a check looks at exactly what a save would write.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from apps.common.errors import LensError
from apps.policies.documents import document_of
from apps.policies.questions import SimulateForm
from apps.policies.review import Finding, Review, review
from apps.policies.simulator import simulate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apps.common.admin_forms import TenantRequest
    from apps.policies.documents import PolicyDocument
    from apps.policies.models import Policy
    from apps.policies.simulator import Answer

CHECK, SIMULATE = "_check", "_simulate"
# `domains[2].pattern`, `domains[1].http[0].path`, `tools[0]`: how a finding names its place
PLACE = re.compile(r"(domains|tools|bindings|tests)\[(\d+)\](?:\.http\[(\d+)\])?(?:\.(\w+))?")


class Previewed(Exception):  # noqa: N818  not an error: it ends a save that was never meant
    """The document that the form says."""

    def __init__(self, document: PolicyDocument) -> None:
        super().__init__()
        self.document = document


def wanted(request: Any) -> bool:
    """Whether the form was posted to be looked at, and not to be saved."""
    return request.method == "POST" and bool({CHECK, SIMULATE} & request.POST.keys())


def found_in(
    request: TenantRequest, policy: Policy | None, document: PolicyDocument | None
) -> Review | None:
    """The review of the document in the form, or of the saved one; None for a new, empty form."""
    saved = document_of(policy) if policy is not None else None
    shown = document or saved
    return review(request.org, shown, saved) if shown else None


def annotate(found: Review | None, kept: dict[str, list[Any]], *, problems: bool) -> list[Finding]:
    """Put each finding where it belongs; what has no place in the form comes back.

    `problems` False: the first one was put there by the refusal of a save.
    """
    if found is None:
        return []
    left = [one for one in found.problems if problems and not _add_error(one, kept)]
    for finding in found.warnings:
        left += [] if _add_note(finding.field, finding.message, kept, "warn") else [finding]
    for finding in found.widens:
        _add_note(finding.field, f"Lets more through: {finding.message}", kept, "info")
    for test in found.tests:
        text = "passes" if test.passed else f"fails: {test.found or 'not asked'}. {test.reason}"
        _add_note(test.field, text, kept, "good" if test.passed else "bad")
    return [*left, *found.below]


def form_at(field: str, kept: dict[str, list[Any]]) -> tuple[Any, str, str | None] | None:
    """The form, its field, and the number of its HTTP line, that a path is about."""
    place = PLACE.fullmatch(field)
    if place is None:
        return None
    section, index, line, name = place.groups()
    form = kept[section][int(index)]
    if line is not None:
        return form, "http", line
    if section == "tests" and name in ("tool", "method", "url"):
        name = "asks"
    return form, name or ("asks" if section == "tests" else "pattern"), None


def _add_error(finding: Finding, kept: dict[str, list[Any]]) -> bool:
    found = form_at(finding.field, kept)
    if found is None:
        return False
    form, name, line = found
    message = finding.message
    if line is not None:
        message = f"Line {form.cleaned_data['http'][int(line)][0]}: {message}"
    form.add_error(name if name in form.fields else None, message)
    return True


def _add_note(field: str, text: str, kept: dict[str, list[Any]], look: str) -> bool:
    found = form_at(field, kept)
    if found is None:
        return False
    form, name, _ = found
    if name not in form.fields:
        return False
    notes = getattr(form.fields[name].widget, "notes", None)
    if notes is None:
        return False
    notes.append((look, text))
    return True


def simulation(
    request: TenantRequest, policy: Policy, draft: PolicyDocument | None
) -> dict[str, Any]:
    """The form of questions beside the policy's own, and the answers: now, and with the draft."""
    sent = request.method == "POST" and SIMULATE in request.POST
    form = SimulateForm(request.org, policy, request.POST if sent else None)
    found = answers(request, form, draft) if sent and draft is not None else None
    return {"sim_form": form, "answers": found, "has_draft": True}


def answers(
    request: TenantRequest, form: SimulateForm, draft: PolicyDocument | None
) -> list[Answer] | None:
    """The answers, or None after the form was told what is wrong."""
    if not form.is_valid():
        return None
    try:
        return simulate(request.org, form.query(), actor=request.actor, draft=draft)
    except LensError as error:
        field = str(error.data.get("field", ""))
        form.add_error(field if field in form.fields else None, error.message)
        return None


def place(error: LensError, kept: dict[str, list[Any]]) -> None:
    """Point a refusal of the service at the form and field that it is about."""
    found = form_at(str(error.data.get("field", "")), kept)
    if found is None:
        return
    form, name, line = found
    error.form_prefix = form.prefix  # type: ignore[attr-defined]  # read by Refusal.of
    error.data["field"] = name
    if line is not None:
        error.message = f"Line {form.cleaned_data['http'][int(line)][0]}: {error.message}"


def sections(formsets: Iterable[Any]) -> dict[str, list[Any]]:
    """The forms that stay, by section, in the order of their places."""
    return {formset.inline.section: kept_forms(formset) for formset in formsets}


def kept_forms(formset: Any) -> list[Any]:
    """The forms that stay, in the order of their places; ties keep the order of the page."""
    if not formset.is_bound:
        return list(formset.initial_forms)
    kept = [
        form
        for form in formset.forms
        if form not in formset.deleted_forms
        and (form.has_changed() or not form.instance._state.adding)  # noqa: SLF001  documented by Django
    ]
    return sorted(kept, key=lambda form: form.cleaned_data.get("position", 0))
