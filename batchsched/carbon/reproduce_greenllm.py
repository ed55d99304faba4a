"""GreenLLM (arXiv 2412.20322) computed again: its Table 1, its savings by intensity and by lifetime, and its bandwidths.

The paper does not print the energies and times behind its savings, so they are given here as functions of assumed ones
(`Assumed`), with the paper's figures beside. Nothing is fitted to the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from batchsched.carbon.claims import Claim, error_pct
from batchsched.carbon.greenllm import Device, Split, Use, new_life_turns_at_g_per_kwh, saving_grows_with_intensity
from batchsched.carbon.models import greenllm_table1
from batchsched.carbon.presets import GRIDS_G_PER_KWH, INTENSITY_G_PER_KWH, LIFETIME_YEARS
from batchsched.carbon.recipe import embodied_kg
from batchsched.carbon.traffic import LLAMA_7B, Drafts, of_drafts, of_kv_cache
from batchsched.catalogue import builtin

OLD_LIVES = (5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
NEW_LIVES = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
HOUR_S = 3600.0


class Table1Row(msgspec.Struct, frozen=True):
    """A GPU's embodied carbon as printed, and by the recipe that comes nearest."""

    gpu: str
    published_kg: float
    computed_kg: float
    error_pct: float
    inputs: str
    as_listed_kg: float
    """With the memory that the table lists, and the packages that its other GPUs have."""


class Assumed(msgspec.Struct, frozen=True):
    """What the paper does not print and this computation therefore assumes."""

    rho: tuple[float, ...] = (0.6, 0.7, 0.8)
    """Energy of both GPUs together as a share of the A100's alone."""
    new_time: tuple[float, ...] = (0.5, 1.0)
    """Busy time of the A100 beside the T4, as a share of its time alone."""
    old_time: float = 1.0
    """Busy time of the T4, as a share of the A100's time alone."""
    power_w: float = 300.0
    """Mean draw of the A100 alone while busy."""

    def split(
        self, rho: float, new_time: float, *, new_years: float = LIFETIME_YEARS, old_years: float = LIFETIME_YEARS
    ) -> Split:
        """An A100 beside a T4 with the embodied carbon of Table 1. Only the sum of both energies matters."""
        alone = Use(HOUR_S, self.power_w * HOUR_S)
        new, old = Use(HOUR_S * new_time, rho * alone.energy_j), Use(HOUR_S * self.old_time, 0.0)
        return Split(alone, new, old, Device(_printed_kg("A100-40"), new_years), Device(_printed_kg("T4"), old_years))


class Savings(msgspec.Struct, frozen=True):
    """The share of carbon saved by g/kWh (as text), for one assumed energy and time."""

    rho: float
    new_time: float
    saving: dict[str, float]
    grows_with_intensity: bool
    new_life_turns_at_g_per_kwh: float | None
    """Above this intensity a shorter life of the new GPU lowers the saving; None: it raises it at every intensity."""


class Lives(msgspec.Struct, frozen=True):
    """The saving at 261 g/kWh by the life of one of the two GPUs, the other's being 7 years."""

    gpu: str
    rho: float
    new_time: float
    saving: dict[str, float]
    """By years, as text."""


class Link(msgspec.Struct, frozen=True):
    """What a link between the two GPUs carries for one request size, with Llama 7B at one request a second."""

    load: str
    within_s: float
    """The time to the next token that the latency target allows."""
    cache_bytes: float
    drafts_bytes: float
    volume_ratio: float
    cache_bits_per_s: float
    drafts_bits_per_s: float
    rate_ratio: float


class Load(msgspec.Struct, frozen=True):
    """A request size with the time that a token may take."""

    name: str
    input_tokens: int
    output_tokens: int
    tpot_s: float


class Reproduction(msgspec.Struct, frozen=True):
    """Everything that was computed, and the paper's statements against it."""

    table1: list[Table1Row]
    assumed: Assumed
    savings: list[Savings]
    lives: list[Lives]
    drafts: Drafts
    links: list[Link]
    claims: list[Claim]


def reproduce(loads: Iterable[Load], assumed: Assumed | None = None, drafts: Drafts | None = None) -> Reproduction:
    """All of it; `loads`: the request sizes for the bandwidths."""
    assumed, drafts = assumed or Assumed(), drafts or Drafts()
    pairs = [(rho, new_time) for rho in assumed.rho for new_time in assumed.new_time]
    savings = [_savings(assumed, *pair) for pair in pairs]
    lives = [_lives(assumed, gpu, *pair) for gpu in ("A100", "T4") for pair in pairs]
    links = [_link(load, drafts) for load in loads]
    rows = table_1()
    return Reproduction(
        rows,
        assumed,
        savings,
        lives,
        drafts,
        links,
        [*_of_table(rows), *_of_savings(savings), *_of_lives(lives), *_of_links(links)],
    )


def table_1() -> list[Table1Row]:
    """Table 1 by the recipe of SC'23: it comes out only with 32 GB for the V100, which the table lists with 16, and without
    packages for the T4, which the other two have."""

    def row(gpu: str, computed_kg: float, inputs: str, as_listed_kg: float) -> Table1Row:
        published = _printed_kg("A100-40" if gpu == "A100" else gpu)
        return Table1Row(gpu, published, computed_kg, error_pct(computed_kg, published), inputs, as_listed_kg)

    return [
        row("T4", embodied_kg(545, 12, 16, packages=0), "545 mm2, 12 nm, 16 GB, no packages", embodied_kg(545, 12, 16)),
        row("V100", embodied_kg(815, 12, 32), "815 mm2, 12 nm, 32 GB, 26 packages", embodied_kg(815, 12, 16)),
        row("A100", embodied_kg(826, 7, 40), "826 mm2, 7 nm, 40 GB, 26 packages", embodied_kg(826, 7, 40)),
    ]


def _printed_kg(gpu: str) -> float:
    """Table 1, as the catalogue has it."""
    kg = greenllm_table1(builtin().gpus[gpu], builtin()).kg
    assert kg is not None
    return kg.mid


def _savings(assumed: Assumed, rho: float, new_time: float) -> Savings:
    split = assumed.split(rho, new_time)
    saving = {f"{intensity:g}": split.saving(intensity) for intensity in GRIDS_G_PER_KWH.values()}
    return Savings(rho, new_time, saving, saving_grows_with_intensity(split), new_life_turns_at_g_per_kwh(split))


def _lives(assumed: Assumed, gpu: str, rho: float, new_time: float) -> Lives:
    intensity = INTENSITY_G_PER_KWH
    if gpu == "A100":
        saving = {f"{years:g}": assumed.split(rho, new_time, new_years=years).saving(intensity) for years in NEW_LIVES}
    else:
        saving = {f"{years:g}": assumed.split(rho, new_time, old_years=years).saving(intensity) for years in OLD_LIVES}
    return Lives(gpu, rho, new_time, saving)


def _link(load: Load, drafts: Drafts) -> Link:
    cache, drafted = of_kv_cache(LLAMA_7B, load.input_tokens), of_drafts(LLAMA_7B, load.output_tokens, drafts)
    needed, needed_drafts = (one.needed_bits_per_s(1.0, load.tpot_s) for one in (cache, drafted))
    return Link(
        load.name,
        load.tpot_s,
        cache.bytes_a_request,
        drafted.bytes_a_request,
        cache.bytes_a_request / drafted.bytes_a_request,
        needed,
        needed_drafts,
        needed / needed_drafts,
    )


def _of_table(rows: Sequence[Table1Row]) -> list[Claim]:
    notes = {
        "T4": "Only without packages; with those of the others",
        "V100": "Only with 32 GB; with the 16 GB that the table lists",
        "A100": "With the table's own figures",
    }
    return [
        Claim(
            f"Table 1, {row.gpu}",
            f"{row.published_kg:g} kg",
            f"{row.computed_kg:.3f} kg ({row.error_pct:+.2f} %)",
            abs(row.error_pct) <= (1.0 if row.gpu == "T4" else 0.5),
            f"{notes[row.gpu]}: {row.as_listed_kg:.2f} kg.",
        )
        for row in rows
    ]


def _of_savings(savings: Sequence[Savings]) -> list[Claim]:
    def spread(at: str) -> str:
        found = [one.saving[at] for one in savings]
        return f"{min(found):.1%} to {max(found):.1%}"

    assumed = "Assumed energies and times: the figures are of the same kind, not a reproduction."
    apart = max(abs(one.saving["501"] - one.saving["261"]) for one in savings)
    return [
        Claim("saving at 261 g/kWh", "31.3 to 40.6 % at most, by workload", spread("261"), None, assumed),
        Claim("saving at 17 g/kWh", "27.9 % at most", spread("17"), None, assumed),
        Claim(
            "savings grow with the intensity",
            "always (section 5)",
            f"in {sum(one.grows_with_intensity for one in savings)} of {len(savings)} cases",
            all(one.grows_with_intensity for one in savings),
            "Holds where E'A + EB > rho EA.",
        ),
        Claim(
            "savings at 261 and 501 g/kWh are close",
            "close (figure 14)",
            f"{100 * apart:.2f} points apart at most",
            apart < 0.01,
            "Both are near 1 - rho: embodied carbon, by busy time and of GPUs alone, is a small part there.",
        ),
    ]


def _of_lives(lives: Sequence[Lives]) -> list[Claim]:
    def rising(gpu: str) -> list[bool]:
        """Does the saving rise with the life?"""
        return [
            one.saving[min(one.saving, key=float)] < one.saving[max(one.saving, key=float)] for one in lives if one.gpu == gpu
        ]

    new, old = rising("A100"), rising("T4")
    shorter = f"lowers it in {sum(new)} of {len(new)} cases"
    return [
        Claim(
            "a shorter life of the new GPU",
            "raises the saving (section 5)",
            shorter,
            not any(new),
            "Raises it only where NA alpha (t'A - rho tA) < tA tB B / TB: where the A100's time falls as much as the energy.",
        ),
        Claim(
            "a shorter life of the new GPU",
            "lowers the saving (section 7.6)",
            shorter,
            all(new),
            "The paper's two statements contradict each other; the second is what a still busy A100 gives.",
        ),
        Claim(
            "a longer life of the old GPU",
            "raises the saving (sections 5 and 7.6)",
            f"raises it in {sum(old)} of {len(old)} cases",
            all(old),
        ),
    ]


def _of_links(links: Sequence[Link]) -> list[Claim]:
    if not links:
        return []
    gbit = 1e9
    by_rate, by_volume = ([getattr(link, name) for link in links] for name in ("rate_ratio", "volume_ratio"))
    needed, mean = (
        (min(values), max(values))
        for values in ([link.cache_bits_per_s / gbit for link in links], [8 * link.cache_bytes / gbit for link in links])
    )
    return [
        Claim(
            "link for prefill and decoding apart, Llama 7B, one request a second",
            "over 10 Gbit/s",
            f"{needed[0]:.1f} to {needed[1]:.1f} Gbit/s in time; {mean[0]:.1f} to {mean[1]:.1f} Gbit/s on average",
            needed[1] > 10,
            "The paper does not name the request size. The rate needed in time can get there; the volume cannot.",
        ),
        Claim(
            "drafts apart need less, by the volume of a request",
            "65 to 434 times less",
            f"{min(by_volume):.0f} to {max(by_volume):.0f} times less",
            _within(by_volume, 65, 434),
            "Over the request sizes of its Table 2. The paper does not say what it measured.",
        ),
        Claim(
            "drafts apart need less, by the rate needed in time",
            "65 to 434 times less",
            f"{min(by_rate):.0f} to {max(by_rate):.0f} times less",
            _within(by_rate, 65, 434),
            "Over the same sizes: each piece arrives within the time that the latency target gives one token. "
            "Open where that holds for some of the sizes only.",
        ),
    ]


def _within(values: Sequence[float], low: float, high: float) -> bool | None:
    """Do they all lie in a published range? None where some do."""
    inside = [low <= value <= high for value in values]
    return True if all(inside) else None if any(inside) else False
