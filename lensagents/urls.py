"""Every HTTP route of the platform; the admin is last, because its catch-all answers everything.

`apps.orgs.urls` comes before it, and its `/login/` and `/logout/` replace the admin's own.
"""

from django.contrib import admin
from django.urls import include, path, re_path

from apps.common.api import no_route
from lensagents.views import explain

handler400 = "lensagents.views.bad_request"
handler500 = "lensagents.views.server_error"

urlpatterns = [
    path("", include("apps.orgs.urls")),
    path("api/v1/", include("lensagents.api")),
    re_path(r"^api(/|$)", no_route),  # any rest: `path:` would let one with a line break pass by
    path("explain/<uuid:decision_id>", explain, name="explain"),
    path("", admin.site.urls),
]
