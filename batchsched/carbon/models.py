"""Embodied models by name, side by side: `published` (the default), `sc23`, `act`, `ecoserve`, `greenllm_table1`, `vendor`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from batchsched.carbon.act import act
from batchsched.carbon.ecoserve import ecoserve, ecoserve_host
from batchsched.carbon.embodied import NEW, Held
from batchsched.carbon.hardware import Estimate, Range, Term, three, unknown
from batchsched.carbon.recipe import sc23
from batchsched.catalogue import Catalogue, EmbodiedModel, Figure, Gpu, Host, Sourced, builtin

Model = Callable[[Gpu, Catalogue], Estimate]
VENDORS = frozenset({"nvidia_pcf", "boavizta_data", "dell_lca"})
"""Sources that are a maker's own footprint of a product."""


def published(gpu: Gpu | Host, catalogue: Catalogue) -> Estimate:
    """The catalogue's own low, mid and high, each from a source that is named; else the lowest, first and highest claim."""
    claims = gpu.kg if isinstance(gpu, Host) else gpu.embodied_kg
    if claims and not gpu.low_kg:
        return _several(claims, catalogue)
    found = three(gpu.low_kg, gpu.mid_kg, gpu.high_kg, catalogue)
    if not found or not (gpu.low_kg and gpu.mid_kg and gpu.high_kg):
        return unknown("published", "no published figures were found")
    kg, said = found
    terms = [Term.of("low", gpu.low_kg, "kg"), Term.of("mid", gpu.mid_kg, "kg"), Term.of("high", gpu.high_kg, "kg")]
    return Estimate("published", kg, said, f"{kg.low:g} / {kg.mid:g} / {kg.high:g} kg, as published", terms)


def greenllm_table1(gpu: Gpu, catalogue: Catalogue) -> Estimate:
    """What GreenLLM's Table 1 prints."""
    return _single("greenllm_table1", gpu, frozenset({"greenllm"}), catalogue)


def vendor(gpu: Gpu | Host, catalogue: Catalogue) -> Estimate:
    """The maker's product footprint, where there is one."""
    return _single("vendor", gpu, VENDORS, catalogue)


MODELS: dict[EmbodiedModel, Model] = {
    "published": published,
    "sc23": sc23,
    "act": act,
    "ecoserve": ecoserve,
    "greenllm_table1": greenllm_table1,
    "vendor": vendor,
}


class Hardware(msgspec.Struct, frozen=True):
    """The embodied carbon of what a fleet declares, by one model."""

    catalogue: Catalogue = builtin()
    model: EmbodiedModel = "published"
    kept: dict[tuple[str, str], Estimate] = msgspec.field(default_factory=dict)
    """What was worked out: a report over many batches asks for the same few parts again and again."""

    def gpu(self, name: str) -> Estimate:
        """An accelerator alone, by its exact name. A `cpu` replica has none: zero; what the catalogue lacks is unknown."""
        return self._once(("gpu", name), self._gpu)

    def host_share(self, name: str = "slot") -> Estimate:
        """The rest of a server, for one of its GPU slots; for a pool without GPUs, the machine's share."""
        return self._once(("host", name), self._host_share)

    def _once(self, key: tuple[str, str], make: Callable[[str], Estimate]) -> Estimate:
        if key not in self.kept:
            self.kept[key] = make(key[1])
        return self.kept[key]

    def _gpu(self, name: str) -> Estimate:
        if name == "cpu":
            return Estimate(self.model, Range(0, 0, 0), "no accelerator")
        gpu = self.catalogue.gpus.get(name)
        return MODELS[self.model](gpu, self.catalogue) if gpu else unknown(self.model, "not in the catalogue")

    def _host_share(self, name: str) -> Estimate:
        host = self.catalogue.hosts.get(name)
        if host is None or host.gpu_slots is None:
            return unknown(self.model, f"the catalogue lacks the server {name}, or its GPU slots")
        found = next((one for one in host_estimates(host, self.catalogue) if one.kg), None)
        if found is None or found.kg is None:
            return unknown(self.model, f"no figures of the server {name} were found")
        slots = host.gpu_slots.value
        said = f"{found.spread}; a slot of {slots:g}" if slots > 1 else found.spread
        return msgspec.structs.replace(found, kg=found.kg.scaled(1 / slots), spread=said)

    def replica_kg(self, gpu: str, held: Held = NEW) -> Range | None:
        """One replica: its accelerators, and a slot of the host for each; None where either is unknown."""
        kg, host = self.gpu(gpu).kg, self.host_share(held.host).kg
        return (kg + host).scaled(held.gpus) if kg and host else None


def host_estimates(host: Host, catalogue: Catalogue) -> list[Estimate]:
    """A server by every model that knows servers."""
    return [published(host, catalogue), ecoserve_host(host, catalogue), vendor(host, catalogue)]


def _several(kg: Figure, catalogue: Catalogue) -> Estimate:
    """Claims of the whole: the first, between the lowest and the highest."""
    values = [claim.value for claim in kg.all]
    said = "; ".join(
        f"{one.value:g} kg: {catalogue.reference(one.source)}" + (f", {one.note}" * bool(one.note)) for one in kg.all
    )
    found = Range(min(values), kg.value, max(values))
    return Estimate("published", found, said, f"{kg.value:g} kg, as published", [Term.of("the whole", kg, "kg")])


def _single(model: str, thing: Gpu | Host, sources: frozenset[str], catalogue: Catalogue) -> Estimate:
    """One figure has no spread: low, mid and high are the same."""
    cell = thing.embodied_kg if isinstance(thing, Gpu) else thing.kg
    found: Sourced[float] | None = next((one for one in cell.all if one.source in sources), None) if cell else None
    if found is None:
        return unknown(model, f"{thing.name}: none was found")
    note = f", {found.note}" if found.note else ""
    return Estimate(
        model,
        Range(found.value, found.value, found.value),
        f"{catalogue.reference(found.source)}{note}; one figure, without a spread",
        f"{found.value:g} kg, as printed",
        [Term.of("the whole device", found, "kg")],
    )
