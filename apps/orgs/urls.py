"""Signing in, and the set-up before anybody can. Some paths stand in for the admin's own."""

from django.urls import path

from apps.orgs.views import setup, sign_in

urlpatterns = [
    path("login/", sign_in.login, name="login"),
    path("login/<slug:slug>/", sign_in.login, name="login_organization"),
    path("logout/", sign_in.logout, name="logout"),
    path("oidc/start/<uuid:idp>/", sign_in.SignInView.as_view(), name="oidc_start"),
    path("oidc/test/<uuid:idp>/", sign_in.TestView.as_view(), name="oidc_test"),
    path("oidc/callback/", sign_in.ArrivalView.as_view(), name="oidc_authentication_callback"),
    path("setup/", setup.begin, name="setup"),
    path("setup/open/", setup.use_link, name="setup_use_link"),
    path("setup/organization/", setup.organization, name="setup_organization"),
    path("setup/sign-in/", setup.sign_in, name="setup_sign_in"),
    path("setup/admin/", setup.admin, name="setup_admin"),
    path("setup/sign-in/<uuid:idp>/", setup.ProveView.as_view(), name="setup_prove"),
]
