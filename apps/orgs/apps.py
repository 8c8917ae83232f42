from django.apps import AppConfig


class OrgsConfig(AppConfig):
    name = "apps.orgs"
    label = "orgs"
    verbose_name = "People and teams"
    default_auto_field = "django.db.models.BigAutoField"
