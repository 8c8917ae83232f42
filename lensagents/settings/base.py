"""What every installation shares. Order of concern: identity, data, web, background work, audit.

`embedded` and `server` add what differs. Every variable read here is described in docs/settings.md,
and a test checks that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE

from apps.common.hosts import parse_pattern
from apps.common.roles import EVERYTHING, OWNER_ALIAS, SYSTEM_ALIAS, Roles
from lensagents.admin_theme import UNFOLD  # noqa: F401  the theme reads it as a setting
from lensagents.settings.env import DatabaseUrl, Env, SettingError

env = Env()
BASE_DIR = Path(__file__).resolve().parents[2]
DATA_DIR = env.path("DATA_DIR", BASE_DIR / "data")
RUN_DIR = DATA_DIR / "run"
# Egress proxies run under users of their own, which the credential broker answers and nobody else.
PROXY_UID_BASE = 300_000
MAX_SANDBOXES = 256
SANDBOX_BROKER_UIDS = [(PROXY_UID_BASE, PROXY_UID_BASE + MAX_SANDBOXES - 1)]
# Checked by the sandbox host, which says what it accepts.
SANDBOX_MODE = env.text("SANDBOX_MODE", "auto")
# For the demo and tests only, read by the sandbox host: where named hosts really are, and one more
# certificate authority that the egress proxy trusts.
ADDRESS_MAP = env.mapping("ADDRESS_MAP")
UPSTREAM_CA_FILE = env.text("UPSTREAM_CA_FILE", "") or None
SPOOL_DIR = DATA_DIR / "spool"


def platform_hosts(*names: str) -> tuple[str, ...]:
    """Host patterns of the platform and its stores, which no policy opens.

    Takes names and addresses as settings hold them: `.example.com` is Django's way to say the
    domain and everything below it, `*` says nothing about a host and is left out.
    """
    found: dict[str, None] = {}
    for name in map(str.lower, names):
        patterns = (name[1:], f"*{name}") if name.startswith(".") else (name,)
        found.update(dict.fromkeys(parse_pattern(one).text for one in patterns if one.strip("*")))
    return tuple(found)


DEBUG = False
INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",  # before the admin, whose templates it replaces
    "lensagents.apps.LensAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "oauth2_provider",
    "channels",
    "csp",
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
    "csp.middleware.CSPMiddleware",
    "lensagents.middleware.AdminContentPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "apps.orgs.middleware.OrganizationMiddleware",
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

# Identity. There are no passwords: a person is who an identity provider says.
AUTH_USER_MODEL = "orgs.User"
AUTHENTICATION_BACKENDS = ["apps.orgs.backends.OrganizationBackend"]
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"
# auth.W004 asks for `unique=True` on the e-mail field. It is unique by a constraint on its
# lower-case form, which is stronger, but which the check cannot see.
SILENCED_SYSTEM_CHECKS = ["auth.W004"]
SESSION_HOURS = env.number("SESSION_HOURS", 12, low=1, high=24 * 7)
# Proxies whose X-Forwarded-For is believed; from anybody else it is what the caller typed.
TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES")
# The development identity provider: `embedded` may start it, `server` never.
DEV_IDP_ALLOWED = False
DEV_IDP_PORT = env.number("DEV_IDP_PORT", 0, low=0, high=65535)
OAUTH2_PROVIDER_APPLICATION_MODEL = "orgs.OAuthApplication"
OAUTH2_PROVIDER_GRANT_MODEL = "orgs.OAuthGrant"
OAUTH2_PROVIDER_ACCESS_TOKEN_MODEL = "orgs.OAuthAccessToken"  # noqa: S105  a model's name
OAUTH2_PROVIDER_REFRESH_TOKEN_MODEL = "orgs.OAuthRefreshToken"  # noqa: S105  same
OAUTH2_PROVIDER_ID_TOKEN_MODEL = "orgs.OAuthIDToken"  # noqa: S105  same
OAUTH2_PROVIDER_DEVICE_GRANT_MODEL = "orgs.OAuthDeviceGrant"
# No OAuth endpoint is mounted yet; these are the safe answers to what `check --deploy` asks.
OAUTH2_PROVIDER = {
    f"COMPLIANT_BCP_RFC9700_{name}": True
    for name in (
        "IMPLICIT_GRANT",
        "PASSWORD_GRANT",
        "PKCE_METHOD",
        "PKCE_REQUIRED",
        "ACCESS_TOKEN_TRANSPORT",
        "AUTHZ_RESPONSE_ISS",
        "TOKEN_STORAGE",
        "REFRESH_TOKEN",
        "REDIRECT_URI_MATCHING",
    )
} | {
    "REFRESH_TOKEN_REUSE_PROTECTION": True,
    "ACCESS_TOKEN_EXPIRE_SECONDS": 900,
    "ALLOWED_REDIRECT_URI_SCHEMES": ["https"],
}

# Mail: invitations, and news of operator access. Always encrypted on the way to the mail server.
_SMTP = env.smtp_url("SMTP_URL")
MAIL_ENABLED = _SMTP is not None
EMAIL_BACKEND = f"django.core.mail.backends.{'smtp' if _SMTP else 'dummy'}.EmailBackend"
EMAIL_TIMEOUT = 10
if _SMTP:
    EMAIL_HOST, EMAIL_PORT = _SMTP.host, _SMTP.port
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _SMTP.user, _SMTP.password
    EMAIL_USE_SSL, EMAIL_USE_TLS = _SMTP.implicit_tls, not _SMTP.implicit_tls
DEFAULT_FROM_EMAIL = env.text("MAIL_FROM", "Lens Agents <lens-agents@localhost>")

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
USE_I18N = False
FORMAT_MODULE_PATH = ["lensagents.formats"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Private networks in which identity providers and other things that tenants name may lie.
OUTBOUND_PRIVATE = env.networks("OUTBOUND_PRIVATE")
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_500_000
DATA_UPLOAD_MAX_NUMBER_FIELDS = 10_000  # a policy of 500 domain rules is one form

# The REST API. Its views name their own parsers, renderers and errors (`apps.common.api`).
API_CALLS_PER_MINUTE = env.number("API_CALLS_PER_MINUTE", 600, low=1, high=1_000_000)
REST_FRAMEWORK = {"UNAUTHENTICATED_USER": None, "URL_FORMAT_OVERRIDE": None}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Lens Agents",
    "DESCRIPTION": "The control plane: the same services, roles and audit trail as the admin.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_PATCH": False,
    "ENUM_ADD_EXPLICIT_BLANK_NULL_CHOICE": False,
    "ENABLE_DJANGO_DEPLOY_CHECK": False,
    "POSTPROCESSING_HOOKS": [
        "apps.common.api_schema.add_problem",
        "apps.policies.api_shapes.add_document",
    ],
    "APPEND_COMPONENTS": {
        "securitySchemes": {
            "agentToken": {"type": "http", "scheme": "bearer", "description": "lns_…"},
            "session": {"type": "apiKey", "in": "cookie", "name": "lens_session"},
        }
    },
}

# Web. Everything is served from here: no script, style, font or image of another host.
HOST = env.text("HOST", "127.0.0.1")
PORT = env.number("PORT", 8000, low=1, high=65535)
PUBLIC_URL = env.origin("PUBLIC_URL", f"http://{f'[{HOST}]' if ':' in HOST else HOST}:{PORT}")
ALLOWED_HOSTS = [urlsplit(PUBLIC_URL).hostname or "", *env.listing("ALLOWED_HOSTS", [])]
# Agents reach the platform at its own address inside the sandbox, never through its public one.
LENS_PLATFORM_HOSTS = platform_hosts(*ALLOWED_HOSTS)
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT: Path | None = DATA_DIR / "static"
CONTENT_SECURITY_POLICY: dict[str, Any] = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}
# The admin theme builds its page with Alpine.js, which evaluates expressions and sets styles.
# Scripts still come from this host only, and none may stand inline.
ADMIN_CONTENT_SECURITY_POLICY: dict[str, Any] = {
    "script-src": [SELF, UNSAFE_EVAL],
    "style-src": [SELF, UNSAFE_INLINE],
}
# A browser sends a host's cookies to every port of it, so the names are our own; with https only
# this very origin can set or read them (`__Host-`).
HTTPS = PUBLIC_URL.startswith("https://")
_COOKIE_PREFIX = "__Host-" if HTTPS else ""
SESSION_COOKIE_NAME = f"{_COOKIE_PREFIX}lens_session"
SESSION_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = SESSION_HOURS * 3600
CSRF_COOKIE_NAME = f"{_COOKIE_PREFIX}lens_csrf"
CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"


def sqlite(path: Path) -> dict[str, Any]:
    """A SQLite database that threads share: WAL, and writers queue from their first read."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": (
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;"
            ),
        },
    }


def postgresql(url: DatabaseUrl) -> dict[str, Any]:
    """A PostgreSQL database with a connection pool per process."""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": url.host,
        "PORT": url.port,
        "NAME": url.name,
        "USER": url.user,
        "PASSWORD": url.password,
        "CONN_MAX_AGE": 0,
        "OPTIONS": {"pool": {"min_size": 1, "max_size": 8, "timeout": 10}},
    }


def databases(
    application: DatabaseUrl, system: DatabaseUrl | None, owner: DatabaseUrl | None
) -> tuple[dict[str, Any], Roles | None]:
    """The connections that the given URLs make, one role each, and the roles when all are known.

    A process has only what it needs: `system` is for workers, `owner` for migrations.
    """
    found: dict[str, Any] = {"default": postgresql(application)}
    if system is not None:
        found[SYSTEM_ALIAS] = postgresql(system)
    if owner is not None:
        # While it says so, its policy lets it see the rows that it migrates.
        found[OWNER_ALIAS] = postgresql(owner) | {"OPTIONS": {"options": f"-c {EVERYTHING}=on"}}
    urls = [url for url in (application, system, owner) if url is not None]
    if len({url.user for url in urls}) < len(urls):
        raise SettingError(
            "LENS_DATABASE_URL, LENS_DATABASE_SYSTEM_URL and LENS_DATABASE_OWNER_URL must name"
            " three different roles (docs/install.md)"
        )
    if system is None or owner is None:
        return found, None
    return found, Roles(owner.user, application.user, system.user)


# Background work. The broker is a doorbell; each job is a row.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TIMEZONE = "UTC"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # a worker outlives any outage of its broker
# Whoever enqueues never waits for a broker that is away: one attempt, and a bound on each answer. A
# message that a dead worker had taken comes back after `visibility_timeout`; the sweep is sooner.
REDIS_BROKER_OPTIONS = {
    "visibility_timeout": 600,
    "socket_connect_timeout": 1.0,
    "socket_timeout": 5.0,
    "max_retries": 0,
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {
        "handlers": ["console"],
        "level": env.choice(
            "LOG_LEVEL", "WARNING", among=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
        ),
    },
    "loggers": {
        "lensagents": {"level": "INFO"},
        "apps": {"level": "INFO"},
        # It logs every request line, and with it state, nonce and authorization codes.
        "werkzeug": {"level": "CRITICAL", "propagate": False},
        # It logs claims and token errors with bodies.
        "mozilla_django_oidc": {"level": "CRITICAL", "propagate": False},
    },
}
