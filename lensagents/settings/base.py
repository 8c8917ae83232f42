"""What every installation shares. Order of concern: identity, data, web, background work, audit."""

from __future__ import annotations

from pathlib import Path

from lensagents.settings.env import Env

env = Env()
BASE_DIR = Path(__file__).resolve().parents[2]
DATA_DIR = env.path("DATA_DIR", BASE_DIR / "data")

DEBUG = False
INSTALLED_APPS = [
    "lensagents.apps.LensAdminConfig",
    "unfold.apps.BasicAppConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "oauth2_provider",
    "channels",
    "django_celery_beat",
    "apps.common",
    "apps.jobs",
    "apps.audit",
    "apps.orgs",
    "apps.connections",
    "apps.policies",
    "apps.sandboxes",
    "apps.agents",
    "apps.mcp",
    "lensagents",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "lensagents.urls"
ASGI_APPLICATION = "lensagents.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

AUTH_USER_MODEL = "orgs.User"
AUTHENTICATION_BACKENDS: list[str] = []
OAUTH2_PROVIDER_APPLICATION_MODEL = "orgs.OAuthApplication"
OAUTH2_PROVIDER_GRANT_MODEL = "orgs.OAuthGrant"
OAUTH2_PROVIDER_ACCESS_TOKEN_MODEL = "orgs.OAuthAccessToken"
OAUTH2_PROVIDER_REFRESH_TOKEN_MODEL = "orgs.OAuthRefreshToken"
OAUTH2_PROVIDER_ID_TOKEN_MODEL = "orgs.OAuthIDToken"
OAUTH2_PROVIDER_DEVICE_GRANT_MODEL = "orgs.OAuthDeviceGrant"

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
USE_I18N = False
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = DATA_DIR / "static"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
