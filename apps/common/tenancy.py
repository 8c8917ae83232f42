"""The shape of every tenant row: a time-ordered key, its organization, and two times.

The foreign key is by label, so that `common` knows no domain. Deleting an organization that still
has rows is refused by the database: organizations are closed, not deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.validators import RegexValidator
from django.db import models

from apps.common.clock import now
from apps.common.ids import uuid7

if TYPE_CHECKING:
    _CharField = models.CharField[str, str]
else:
    _CharField = models.CharField

# `\Z` where one would write `$`, which lets a line break pass at the end.
SLUG_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z"
SLUG_HELP = "Lower-case letters, digits and inner hyphens, for example “platform-engineering”."
slug_validator = RegexValidator(SLUG_PATTERN, f"Not a valid slug. {SLUG_HELP}", code="slug")


class Row(models.Model):
    """A row with a UUIDv7 key and its times."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    created_at = models.DateTimeField(default=now, editable=False)
    updated_at = models.DateTimeField(default=now, editable=False)

    class Meta:
        abstract = True


class TenantRow(Row):
    """A row that belongs to one organization, for good."""

    org = models.ForeignKey(
        "orgs.Organization",
        on_delete=models.PROTECT,
        related_name="+",
        editable=False,
        verbose_name="organization",
    )

    class Meta:
        abstract = True


class SlugField(_CharField):
    """A slug as product rules have it; unique in its organization by the model's constraint."""

    default_validators = [slug_validator]

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("max_length", 63)
        kwargs.setdefault("help_text", SLUG_HELP)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # Django's own signature
