"""What a client may ask for when it creates a batch: OpenAI's fields and our one key, checked by the contract's rules."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from batchsched.errors import InvalidRequest, InvalidType, InvalidValue, MissingParameter
from batchsched.lines import ENDPOINTS
from batchsched.units import parse_deadline, parse_duration_s

MAX_METADATA = 16
EXPIRES_S = (3600, 2_592_000)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Our additions, under the key `batchsched`."""

    deadline: str | None = None
    confidence: Annotated[float, Meta(ge=0.5, lt=1)] | None = None
    models: list[str] | None = None
    sites: list[str] | None = None
    on_deadline: Literal["expire", "finish"] = "expire"
    require_feasible: bool = False
    uniform: bool = False
    priority: int = 0


class NewBatch(msgspec.Struct, frozen=True):
    """A create request whose form is sound."""

    input_file_id: str
    endpoint: str
    completion_window: str
    deadline_at: datetime
    metadata: dict[str, str]
    options: Options
    output_expires_after_s: int | None

    def stored_options(self) -> dict[str, Any]:
        """The options as the database keeps them."""
        return {**msgspec.to_builtins(self.options), "output_expires_after_s": self.output_expires_after_s}


def parse_new_batch(body: Any, now: datetime) -> NewBatch:
    """Check a create request. Raises InvalidRequest and its kin, with `param` named."""
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    for param in ("input_file_id", "endpoint", "completion_window"):
        if body.get(param) is None:
            raise MissingParameter(f"Missing required parameter: '{param}'.", param=param)
        if not isinstance(body[param], str):
            raise InvalidType(f"Invalid type for '{param}': expected a string.", param=param)
    if body["endpoint"] not in ENDPOINTS:
        supported = ", ".join(f"'{endpoint}'" for endpoint in ENDPOINTS)
        raise InvalidValue(f"Invalid value: '{body['endpoint']}'. Supported values are: {supported}.", param="endpoint")
    options = _options(body.get("batchsched"))
    return NewBatch(
        input_file_id=body["input_file_id"],
        endpoint=body["endpoint"],
        completion_window=body["completion_window"],
        deadline_at=_deadline(body["completion_window"], options.deadline, now),
        metadata=_metadata(body.get("metadata")),
        options=options,
        output_expires_after_s=_expires_after(body.get("output_expires_after")),
    )


def _deadline(window: str, deadline: str | None, now: datetime) -> datetime:
    try:
        by_window = now + timedelta(seconds=parse_duration_s(window))
    except InvalidValue as problem:
        raise InvalidValue(problem.message, param="completion_window") from None
    if deadline is None:
        return by_window
    try:
        at = parse_deadline(deadline, now)
    except InvalidValue as problem:
        raise InvalidValue(problem.message, param="batchsched.deadline") from None
    if at <= now:
        raise InvalidValue(f"The deadline {deadline} has already passed.", param="batchsched.deadline")
    return at


def _options(raw: Any) -> Options:
    try:
        options = msgspec.convert(raw if raw is not None else {}, Options)
    except msgspec.ValidationError as problem:
        text, _, at = str(problem).partition(" - at `$")
        field = at.rstrip("`")
        allowed = ", ".join(Options.__struct_fields__)
        raise InvalidValue(f"'batchsched{field}': {text}. Known fields: {allowed}.", param=f"batchsched{field}") from None
    for field in ("models", "priority"):
        if getattr(options, field):
            raise InvalidValue(f"'batchsched.{field}' is not supported yet; leave it out.", param=f"batchsched.{field}")
    return options


def _metadata(raw: Any) -> dict[str, str]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise InvalidType("Invalid type for 'metadata': expected an object.", param="metadata")
    if len(raw) > MAX_METADATA:
        raise InvalidValue(f"'metadata' has {len(raw)} pairs; at most {MAX_METADATA} are allowed.", param="metadata")
    for key, value in raw.items():
        if not isinstance(value, str):
            raise InvalidType(f"Invalid type for 'metadata.{key}': expected a string.", param=f"metadata.{key}")
        if len(key) > 64 or len(value) > 512:
            text = f"'metadata.{key[:64]}' is too long: keys have at most 64 characters, values 512."
            raise InvalidValue(text, param=f"metadata.{key[:64]}")
    return dict(raw)


def _expires_after(raw: Any) -> int | None:
    return None if raw is None else expires_after_s(raw, "output_expires_after")


def expires_after_s(raw: Any, param: str) -> int:
    """Seconds of an `{anchor: "created_at", seconds}` object. Raises InvalidValue."""
    if not isinstance(raw, Mapping) or raw.get("anchor") != "created_at":
        raise InvalidValue(f"'{param}.anchor' must be 'created_at'.", param=f"{param}.anchor")
    seconds = raw.get("seconds")
    if isinstance(seconds, str) and seconds.isdigit():  # multipart forms carry text
        seconds = int(seconds)
    low, high = EXPIRES_S
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not low <= seconds <= high:
        raise InvalidValue(f"'{param}.seconds' must be an integer from {low} to {high}.", param=f"{param}.seconds")
    return seconds
