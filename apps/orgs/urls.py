"""Signing in, and the set-up before anybody can. Some paths stand in for the admin's own."""

from django.urls import path

from apps.orgs.views import invitations, operator, setup, sign_in, sign_out

urlpatterns = [
    path("login/", sign_in.login, name="login"),
    path("login/<slug:slug>/", sign_in.login, name="login_organization"),
    path("logout/", sign_out.logout, name="logout"),
    path("logout/done/", sign_out.done, name="logout_done"),
    path("oidc/logout/", sign_out.by_provider, name="oidc_logout"),
    path("invitation/", invitations.begin, name="invitation"),
    path("invitation/open/", invitations.use_link, name="invitation_open"),
    path("invitation/sign-in/", invitations.sign_in, name="invitation_sign_in"),
    path("oidc/start/<uuid:idp>/", sign_in.SignInView.as_view(), name="oidc_start"),
    path("oidc/test/<uuid:idp>/", sign_in.TestView.as_view(), name="oidc_test"),
    path("oidc/callback/", sign_in.ArrivalView.as_view(), name="oidc_authentication_callback"),
    path("operator/", operator.begin, name="operator"),
    path("operator/open/", operator.use_link, name="operator_open"),
    path("operator/end/", operator.end, name="operator_end"),
    path("setup/", setup.begin, name="setup"),
    path("setup/open/", setup.use_link, name="setup_use_link"),
    path("setup/organization/", setup.organization, name="setup_organization"),
    path("setup/sign-in/", setup.sign_in, name="setup_sign_in"),
    path("setup/admin/", setup.admin, name="setup_admin"),
    path("setup/sign-in/<uuid:idp>/", setup.ProveView.as_view(), name="setup_prove"),
]
