"""Every HTTP route of the platform; the admin is last, because its catch-all answers everything."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("", admin.site.urls)]
