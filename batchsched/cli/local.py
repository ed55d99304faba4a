"""What `batchsched run` runs on when nobody declared a fleet: this machine, as one site with one pool."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from batchsched.catalogue import builtin
from batchsched.errors import EngineFailed, InvalidValue, ServerUnreachable, UnknownHardware, UnknownModel
from batchsched.fleet import GPU_TYPES, Pool, ServedModel, Site
from batchsched.settings import Loaded, Settings

SITE, POOL = "home", "local"


def served_name(model: str, name: str | None, settings: Settings) -> str:
    """The name that requests must use: as given, else a declared model's or a hub model's own, else the folder's."""
    if name:
        return name
    return Path(model).resolve().name if model not in settings.models and Path(model).is_dir() else model


def arrange(loaded: Loaded, model: str, served: str, *, zone: str | None, device: str) -> tuple[Settings, list[str]]:
    """Settings with the model and somewhere to run it, and what to tell people about how they were found.

    Sites and pools are the configuration's, where it declares any. `device`: `cpu` or `gpu`.
    """
    base, notes = loaded.settings, list[str]()
    sites, pools = base.sites, base.pools
    if sites and zone:
        raise InvalidValue(f"--zone has no meaning beside {loaded.path}, which declares sites.", hint="Leave it out.")
    if not sites:
        sites = {SITE: Site(zone=zone or _guess(notes))}
    if not pools:
        gpu = gpu_here(notes) if device == "gpu" else "cpu"
        pools = {POOL: Pool(site=next(iter(sites)), kind="cpu" if gpu == "cpu" else "dedicated", gpu=gpu)}
    models = base.models if served in base.models else {**base.models, served: _declare(model, base.worker.engine_url)}
    forecast = base.forecast
    if forecast.path and loaded.path:
        forecast = msgspec.structs.replace(forecast, path=str((loaded.path.parent / forecast.path).resolve()))
    carbon = base.carbon if base.carbon.home_site in sites else msgspec.structs.replace(base.carbon, home_site="")
    settings = msgspec.structs.replace(base, sites=sites, pools=pools, models=models, forecast=forecast, carbon=carbon)
    if not any(pool.serves(served) for pool in pools.values()):
        raise UnknownModel(f"No pool of {loaded.path} may serve the model '{served}'.", hint="Add it to a pool's `models`.")
    return settings, notes


def _declare(model: str, engine_url: str) -> ServedModel:
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise UnknownModel(f"The folder {model} holds no model: it has no config.json.")
        return ServedModel(path=str(Path(model).resolve()))
    if engine_url:
        return ServedModel()  # the engine has loaded it already; check_engine asked it
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise UnknownModel(
            f"There is no model '{model}': it is neither a folder, nor declared in the configuration, nor a hub name.",
            hint="A hub name looks like organisation/model.",
        )
    return ServedModel(path=model)


def _guess(notes: list[str]) -> str:
    from batchsched.forecasts.climatology import guess_zone

    zone, how = guess_zone()
    notes.append(f"Grid zone {zone}: {how}; --zone names another.")
    return zone


def gpu_here(notes: list[str]) -> str:
    """Our name of the machine's first GPU; for one that we do not know, the type with the nearest power limit stands in."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        name = str(pynvml.nvmlDeviceGetName(handle))
        memory_gb = float(pynvml.nvmlDeviceGetMemoryInfo(handle).total) / 1e9
    except pynvml.NVMLError:
        return "cpu"
    if known := gpu_type_of(name, memory_gb):
        return known
    try:
        limit_w = float(pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)) / 1000
    except pynvml.NVMLError:
        limit_w = 300.0
    near = min(GPU_TYPES.values(), key=lambda gpu: abs(math.log(gpu.tdp_w / limit_w)))
    notes.append(f"The GPU '{name}' is not in our table; {near.name} stands in for it in estimates.")
    return near.name


def gpu_type_of(name: str, memory_gb: float) -> str | None:
    """Our name for NVML's device name, such as `NVIDIA A100-SXM4-40GB`; None where we have no figures."""
    try:
        found = builtin().gpu(name)
    except UnknownHardware:
        return None
    known = GPU_TYPES.get(found.name)
    return known.name if known and abs(known.memory_gb - memory_gb) < 0.2 * memory_gb else None


def check_engine(url: str, served: str) -> None:
    """A running engine must answer and serve the model. Raises EngineFailed or UnknownModel."""
    from batchsched.hosts import base_url
    from batchsched.transport import Transport

    try:
        with Transport(base_url(url), timeout_s=10.0) as engine:
            answer = msgspec.json.decode(engine.request("GET", "/v1/models").content)
        names = [str(model["id"]) for model in answer["data"]]
    except ServerUnreachable:
        raise EngineFailed(f"No engine answers at {url}.", hint="--engine-url is the address of a running vLLM server.") from None
    except (msgspec.MsgspecError, KeyError, TypeError):
        raise EngineFailed(f"What answers at {url} does not list its models as vLLM does.") from None
    if served not in names:
        raise UnknownModel(f"The engine at {url} does not serve '{served}'; it serves {', '.join(names) or 'nothing'}.")
