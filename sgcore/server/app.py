"""The application: routes, errors, the key, and what plugins add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sgcore.config import ServerOptions
from sgcore.server.auth import Envelope, KeyGuard
from sgcore.server.errors import HANDLERS
from sgcore.server.openapi import document
from sgcore.server.routes import ROUTES
from sgcore.server.service import Service
from sgcore.server.wire import ENCODER

if TYPE_CHECKING:
    from sgcore.plugins.manager import Hooks


def create_app(
    frontend: Any, options: ServerOptions, hooks: Hooks | None = None, route_plugins: Sequence[str] = ()
) -> Starlette:
    """The application over a running frontend; `route_plugins` may add routes."""
    return build_app(Service(options, frontend), hooks, route_plugins)


def build_app(service: Service, hooks: Hooks | None = None, route_plugins: Sequence[str] = ()) -> Starlette:
    """The application over a service whose frontend may come later."""
    routes = [Route(path, entry.endpoint, methods=list(entry.methods)) for entry in ROUTES for path in entry.paths]
    routes.append(Route("/openapi.json", openapi))
    middleware = [
        *_cross_origin(service.options.cors_allow_origins),
        Middleware(Envelope, service=service),
        Middleware(KeyGuard, api_key=service.options.api_key),
    ]
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=HANDLERS)
    app.router.redirect_slashes = False  # to where? the client's own Host says
    app.state.service = service
    if hooks is not None:
        hooks.all("sgcore_add_routes", route_plugins, app=app)
    return app


def _cross_origin(origins: Sequence[str]) -> list[Middleware]:
    """What answers browsers' preflights; before the key, which they don't send."""
    if not origins:
        return []
    anything = ["*"]
    middleware = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=anything,
        allow_headers=anything,
        expose_headers=["x-request-id", "retry-after"],
    )
    return [middleware]


async def openapi(request: Request) -> Response:
    """This description."""
    return Response(ENCODER.encode(document()), media_type="application/json")
