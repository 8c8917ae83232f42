"""Forms of the admin: whose rows they offer, and how a service's refusal comes back to a field."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.forms.utils import pretty_name
from django.http import HttpRequest

from apps.common.errors import LensError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps.common.admin_scope import Gate

    _ModelForm = forms.ModelForm[Any]
else:
    _ModelForm = forms.ModelForm  # takes no parameter at run time


class TenantRequest(HttpRequest):
    """What middleware makes of a request: who asks (None: nobody known), in which organization."""

    org: Any
    actor: Any
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a service refused. `prefix` names the form ("" = the main one), `field` the field."""

    message: str
    field: str = ""
    prefix: str = ""

    @classmethod
    def of(cls, error: LensError) -> Refusal:
        """The refusal of an error; `refusing_at` may have said which form it is about."""
        return cls(
            message=error.message,
            field=str(error.data.get("field", "")).partition("[")[0],
            prefix=getattr(error, "form_prefix", ""),
        )


@contextmanager
def refusing_at(form: forms.BaseForm) -> Iterator[None]:
    """An error that passes here belongs to `form`."""
    try:
        yield
    except LensError as error:
        error.form_prefix = form.prefix or ""  # type: ignore[attr-defined]  # read by Refusal.of
        raise


class OrgForm(_ModelForm):
    """A form whose choices are the organization's rows and nothing else.

    `request` and `site` are set on the class that `bound_form` makes for one request; without them
    the form offers nothing. Fields named in `fixed` are chosen once: on a saved row they are shown,
    and what is posted for them is ignored. `aliases` maps a service's name of a field to ours.
    """

    fixed: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[dict[str, str]] = {}
    request: ClassVar[TenantRequest | None] = None
    site: ClassVar[Gate | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, field in self.fields.items():
            if isinstance(field.widget, RelatedFieldWidgetWrapper):
                field.widget = field.widget.widget  # no pop-up windows beside every select
            if isinstance(field, forms.ModelChoiceField):
                field.queryset = self._within_org(field)
            if name in self.fixed and not is_new(self):
                field.disabled = True
            if self.prefix:  # a cell of a table has a heading, but no label
                field.widget.attrs.setdefault("aria-label", label_of(name, field))

    def full_clean(self) -> None:
        """Validate; then add what the service refused, if it was about this form."""
        super().full_clean()
        refusal: Refusal | None = getattr(self.request, "refusal", None)
        if refusal is not None and refusal.prefix == (self.prefix or ""):
            field = self.aliases.get(refusal.field, refusal.field)
            self.add_error(field if field in self.fields else None, refusal.message)

    def _within_org(self, field: forms.ModelChoiceField[Any]) -> Any:
        queryset = field.queryset
        if queryset is None or self.request is None or self.site is None:
            return field.queryset.none() if field.queryset is not None else None
        allowed = self.site.choices(self.request, queryset.model)
        return queryset.filter(pk__in=allowed.values("pk"))


def bound_form(form: type[Any], request: HttpRequest, site: Gate) -> type[Any]:
    """A subclass of `form` for one request."""
    return type(form.__name__, (form,), {"request": request, "site": site})


def adopt(obj: Any, row: Any) -> None:
    """Make `obj`, which Django's views hold, show the row that the service wrote."""
    obj.pk = row.pk
    obj._state.adding = False  # noqa: SLF001  documented by Django
    obj._state.db = row._state.db  # noqa: SLF001  documented by Django
    obj.refresh_from_db()


def fresh(obj: Any) -> Any:
    """The row as the database has it, or None: a form has already changed the one it holds."""
    return type(obj)._base_manager.filter(pk=obj.pk).first()  # noqa: SLF001  Django's public name for it


def is_new(form: Any) -> bool:
    """Whether the form's row is not in the database yet."""
    return bool(form.instance._state.adding)  # noqa: SLF001  documented by Django


def label_of(name: str, field: forms.Field) -> str:
    """The field's label as Django would render it."""
    return str(field.label or pretty_name(name)).capitalize()
