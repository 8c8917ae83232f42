"""How policies look in the REST API, and in its document."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.policies.documents import document_of
from apps.policies.documents_io import to_obj
from apps.policies.models import Policy, PolicyVersion
from apps.policies.schema import SCHEMA

DOCUMENT = {"$ref": "#/components/schemas/PolicyDocument"}
# What is to be checked need not be right.
DRAFT = {"type": "object", "description": "A policy document, or what shall become one."}
FIELDS = ("id", "kind", "team", "agent", "name", "version", "created_at", "updated_at")


def add_document(
    result: dict[str, Any],
    generator: Any,  # noqa: ARG001  the library's signature
    request: Any,  # noqa: ARG001
    public: Any,  # noqa: ARG001
) -> dict[str, Any]:
    """Put the schema of a policy document into the OpenAPI document."""
    plain = {key: value for key, value in SCHEMA.items() if not key.startswith("$")}
    result["components"]["schemas"]["PolicyDocument"] = plain
    return result


@extend_schema_field(DOCUMENT)
class DocumentField(serializers.DictField):
    """A stored document, as it is."""


class PolicyOut(serializers.ModelSerializer[Policy]):
    """A policy, without its document."""

    class Meta:
        model = Policy
        fields = FIELDS
        read_only_fields = FIELDS


class PolicyWithDocument(PolicyOut):
    """A policy."""

    document = serializers.SerializerMethodField()

    class Meta:
        model = Policy
        fields = (*FIELDS, "document")
        read_only_fields = FIELDS

    @extend_schema_field(DOCUMENT)
    def get_document(self, row: Policy) -> dict[str, Any]:
        """As it is kept in a repository."""
        return to_obj(document_of(row))


class SavedOut(PolicyWithDocument):
    """A policy that was saved, and what its author should know."""

    warnings = serializers.ListField(
        child=serializers.CharField(),
        read_only=True,
        required=False,
        help_text="Rules without effect, tests that fail.",
    )

    class Meta:
        model = Policy
        fields = (*FIELDS, "document", "warnings")
        read_only_fields = FIELDS


class VersionOut(serializers.ModelSerializer[PolicyVersion]):
    """A version of a policy, without its document."""

    class Meta:
        model = PolicyVersion
        fields = (
            "id",
            "number",
            "author_kind",
            "author_id",
            "author_name",
            "reason",
            "restored_from",
            "created_at",
        )
        read_only_fields = fields


class VersionWithDocument(VersionOut):
    """A version of a policy. Its rules carry the ids under which the audit trail names them."""

    document = DocumentField(read_only=True)

    class Meta:
        model = PolicyVersion
        fields = (*VersionOut.Meta.fields, "document")
        read_only_fields = fields


class FindingOut(serializers.Serializer[Any]):
    """A sentence about a place in a document."""

    field = serializers.CharField()
    message = serializers.CharField()


class TestedOut(serializers.Serializer[Any]):
    """A test of a document, and what came of it."""

    field = serializers.CharField()
    test = serializers.CharField()
    expected = serializers.CharField()
    found = serializers.CharField()
    reason = serializers.CharField()
    passed = serializers.BooleanField()


class ReviewOut(serializers.Serializer[Any]):
    """What a save would say. With problems nothing else is known."""

    valid = serializers.BooleanField()
    problems = FindingOut(many=True)
    warnings = FindingOut(many=True)
    tests = TestedOut(many=True)
    widens = FindingOut(many=True)


class ChangeOut(serializers.Serializer[Any]):
    """One change between two documents."""

    section = serializers.CharField()
    op = serializers.ChoiceField(choices=("added", "removed", "changed", "moved"))
    path = serializers.CharField()
    before = serializers.JSONField(help_text="What was there.")
    after = serializers.JSONField(help_text="What is there then.")


class DiffOut(serializers.Serializer[Any]):
    """What changes between two documents."""

    old = serializers.CharField()
    new = serializers.CharField()
    changes = ChangeOut(many=True)
    text = serializers.CharField(help_text="A unified diff, one rule a line, for people.")


class PassedOut(serializers.Serializer[Any]):
    """A rule that did not decide."""

    layer = serializers.CharField()
    rule_text = serializers.CharField()
    why = serializers.CharField()


class OutcomeOut(serializers.Serializer[Any]):
    """A decision, with the layer and the rule that made it."""

    action = serializers.ChoiceField(choices=("direct", "allow", "ask", "approve", "deny"))
    layer = serializers.CharField()
    layer_name = serializers.CharField()
    rule = serializers.CharField()
    rule_text = serializers.CharField()
    reason = serializers.CharField()
    credential = serializers.CharField()
    strips_credentials = serializers.BooleanField()
    path = serializers.CharField()
    passed_over = PassedOut(many=True)


class AnswerOut(serializers.Serializer[Any]):
    """What comes of a request now, and with the draft."""

    request = serializers.CharField()
    now = OutcomeOut()
    draft = OutcomeOut(allow_null=True)


class AnswersOut(serializers.Serializer[Any]):
    """The answers, in the order of the requests."""

    answers = AnswerOut(many=True)
