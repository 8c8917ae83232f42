"""`/projects`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework import serializers

from apps.common.api_fields import Slug, Strict, Text
from apps.orgs import services
from apps.orgs.api.base import Changed, Created, Deleted, Listed, Shown
from apps.orgs.models import Project
from apps.orgs.selectors import projects_visible

if TYPE_CHECKING:
    from django.db.models import QuerySet


class ProjectOut(serializers.ModelSerializer[Project]):
    """A project."""

    class Meta:
        model = Project
        fields = ("id", "slug", "name", "description", "created_at", "updated_at")
        read_only_fields = fields


class NewProject(Strict):
    """A project to be."""

    slug = Slug()
    name = Text(max_length=200)
    description = Text(max_length=10_000, required=False, allow_blank=True)


class ProjectChange(Strict):
    """What of a project can change."""

    name = Text(max_length=200, required=False)
    description = Text(max_length=10_000, required=False, allow_blank=True)


class ProjectsApi(Listed, Shown, Created, Changed, Deleted):
    """Projects bundle credentials and connections; a grant gives a team a role on one."""

    resource = "projects"
    noun, one, many = "project", "a project", "projects"
    queryset = Project.objects.none()
    serializer_class = ProjectOut
    inputs = {"create": NewProject, "partial_update": ProjectChange}

    def visible(self) -> QuerySet[Project]:
        return projects_visible(self.actor)

    def perform_create(self, values: dict[str, Any]) -> Project:
        return services.project_create(self.org, **values, actor=self.actor)

    def perform_update(self, row: Project, values: dict[str, Any]) -> Project:
        return services.project_update(row, **values, actor=self.actor)

    def perform_destroy(self, instance: Project) -> None:
        services.project_delete(instance, actor=self.actor)
