"""The page, and the address of its buttons."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_POST

from .writes import WRITES


@require_GET
@ensure_csrf_cookie
def desk(request: HttpRequest) -> HttpResponse:
    """Show the live table."""
    return render(request, "orders/desk.html", {"writes": WRITES.values()})


@require_POST
def do(request: HttpRequest, action: str) -> JsonResponse:
    """Write as the button says; the answer tells in one line what was done."""
    if action not in WRITES:
        raise Http404(action)
    return JsonResponse({"said": WRITES[action].run()})
