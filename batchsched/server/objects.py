"""Rows as the JSON objects of OpenAI's contract, with our additions under one key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchsched.queue.batches import models as accepted
from batchsched.units import iso, to_unix

_UNSAID = frozenset({"deadline", "output_expires_after_s", "traceparent"})
_STAMPS = (
    "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at",
)  # fmt: skip


def file_object(row: Mapping[str, Any]) -> dict[str, Any]:
    """A file."""
    return {
        "id": row["id"],
        "object": "file",
        "bytes": row["bytes"],
        "created_at": to_unix(row["created_at"]),
        "expires_at": to_unix(row["expires_at"]) if row["expires_at"] else None,
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": row["status"],
        "status_details": row["status_details"],
    }


def batch_object(row: Mapping[str, Any], additions: Mapping[str, Any]) -> dict[str, Any]:
    """A batch. `additions`: progress and carbon, which no row holds."""
    errors = row["errors"]
    options = {key: value for key, value in row["options"].items() if key not in _UNSAID}
    return {
        "id": row["id"],
        "object": "batch",
        "endpoint": row["endpoint"],
        "model": row["model"],
        "errors": {"object": "list", "data": errors} if errors else None,
        "input_file_id": row["input_file_id"],
        "completion_window": row["completion_window"],
        "status": row["state"],
        "output_file_id": row["output_file_id"],
        "error_file_id": row["error_file_id"],
        "created_at": to_unix(row["created_at"]),
        "expires_at": to_unix(row["deadline_at"]),
        **{name: to_unix(row[name]) if row[name] else None for name in _STAMPS},
        "request_counts": {"total": row["total"], "completed": row["completed"], "failed": row["failed"]},
        "usage": _usage(row),
        "metadata": row["meta"],
        "batchsched": {
            "zones": None,  # older batches have none
            **options,
            "models": accepted(row) if options.get("models") else None,
            "priority": row["priority"],
            "deadline_at": iso(row["deadline_at"]),
            "paused_at": iso(row["paused_at"]) if row["paused_at"] else None,
            "started": row["started"],
            "erased_at": iso(row["erased_at"]) if row["erased_at"] else None,
            "round": row["round"],
            "verdict": {"options": [], **row["verdict"]} if row["verdict"] else None,  # older ones have no options
            "risk": row["risk"] if row["state"] == "in_progress" else None,
            **additions,
        },
    }


def _usage(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "input_tokens": row["input_tokens"],
        "input_tokens_details": {"cached_tokens": row["cached_tokens"]},
        "output_tokens": row["output_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": row["input_tokens"] + row["output_tokens"],
    }


def list_object(rows: Sequence[Any], limit: int, convert: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """A page; `rows` holds one more than `limit` where there is more."""
    data = [convert(row) for row in rows[:limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(rows) > limit,
    }
