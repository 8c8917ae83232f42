"""People, teams, projects, their grants, and how the organization signs in."""

from apps.orgs.admin import people, settings, tenants

__all__ = ["people", "settings", "tenants"]
