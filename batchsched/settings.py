"""Configuration: one TOML file, environment variables, flags; flags win, then the environment, then the file, then defaults.

`load()` returns the settings with the origin of each value. A mistake names the file, the key and what is allowed.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from batchsched import variants
from batchsched.catalogue import Catalogue, EmbodiedModel, builtin, merged
from batchsched.engines import table
from batchsched.errors import InvalidConfiguration
from batchsched.feeds import OWN, FeedSource, ZoneFeed, complaint
from batchsched.fleet import Fleet, Launch, Pool, PoolWindow, ServedModel, Site, cores_of, gpu_types, known_gpus, wrong_window
from batchsched.lines.rules import DEFAULT_LINE_BYTES, Rules
from batchsched.logs import Logs
from batchsched.operations import Metrics
from batchsched.planning import Planner
from batchsched.traces import Traces

FILE_NAME = "batchsched.toml"
ENV_PREFIX = "BATCHSCHED_"
SECRET_KEYS = frozenset({"api_key", "engine_api_key", "partner_api_key", "database_url", "secret"})
T = TypeVar("T")


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP server and its store."""

    host: Annotated[str, Meta(description="Address to listen on; off loopback only with an API key and TLS")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one")] = 8424
    data_dir: Annotated[str, Meta(description="Folder of the database, and of all files without a `store_url`")] = (
        "batchsched-data"
    )
    inputs_dir: Annotated[str, Meta(description="Folder of recurring jobs' files, a folder a tenant; empty: there are none")] = ""
    inputs_settle_s: Annotated[float, Meta(ge=0, description="They are taken once unchanged for so long; 0: as they are")] = 30.0
    database_url: Annotated[str, Meta(description="PostgreSQL to keep the state in (postgresql://...); empty: SQLite")] = ""
    store_url: Annotated[str, Meta(description="Place of all files: `file:///...` or `s3://...`; empty: `data_dir`")] = ""
    api_key: Annotated[str, Meta(description="Key that every request must carry as a bearer token; empty: none")] = ""
    max_file_bytes: Annotated[int, Meta(ge=1, description="Largest upload")] = 2_000_000_000
    max_lines: Annotated[int, Meta(ge=1, description="Most requests in one file")] = 1_000_000
    max_line_bytes: Annotated[int, Meta(ge=1024, description="Longest line of a file")] = DEFAULT_LINE_BYTES
    allow_fields: Annotated[
        list[str], Meta(description="Body fields that lines may have although they are refused by default")
    ] = []
    media_domains: Annotated[
        list[str], Meta(description="Hosts, with their subdomains, that lines may name in URLs of images, audio and video")
    ] = []
    chunk_lines: Annotated[int, Meta(ge=1, description="Most requests in one chunk")] = 200
    chunk_bytes: Annotated[int, Meta(ge=1, description="Most input bytes in one chunk")] = 4_000_000
    lease_s: Annotated[float, Meta(gt=0, description="A lease without a heartbeat ends after this many seconds")] = 60.0
    max_attempts: Annotated[
        int,
        Meta(
            ge=1,
            description="Failures of a chunk, save those that narrow down a culprit, before its unfinished lines become errors",
        ),
    ] = 5
    tls_cert: Annotated[str, Meta(description="Certificate chain (PEM) to serve https with; empty: http")] = ""
    tls_key: Annotated[str, Meta(description="Private key (PEM) of that certificate; empty: it is in the same file")] = ""
    trusted_proxies: Annotated[
        list[str], Meta(description="Addresses or networks of proxies whose X-Forwarded-For and -Proto headers are believed")
    ] = []

    def rules(self) -> Rules:
        """What input files are held against."""
        return Rules(**{name: getattr(self, name) for name in Rules.__struct_fields__})


class Worker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worker's own node: never sent to the server."""

    server_url: Annotated[str, Meta(description="Where the server is")] = "http://127.0.0.1:8424"
    engine_python: Annotated[str, Meta(description="Python that can import vLLM; empty: look for one")] = ""
    engine_url: Annotated[str, Meta(description="An engine that is already running; empty: start one")] = ""
    engine_api_key: Annotated[str, Meta(description="Key that the engine asks for; one that we start asks for it too")] = ""
    partner_url: Annotated[str, Meta(description="In modes of two pools: where the partner answers; empty: there is none")] = ""
    partner_api_key: Annotated[str, Meta(description="Key that a partner asks for")] = ""
    state_dir: Annotated[str, Meta(description="Folder for engine logs")] = "batchsched-data/worker"
    startup_timeout_s: Annotated[float, Meta(gt=0, description="Longest wait for an engine to be ready")] = 900.0
    engine_tries: Annotated[int, Meta(ge=0, description="Give up after so many failed starts in a row; 0: never")] = 0
    idle_stop_s: Annotated[
        float, Meta(ge=0, description="Stop an engine of ours after this many idle seconds, unless the plan keeps it for later")
    ] = 300.0
    request_timeout_s: Annotated[float, Meta(gt=0, description="Longest wait for one answer of the engine")] = 3600.0
    drain_s: Annotated[float, Meta(ge=0, description="Longest wait for answers in flight when the work has to stop")] = 10.0
    cpu_cores: Annotated[str, Meta(description="Cores of this machine for the engine, in place of its pool's `cpu.cores`")] = ""
    rapl_dir: Annotated[str, Meta(description="Folder of the host's energy counters")] = "/sys/class/powercap"


class Forecast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where carbon-intensity forecasts come from."""

    source: Annotated[Literal["climatology", "file"], Meta(description="`climatology` (built in) or `file`")] = "climatology"
    path: Annotated[str, Meta(description="The forecast file, for source `file`; relative to the configuration file")] = ""
    archive_dir: Annotated[
        str,
        Meta(
            description="Where forecasts and measurements are kept; empty: in the data folder. Servers of one database share it"
        ),
    ] = ""
    order: Annotated[
        list[str], Meta(description="Names of `forecast.sources`, the best one first, for zones without a list of their own")
    ] = []
    own: Annotated[
        bool, Meta(description="Whether our own models forecast each zone with sources: first, unless its list names `own`")
    ] = True
    sources: Annotated[dict[str, FeedSource], Meta(description="Sources that are asked for news; see below")] = {}
    zones: Annotated[dict[str, ZoneFeed], Meta(description="Zones with a list of their own; see below")] = {}

    def order_for(self, zone: str) -> list[str]:
        """The sources that are asked about a zone, in order: its own list, else those of `order` that know it."""
        if zone in self.zones:
            return self.zones[zone].sources
        known = {name for name, source in self.sources.items() if zone in source.zones or not source.zones} | {OWN}
        return [name for name in self.order or self.sources if name in known]


class Carbon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How grams are counted."""

    embodied_policy: Annotated[
        Literal["sunk", "whole_life", "remaining", "cut_off"],
        Meta(description="How manufacturing carbon is charged; plans weigh it too, unless it is `sunk`"),
    ] = "sunk"
    lifetime_years: Annotated[float, Meta(gt=0, description="Service life over which hardware is written off")] = 5.0
    embodied_model: Annotated[EmbodiedModel, Meta(description="Whose figures say what it took to make an accelerator")] = (
        "published"
    )
    catalogue: Annotated[
        str, Meta(description="TOML file with hardware of your own, over the built-in catalogue (embodied.md says its form)")
    ] = ""
    home_site: Annotated[str, Meta(description="Site of the run-now baseline; empty: the first one")] = ""
    network_kwh_per_gb: Annotated[
        float, Meta(ge=0, description="Energy of a gigabyte between two sites; the literature has 0.001 to 0.14")
    ] = 0.001


class Tenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose batches those are: its share of the work, and its limits. A limit that is left out does not exist."""

    weight: Annotated[float, Meta(gt=0, description="Its part of scarce work, beside the weights of the others")] = 1.0
    max_open_batches: Annotated[int, Meta(ge=0, description="Most batches that are not finished")] | None = None
    max_enqueued_requests: Annotated[int, Meta(ge=0, description="Most unfinished requests of open batches")] | None = None
    max_enqueued_tokens: (
        Annotated[int, Meta(ge=0, description="Most tokens that unfinished requests may take, estimated from sizes and limits")]
        | None
    ) = None
    max_bytes: Annotated[int, Meta(ge=0, description="Most bytes of stored files")] | None = None
    tokens_per_month: Annotated[int, Meta(ge=0, description="Budget of tokens, in and out, for a UTC month")] | None = None
    grams_per_month: Annotated[float, Meta(ge=0, description="Budget of operational gCO2e for a UTC month")] | None = None


Ending = Literal["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]
EventType = Literal[Ending, "batch.at_risk", "batch.recovered"]


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody who wants to be told when a batch ends, or when its deadline comes into doubt."""

    url: Annotated[str, Meta(description="Where events are posted to; https, unless `allow_private`")]
    secret: Annotated[str, Meta(description="Signs the events: `whsec_` and at least 24 random bytes in base64")]
    tenant: Annotated[str, Meta(description="Whose batches it hears of")] = "default"
    events: Annotated[tuple[EventType, ...], Meta(description="What it hears of")] = get_args(Ending)
    allow_private: Annotated[
        bool, Meta(description="Let it be plain http and an address that is not public (loopback, an intranet)")
    ] = False


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long things are kept. A file counts from its creation, by the setting of that day."""

    inputs_days: Annotated[
        float, Meta(ge=0, description="Uploads for batches; a client may ask for less, not for more. 0: for ever")
    ] = 30.0
    outputs_days: Annotated[float, Meta(ge=0, description="Output and error files, likewise")] = 30.0
    batches_days: Annotated[
        float,
        Meta(
            ge=0,
            description="Ended batches; what they took stays as a sum. 0: for ever, else at least 35, for budgets of a month",
        ),
    ] = 0.0
    idempotency_days: Annotated[float, Meta(gt=0, description="Idempotency keys of created batches")] = 7.0

    def input_life(self, asked_s: int | None) -> timedelta | None:
        """How long an upload is kept whose sender asked for so many seconds; None: for ever."""
        return _shorter(self.inputs_days, asked_s)

    def output_life(self, asked_s: int | None) -> timedelta | None:
        """The same of a result file."""
        return _shorter(self.outputs_days, asked_s)


def _shorter(days: float, asked_s: int | None) -> timedelta | None:
    lives = [timedelta(days=days)] if days else []
    if asked_s is not None:
        lives.append(timedelta(seconds=asked_s))
    return min(lives, default=None)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration."""

    server: Server = Server()
    worker: Worker = Worker()
    forecast: Forecast = Forecast()
    planner: Planner = Planner()
    carbon: Carbon = Carbon()
    retention: Retention = Retention()
    logs: Logs = Logs()
    traces: Traces = Traces()
    metrics: Metrics = Metrics()
    sites: Annotated[dict[str, Site], Meta(description="Sites by name")] = {}
    pools: Annotated[dict[str, Pool], Meta(description="Pools by name")] = {}
    windows: Annotated[dict[str, PoolWindow], Meta(description="Windows of pools by name")] = {}
    models: Annotated[dict[str, ServedModel], Meta(description="Models by the name that batches use")] = {}
    launch: Annotated[dict[str, Launch], Meta(description="How this node's launcher starts workers, by pool")] = {}
    tenants: Annotated[dict[str, Tenant], Meta(description="Weights and limits of tenants by name")] = {}
    webhooks: Annotated[dict[str, Webhook], Meta(description="Receivers of events by name")] = {}

    def fleet(self, catalogue: Catalogue | None = None) -> Fleet:
        """Sites, pools and models, with the home site made explicit, and the GPU types of a catalogue, ours where None."""
        home = self.carbon.home_site or next(iter(self.sites), "home")
        return Fleet(self.sites, self.pools, self.models, home, gpu_types(catalogue) if catalogue else known_gpus())

    def archive_folder(self) -> Path:
        """Where the forecast archive is."""
        return Path(self.forecast.archive_dir or Path(self.server.data_dir) / "forecasts")

    def tenant(self, name: str) -> Tenant:
        """A tenant's weight and limits; one that is not declared has the defaults."""
        return self.tenants.get(name, Tenant())


class Loaded(msgspec.Struct, frozen=True):
    """Settings, and for each dotted key that was set, who set it."""

    settings: Settings
    origins: dict[str, str]
    path: Path | None
    own: Catalogue | None = None
    """The hardware that is known, where the user has a catalogue of his own, which lies over ours."""

    @property
    def catalogue(self) -> Catalogue:
        """The hardware that is known."""
        return self.own or builtin()

    @property
    def base_dir(self) -> Path:
        """From where relative paths in it count."""
        return self.path.parent if self.path else Path()


def load(path: Path | None = None, *, env: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None) -> Loaded:
    """Read the configuration.

    `path`: the TOML file; where None, `BATCHSCHED_CONFIG`, then `./batchsched.toml`, then the user's own, each if it exists.
    `flags`: dotted key to value; None values are ignored. Raises InvalidConfiguration.
    """
    env = os.environ if env is None else env
    path = path or find(env)
    where = str(path) if path else "the configuration"
    tree: dict[str, Any] = _read(path) if path else {}
    origins = {key: str(path) for key, _ in _leaves(tree)}
    for key, name in _env_names().items():
        if name in env:
            _put(tree, key, _from_text(key, env[name], name), where)
            origins[key] = f"environment {name}"
    for key, value in (flags or {}).items():
        if value is not None:
            _put(tree, key, value, where)
            origins[key] = "command line"
    settings = _convert(tree, where)
    # A relative path in the file counts from the file's folder.
    beside = path.parent if path and origins.get("carbon.catalogue") == str(path) else Path()
    own = merged(beside / settings.carbon.catalogue) if settings.carbon.catalogue else None
    _cross_check(settings, where, own)
    models, pools = variants.resolved(settings.models), variants.placed(settings.models, settings.pools)
    settings = msgspec.structs.replace(settings, models=models, pools=pools)
    return Loaded(settings, origins, path, own)


def find(env: Mapping[str, str]) -> Path | None:
    """The configuration file that holds here, if there is one."""
    if named := env.get(f"{ENV_PREFIX}CONFIG"):
        return Path(named)
    home = Path(env.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return next((p for p in (Path(FILE_NAME), home / "batchsched" / FILE_NAME) if p.is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    import tomllib  # here: a client without a file does not wait for it

    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidConfiguration(f"There is no configuration file {path}.", hint="`batchsched init` writes one.") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise InvalidConfiguration(f"Cannot read {path}: {problem}.") from None
    except tomllib.TOMLDecodeError as problem:
        raise InvalidConfiguration(f"{path} is not valid TOML: {problem}.") from None


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _put(tree: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    section, _, key = dotted.partition(".")
    _table(tree.setdefault(section, {}), where, section)[key] = value


def _env_names() -> dict[str, str]:
    names: dict[str, str] = {}
    for section in ("server", "worker", "forecast", "planner", "carbon", "retention", "logs", "traces", "metrics"):
        struct = type(getattr(Settings(), section))
        for field, hint in get_type_hints(struct).items():
            if get_origin(hint) is not dict:
                names[f"{section}.{field}"] = f"{ENV_PREFIX}{section}_{field}".upper()
    return names


def _from_text(key: str, text: str, name: str) -> Any:
    section, field = key.split(".")
    hint = get_type_hints(type(getattr(Settings(), section)))[field]
    given: Any = [part.strip() for part in text.split(",") if part.strip()] if get_origin(hint) is list else text
    try:
        return msgspec.convert(given, hint, strict=False)
    except msgspec.ValidationError as problem:
        raise InvalidConfiguration(f"Environment variable {name}: {problem}.") from None


def _convert(tree: dict[str, Any], where: str) -> Settings:
    """Section by section, and each named table by itself, so that a mistake is told by its whole name."""
    _refuse_unknown(tree, Settings, where, "")
    hints, parts = get_type_hints(Settings), dict[str, Any]()
    for section, value in tree.items():
        kind = hints[section]
        parts[section] = _named(value, kind, where, section) if get_origin(kind) is dict else _part(value, kind, where, section)
    return Settings(**parts)


def _named(value: Any, kind: Any, where: str, prefix: str) -> dict[str, Any]:
    tables = _table(value, where, prefix)
    return {name: _part(inner, get_args(kind)[1], where, f"{prefix}.{name}") for name, inner in tables.items()}


def _part(value: Any, kind: type[T], where: str, prefix: str) -> T:
    for field, hint in get_type_hints(kind).items():
        if get_origin(hint) is dict and get_args(hint)[1] is not str and field in _table(value, where, prefix):
            _named(value[field], hint, where, f"{prefix}.{field}")
    try:
        return msgspec.convert(_table(value, where, prefix), kind)
    except msgspec.ValidationError as problem:
        text, _, at = str(problem).partition(" - at `$.")
        field = at.rstrip("`").removesuffix("[...]")
        key = f"{prefix}.{field}" if field else prefix
        raise InvalidConfiguration(f"{where}: key '{key}': {text}{_allowed(kind, field)}.") from None


def _table(value: Any, where: str, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        shown = "text" if isinstance(value, str) else repr(value)  # a text may be a key that strayed
        raise InvalidConfiguration(f"{where}: key '{key}' must be a table `[{key}]`, not {shown}.")
    return value


def _allowed(kind: type, field: str) -> str:
    """The values that a choice allows, for the error message."""
    hint: Any = get_type_hints(kind).get(field)
    return f" (allowed: {', '.join(map(str, get_args(hint)))})" if get_origin(hint) is Literal else ""


def _refuse_unknown(tree: Any, struct: Any, where: str, prefix: str) -> None:
    hints = get_type_hints(struct)
    for key, value in tree.items():
        if key not in hints:
            from difflib import get_close_matches

            near = get_close_matches(key, hints, 1)
            advice = f"did you mean '{near[0]}'? " if near else ""
            raise InvalidConfiguration(f"{where}: unknown key '{prefix}{key}'; {advice}allowed here: {', '.join(sorted(hints))}.")
        hint = hints[key]
        if get_origin(hint) is dict and isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, dict):
                    _refuse_unknown(inner, get_args(hint)[1], where, f"{prefix}{key}.{name}.")
        elif isinstance(value, dict):
            inner_type = next((t for t in (hint, *get_args(hint)) if isinstance(t, type) and issubclass(t, msgspec.Struct)), None)
            if inner_type is not None:
                _refuse_unknown(value, inner_type, where, f"{prefix}{key}.")


def _cross_check(settings: Settings, where: str, own: Catalogue | None) -> None:
    try:
        cores_of(settings.worker.cpu_cores)
    except ValueError as problem:
        raise InvalidConfiguration(f"{where}: key 'worker.cpu_cores': {problem}.") from None
    for name, pool in settings.pools.items():
        _check_pool(name, pool, settings, where)
        _check_hardware(name, pool, own or builtin(), where)
    _check_windows(settings, where)
    for name, webhook in settings.webhooks.items():
        _check_webhook(webhook, f"{where}: key 'webhooks.{name}")
    if 0 < settings.retention.batches_days < 35:
        raise InvalidConfiguration(f"{where}: key 'retention.batches_days' must be 0 or at least 35.")
    home = settings.carbon.home_site
    if home and home not in settings.sites:
        _complain(where, "carbon.home_site", f"there is no site '{home}'", settings.sites)
    if settings.forecast.source == "file" and not settings.forecast.path:
        raise InvalidConfiguration(f"{where}: key 'forecast.path' is needed with source = \"file\".")
    if wrong := variants.complaint(settings.models, settings.pools):
        raise InvalidConfiguration(f"{where}: key '{wrong[0]}': {wrong[1]}.")
    if wrong := complaint(settings.forecast.sources, settings.forecast.zones, settings.forecast.order):
        raise InvalidConfiguration(f"{where}: key 'forecast.{wrong[0]}': {wrong[1]}.")


def _check_pool(name: str, pool: Pool, settings: Settings, where: str) -> None:
    if pool.site not in settings.sites:
        _complain(where, f"pools.{name}.site", f"there is no site '{pool.site}'", settings.sites)
    if wrong := pool.complaint:
        raise InvalidConfiguration(f"{where}: key 'pools.{name}.{wrong[0]}': {wrong[1]}.")
    for model in [each for each in pool.models if each not in settings.models]:
        _complain(where, f"pools.{name}.models", f"there is no model '{model}'", settings.models)
    known = [fact.name for fact in table() if fact.kind == "quirk" and fact.engine == pool.engine]
    for quirk in [each for each in pool.quirks if each not in known]:
        _complain(where, f"pools.{name}.quirks", f"{pool.engine} has no quirk '{quirk}'", known)
    if pool.window and (wrong := pool.window.complaint):
        raise InvalidConfiguration(f"{where}: key 'pools.{name}.window.{wrong[0]}': {wrong[1]}")
    if pool.second_life_at is None and pool.second_life_years is None:
        return
    if not (pool.second_life_at and pool.second_life_years and pool.bought_at and pool.bought_at < pool.second_life_at):
        raise InvalidConfiguration(
            f"{where}: key 'pools.{name}.second_life_at' needs second_life_years, and an earlier bought_at, beside it."
        )


def _check_windows(settings: Settings, where: str) -> None:
    for name, window in settings.windows.items():
        if wrong := wrong_window(name, window, settings.pools):
            raise InvalidConfiguration(f"{where}: key 'windows.{name}{wrong[0]}': {wrong[1]}")


def _check_hardware(name: str, pool: Pool, catalogue: Catalogue, where: str) -> None:
    types = gpu_types(catalogue)
    if pool.gpu in catalogue.gpus and pool.gpu not in types:
        cells = ("memory_gb", "bandwidth_gb_per_s", "tdp_w", "compute_capability")
        lacking = ", ".join(cell for cell in cells if getattr(catalogue.gpus[pool.gpu], cell) is None)
        raise InvalidConfiguration(
            f"{where}: key 'pools.{name}.gpu': the catalogue's '{pool.gpu}' lacks {lacking}, which plans need."
        )
    if pool.gpu != "cpu" and pool.gpu not in types:
        _complain(where, f"pools.{name}.gpu", f"'{pool.gpu}' is not a known GPU type", ["cpu", *types])
    able = [host for host, known in catalogue.hosts.items() if known.gpu_slots]
    if pool.host not in able:
        _complain(where, f"pools.{name}.host", f"the catalogue has no server '{pool.host}' with GPU slots", able)


def _complain(where: str, key: str, what: str, allowed: Any) -> None:
    raise InvalidConfiguration(f"{where}: key '{key}': {what} (allowed: {', '.join(allowed) or 'none is declared'}).")


def _check_webhook(webhook: Webhook, key: str) -> None:
    from urllib.parse import urlsplit

    schemes = {"https", "http"} if webhook.allow_private else {"https"}
    try:
        url = urlsplit(webhook.url)
        name = (url.hostname or "").encode("idna")  # raises where no resolver would take it
        plain = webhook.url.isascii() and webhook.url.isprintable()
        sound = url.scheme in schemes and name and plain and url.username is None and url.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise InvalidConfiguration(
            f"{key}.url' must be a URL such as https://example.com/hook, in ASCII letters and without a user name."
        )
    try:
        material = base64.b64decode(webhook.secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        material = b""
    if not webhook.secret.startswith("whsec_") or len(material) < 24:
        raise InvalidConfiguration(
            f"{key}.secret' must be whsec_ and at least 24 random bytes in base64.", hint="`openssl rand -base64 32` makes them."
        )
