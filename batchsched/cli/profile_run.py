"""`batchsched profile run`: measure a model on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from batchsched.cli.common import Number, config_option, json_option, load, need, print_json, print_table, say
from batchsched.errors import NotFound, ServerUnreachable

if TYPE_CHECKING:
    from batchsched.executors.profile_run import Profiled, Server
    from batchsched.executors.profiling import Step
    from batchsched.fleet import Mode
    from batchsched.profiles.phases import Phases
    from batchsched.profiles.trials import Figure, Summary
    from batchsched.wire import Probe, Trial

WORKLOADS = ("sharegpt", "humaneval", "longbench")
SIZES = ("p25", "p50", "p75")
MODES = ("standalone", "speculative", "prefill_decode", "draft_target")


@click.command()
@click.option("--pool", required=True, help="The pool whose replica this machine is.")
@click.option("--model", required=True, help="The model, as batches name it.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help="Of the ways in which the model is declared to be served, this one (draft_target is experimental).",
)
@click.option("--workload", "workloads", type=click.Choice(WORKLOADS), multiple=True, help="Whose request sizes [default: all].")
@click.option("--size", "sizes", type=click.Choice(SIZES), multiple=True, help="Which percentiles of them [default: all].")
@click.option(
    "--rate",
    "rates",
    type=Number(0, min_open=True),
    multiple=True,
    help="Requests a second, in place of the usual ones.",
)
@click.option("--full-load", is_flag=True, help="No arrivals at a rate: only as many requests at once as the pool takes.")
@click.option("--seconds", type=Number(0, min_open=True), default=20.0, show_default=True, help="Length of one trial.")
@click.option("--spread", type=Number(0, 1, min_open=True), default=0.10, show_default=True, help="How sure figures must be.")
@click.option("--least", type=click.IntRange(2), default=3, show_default=True, help="Trials of each probe at least.")
@click.option("--most", type=click.IntRange(2), default=8, show_default=True, help="Trials of each probe at most.")
@click.option("--server", metavar="URL", help="The server [default: from the configuration].")
@click.option("--no-server", is_flag=True, help="Ask no server: keep the results on this machine.")
@click.option("--engine-url", metavar="URL", help="Use this running vLLM server, which nobody else may use meanwhile.")
@click.option("--api-key", help="Key of the server [default: from the configuration].")
@json_option
@config_option
def run(
    *,
    pool: str,
    model: str,
    mode: Mode | None,
    workloads: Sequence[str],
    sizes: Sequence[str],
    rates: Sequence[float],
    full_load: bool,
    seconds: float,
    spread: float,
    least: int,
    most: int,
    server: str | None,
    no_server: bool,
    engine_url: str | None,
    api_key: str | None,
    as_json: bool,
    config: Path | None,
) -> None:
    """Measure a model on this machine's replica of a pool, and give the results to the server.

    Stop its worker first: what else the machine does is measured too. A run that was stopped goes on where it stopped. With
    --json: one object.
    """
    if least > most:
        raise click.UsageError("--least is above --most.")
    need("worker")
    settings = load(config, worker__server_url=server, worker__engine_url=engine_url, server__api_key=api_key).settings
    from batchsched.executors.profile_run import Server, Wanted, run_profile
    from batchsched.profiles.grid import grid
    from batchsched.profiles.slo import SizeName
    from batchsched.profiles.trials import enough

    def probes(context_tokens: int | None) -> list[Probe]:
        asked_rates = () if full_load else tuple(rates) or None
        found, left_out = grid(
            workloads or WORKLOADS,
            [size for size in get_args(SizeName) if not sizes or size in sizes],
            asked_rates,
            context_tokens,
        )
        for line in left_out:
            say(f"Left out: {line}.")
        return found

    where = Server("" if no_server else settings.worker.server_url, settings.server.api_key)
    wanted = Wanted(pool, model, probes, partial(enough, bound=spread, least=least, most=most), seconds, mode)
    profiled = asyncio.run(run_profile(wanted, settings.worker, where, settings.fleet(), say=say, tell=_tell))
    _report(profiled, spread, where, as_json=as_json)


def _tell(step: Step) -> None:
    trial = step.trial
    rate = "" if step.probe.qps is None else f" at {step.probe.qps:g}/s"
    speed = (trial.input_tokens + trial.output_tokens) / trial.seconds
    power = f", {trial.total_j / trial.seconds:.1f} W" if trial.total_j is not None else ""
    say(f"[{step.number}/{step.of}] {step.probe.name}{rate}, trial {step.trials}: {speed:,.0f} tokens/s{power}")


def _report(profiled: Profiled, bound: float, server: Server, *, as_json: bool) -> None:
    from batchsched.profiles.phases import phases
    from batchsched.profiles.slo import WORKLOADS as KNOWN
    from batchsched.profiles.trials import summarise

    slos = {name: workload.slo for name, workload in KNOWN.items()}
    measured = [trials for trials in profiled.trials.values() if trials]
    summaries = [summarise(trials, bound, slos.get(trials[0].probe.name.partition(" ")[0])) for trials in measured]
    split = phases([trial for trials in measured for trial in trials])
    if as_json:
        from batchsched.cli.printed_library import Measured

        print_json(Measured(tuple(summaries), split, str(profiled.path)))
    else:
        _show(summaries, split)
    say(f"Every trial is kept in {profiled.path}.")
    if server.url:
        _deliver(server, [trial for trials, told in zip(measured, summaries, strict=True) if not told.noise for trial in trials])


def _deliver(server: Server, clear: Sequence[Trial]) -> None:
    """What is too noisy teaches nothing, and stays here."""
    from batchsched.executors.profile_run import deliver

    if not clear:
        say("All of it is too noisy: the server is told nothing.")
        return
    try:
        told = asyncio.run(deliver(server, clear))
    except (ServerUnreachable, NotFound) as problem:
        say(f"{problem.message} The same command tells the server later, without measuring again.")
    else:
        say(f"The server has {told.recorded} new trials; plans go by them from now on.")


def _show(summaries: Sequence[Summary], split: Phases) -> None:
    rows = [
        (
            one.probe.name,
            "full" if one.probe.qps is None else f"{one.probe.qps:g}/s",
            str(one.trials),
            _figure(one.tokens_per_s, "{:,.0f}"),
            _figure(one.power_w, "{:.1f}"),
            _figure(one.energy_j_per_token, "{:.3g}"),
            _figure(one.ttft_s, "{:.3f}"),
            _figure(one.tpot_s, "{:.4f}"),
            "" if one.attainment is None or one.probe.qps is None else f"{one.attainment:.0%}",
        )
        for one in summaries
    ]
    print_table(("requests", "load", "trials", "tokens/s", "W", "J/token", "TTFT s", "TPOT s", "in SLO"), rows)
    click.echo()
    for name, seconds, joules in (("Reading", split.prefill_s, split.prefill_j), ("Writing", split.decode_s, split.decode_j)):
        energy = "energy cannot be told" if joules is None else f"{_figure(joules, '{:.3g}')} J"
        time = "time cannot be told" if seconds is None else f"{_figure(seconds, '{:.3g}')} s"
        click.echo(f"{name} takes, a token at full load: {time}, {energy}.")
    energies = sorted({one.energy_source for one in summaries})
    click.echo(f"Energy is {', '.join(energies)}.")
    for one in summaries:
        for why in one.noise:
            rate = "" if one.probe.qps is None else f" at {one.probe.qps:g}/s"
            click.echo(f"Too noisy: {one.probe.name}{rate}: {why}.")


def _figure(found: Figure | None, form: str) -> str:
    if found is None:
        return ""
    return form.format(found.mean) + ("" if found.spread is None else f" ±{found.spread:.0%}")
