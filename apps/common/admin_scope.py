"""Scope and permissions of the admin: whose rows, and which verb of `can` is behind a button."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from apps.common.admin_forms import OrgForm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.models import Model, QuerySet
    from django.forms import ModelForm
    from django.http import HttpRequest

VIEW, ADD, CHANGE, DELETE = "view", "add", "change", "delete"
ALL_VERBS = {VIEW: "view", ADD: "create", CHANGE: "update", DELETE: "delete"}
READ_ONLY = {VIEW: "view"}


class Gate(Protocol):
    """What the base asks of the admin site."""

    name: str

    def allows(self, request: HttpRequest, verb: str, obj: Model | None = None) -> bool:
        """Whether the request's actor may; without an object: anywhere in the organization."""

    def choices(self, request: HttpRequest, model: type[Model]) -> QuerySet[Any]:
        """The rows of `model` that this request may refer to."""

    def trail(self, request: HttpRequest, noun: str, obj: Model) -> Sequence[Any]:
        """The newest audit events about `obj`, of this organization."""

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """What every page of the site needs."""


class OrgScoped:
    """Scope and permissions, for model admins and inlines alike.

    `noun` names the verbs that are asked of `can`; `verbs` says which one stands behind each of
    Django's four, absent = never. `scope` is the path from the row to its organization.
    """

    noun: ClassVar[str] = ""
    verbs: ClassVar[dict[str, str]] = ALL_VERBS
    scope: ClassVar[str] = "org"
    form: type[ModelForm[Any]] = OrgForm

    if TYPE_CHECKING:
        admin_site: Gate
        model: type[Model]

    def visible(self, actor: Any) -> QuerySet[Any]:
        """The rows that this actor may see: a selector of the app."""
        raise NotImplementedError

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The organization's rows that this person may see."""
        org, actor = getattr(request, "org", None), getattr(request, "actor", None)
        if org is None or actor is None:
            return self.model._default_manager.none()  # noqa: SLF001  Django's public name for it
        rows = self.visible(actor).filter(**{self.scope: org.pk})
        ordering = cast("Any", self).get_ordering(request)
        return rows.order_by(*ordering) if ordering else rows

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """May look."""
        return self.permitted(request, VIEW, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """May create; `obj` is the parent for inlines."""
        return self.permitted(request, ADD, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """May change."""
        return self.permitted(request, CHANGE, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """May delete."""
        return self.permitted(request, DELETE, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Whether the menu shows it."""
        return self.has_view_permission(request)

    def permitted(self, request: HttpRequest, what: str, obj: Any) -> bool:
        """Ask the site; a row that cannot be seen cannot be acted on either."""
        verb = self.verbs.get(what)
        if verb is None:
            return False
        row = self.row(request, obj)
        if obj is not None and row is None:
            return False
        return self.admin_site.allows(request, f"{self.noun}.{verb}", row)

    def row(self, request: HttpRequest, obj: Any) -> Any:
        """`obj`, or the visible row with this id: the theme asks with the id from the address."""
        return cast("Any", self).get_object(request, obj) if isinstance(obj, str) else obj
