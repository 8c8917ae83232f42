from django.apps import AppConfig


class AgentsConfig(AppConfig):
    name = "apps.agents"
    label = "agents"
    verbose_name = "Agents"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Let the edges know the tokens of agents."""
        from apps.agents import authentication  # noqa: F401, PLC0415  models are ready only now
