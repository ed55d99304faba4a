"""Who may call what: one line a route. A route without a line here is refused, and a test fails for it.

The scope is what a key must hold. Unless the rule says `ANY`, the route sees only the caller's own tenant. A route that changes
something names the act, and enters it into the audit log by `who.did(...)`; the workers' messages have the ledger instead.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

from batchsched.wire import PREFIX

Scope = Literal["submit", "read", "operate", "worker"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
OWN: Final = False
ANY: Final = True


class Rule(NamedTuple):
    """What one route asks of its caller."""

    scope: Scope | None
    """None: open to everybody."""
    any_tenant: bool = OWN
    action: str | None = None
    """What the audit log calls it."""


OPEN: Final = Rule(None, ANY)
_READ, _OPERATE, _WORKER = Rule("read"), Rule("operate", ANY), Rule("worker", ANY)


def _submit(action: str) -> Rule:
    return Rule("submit", OWN, action)


RULES: Final[dict[str, Rule]] = {
    "GET /livez": OPEN,
    "GET /readyz": OPEN,
    "GET /version": OPEN,
    "GET /metrics": _OPERATE,
    "GET /openapi.json": Rule("read", ANY),
    "GET /v1/models": Rule("read", ANY),
    "GET /v1/models/{name:path}": Rule("read", ANY),
    "POST /v1/files": _submit("file.create"),
    "GET /v1/files": _READ,
    "GET /v1/files/{file_id}": _READ,
    "DELETE /v1/files/{file_id}": _submit("file.delete"),
    "GET /v1/files/{file_id}/content": _READ,
    "POST /v1/batches": _submit("batch.create"),
    "GET /v1/batches": _READ,
    "GET /v1/batches/{batch_id}": _READ,
    "POST /v1/batches/{batch_id}/cancel": _submit("batch.cancel"),
    f"POST {PREFIX}/batches/{{batch_id}}": _submit("batch.update"),
    f"POST {PREFIX}/batches/{{batch_id}}/pause": _submit("batch.pause"),
    f"POST {PREFIX}/batches/{{batch_id}}/resume": _submit("batch.resume"),
    f"POST {PREFIX}/batches/{{batch_id}}/start": _submit("batch.start"),
    f"POST {PREFIX}/batches/{{batch_id}}/retry": _submit("batch.retry"),
    f"GET {PREFIX}/batches/{{batch_id}}/results": _READ,
    f"DELETE {PREFIX}/batches/{{batch_id}}": _submit("batch.delete"),
    f"GET {PREFIX}/batches/{{batch_id}}/explain": _READ,
    f"GET {PREFIX}/batches/{{batch_id}}/report": _READ,
    f"GET {PREFIX}/batches/{{batch_id}}/books": _READ,
    f"GET {PREFIX}/batches/{{batch_id}}/plot": _READ,
    f"GET {PREFIX}/batches/{{batch_id}}/report/requests": _READ,
    f"GET {PREFIX}/report": _READ,
    f"GET {PREFIX}/report/slices": _READ,
    f"GET {PREFIX}/report/meters": _OPERATE,
    f"GET {PREFIX}/plan": _OPERATE,
    f"GET {PREFIX}/plan/plot": _OPERATE,
    f"GET {PREFIX}/plan/what-if": _OPERATE,
    f"GET {PREFIX}/plan/replay": _OPERATE,
    f"POST {PREFIX}/plan/freeze": Rule("operate", ANY, "plan.freeze"),
    f"POST {PREFIX}/plan/unfreeze": Rule("operate", ANY, "plan.unfreeze"),
    f"GET {PREFIX}/pools": _OPERATE,
    f"POST {PREFIX}/pools/{{pool}}/cordon": Rule("operate", ANY, "pool.cordon"),
    f"POST {PREFIX}/pools/{{pool}}/drain": Rule("operate", ANY, "pool.drain"),
    f"POST {PREFIX}/pools/{{pool}}/open": Rule("operate", ANY, "pool.open"),
    f"GET {PREFIX}/windows": _OPERATE,
    f"POST {PREFIX}/windows": Rule("operate", ANY, "window.add"),
    f"GET {PREFIX}/windows/{{window}}": _OPERATE,
    f"DELETE {PREFIX}/windows/{{window}}": Rule("operate", ANY, "window.remove"),
    f"POST {PREFIX}/windows/{{window}}/pause": Rule("operate", ANY, "window.pause"),
    f"POST {PREFIX}/windows/{{window}}/resume": Rule("operate", ANY, "window.resume"),
    f"POST {PREFIX}/windows/{{window}}/skip": Rule("operate", ANY, "window.skip"),
    f"POST {PREFIX}/windows/{{window}}/extend": Rule("operate", ANY, "window.extend"),
    f"GET {PREFIX}/schedules": _READ,
    f"POST {PREFIX}/schedules": _submit("schedule.add"),
    f"GET {PREFIX}/schedules/{{schedule}}": _READ,
    f"DELETE {PREFIX}/schedules/{{schedule}}": _submit("schedule.remove"),
    f"POST {PREFIX}/schedules/{{schedule}}/pause": _submit("schedule.pause"),
    f"POST {PREFIX}/schedules/{{schedule}}/resume": _submit("schedule.resume"),
    f"GET {PREFIX}/schedules/{{schedule}}/history": _READ,
    f"GET {PREFIX}/profiles": Rule("read"),
    f"GET {PREFIX}/forecasts": Rule("read", ANY),
    f"POST {PREFIX}/forecasts/import": Rule("operate", ANY, "forecast.import"),
    f"GET {PREFIX}/forecasts/{{zone}}": Rule("read", ANY),
    f"GET {PREFIX}/forecasts/{{zone}}/plot": Rule("read", ANY),
    f"POST {PREFIX}/forecasts/{{zone}}/backfill": Rule("operate", ANY, "forecast.backfill"),
    f"POST {PREFIX}/forecasts/{{zone}}/train": Rule("operate", ANY, "forecast.train"),
    f"GET {PREFIX}/forecasts/{{zone}}/evaluation": Rule("read", ANY),
    f"GET {PREFIX}/forecasts/{{zone}}/evaluation/plot": Rule("read", ANY),
    f"POST {PREFIX}/keys": Rule("operate", ANY, "key.create"),
    f"GET {PREFIX}/keys": _OPERATE,
    f"POST {PREFIX}/keys/{{key_id}}/revoke": Rule("operate", ANY, "key.revoke"),
    f"GET {PREFIX}/audit": _OPERATE,
    f"POST {PREFIX}/workers": _WORKER,
    f"POST {PREFIX}/workers/{{worker_id}}/heartbeat": _WORKER,
    f"POST {PREFIX}/workers/{{worker_id}}/bye": _WORKER,
    f"POST {PREFIX}/launchers": _WORKER,
    f"POST {PREFIX}/trials": _WORKER,
    f"GET {PREFIX}/trials": _OPERATE,
    f"POST {PREFIX}/leases": _WORKER,
    f"GET {PREFIX}/chunks/{{chunk_id}}/input": _WORKER,
    f"POST {PREFIX}/leases/{{chunk_id}}/results": _WORKER,
    f"POST {PREFIX}/leases/{{chunk_id}}/finish": _WORKER,
    f"POST {PREFIX}/leases/{{chunk_id}}/release": _WORKER,
    f"POST {PREFIX}/leases/{{chunk_id}}/fail": _WORKER,
}
