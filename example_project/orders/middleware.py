"""Says who did it: what this request writes carries the user's name in its events."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from django_pgnotify import event_context

VISITOR = "a visitor"


def who_did_it(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Give each request's writes the name of its user."""

    def middleware(request: HttpRequest) -> HttpResponse:
        with event_context(user=request.user.get_username() or VISITOR):
            return get_response(request)

    return middleware
