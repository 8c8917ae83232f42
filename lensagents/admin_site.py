"""The admin site: one registry, one question (`can`), and no rows but the session's organization's.

A ModelAdmin that is not built on `OrgModelAdmin` cannot be registered: ours fail at import, those
that third-party packages bring along (OAuth, periodic tasks, groups) are left out, because a tenant
has no use for them and Django's own permissions do not know tenants.
"""

from __future__ import annotations

import time
from functools import wraps
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode

from django.conf import settings
from django.core.exceptions import BadRequest
from django.core.paginator import Paginator
from django.http import HttpResponse, HttpResponseRedirect
from django.shortcuts import resolve_url
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.dataclasses import SearchResult
from unfold.sites import UnfoldAdminSite

from apps.common.admin import OrgModelAdmin
from apps.orgs.access import can, can_somewhere

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from django.db.models import Model, QuerySet
    from django.http import HttpRequest

OWN_PACKAGES = ("apps.", "lensagents.", "tests.")
FOUND_PER_MODEL = 10
TRAIL_LENGTH = 100
# Django's views that know no tenants: passwords do not exist here, and `view_on_site` answers
# differently for an absent row and for one of another organization.
REMOVED = {"password_change", "password_change_done", "view_on_site"}


class LensAdminSite(UnfoldAdminSite):
    """The one site; who sees what in it is decided by `can`."""

    site_header = "Lens Agents"
    site_title = "Lens Agents"
    index_title = "Overview"
    empty_value_display = "-"
    enable_nav_sidebar = True

    def register(
        self, model_or_iterable: Any, admin_class: type[Any] | None = None, **options: Any
    ) -> None:
        """Register a tenant-safe admin; see the module's text for the others."""
        if admin_class is not None and issubclass(admin_class, OrgModelAdmin):
            super().register(model_or_iterable, admin_class, **options)
        elif admin_class is None or f"{admin_class.__module__}.".startswith(OWN_PACKAGES):
            raise TypeError(f"{admin_class} must be built on OrgModelAdmin")

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:  # noqa: FBT001, FBT002  Django's signature
        """As Django's; a NUL, which no text of PostgreSQL can be compared with, is refused."""
        inner = super().admin_view(view, cacheable)

        @wraps(inner)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            if any("\0" in text for _, texts in request.GET.lists() for text in texts):
                raise BadRequest("There is a NUL in the address.")
            return inner(request, *args, **kwargs)

        return checked

    def allows(self, request: HttpRequest, verb: str, obj: Model | None = None) -> bool:
        """Whether the request's actor may; without an object: anywhere in the organization."""
        actor, org = getattr(request, "actor", None), getattr(request, "org", None)
        if obj is None:
            return can_somewhere(actor, verb, org).allowed
        return can(actor, verb, obj).allowed

    def choices(self, request: HttpRequest, model: type[Model]) -> QuerySet[Any]:
        """The rows of `model` that its own admin shows to this request; none without an admin."""
        model_admin = self._registry.get(model)
        if model_admin is None:
            return model._default_manager.none()  # noqa: SLF001  Django's public name for it
        return cast("QuerySet[Any]", model_admin.get_queryset(request))

    def trail(self, request: HttpRequest, noun: str, obj: Model) -> Sequence[Any]:
        """The newest audit events about a row, for those who may read the audit trail."""
        from apps.audit.models import AuditEvent  # noqa: PLC0415  models load after the site

        if not self.allows(request, "audit.view"):
            return []
        org = request.org  # type: ignore[attr-defined]  # set by middleware
        events = AuditEvent.objects.filter(org=org, resource_type=noun, resource_id=str(obj.pk))
        return list(events.order_by("-at")[:TRAIL_LENGTH])

    def has_permission(self, request: HttpRequest) -> bool:
        """Whether the site may be opened at all: a signed-in, active person."""
        return bool(request.user.is_authenticated and request.user.is_active)

    def get_urls(self) -> list[Any]:
        """Django's and the theme's, without those that know no tenants."""
        return [url for url in super().get_urls() if getattr(url, "name", None) not in REMOVED]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """With what every page of the organization must say."""
        from apps.orgs.banners import banners  # noqa: PLC0415  models load after the site

        return {**super().each_context(request), "banners": banners(request)}

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        """The overview."""
        from lensagents.dashboard import overview  # noqa: PLC0415  models load after the site

        found = overview(request, lambda verb: self.allows(request, verb))
        return cast("TemplateResponse", super().index(request, {**found, **(extra_context or {})}))

    def login(
        self,
        request: HttpRequest,
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002  Django's signature
    ) -> HttpResponse:
        """Sign-in is the platform's own page; nobody types a password here."""
        if self.has_permission(request):
            return HttpResponseRedirect(reverse("admin:index", current_app=self.name))
        where = request.GET.get("next", "")
        query = f"?{urlencode({'next': where})}" if where else ""
        return HttpResponseRedirect(resolve_url(settings.LOGIN_URL) + query)

    def app_index(
        self,
        request: HttpRequest,  # noqa: ARG002  Django's signature
        app_label: str,  # noqa: ARG002  Django's signature
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002  Django's signature
    ) -> HttpResponse:
        """There are no pages by app: the menu goes by task."""
        return HttpResponseRedirect(reverse("admin:index", current_app=self.name))

    def search(
        self,
        request: HttpRequest,
        extra_context: dict[str, Any] | None = None,  # noqa: ARG002  the theme's signature
    ) -> HttpResponse:
        """The command palette. Never cached: the theme's cache knows people, not organizations."""
        term = request.GET.get("s", "").strip().lower()[:100]
        if not term:
            return HttpResponse()
        started = time.perf_counter()
        found = [*self._pages_found(request, term), *self._rows_found(request, term)]
        template = "command_results" if "extended" in request.GET else "search_results"
        paginator = Paginator(found, 100)
        context = {
            "page_obj": paginator,
            "results": paginator.page(1),
            "page_counter": 0,
            "execution_time": time.perf_counter() - started,
            "command_show_history": False,
        }
        return TemplateResponse(
            request, f"unfold/helpers/{template}.html", context, headers={"HX-Trigger": "search"}
        )

    def _pages_found(self, request: HttpRequest, term: str) -> Iterable[SearchResult]:
        for group in self.get_sidebar_list(request):
            for item in group["items"]:
                if term in item["title"].lower():
                    yield SearchResult(
                        title=item["title"],
                        description=group.get("title", ""),
                        link=item["link"],
                        icon=item["icon"],
                    )

    def _rows_found(self, request: HttpRequest, term: str) -> Iterable[SearchResult]:
        for model_admin in self._registry.values():
            if not model_admin.palette or not model_admin.has_view_permission(request):
                continue
            rows = model_admin.get_queryset(request)
            matching, _ = model_admin.get_search_results(request, rows, term)
            # through a join a row may match twice
            for row in rows.filter(pk__in=matching.values("pk"))[:FOUND_PER_MODEL]:
                yield SearchResult(
                    title=str(row),
                    description=str(model_admin.opts.verbose_name).capitalize(),
                    link=model_admin.url("change", row.pk),
                    icon=model_admin.palette,
                )
