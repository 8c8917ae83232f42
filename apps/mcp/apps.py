from django.apps import AppConfig


class MCPConfig(AppConfig):
    name = "apps.mcp"
    label = "mcp"
    verbose_name = "MCP"
    default_auto_field = "django.db.models.BigAutoField"
