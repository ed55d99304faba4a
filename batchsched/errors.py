"""Every error that batchsched raises on purpose, in one tree.

Each class carries a machine-readable `code` (stable, in docs/errors.md), the HTTP status the server answers with and the exit
code a command ends with. The message says what is wrong; `hint` says what to do about it.
"""

from __future__ import annotations


class BatchschedError(Exception):
    """Something went wrong inside batchsched."""

    code = "internal_error"
    http_status = 500
    exit_code = 1
    type = "server_error"

    def __init__(self, message: str | None = None, *, param: str | None = None, hint: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())
        self.param = param
        self.hint = hint

    @property
    def message(self) -> str:
        """What is wrong, in one sentence."""
        return str(self.args[0])


class InvalidRequest(BatchschedError):
    """The request is not valid."""

    code = "invalid_request"
    http_status = 400
    exit_code = 2
    type = "invalid_request_error"


class InvalidValue(InvalidRequest):
    """A parameter has a value that is not supported."""

    code = "invalid_value"


class InvalidType(InvalidRequest):
    """A parameter has the wrong type."""

    code = "invalid_type"


class MissingParameter(InvalidRequest):
    """A required parameter is missing."""

    code = "missing_required_parameter"


class UnsupportedProtocol(InvalidRequest):
    """The server and the worker are more than one protocol apart, or the worker does not know its pool's kind."""

    code = "unsupported_protocol"
    exit_code = 1


class PayloadTooLarge(InvalidRequest):
    """The upload is larger than this server accepts."""

    code = "payload_too_large"
    http_status = 413


class UnsupportedMedia(InvalidRequest):
    """The upload is in a form that this server does not read."""

    code = "unsupported_media_type"
    http_status = 415


class Unauthorized(BatchschedError):
    """The API key is missing or wrong."""

    code = "invalid_api_key"
    http_status = 401
    exit_code = 4
    type = "invalid_request_error"


class PermissionDenied(BatchschedError):
    """This caller may not do that."""

    code = "permission_denied"
    http_status = 403
    exit_code = 4
    type = "invalid_request_error"


class QuotaExceeded(BatchschedError):
    """A quota of the tenant is used up."""

    code = "quota_exceeded"
    http_status = 429
    exit_code = 75
    type = "insufficient_quota"

    def __init__(
        self, message: str | None = None, *, param: str | None = None, hint: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message, param=param, hint=hint)
        self.retry_after_s = retry_after_s


class NotFound(BatchschedError):
    """There is no such object."""

    code = "not_found"
    http_status = 404
    exit_code = 3
    type = "invalid_request_error"


class Conflict(BatchschedError):
    """The object's state does not allow this."""

    code = "conflict"
    http_status = 409
    type = "invalid_request_error"


class StaleLease(Conflict):
    """The lease is no longer held: its fencing token is stale, so nothing was changed."""

    code = "stale_lease"


class IdempotencyMismatch(Conflict):
    """This idempotency key was used before, for a request that asked for something else; use a new key for a new request."""

    code = "idempotency_mismatch"


class StorageFull(BatchschedError):
    """The disk is full, so nothing was accepted; free some space and try again."""

    code = "storage_full"
    http_status = 507


class StorageUnavailable(BatchschedError):
    """The place where files lie does not answer, so nothing was accepted; try again."""

    code = "storage_unavailable"
    http_status = 503
    exit_code = 75


class InvalidConfiguration(BatchschedError):
    """The configuration is not valid."""

    code = "invalid_configuration"
    exit_code = 2


class InvalidInputFile(BatchschedError):
    """The input file is not a valid batch file."""

    code = "invalid_input_file"
    http_status = 400
    exit_code = 2
    type = "invalid_request_error"


class InputChanged(BatchschedError):
    """The input file changed since this run began."""

    code = "input_changed"
    exit_code = 2


class MissingExtra(BatchschedError):
    """A part of batchsched that this command needs is not installed."""

    code = "missing_extra"
    exit_code = 2


class PortInUse(BatchschedError):
    """The port is already in use."""

    code = "port_in_use"


class DataFolderInUse(BatchschedError):
    """Another batchsched server uses this data folder."""

    code = "data_folder_in_use"
    exit_code = 75


class DatabaseUnavailable(BatchschedError):
    """The database does not answer at the moment; try again soon."""

    code = "database_unavailable"
    http_status = 503
    exit_code = 75


class DatabaseBusy(DatabaseUnavailable):
    """Two writers stood in each other's way and nothing was changed; try again."""

    code = "database_busy"


class PlannerBusy(BatchschedError):
    """The planner is busy with others' questions; try again in a minute."""

    code = "planner_busy"
    http_status = 503
    exit_code = 75


class NotReady(BatchschedError):
    """This server cannot do its work at the moment; its log says why. Another may."""

    code = "not_ready"
    http_status = 503
    exit_code = 75


class DamagedDatabase(BatchschedError):
    """The database file cannot be read."""

    code = "damaged_database"


class InsecureBind(InvalidConfiguration):
    """The server listens on 127.0.0.1 only, unless an API key is configured."""

    code = "insecure_bind"


class ServerUnreachable(BatchschedError):
    """The batchsched server does not answer."""

    code = "server_unreachable"
    http_status = 503
    exit_code = 75


class ForbiddenAddress(BatchschedError):
    """A name stands for an address that may not be called."""

    code = "forbidden_address"


class EngineMissing(BatchschedError):
    """No vLLM engine was found."""

    code = "engine_missing"
    exit_code = 2


class EngineFailed(BatchschedError):
    """The engine failed."""

    code = "engine_failed"
    http_status = 502

    def __init__(
        self, message: str | None = None, *, param: str | None = None, hint: str | None = None, log: object = None
    ) -> None:
        """`hint`: what to do; `log`: where it says more."""
        where = f"Its log is {log}." if log else None
        super().__init__(message, param=param, hint=" ".join(text for text in (hint, where) if text) or None)
        self.advice = hint or ""
        """The hint without the log, which is another at each try."""


class RequestFailed(BatchschedError):
    """A request of a batch has no answer."""

    code = "request_failed"


class LaunchFailed(BatchschedError):
    """Workers cannot be started or looked after here."""

    code = "launch_failed"
    http_status = 502


class UnknownModel(NotFound):
    """The model is not served here."""

    code = "model_not_found"


class UnknownHardware(NotFound):
    """The hardware catalogue does not have it, or a name stands for several."""

    code = "unknown_hardware"


class DeadlineInfeasible(BatchschedError):
    """The batch cannot be expected to finish by its deadline, and `require_feasible` was asked for."""

    code = "deadline_infeasible"
    http_status = 422
    type = "invalid_request_error"


class UnsafePlan(BatchschedError):
    """A plan broke a rule and was not published."""

    code = "unsafe_plan"


class ForecastUnavailable(BatchschedError):
    """No carbon-intensity forecast is available for this zone."""

    code = "forecast_unavailable"
    http_status = 404
    type = "invalid_request_error"


class SourceRefused(ForecastUnavailable):
    """A source of carbon intensity refused the key."""

    code = "source_refused"

    def __init__(self, message: str | None = None, *, hint: str | None = None, status: int | None = None) -> None:
        """`status`: of the source's answer; 401 where it is the key itself that is refused, for whatever zone."""
        super().__init__(message, hint=hint)
        self.status = status


class SourceLimited(ForecastUnavailable):
    """A source of carbon intensity is not to be asked again yet."""

    code = "source_limited"

    def __init__(self, message: str | None = None, *, hint: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class SignalMismatch(BatchschedError):
    """Two different carbon signals would have been mixed."""

    code = "signal_mismatch"
    http_status = 409
    type = "invalid_request_error"


class ChildFailed(BatchschedError):
    """A part of this run ended and could not be started again."""

    code = "child_failed"


class ServerError(BatchschedError):
    """The server answered with an error."""

    code = "server_error"


def walk(root: type[BatchschedError] = BatchschedError) -> list[type[BatchschedError]]:
    """Every error class of the tree, the root first: for documentation and for tests."""
    found = [root]
    for child in root.__subclasses__():
        found += walk(child)
    return found


def by_code(code: str) -> type[BatchschedError]:
    """The class for a code that came over the wire; `ServerError` where it is unknown here."""
    return next((cls for cls in walk() if cls.code == code), ServerError)
