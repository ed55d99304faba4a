"""Models and blends between restarts: one file each, replaced whole; what another version wrote is not read but made anew."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from batchsched.forecasts.models.blend import VERSION as BLEND
from batchsched.forecasts.models.blend import Blend, Learnt
from batchsched.forecasts.models.features import Profile
from batchsched.forecasts.models.linear import Linear
from batchsched.forecasts.models.model import VERSION, Model


def save_model(model: Model, path: Path) -> None:
    """With training span, version, and the sources, weather and zones that it looks at."""
    profile = asdict(model.profile)
    arrays = {"by_hour": profile.pop("by_hour")}
    for number, linear in enumerate(model.linear):
        arrays |= {f"weights_{number}": linear.weights, f"spread_{number}": linear.spread}
    span = {"trained_from": model.trained_from.isoformat(), "trained_until": model.trained_until.isoformat()}
    ways = [linear.beside for linear in model.linear]
    _save(path, {"version": model.version, "zone": model.zone, "ways": ways, "profile": profile, **span}, arrays)


def load_model(path: Path) -> Model | None:
    """What was saved there; None where there is nothing that this version can read, and it must be learnt again."""
    found = _load(path, VERSION)
    if found is None:
        return None
    meta, arrays = found
    given = meta["profile"]
    weather = {name: (float(mean), float(spread)) for name, (mean, spread) in given["weather"].items()}
    profile = Profile(given["floor"], arrays["by_hour"], tuple(given["sources"]), given["load_floor"], weather, given["beside"])
    linear = tuple(Linear(arrays[f"weights_{n}"], arrays[f"spread_{n}"], beside) for n, beside in enumerate(meta["ways"]))
    span = (datetime.fromisoformat(meta["trained_from"]), datetime.fromisoformat(meta["trained_until"]))
    return Model(meta["zone"], *span, profile, linear)


def save_blend(blend: Blend, path: Path) -> None:
    """All zones in one file."""
    arrays = {f"{number}_{name}": a for number, zone in enumerate(blend.zones.values()) for name, a in vars(zone).items()}
    _save(path, {"version": BLEND, "zones": list(blend.zones)}, arrays)


def load_blend(path: Path) -> Blend:
    """What was saved there; an empty one, which weighs by its prior, where there is nothing that this version can read."""
    found = _load(path, BLEND)
    if found is None:
        return Blend()
    meta, arrays = found
    names = Learnt.__dataclass_fields__
    return Blend({z: Learnt(**{name: arrays[f"{n}_{name}"] for name in names}) for n, z in enumerate(meta["zones"])})


def _save(path: Path, meta: dict[str, Any], arrays: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    with new.open("wb") as out:
        np.savez(out, meta=np.array(json.dumps(meta)), **arrays)
    new.replace(path)


def _load(path: Path, version: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    try:
        with np.load(path) as kept:
            arrays = dict(kept)
    except (OSError, ValueError, EOFError, BadZipFile):
        return None
    meta = json.loads(str(arrays.pop("meta", "{}")))
    return (meta, arrays) if meta.get("version") == version else None
