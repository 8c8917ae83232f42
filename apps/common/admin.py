"""The one door through which the admin reaches tenant rows.

1. A row is seen only through `OrgScoped.get_queryset`: the organization of the session; for nobody,
   nothing. A row of another organization is as absent as one that never was: the same 404.
2. What a person may do is asked of the site (`Gate.allows`), which asks `can`. Django's own
   permissions are not consulted.
3. A foreign key offers, and accepts, only rows that rule 1 shows (`OrgForm`).
4. A change is one call of a service with `request.actor`. What a service refuses goes back to the
   form as an error at its field; the transaction is rolled back, so nothing is half saved.
5. Django's LogEntry is not written: the services leave audit events, and the history page shows
   those.

`common` knows no domain: the organization and the actor are put on the request by middleware, and
the site is given by the composition root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django.contrib import messages
from django.core.exceptions import BadRequest, PermissionDenied, ValidationError
from django.db import IntegrityError, models, transaction
from django.http import Http404, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import ModelAdmin, TabularInline
from unfold.widgets import UnfoldAdminTextareaWidget

from apps.common.admin_forms import (
    Refusal,
    TenantRequest,
    adopt,
    bound_form,
    fresh,
    is_new,
    refusing_at,
)
from apps.common.admin_scope import OrgScoped
from apps.common.errors import Conflict, LensError
from apps.common.inert import inert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from django.db.models import Model, QuerySet
    from django.forms import BaseModelFormSet, ModelForm
    from django.http import HttpRequest, HttpResponse

RACE = "Somebody else changed this at the same moment. Look again and repeat."


class OrgModelAdmin(OrgScoped, ModelAdmin):
    """The base of every ModelAdmin. A subclass names its `noun` and its three service calls."""

    view_on_site = False
    list_per_page = 50
    show_full_result_count = False
    list_fullwidth = True
    warn_unsaved_form = True
    compressed_fields = True
    formfield_overrides = {
        models.TextField: {"widget": UnfoldAdminTextareaWidget(attrs={"rows": 3})}
    }
    keeps_history = True  # whether the audit trail has events about its rows
    palette = ""  # the icon under which the command palette finds rows; "" = it does not
    object_history_template = "admin/object_history.html"

    def create(self, request: TenantRequest, data: dict[str, Any]) -> Model:
        """Call the service that creates; returns the row."""
        raise NotImplementedError

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """Call the service that updates `row`, which is fresh from the database."""
        raise NotImplementedError

    def remove(self, request: TenantRequest, row: Any) -> None:
        """Call the service that deletes."""
        raise NotImplementedError

    def consequences(self, row: Any) -> list[str]:  # noqa: ARG002  a hook
        """What else a deletion does, as sentences for the confirmation page."""
        return []

    def get_form(
        self,
        request: HttpRequest,
        obj: Any = None,
        change: bool = False,  # noqa: FBT001, FBT002  Django's signature
        **kwargs: Any,
    ) -> type[ModelForm[Any]]:
        """The form class of this one request: it knows whose choices to offer."""
        return bound_form(
            super().get_form(request, obj, change, **kwargs), request, self.admin_site
        )

    def save_model(self, request: TenantRequest, obj: Any, form: Any, change: Any) -> None:
        """One service call. The row is read anew, so that the service sees old and new."""
        if change:
            row = fresh(obj)
            if row is None:
                raise Conflict(RACE)
            self.update(request, row, form.cleaned_data)
        else:
            row = self.create(request, form.cleaned_data)
        adopt(obj, row)

    def save_related(
        self,
        request: TenantRequest,
        form: Any,
        formsets: Iterable[Any],
        change: Any,  # noqa: ARG002  Django's signature
    ) -> None:
        """Each inline saves its own rows through services."""
        for formset in formsets:
            formset.inline.save(request, form.instance, formset)

    def _create_formsets(self, request: HttpRequest, obj: Any, change: bool) -> Any:  # noqa: FBT001  Django's signature
        formsets, inlines = super()._create_formsets(request, obj, change)
        for formset, inline in zip(formsets, inlines, strict=True):
            formset.inline = inline
        return formsets, inlines

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """As Django's; what a service refuses is shown at its field.

        The exception has rolled everything back; the second pass only renders, because the refusal
        makes its form invalid.
        """
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except LensError as error:
            refusal = Refusal.of(error)
        except IntegrityError:
            refusal = Refusal(RACE)
        request.refusal = refusal  # type: ignore[attr-defined]  # read by OrgForm
        return super().changeform_view(request, object_id, form_url, extra_context)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """What `list_filter` offers and no more: else a column that is shown nowhere, such as a
        hash or a ciphertext, could be guessed at bit by bit.
        """
        names = [filter_name(entry) for entry in self.get_list_filter(request)]
        offered = any(lookup == name or lookup.startswith(f"{name}__") for name in names)
        return offered and bool(super().lookup_allowed(lookup, value, request))

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], **kwargs: Any
    ) -> HttpResponse:
        """A row's name may be what an agent wrote, and stands in the page's title."""
        if context.get("subtitle"):
            context["subtitle"] = inert(context["subtitle"], limit=80)
        context["show_history"] = self.keeps_history
        return cast("HttpResponse", super().render_change_form(request, context, **kwargs))

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """As Django's; a refused bulk action changes nothing and says why."""
        try:
            return cast("HttpResponse", super().changelist_view(request, extra_context))
        except LensError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        except ValidationError as error:  # what was ticked is no id
            raise BadRequest from error

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """As Django's; a refused deletion says why."""
        try:
            return cast("HttpResponse", super().delete_view(request, object_id, extra_context))
        except LensError as error:
            self.message_user(request, error.message, messages.ERROR)
            return HttpResponseRedirect(self.url("change", object_id))

    def get_deleted_objects(
        self, objs: Iterable[Any], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """What the confirmation page shows: the rows, and what the service does besides."""
        rows = list(objs)
        shown: list[Any] = []
        for row in rows:
            shown += [str(row), self.consequences(row)] if self.consequences(row) else [str(row)]
        lacking = {
            str(self.opts.verbose_name)
            for row in rows
            if not self.has_delete_permission(request, row)
        }
        return shown, {str(self.opts.verbose_name_plural): len(rows)}, lacking, []

    def delete_model(self, request: TenantRequest, obj: Any) -> None:
        """One service call."""
        self.remove(request, obj)

    def delete_queryset(self, request: TenantRequest, queryset: QuerySet[Any]) -> None:
        """A service call a row, all or none."""
        with transaction.atomic():
            for row in queryset:
                self.remove(request, row)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The audit events about this row."""
        obj = self.get_object(request, object_id)
        if obj is None or not self.has_view_permission(request, obj):
            raise Http404
        context = self.page(
            request,
            obj,
            title="History",
            events=self.admin_site.trail(request, self.noun, obj),
            **(extra_context or {}),
        )
        return TemplateResponse(request, self.object_history_template, context)

    def confirmed(
        self,
        request: HttpRequest,
        object_id: str,
        *,
        verb: str,
        title: str,
        text: str,
        button: str,
        run: Callable[[Any], object],
    ) -> HttpResponse:
        """An action that asks first: GET shows what will happen, POST makes the service call."""
        obj = self.reached(request, object_id, verb)
        if request.method == "POST":
            try:
                run(fresh(obj))
            except LensError as error:
                self.message_user(request, error.message, messages.ERROR)
            else:
                self.message_user(request, f"{title}: done.", messages.SUCCESS)
            return HttpResponseRedirect(self.url("change", obj.pk))
        context = self.page(request, obj, title=title, text=text, button=button)
        return TemplateResponse(request, "admin/confirm.html", context)

    def reached(self, request: HttpRequest, object_id: str, verb: str) -> Any:
        """The row for an action, or 404; 403 when it may be seen but not acted on."""
        obj = self.get_object(request, object_id)
        if obj is None:
            raise Http404
        if not self.admin_site.allows(request, f"{self.noun}.{verb}", obj):
            raise PermissionDenied
        return obj

    def page(self, request: HttpRequest, obj: Any, **context: Any) -> dict[str, Any]:
        """The context of a page about one row."""
        return {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "object": obj,
            "original": obj,
            "subtitle": None,
            "back": self.url("change", obj.pk),
            **context,
        }

    def url(self, view: str, *args: Any) -> str:
        """The address of one of this admin's views."""
        return reverse(
            f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}_{view}", args=args
        )

    def construct_change_message(self, *args: Any, **kwargs: Any) -> str:  # noqa: ARG002  Django's signature
        """Nothing: see rule 5."""
        return ""

    def log_addition(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: see rule 5."""

    def log_change(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: see rule 5."""

    def log_deletions(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: see rule 5."""

    def _get_obj_does_not_exist_redirect(self, *args: Any) -> HttpResponse:  # noqa: ARG002  Django's signature
        raise Http404


def filter_name(entry: Any) -> str:
    """The query parameter of an entry of `list_filter`, without its look-up."""
    if isinstance(entry, type):
        return str(getattr(entry, "parameter_name", ""))
    return str(entry if isinstance(entry, str) else entry[0])


class OrgInline(OrgScoped, TabularInline):
    """The base of every inline. Rows are saved one by one through services."""

    extra = 0
    hide_title = True
    show_change_link = False
    tab = True

    def visible(self, actor: Any) -> QuerySet[Any]:
        """The organization's rows: the parent was reached through its own admin."""
        return self.model._default_manager.filter(org=actor.org_id)  # noqa: SLF001  Django's public name for it

    def create(self, request: TenantRequest, parent: Any, data: dict[str, Any]) -> None:
        """Call the service that creates a row under `parent`."""
        raise NotImplementedError

    def update(self, request: TenantRequest, row: Any, data: dict[str, Any]) -> None:
        """Call the service that updates `row`, which is fresh from the database."""
        raise NotImplementedError

    def remove(self, request: TenantRequest, row: Any) -> None:
        """Call the service that deletes."""
        raise NotImplementedError

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        """The formset class of this one request."""
        formset = super().get_formset(request, obj, **kwargs)
        formset.form = bound_form(formset.form, request, self.admin_site)
        return formset

    def save(
        self, request: TenantRequest, parent: Any, formset: BaseModelFormSet[Any, Any]
    ) -> None:
        """Deletions first, then changes and additions; a refusal names its form."""
        deleted = [form for form in formset.deleted_forms if not is_new(form)]
        kept = [
            form
            for form in formset.forms
            if form not in formset.deleted_forms and form.has_changed()
        ]
        for form in [*deleted, *kept]:
            with refusing_at(form):
                self._save_form(request, parent, form, deleted=form in deleted)

    def _save_form(self, request: TenantRequest, parent: Any, form: Any, *, deleted: bool) -> None:
        if is_new(form):
            self.create(request, parent, form.cleaned_data)
            return
        row = fresh(form.instance)
        if deleted and row is not None:
            self.remove(request, row)
        elif not deleted and row is None:
            raise Conflict(RACE)
        elif not deleted:
            self.update(request, row, form.cleaned_data)
