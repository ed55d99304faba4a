"""Routes that tell what batches cost, and why: explanations, reports, books, pictures."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from batchsched.queue.tenancy import ANY
from batchsched.server.auth import Who
from batchsched.server.runtime import Runtime
from batchsched.wire import PREFIX

MEDIA = {"png": "image/png", "svg": "image/svg+xml"}


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(tags=["batchsched"])

    @routes.get(f"{PREFIX}/batches/{{batch_id}}/explain")
    def explain_batch(batch_id: str, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Why a batch runs when and where it does, in sentences."""
        return {"batch_id": batch_id, "sentences": runtime.reports.explanation(batch_id, who.tenant)}

    @routes.get(f"{PREFIX}/batches/{{batch_id}}/report")
    def report_batch(batch_id: str, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Energy, grams and savings of a batch, with the source of every factor."""
        return runtime.reports.report(batch_id, who.tenant)

    @routes.get(f"{PREFIX}/batches/{{batch_id}}/books")
    def books_of_batch(batch_id: str, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """The books of a batch that ended: entries by pool and hour that are only ever added, corrections among them."""
        return runtime.reports.books(batch_id, who.tenant)

    @routes.get(f"{PREFIX}/batches/{{batch_id}}/plot")
    def plot_batch(batch_id: str, who: Who, format: str = "svg") -> Response:  # noqa: A002 - the parameter's public name  # pyright: ignore[reportUnusedFunction]
        """A picture of intensity, forecast band, and when the batch ran."""
        return Response(runtime.reports.plot(batch_id, who.tenant, format), media_type=MEDIA.get(format))

    @routes.get(f"{PREFIX}/report")
    def report_all(who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """The report over all batches: of the caller's tenant, of every tenant for operators."""
        return runtime.reports.total(ANY if "operate" in who.scopes else who.tenant)

    return routes
