"""What a client may ask for when it creates a batch: OpenAI's fields and our one key, checked by the contract's rules."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from batchsched.errors import InvalidRequest, InvalidType, InvalidValue, MissingParameter
from batchsched.lines import EMBEDDINGS, ENDPOINTS
from batchsched.units import parse_deadline, parse_duration_s

Form = TypeVar("Form", bound=msgspec.Struct)
Priority = Annotated[int, Meta(ge=-100, le=100)]
MAX_METADATA = 16
MAX_MODELS = 16
EXPIRES_S = (3600, 2_592_000)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Our additions, under the key `batchsched`."""

    deadline: str | None = None
    confidence: Annotated[float, Meta(ge=0.5, lt=1)] | None = None
    models: Annotated[list[str], Meta(max_length=MAX_MODELS)] | None = None
    sites: list[str] | None = None
    zones: list[str] | None = None
    on_deadline: Literal["expire", "finish"] = "expire"
    require_feasible: bool = False
    uniform: bool = False
    priority: Priority = 0


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be changed about a batch that was accepted; None leaves a thing as it is."""

    deadline: str | None = None
    priority: Priority | None = None
    metadata: Any = None


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a batch that ended is taken up again. Without a deadline it gets as long as at first."""

    deadline: str | None = None


class NewBatch(msgspec.Struct, frozen=True):
    """A create request whose form is sound."""

    input_file_id: str
    endpoint: str
    completion_window: str
    deadline_at: datetime
    metadata: dict[str, str]
    options: Options
    output_expires_after_s: int | None
    traceparent: str = ""
    """What its request said of the trace that it is part of; kept where traces are on."""

    def stored_options(self) -> dict[str, Any]:
        """The options as the database keeps them; the priority has a column of its own."""
        options = msgspec.to_builtins(self.options)
        del options["priority"]
        traced = {"traceparent": self.traceparent} if self.traceparent else {}
        return {**options, "output_expires_after_s": self.output_expires_after_s, **traced}


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
    if astray := next((name for name in Options.__struct_fields__ if name in body), None):
        inside = f'{{"batchsched": {{"{astray}": ...}}}}'
        raise InvalidValue(f"'{astray}' belongs under the key 'batchsched': {inside}.", param=astray)
    options = form_of(Options, body.get("batchsched"), "batchsched")
    if options.models and body["endpoint"] == EMBEDDINGS and not options.uniform:
        text = "Vectors of different models cannot be compared, so embeddings that accept several must ask for 'uniform'."
        raise InvalidValue(text, param="batchsched.models")
    return NewBatch(
        input_file_id=body["input_file_id"],
        endpoint=body["endpoint"],
        completion_window=body["completion_window"],
        deadline_at=_deadline(body["completion_window"], options.deadline, now),
        metadata=metadata_of(body.get("metadata")),
        options=options,
        output_expires_after_s=_expires_after(body.get("output_expires_after")),
    )


def _deadline(window: str, deadline: str | None, now: datetime) -> datetime:
    try:
        by_window = now + timedelta(seconds=parse_duration_s(window))
    except InvalidValue as problem:
        raise InvalidValue(problem.message, param="completion_window") from None
    return by_window if deadline is None else deadline_of(deadline, now, "batchsched.deadline")


def deadline_of(text: str, now: datetime, param: str) -> datetime:
    """A deadline that lies ahead. Raises InvalidValue."""
    try:
        at = parse_deadline(text, now)
    except InvalidValue as problem:
        raise InvalidValue(problem.message, param=param) from None
    if at <= now:
        raise InvalidValue(f"The deadline {text} has already passed.", param=param)
    return at


def as_long_as_first(batch: Mapping[str, Any], now: datetime) -> datetime:
    """A deadline as far from `now` as the batch's first one was from its creation."""
    first = batch["options"].get("deadline") or batch["completion_window"]
    created_at: datetime = batch["created_at"]
    return now + (parse_deadline(first, created_at) - created_at)


def form_of(form: type[Form], raw: Any, name: str = "") -> Form:
    """Raw JSON as one of the forms above; `name`: the key that it stands under. Raises InvalidValue, naming the field."""
    try:
        return msgspec.convert(raw if raw is not None else {}, form)
    except msgspec.ValidationError as problem:
        text, _, at = str(problem).partition(" - at `$")
        field = f"{name}{at.rstrip('`')}".removeprefix(".")
        allowed = ", ".join(form.__struct_fields__)
        raise InvalidValue(f"'{field or 'body'}': {text}. Known fields: {allowed}.", param=field or None) from None


def metadata_of(raw: Any) -> dict[str, str]:
    """Checked metadata. Raises InvalidType, InvalidValue."""
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
