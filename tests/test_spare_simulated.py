"""The simulated server: what it counts, its priorities, its chunks, its preemptions."""

from __future__ import annotations

import pytest

from benchmarks.spare.simulated import Asked, Server, Shape

EXACT = Shape(base_s=0.01, per_decode_s=0.001, per_prefill_s=0.0001, noise=0.0, hiccup_share=0.0, front_s=0.0)


def run(server: Server, now_s: float = 0.0, steps: int = 100_000) -> float:
    """Steps until nothing is left to do; the time then."""
    for _ in range(steps):
        ends_s = server.begin(now_s)
        if ends_s is None:
            break
        server.end(ends_s)
        now_s = ends_s
    return now_s


def test_one_request_takes_what_the_shape_says() -> None:
    server, asked = Server(EXACT), Asked(100, 5)
    server.submit(asked, 0.0)
    assert run(server) == pytest.approx(0.01 + 100 * 0.0001 + 4 * (0.01 + 0.001))
    assert asked.first_s == pytest.approx(0.02)
    assert asked.tpot_s == pytest.approx(0.011)
    counts = server.counts(1.0)
    assert (counts.running, counts.waiting, counts.finished, counts.written_tokens, counts.steps) == (0, 0, 1, 5, 5)
    assert counts.first_token.count == 1
    assert counts.each_token.mean == pytest.approx(0.011)


def test_a_long_prompt_is_read_in_chunks() -> None:
    shape = Shape(**{**{f: getattr(EXACT, f) for f in EXACT.__struct_fields__}, "step_tokens": 64})
    server, asked = Server(shape), Asked(200, 1)
    server.submit(asked, 0.0)
    run(server)
    assert server.steps == 4


def test_of_those_that_wait_the_first_priority_goes_first() -> None:
    shape = Shape(max_seqs=1, noise=0.0, hiccup_share=0.0, front_s=0.0)
    server = Server(shape)
    asked = [Asked(10, 3, priority=5), Asked(10, 3, priority=5), Asked(10, 3, priority=0)]
    for at, each in enumerate(asked):
        server.submit(each, at / 1000)
    run(server, 0.01)
    ended = [each.ended_s or 0.0 for each in asked]
    assert ended[2] < ended[0] < ended[1]


def test_where_room_runs_out_the_last_is_preempted_and_all_end() -> None:
    shape = Shape(kv_tokens=160, noise=0.0, hiccup_share=0.0, front_s=0.0)
    server = Server(shape)
    asked = [Asked(32, 60, priority=0), Asked(32, 60, priority=9), Asked(32, 60, priority=9)]
    for each in asked:
        server.submit(each, 0.0)
    run(server)
    assert server.preemptions > 0
    assert all(each.written == 60 for each in asked)
    assert asked[0].ended_s == min(each.ended_s or 0.0 for each in asked)
    assert server.held_tokens == 0


def test_the_same_seed_gives_the_same_times() -> None:
    def ended() -> float:
        server = Server(Shape(), seed=3)
        for _ in range(20):
            server.submit(Asked(50, 30), 0.0)
        return run(server)

    assert ended() == ended()
