from django.apps import AppConfig


class SandboxesConfig(AppConfig):
    name = "apps.sandboxes"
    label = "sandboxes"
    verbose_name = "Sandboxes"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from apps.sandboxes import (  # noqa: PLC0415  models are ready only now
            authentication,  # noqa: F401  registers `lnsb_` tokens
            spools,  # noqa: F401  names the owners of spool folders
        )
