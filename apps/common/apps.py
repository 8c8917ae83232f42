from django.apps import AppConfig
from django.db.backends.signals import connection_created


class CommonConfig(AppConfig):
    name = "apps.common"
    label = "common"

    def ready(self) -> None:
        """Guard every connection from its first statement on."""
        from apps.common.tenant_guard import install  # noqa: PLC0415  settings are ready now

        connection_created.connect(install, dispatch_uid="tenants")
