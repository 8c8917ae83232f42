"""The admin site of the platform."""

from __future__ import annotations

from unfold.sites import UnfoldAdminSite


class LensAdminSite(UnfoldAdminSite):
    """The one site; who sees what in it is decided by `can`."""

    site_header = "Lens Agents"
    site_title = "Lens Agents"
