"""The WSGI application of the development identity provider: oidc-provider-mock, narrowed.

Taken away: its debugger, its logs (they hold state, nonce and codes), its unauthenticated calls
that set users or register clients, its stylesheet from another host, and answers to any other host
name than its own (a page on the internet could have its name resolve to 127.0.0.1). Added: a page
that says what it is, and a verified e-mail address for whoever is typed in.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import flask
import jinja2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PATHS = frozenset(
    {
        "/.well-known/openid-configuration",
        "/jwks",
        "/oauth2/authorize",
        "/oauth2/token",
        "/userinfo",
        "/style.css",
    }
)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 28rem; margin: 4rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
form { display: grid; gap: .5rem; margin: 1.5rem 0; }
button, input { font: inherit; padding: .6rem .8rem; border-radius: 6px; border: 1px solid #888; }
button { cursor: pointer; text-align: left; }
.note { border-left: 4px solid #b45309; padding: .25rem .8rem; }
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Development sign-in</title>
<link rel="stylesheet" href="/style.css">
</head>
<body><main>
<h1>Development sign-in</h1>
<p class="note">Anybody who can open this page signs in as anybody. It runs on this machine only and
is no part of a server installation.</p>
<form method="post">
{% for sub in predefined_users %}
<button type="submit" name="sub" value="{{ sub }}">{{ labels.get(sub, sub) }}</button>
{% endfor %}
</form>
<form method="post">
<label for="sub">Or as somebody who was invited</label>
<input id="sub" name="sub" type="email" placeholder="name@example.com" required>
<button type="submit">Sign in</button>
</form>
<form method="post"><button type="submit" name="action" value="deny">Cancel</button></form>
</main></body></html>
"""


def make_app(issuer: str, people: Iterable[Mapping[str, str]]) -> Any:
    """The provider as a WSGI application that answers under `issuer` only."""
    with warnings.catch_warnings():
        # Authlib announces a change of package names on import, and insists that it be shown.
        from authlib.deprecate import AuthlibDeprecationWarning  # noqa: PLC0415

        warnings.simplefilter("ignore", AuthlibDeprecationWarning)
        import oidc_provider_mock as mock  # noqa: PLC0415
    for name in ("werkzeug", "oidc_provider_mock"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    known = [mock.User(sub=person["sub"], claims=_claims(person)) for person in people]
    app = mock.app(require_nonce=True, issue_refresh_token=False, user_claims=known)
    app.debug = False
    app.wsgi_app = app.wsgi_app.app  # the library wraps its application in a debugger
    labels = {user.sub: f"{user.claims['name']} <{user.claims['email']}>" for user in known}
    app.jinja_loader = jinja2.DictLoader({"authorization_form.html": PAGE})
    app.jinja_env.globals["labels"] = labels
    host = issuer.partition("//")[2]
    app.before_request(lambda: _refuse_strangers(host))
    app.before_request(lambda: _know_typed_address(mock))
    app.after_request(_harden)
    app.add_url_rule("/style.css", view_func=lambda: flask.Response(STYLE, mimetype="text/css"))
    return app


def _refuse_strangers(host: str) -> flask.Response | None:
    request = flask.request
    if request.host != host or request.path not in PATHS:
        return flask.Response("Not found.\n", status=404, mimetype="text/plain")
    return None


def _know_typed_address(mock: Any) -> None:
    """A typed e-mail address becomes a person with that address, verified."""
    sub = flask.request.form.get("sub", "") if flask.request.path == "/oauth2/authorize" else ""
    storage = flask.g.oidc_provider_mock_storage
    if "@" in sub and storage.get_user(sub) is None:
        person = {"email": sub, "name": sub.partition("@")[0]}
        storage.store_user(mock.User(sub=sub, claims=_claims(person)))


def _claims(person: Mapping[str, str]) -> dict[str, object]:
    return {"email": person["email"], "email_verified": True, "name": person["name"]}


def _harden(response: flask.Response) -> flask.Response:
    response.headers.update(HEADERS)
    return response
