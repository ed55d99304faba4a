"""The class that vLLM asks for drafts: method "custom_class" and model "batchsched_drafts.proposer.Proposer" of its speculation.

vLLM calls `propose` after each step, in the engine's loop, and verifies what it returns in the next step, so answers are those of
the target model alone. One exchange with the draft service a step serves the whole batch. It never raises: where the service
fails, is late, or does not pay (`governor`), rows stay empty and the engine goes on by itself.

It is told by its environment: BATCHSCHED_DRAFTS, the service as host:port; BATCHSCHED_DRAFTS_KEY; BATCHSCHED_DRAFTS_TOLD, a file
that gets its counters as JSON each second; BATCHSCHED_DRAFTS_ALWAYS=1, never to switch itself off.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import ADDRESS, ALWAYS, KEY, TOLD, frames
from .governor import Governor
from .link import Link, address_of
from .rows import Known, Rows

log = logging.getLogger(__name__)
_TOLD_EVERY_S = 1.0
_FEED_TOKENS = 65_536
"""New tokens that one step sends at most: prompts beyond it go out over several."""


class Proposer:
    """Made by vLLM once an engine process."""

    def __init__(
        self,
        vllm_config: Any,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        speculative, model = vllm_config.speculative_config, vllm_config.model_config
        self.tokens = min(int(speculative.num_speculative_tokens), frames.MOST_DRAFTED)
        self._most_length, self._vocabulary = int(model.max_model_len), int(model.get_vocab_size())
        self._silent = int(getattr(vllm_config.parallel_config, "rank", 0)) != 0  # drafts are taken from the first process alone
        self._clock = clock
        self._told = Path(environment[TOLD]) if environment.get(TOLD) else None
        self._told_at = -_TOLD_EVERY_S
        self.governor = Governor(self.tokens, environment.get(ALWAYS) == "1")
        self.link = Link(address_of(environment[ADDRESS]), environment.get(KEY, ""), self.tokens, clock)
        self.calls = self.drafts = self.drafted = self.accepted = self.faults = 0
        self.wait_s = 0.0
        self._rows = Rows(int(vllm_config.scheduler_config.max_num_seqs))
        self._step = self._connections = 0
        self._entered_at: float | None = None
        self._counts = self._pending = False
        self._lengths: npt.NDArray[Any] = np.empty(0, np.int32)
        _let_the_others_draft(speculative, self.tokens)

    def load_model(self, *_: Any, **__: Any) -> None:
        """Nothing is loaded here."""

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: npt.NDArray[Any],
        token_ids_cpu: npt.NDArray[Any],
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Drafts for the rows of a batch, empty where there are none.

        `sampled_token_ids`: of each row the tokens that the step gave, none while its prompt is being read. Of `token_ids_cpu`,
        the first `num_tokens_no_spec` of a row are its prompt and answer so far, those tokens included.
        """
        del slot_mappings
        if self._silent:
            return [[] for _ in sampled_token_ids]
        try:
            drafts = self._propose(sampled_token_ids, num_tokens_no_spec[: len(sampled_token_ids)], token_ids_cpu)
        except Exception:  # an error here would end the engine, and drafts are never needed
            if not self.faults:
                log.exception("Drafts failed; the engine goes on without them.")
            self.faults += 1
            drafts = [[] for _ in sampled_token_ids]
        return drafts

    def counters(self) -> dict[str, Any]:
        """What it did so far. `off_s`: seconds at work that it had switched itself off; `wait_s`: spent on drafts."""
        link, governor = self.link, self.governor
        return {
            "state": governor.state,
            "calls": self.calls,
            "drafts": self.drafts,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "sent_bytes": link.sent_bytes,
            "received_bytes": link.received_bytes,
            "late": link.late,
            "broken": link.broken,
            "connections": link.made,
            "faults": self.faults,
            "off_s": round(governor.off_s, 3),
            "wait_s": round(self.wait_s, 3),
            "plain_tokens_per_sequence_s": round(governor.plain_rate, 3),
            "drafted_tokens_per_sequence_s": round(governor.drafted_rate, 3),
        }

    def _propose(self, sampled: list[list[int]], lengths: npt.NDArray[Any], table: npt.NDArray[Any]) -> list[list[int]]:
        now = self._clock()
        self._watch(now, sampled, lengths)
        drafting = self.governor.drafting
        ready = drafting and self.link.ready()
        self._counts = ready or not drafting  # what is neither says nothing about drafts
        self._step = (self._step + 1) & 0xFFFFFFFF
        drafts: list[list[int]] = [[] for _ in sampled]
        if ready or self._pending:
            rows = self._rows.follow(lengths.tolist(), [len(tokens) for tokens in sampled], table)
            self._count(rows, sampled)
            if ready:
                self._ask(rows, sampled, drafts)
                self.wait_s += self._clock() - now
        self._tell(now)
        return drafts

    def _watch(self, now: float, sampled: list[list[int]], lengths: npt.NDArray[Any]) -> None:
        """Tell the governor of the step that ended, where most rows went on from the one before."""
        count = min(len(lengths), len(self._lengths))
        went_on = int(np.count_nonzero(lengths[:count] == self._lengths[:count] + [len(new) for new in sampled[:count]]))
        if self._entered_at is not None and self._counts and 2 * went_on > len(sampled):
            active = sum(1 for new in sampled if new)
            self.governor.step(now, now - self._entered_at, active, sum(map(len, sampled)))
        self._entered_at, self._lengths = now, lengths.copy()

    def _count(self, rows: list[Known], sampled: list[list[int]]) -> None:
        """What became of the drafts of the step before: all tokens of a row but its last were drafted."""
        for known, new in zip(rows, sampled, strict=True):
            if known.draft and new:
                self.accepted += sum(1 for ours, theirs in zip(known.draft, new[:-1], strict=False) if ours == theirs)
            known.draft = []
        self._pending = False

    def _ask(self, rows: list[Known], sampled: list[list[int]], drafts: list[list[int]]) -> None:
        if self.link.made != self._connections:
            self._connections = self.link.made
            self._rows.forget_sent()
        asked, sent = self._news(rows, sampled)
        if not sent:
            return
        self.calls += 1
        answer = self.link.ask(self._step, sent, self.governor.wait_s)
        self.governor.answered(self._clock(), answer is not None)
        for index, draft in zip(asked, answer or [], strict=False):
            if isinstance(draft, int):
                if draft == frames.UNKNOWN:
                    rows[index].sent = 0
                continue
            usable = self._usable(draft, rows[index].length)
            drafts[index] = rows[index].draft = usable
            self.drafts += bool(usable)
            self.drafted += len(usable)
            self._pending = self._pending or bool(usable)

    def _news(self, rows: list[Known], sampled: list[list[int]]) -> tuple[list[int], list[frames.Row]]:
        """The rows that want drafts, and what is sent: their new tokens first, then as much of long prompts as fits."""
        asked: list[int] = []
        sent: list[frames.Row] = []
        left = _FEED_TOKENS
        for index in sorted(range(len(rows)), key=lambda index: rows[index].length - rows[index].sent):
            known = rows[index]
            wanted = bool(sampled[index]) and known.length + 1 < self._most_length
            end = min(known.length, known.sent + left)
            left -= end - known.sent
            wanted = wanted and end == known.length
            if end > known.sent or wanted:
                sent += _pieces(known, end, wanted)
            if wanted:
                asked.append(index)
        return asked, sent

    def _usable(self, draft: list[int], length: int) -> list[int]:
        """As much of a draft as the target model can verify."""
        draft = draft[: max(0, min(self.tokens, self._most_length - length - 1))]
        strange = next((at for at, token in enumerate(draft) if token >= self._vocabulary), len(draft))
        return draft[:strange]

    def _tell(self, now: float) -> None:
        if self._told is None or now - self._told_at < _TOLD_EVERY_S:
            return
        self._told_at = now
        half = self._told.with_name(f".{self._told.name}")
        half.write_text(json.dumps(self.counters()), "utf-8")
        half.replace(self._told)


def _pieces(known: Known, end: int, wanted: bool) -> Sequence[frames.Row]:
    """The tokens of a sequence that were not sent yet, up to `end`, in rows that are short enough."""
    rows: list[frames.Row] = []
    start = known.sent
    while start < end or not rows:
        stop = min(end, start + frames.MOST_TOKENS)
        data = known.tokens[start:stop].astype("<u4").tobytes()
        rows.append(frames.Row(known.sequence, data, start == 0, wanted and stop == end))
        start = stop
    known.sent = end
    return rows


def _let_the_others_draft(speculative: Any, tokens: int) -> None:
    """vLLM stops all drafts while one sequence is within `tokens` of the longest; here each row is held back by itself."""
    draft_model = getattr(speculative, "draft_model_config", None)
    if draft_model is not None and getattr(draft_model, "max_model_len", None):
        speculative.draft_model_config = copy.copy(draft_model)
        speculative.draft_model_config.max_model_len += tokens + 1
