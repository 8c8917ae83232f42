"""Template filters of the admin: what an agent wrote, made harmless to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import template

from apps.common.admin_display import hostile as as_hostile
from apps.common.inert import inert

if TYPE_CHECKING:
    from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def hostile(text: object, limit: int = 2_000) -> SafeString | str:
    """Inert, escaped, out of the theme's script; nothing for nothing."""
    return as_hostile(text, limit=limit) if text not in (None, "") else ""


@register.filter
def is_list(value: object) -> bool:
    """Whether it is a list and not a text."""
    return isinstance(value, list)


@register.filter
def changed(change: Any) -> list[str]:
    """A change as the audit trail keeps it, as lines: `+` for what came, `-` for what went."""
    if not isinstance(change, list | tuple) or len(change) != 2:
        return [inert(change, limit=200)]
    old, new = (_lines(value) for value in change)
    gone = [f"- {line}" for line in old if line not in new]
    came = [f"+ {line}" for line in new if line not in old]
    return [inert(line, limit=400) for line in [*gone, *came]] or ["order changed"]


@register.filter
def diff_lines(text: str) -> list[dict[str, str]]:
    """A unified diff, each line inert and with its look: `in`, `out`, `at` or `same`."""
    looks = {"+": "in", "-": "out", "@": "at"}
    return [
        {"look": looks.get(line[:1], "same"), "text": inert(line, limit=600) + "\n"}
        for line in text.splitlines()
    ]


def _lines(value: Any) -> list[str]:
    if value in (None, "", []):
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
