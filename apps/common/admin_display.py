"""Columns of the admin: badges, times, and text that an agent wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from django.contrib import admin
from django.utils.html import format_html
from unfold.decorators import action
from unfold.enums import ActionVariant

from apps.common.inert import inert

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from django.utils.safestring import SafeString

    Action = TypeVar("Action", bound=Callable[..., Any])

NOTHING = "-"


def hostile(text: object, *, limit: int = 2_000) -> SafeString | str:
    """Text that an agent wrote: inert, escaped, out of the theme's script and of text direction."""
    shown = inert(text, limit=limit)
    if not shown:
        return NOTHING
    return format_html('<bdi class="lens-hostile" x-ignore>{}</bdi>', shown)


def hostile_column(field: str, title: str, *, limit: int = 120) -> Callable[[Any], Any]:
    """A column or read-only field of such text."""

    @admin.display(description=title, ordering=field, empty_value=NOTHING)
    def column(obj: Any) -> SafeString | str:
        return hostile(getattr(obj, field), limit=limit)

    column.__name__ = field  # the theme and Django name columns by it
    return column


def badge(text: object, colour: str = "") -> SafeString:
    """A word with a background: success, warning, danger, info or none. The word alone says it."""
    return format_html('<span class="lens-badge lens-badge-{}">{}</span>', colour or "plain", text)


def badge_column(field: str, title: str, colours: Mapping[str, str]) -> Callable[[Any], Any]:
    """A column or read-only field of a choice; `colours` maps values to those of `badge`."""

    @admin.display(description=title, ordering=field)
    def column(obj: Any) -> SafeString | str:
        value = getattr(obj, field)
        shown = getattr(obj, f"get_{field}_display", None)
        return badge(shown() if shown else value, colours.get(value, "")) if value else NOTHING

    column.__name__ = f"{field}_badge"
    return column


def button(
    title: str, *, permission: str, icon: str, look: str = "default"
) -> Callable[[Action], Action]:
    """A button on a row's page; `has_<permission>_permission` says whether it is offered.

    It is a link: what it opens must ask before it changes anything (`OrgModelAdmin.confirmed`).
    """
    made = action(
        description=title, permissions=[permission], icon=icon, variant=ActionVariant(look)
    )
    return cast("Callable[[Action], Action]", made)


def counted(number: int, noun: str) -> str:
    """“1 agent is”, “2 agents are”."""
    return f"{number} {noun} is" if number == 1 else f"{number} {noun}s are"
