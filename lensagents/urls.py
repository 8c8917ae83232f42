"""Every HTTP route of the platform; the admin is last, because its catch-all answers everything.

`apps.orgs.urls` comes before it, and its `/login/` and `/logout/` replace the admin's own.
"""

from django.contrib import admin
from django.urls import include, path

from lensagents.views import explain

urlpatterns = [
    path("", include("apps.orgs.urls")),
    path("explain/<uuid:decision_id>", explain, name="explain"),
    path("", admin.site.urls),
]
