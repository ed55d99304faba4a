"""Routes that tell what batches cost, and why: explanations, reports, books, pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from batchsched.errors import InvalidValue
from batchsched.queue.tenancy import ANY
from batchsched.server.auth import GUARDED, Who
from batchsched.server.breakdown import By
from batchsched.server.instants import EARLIEST, LATEST, instant
from batchsched.server.runtime import Runtime
from batchsched.units import iso
from batchsched.wire import PREFIX

MEDIA = {"png": "image/png", "svg": "image/svg+xml"}


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(tags=["batchsched"], dependencies=GUARDED)

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
    def report_all(  # pyright: ignore[reportUnusedFunction]
        who: Who,
        since: Annotated[str | None, Query(alias="from")] = None,
        until: Annotated[str | None, Query(alias="to")] = None,
    ) -> dict[str, Any]:
        """The report over all batches created in [from, to): of the caller's tenant, of every tenant for operators.

        Where they are more than 20,000 it is about the newest of them, and its first note says so.
        """
        return runtime.reports.total(ANY if "operate" in who.scopes else who.tenant, *_span(since, until))

    @routes.get(f"{PREFIX}/report/slices")
    def report_slices(  # pyright: ignore[reportUnusedFunction]
        who: Who,
        by: By = "batch",
        batch_id: str | None = None,
        since: Annotated[str | None, Query(alias="from")] = None,
        until: Annotated[str | None, Query(alias="to")] = None,
    ) -> dict[str, Any]:
        """What work cost in slices, of one batch or of all work that began in [from, to), with the SCI score of each.

        Where more than 20,000 batches worked it is about the newest work, and `notes` says since when.
        """
        tenant, (start, end) = ANY if "operate" in who.scopes else who.tenant, _span(since, until)
        cut = None if batch_id else runtime.breakdown.cut(tenant, start, end)
        slices = runtime.breakdown.slices(tenant, by, cut or start, end, batch_id)
        notes = [f"Only the work since {iso(cut)} is here: ask for shorter times by 'from' and 'to'."] if cut else []
        return {"object": "list", "by": by, "data": msgspec.to_builtins(slices), "notes": notes}

    @routes.get(f"{PREFIX}/batches/{{batch_id}}/report/requests")
    def report_requests(batch_id: str, who: Who) -> StreamingResponse:  # pyright: ignore[reportUnusedFunction]
        """What each request of an ended batch cost, a line of JSON each."""
        shares = runtime.breakdown.requests(batch_id, who.tenant)
        return StreamingResponse(_json_lines(shares), media_type="application/jsonl")

    @routes.get(f"{PREFIX}/report/meters")
    def report_meters(  # pyright: ignore[reportUnusedFunction]
        since: Annotated[str | None, Query(alias="from")] = None, until: Annotated[str | None, Query(alias="to")] = None
    ) -> dict[str, Any]:
        """What the meters of each pool saw in the hours that begin in [from, to), and where it went."""
        return {"object": "list", "data": msgspec.to_builtins(runtime.breakdown.pools(*_span(since, until)))}

    return routes


def _span(since: str | None, until: str | None) -> tuple[datetime, datetime]:
    start = EARLIEST if since is None else instant(since, "from")
    end = LATEST if until is None else instant(until, "to")
    if end <= start:
        raise InvalidValue("'to' must lie after 'from'.", param="to")
    return start, end


def _json_lines(items: Iterable[msgspec.Struct]) -> Iterator[bytes]:
    """Many lines a block."""
    encode = msgspec.json.Encoder().encode
    source = iter(items)
    while some := list(itertools.islice(source, 500)):
        yield b"".join(encode(item) + b"\n" for item in some)
