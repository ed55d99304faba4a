"""Work divided over places and hours at the least grams, as a linear program: what a plan could be if anything could be divided,
engines started for nothing and all were known."""

from __future__ import annotations

import msgspec
import numpy as np

from batchsched.planner.fleet_model import Floats, Ints
from batchsched.planner.linear import Answer, LinearProgram


class Choices(msgspec.Struct, frozen=True):
    """All that may be done, an entry a choice: some job's work in some cell (a place in an hour)."""

    job: Ints
    cell: Ints
    grams: Floats
    """Of all of the job, were it done there."""
    seconds: Floats
    """Of the cell's room that all of the job would take."""
    most: Floats
    """The share of the job that may be done there."""


def divided(choices: Choices, room_s: Floats, left_out_g: float) -> Answer:
    """Shares by choice at the least grams, with room for so much in each cell. What of a job finds no place weighs `left_out_g`,
    the whole of it, and its share is one of the answer's last, an entry a job."""
    jobs, choice = int(choices.job.max(initial=-1)) + 1, len(choices.job)
    program = LinearProgram()
    unit = max(1.0, left_out_g) / 1e3  # near one, as the solver's tolerances are
    cost = np.append(choices.grams, np.full(jobs, left_out_g)) / unit
    ids = program.add_columns(cost, np.zeros(choice + jobs), np.append(choices.most, np.ones(jobs)))
    whole = program.add_rows(np.ones(jobs), np.ones(jobs))
    cells, place = np.unique(choices.cell, return_inverse=True)
    rooms = program.add_rows(np.zeros(len(cells)), room_s[cells] / 3600)
    program.add_entries(
        np.concatenate([whole[choices.job], whole, rooms[place]]),
        np.concatenate([ids[:choice], ids[choice:], ids[:choice]]),
        np.concatenate([np.ones(choice + jobs), choices.seconds / 3600]),
    )
    answer = program.solve()
    return msgspec.structs.replace(answer, cost=answer.cost * unit)
