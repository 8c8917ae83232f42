"""As much of a browser as signing in needs."""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urlsplit

import httpx
import pytest

CSRF = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')
# The library under the development provider calls parts of itself that it has deprecated.
DEV_IDP_MARKS = [
    pytest.mark.filterwarnings("ignore::authlib.deprecate.AuthlibDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:get_jwt_config:DeprecationWarning"),
]


class Browser:
    """As much of a browser as signing in needs: cookies, links, forms, redirects to anywhere."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.client = httpx.Client(follow_redirects=True, timeout=20)
        self.page: httpx.Response

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def open(self, url: str) -> httpx.Response:
        """Go to a path of ours, or to a whole URL."""
        self.page = self.client.get(url if "://" in url else self.base + url)
        return self.page

    def link(self, text: str) -> str:
        """The address of the link with this text."""
        found = re.search(rf'href="([^"]+)"[^>]*>\s*{re.escape(text)}', self.page.text)
        assert found, f"no link {text!r} in:\n{self.page.text}"
        return found.group(1).replace("&amp;", "&")

    def follow(self, text: str) -> httpx.Response:
        """Click a link."""
        return self.open(self.link(text))

    def send(self, path: str = "", **fields: str) -> httpx.Response:
        """Post a form of the page that is open, with its CSRF token."""
        token = CSRF.search(self.page.text)
        url = self.base + path if path else str(self.page.url)
        values = {**({"csrfmiddlewaretoken": token.group(1)} if token else {}), **fields}
        self.page = self.client.post(url, data=values, headers={"Referer": str(self.page.url)})
        return self.page

    def choose(self, sub: str) -> httpx.Response:
        """On the provider's page: sign in as this person."""
        assert "Development sign-in" in self.page.text, self.page.text
        return self.send(sub=sub)

    @property
    def path(self) -> str:
        """Where we are."""
        return urlsplit(str(self.page.url)).path
