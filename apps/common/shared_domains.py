"""Domains under which strangers can register names: a static secret must not go to all of them.

Whoever registers `evil.github.io` would receive every credential bound to `*.github.io`. A binding
to one exact host under such a domain is fine; a wildcard over it is not.

A registry (`com`, `co.uk`) is different from a host of pages: what lies below `example.co.uk`
belongs to one owner, so that `*.example.co.uk` is fine and `*.co.uk` is not.
"""

from __future__ import annotations

from apps.common.hosts import HostPattern, covers_host, parse_pattern

# The second level under which countries sell names: `.co.uk`, `.com.br`, `.or.jp`.
_SOLD_UNDER_COUNTRIES = frozenset(
    (
        *("ac", "co", "com", "edu", "firm", "gen", "go", "gob", "gouv", "gov", "gv", "id", "in"),
        *("ind", "info", "ltd", "me", "mil", "ne", "net", "nom", "or", "org", "plc", "sch", "web"),
    )
)
_PRIVATE_REGISTRIES = frozenset({"eu.com", "uk.com", "us.com", "de.com", "br.com", "jpn.com"})

# Data, one domain a line: anybody can have a name below it and run code or read headers there.
SHARED_DOMAINS: tuple[str, ...] = (
    "amazonaws.com",
    "amazonaws.com.cn",
    "api.aws",
    "on.aws",
    "awsapprunner.com",
    "awsapps.com",
    "cloudfront.net",
    "elasticbeanstalk.com",
    "amplifyapp.com",
    "azurewebsites.net",
    "azurestaticapps.net",
    "azurecontainerapps.io",
    "azurefd.net",
    "azure-api.net",
    "azureedge.net",
    "blob.core.windows.net",
    "web.core.windows.net",
    "file.core.windows.net",
    "queue.core.windows.net",
    "table.core.windows.net",
    "vault.azure.net",
    "trafficmanager.net",
    "cloudapp.azure.com",
    "cloudapp.net",
    "appspot.com",
    "run.app",
    "cloudfunctions.net",
    "web.app",
    "firebaseapp.com",
    "firebaseio.com",
    "storage.googleapis.com",
    "github.io",
    "githubpreview.dev",
    "app.github.dev",
    "gitlab.io",
    "bitbucket.io",
    "pages.dev",
    "workers.dev",
    "r2.dev",
    "r2.cloudflarestorage.com",
    "trycloudflare.com",
    "vercel.app",
    "now.sh",
    "netlify.app",
    "herokuapp.com",
    "herokudns.com",
    "fly.dev",
    "onrender.com",
    "railway.app",
    "deno.dev",
    "surge.sh",
    "glitch.me",
    "repl.co",
    "replit.app",
    "replit.dev",
    "ngrok.io",
    "ngrok.app",
    "ngrok.dev",
    "ngrok-free.app",
    "loca.lt",
    "hf.space",
    "digitaloceanspaces.com",
    "ondigitalocean.app",
    "linodeobjects.com",
    "backblazeb2.com",
    "wasabisys.com",
    "oraclecloud.com",
    "supabase.co",
    "my.salesforce.com",
    "force.com",
    "service-now.com",
    "nip.io",
    "sslip.io",
    "xip.io",
    "duckdns.org",
    "dyndns.org",
    "no-ip.org",
    "ddns.net",
)
_SHARED = tuple(parse_pattern("*." + domain) for domain in SHARED_DOMAINS)


def shared_domain(pattern: HostPattern) -> str:
    """The domain open to strangers that a wildcard reaches into, or "" when there is none.

    Exact names and addresses never do; `*` always does.
    """
    if pattern.anything:
        return "*"
    if not pattern.suffix:
        return ""
    sold = registry(pattern)
    if sold:
        return sold
    for shared in _SHARED:
        if covers_host(pattern, shared) or covers_host(shared, pattern):
            return shared.suffix[1:]
    return ""


def registry(pattern: HostPattern) -> str:
    """The registry whose names the wildcard stands for (`com` for `*.com`), or ""."""
    domain = pattern.suffix[1:]
    first, _, country = domain.partition(".")
    of_a_country = len(country) == 2 and first in _SOLD_UNDER_COUNTRIES
    return domain if "." not in domain or of_a_country or domain in _PRIVATE_REGISTRIES else ""
