"""The composition root as a Django app: commands, and the admin site."""

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class LensAgentsConfig(AppConfig):
    name = "lensagents"
    label = "lensagents"
    default = True

    def ready(self) -> None:
        """Make our Celery application the current one: every process rings the same bell."""
        from lensagents import celery  # noqa: F401, PLC0415  it reads settings, which are ready now


class LensAdminConfig(admin_apps.AdminConfig):
    """Replaces Django's admin site by ours before anything registers on it."""

    default = False
    default_site = "lensagents.admin_site.LensAdminSite"
