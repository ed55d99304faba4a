"""Pictures of the arithmetic of carbon that needs no server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchsched.carbon.reproduce_ecoserve import Reproduction as EcoServe
    from batchsched.carbon.reproduce_greenllm import Reproduction as GreenLlm

_CURVE_G_PER_KWH = range(1, 601, 3)


def of_greenllm(found: GreenLlm, path: Path) -> None:
    """Savings by intensity and by lives, and what the link must carry; the assumed energies and times beside."""
    figure, ((by_intensity, by_link), (by_new, by_old)) = panels(2, 2)
    for one in found.savings:
        split = found.assumed.split(one.rho, one.new_time)
        label = f"rho {one.rho:g}, t'A/tA {one.new_time:g}"
        by_intensity.plot(_CURVE_G_PER_KWH, [100 * split.saving(at) for at in _CURVE_G_PER_KWH], lw=1.2, label=label)
    for at, low, high in ((17, None, 27.9), (261, 31.3, 40.6)):
        by_intensity.plot([at] * 2, [low or high, high], color="#222222", marker="_", ms=9, label="printed" if low else None)
    by_intensity.set(title="saving by intensity (energies and times assumed)", xlabel="g/kWh", ylabel="%")
    by_intensity.legend(fontsize=7)
    for axis, gpu in ((by_new, "A100"), (by_old, "T4")):
        for lives in found.lives:
            if lives.gpu == gpu:
                at_7 = lives.saving["7"]
                points = [100 * (saving - at_7) for saving in lives.saving.values()]
                axis.plot([float(years) for years in lives.saving], points, lw=1.2, marker=".")
        axis.set(title=f"saving at 261 g/kWh against a life of 7 years, {gpu}", xlabel="years", ylabel="points")
    places = range(len(found.links))
    by_link.plot(places, [link.cache_bits_per_s / 1e6 for link in found.links], "o", label="prefill and decoding apart, in time")
    by_link.plot(places, [link.drafts_bits_per_s / 1e6 for link in found.links], "s", label="drafts apart, in time")
    by_link.plot(
        places, [8 * link.cache_bytes / 1e6 for link in found.links], "o", mfc="none", label="the same, on average", color="C0"
    )
    by_link.plot(places, [8 * link.drafts_bytes / 1e6 for link in found.links], "s", mfc="none", color="C1")
    by_link.set_xticks(places, [link.load for link in found.links], rotation=40, ha="right", fontsize=7)
    by_link.set(title="link at one request a second", ylabel="Mbit/s", yscale="log")
    by_link.margins(y=0.35)
    by_link.legend(fontsize=7, loc="upper left")
    figure.savefig(path)


def of_ecoserve(found: EcoServe, path: Path) -> None:
    """The example node by part, the die's share of each GPU, the host's share of each system."""
    figure, ((parts, dies, hosts),) = panels(1, 3)
    parts.barh(list(found.parts_kg), list(found.parts_kg.values()))
    parts.set(title="example node, kgCO2e")
    dies.barh([one.gpu for one in found.dies], [100 * one.share for one in found.dies])
    dies.axvline(20, color="#c0504d", ls=":", label="published: around 20 %")
    dies.set(title="the die's share of a GPU, %")
    dies.legend(fontsize=7)
    hosts.barh(list(found.host_shares), [100 * value for value in found.host_shares.values()])
    hosts.axvline(50, color="#c0504d", ls=":", label="published: over half")
    hosts.set(title="the host's share of a server, %")
    hosts.legend(fontsize=7)
    for axis in (parts, dies, hosts):
        axis.invert_yaxis()
        axis.tick_params(axis="y", labelsize=7)
    figure.savefig(path)


def panels(rows: int, columns: int) -> tuple[Any, Any]:
    """Drawn without a display, and without the state that pyplot keeps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, 4 * rows), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    return figure, axes
