"""People, teams, projects, their grants, and how the organization signs in."""

from apps.orgs.admin import access, people, settings, sign_in, tenants

__all__ = ["access", "people", "settings", "sign_in", "tenants"]
