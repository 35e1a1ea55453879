"""The order desk's pages: the live table, its buttons, and Django's admin."""

from __future__ import annotations

from django.contrib import admin
from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from example_project.orders import views

urlpatterns = [
    path("", views.desk, name="desk"),
    path("do/<slug:action>/", views.do, name="do"),
    path("admin/", admin.site.urls),
    # Browsers ask for it on pages that name no other icon, as the admin's do.
    path("favicon.ico", RedirectView.as_view(url=static("orders/mark.svg"))),
]
