"""The FastAPI application: routes, errors in OpenAI's shape, the key check."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse

import batchsched
from batchsched.errors import BatchschedError, InvalidRequest, NotFound, QuotaExceeded
from batchsched.server import (
    accounting,
    batches,
    extensions,
    files,
    forecasts,
    keys,
    launching,
    models,
    operations,
    plans,
    pools,
    profiles,
    results,
    schedules,
    trials,
    windows,
    workers,
)
from batchsched.server.auth import GUARDED, LOOPBACK_HOSTS, KeyCheck
from batchsched.server.bind import is_exposed
from batchsched.server.openapi import document
from batchsched.server.recurring import Recurring
from batchsched.server.runtime import Runtime

log = logging.getLogger(__name__)


def create_app(runtime: Runtime) -> FastAPI:
    """The application over a runtime, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        try:
            runtime.start()
            recurring.start()
        except Exception as problem:  # uvicorn would only print it, and end by a code of its own
            runtime.not_started = problem
            raise
        yield
        recurring.stop()
        runtime.stop()

    recurring = Recurring(runtime)
    server = runtime.settings.server
    # FastAPI's own route for the document knows no dependencies, so that it would be open to everybody: ours is like the others.
    app = FastAPI(title="batchsched", version=batchsched.__version__, lifespan=lifespan, openapi_url=None)
    app.state.key_check = KeyCheck(runtime.database, server, runtime.clock)
    if not is_exposed(server):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK_HOSTS, server.host])
    routers = (
        *(files, batches, operations, results, models, accounting, plans, pools, windows),
        *(extensions, forecasts, profiles, keys, workers, launching, trials),
    )
    published = cache(lambda: document(app))

    @app.get("/openapi.json", include_in_schema=False, dependencies=GUARDED)
    def openapi() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return published()

    for routes in (*(module.router(runtime) for module in routers), schedules.router(runtime, recurring.poke)):
        app.router.routes.extend(routes.routes)
    if bare := [getattr(route, "path", "?") for route in app.routes if getattr(route, "dependencies", None) != GUARDED]:
        raise RuntimeError(f"routes without the key check: {', '.join(bare)}")
    app.add_exception_handler(BatchschedError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
    return app


def error_body(error: BatchschedError) -> dict[str, Any]:
    """An error in OpenAI's shape, with our hint beside it."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
            "hint": error.hint,
        }
    }


async def _ours(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BatchschedError)
    if error.http_status >= 500:  # what went wrong inside is for the log alone
        log.error("%s", error.message)
        error = type(error)(hint=error.hint)
    headers = {"retry-after": "5"} if error.http_status in {503, 507} else {}
    if isinstance(error, QuotaExceeded):  # clients must not wait for it in silence: people have to know
        headers = {"retry-after": str(error.retry_after_s), "x-should-retry": "false"}
    return JSONResponse(error_body(error), error.http_status, headers)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = [str(part) for part in first["loc"][1:]]
    return JSONResponse(error_body(InvalidRequest(f"{first['msg']}.", param=".".join(where) or None)), 400)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return JSONResponse(error_body(NotFound(f"Unknown request URL: {request.method} {request.scope['path']}.")), 404)
    body = error_body(InvalidRequest(str(error.detail)))
    return JSONResponse(body, error.status_code, error.headers)


async def _unexpected(_: Request, __: Exception) -> JSONResponse:
    # The traceback goes to the log (the server's own error middleware raises on); a caller learns nothing of our insides.
    return JSONResponse(error_body(BatchschedError()), 500)
