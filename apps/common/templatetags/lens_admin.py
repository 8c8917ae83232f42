"""Template filters of the admin: what an agent wrote, made harmless to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import template

from apps.common.admin_display import NOTHING
from apps.common.admin_display import hostile as as_hostile

if TYPE_CHECKING:
    from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def hostile(text: object, limit: int = 2_000) -> SafeString | str:
    """Inert, escaped, out of the theme's script; nothing for nothing."""
    return as_hostile(text, limit=limit) if text not in (None, "") else ""


@register.filter
def changed(change: Any) -> SafeString | str:
    """`[old, new]` as the audit trail keeps it; a word for a secret."""
    if not isinstance(change, (list, tuple)) or len(change) != 2:
        return as_hostile(change, limit=200)
    old, new = (NOTHING if value in (None, "") else str(value) for value in change)
    return as_hostile(f"{old} → {new}", limit=400)
