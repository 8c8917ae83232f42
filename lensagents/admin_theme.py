"""The look of the admin: django-unfold's settings. Who sees what is not decided here."""

from __future__ import annotations

from typing import Any

from django.templatetags.static import static


def stylesheet(_request: object) -> str:
    """Our additions to the theme's stylesheet."""
    return static("lens/lens.css")


def script(_request: object) -> str:
    """Our few lines of JavaScript: copy buttons and the live audit list."""
    return static("lens/lens.js")


def favicon(_request: object) -> str:
    """The icon in the browser's tab."""
    return static("lens/favicon.svg")


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Lens Agents",
    "SITE_HEADER": "Lens Agents",
    "SITE_SUBHEADER": "lensagents.admin_navigation.organization_name",
    "SITE_SYMBOL": "shield_person",
    "SITE_URL": None,
    "SITE_FAVICONS": [{"rel": "icon", "href": favicon, "type": "image/svg+xml"}],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_BACK_BUTTON": False,
    "STYLES": [stylesheet],
    "SCRIPTS": [script],
    "BORDER_RADIUS": "6px",
    "COMMAND": {"search_models": True, "show_history": False},
    "SIDEBAR": {
        "show_search": True,
        "command_search": True,
        "show_all_applications": False,
        "navigation": "lensagents.admin_navigation.sidebar",
    },
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.6)",
            "100": "oklch(93.2% .032 255.6)",
            "200": "oklch(88.2% .059 254.1)",
            "300": "oklch(80.9% .105 251.8)",
            "400": "oklch(70.7% .165 254.6)",
            "500": "oklch(69% .16 257)",
            "600": "oklch(54.6% .215 262.9)",
            "700": "oklch(48.8% .203 264.4)",
            "800": "oklch(42.4% .179 265.6)",
            "900": "oklch(37.9% .146 265.5)",
            "950": "oklch(28.2% .091 267.9)",
        },
        "font": {
            "subtle-light": "var(--color-base-600)",
            "subtle-dark": "var(--color-base-400)",
            "default-light": "var(--color-base-700)",
            "default-dark": "var(--color-base-300)",
            "important-light": "var(--color-base-900)",
            "important-dark": "var(--color-base-100)",
        },
    },
}
