"""The draft engine as the service asks it: many sequences in one call of its /v1/completions, by token ids, always greedy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import aiohttp
import msgspec

from batchsched.executors.drafts.sequence import Sequence

log = logging.getLogger(__name__)
MOST_PROMPTS = 1024
"""In one call, by vLLM's default limit."""
_CALL_S = 30.0
_COLD_TOKENS = 1024
"""A prompt with more tokens than this that the engine has not read is read in the background first."""


class _Choice(msgspec.Struct):
    index: int
    token_ids: list[int] | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class Drafter:
    """One draft engine. A sequence that it refuses is left alone from then on; no failure of it is raised.

    `url`: where it answers now, empty while it does not: it may be started again, and elsewhere.
    """

    def __init__(self, session: aiohttp.ClientSession, url: Callable[[], str], model: str, key: str = "") -> None:
        self.calls = self.failures = self.tokens = 0
        self.call_s = 0.0
        self._session, self._url, self._model = session, url, model
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._longest: int | None = None

    def cold(self, sequence: Sequence) -> bool:
        """Would a draft have to wait for its prompt?"""
        return len(sequence.tokens) - sequence.read > _COLD_TOKENS

    async def continue_(self, sequences: list[Sequence], count: int) -> None:
        """Let the engine think `count` tokens further of each."""
        if not self._url():
            return
        longest = await self._find_longest()
        fit = [one for one in sequences if not one.refused]
        if longest is not None:
            fit = [one for one in fit if len(one.tokens) + len(one.guess()) + count <= longest]
        for start in range(0, len(fit), MOST_PROMPTS):
            await self._call(fit[start : start + MOST_PROMPTS], count)

    async def _call(self, sequences: list[Sequence], count: int) -> None:
        prompts = [one.prompt() for one in sequences]
        versions = [one.version for one in sequences]
        asked = {"model": self._model, "prompt": prompts, "max_tokens": count, "temperature": 0}
        began = time.monotonic()
        self.calls += 1
        try:
            status, body = await self._post({**asked, "return_token_ids": True, "ignore_eos": True})
            said = msgspec.json.decode(body, type=_Completion).choices if status == 200 else []
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError) as problem:
            self._failed(f"{type(problem).__name__} {problem}".strip())
            return
        finally:
            self.call_s += time.monotonic() - began
        if status in {400, 422}:
            await self._divide(sequences, count)
        elif status != 200:
            self._failed(f"it answered {status}")
        for choice in said:
            if choice.token_ids and choice.index < len(sequences):
                sequence, prompt = sequences[choice.index], prompts[choice.index]
                self.tokens += len(choice.token_ids)
                sequence.read = max(sequence.read, len(prompt))
                sequence.learn(len(prompt), choice.token_ids, versions[choice.index])

    async def _divide(self, sequences: list[Sequence], count: int) -> None:
        """One of them is refused, and the call with it: find out which."""
        if len(sequences) == 1:
            sequences[0].refused = True
            return
        middle = len(sequences) // 2
        await self._call(sequences[:middle], count)
        await self._call(sequences[middle:], count)

    async def _post(self, asked: dict[str, object]) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=_CALL_S)
        data = msgspec.json.encode(asked)
        headers = {"content-type": "application/json", **self._headers}
        async with self._session.post(f"{self._url()}/v1/completions", data=data, headers=headers, timeout=timeout) as answer:
            return answer.status, await answer.read()

    async def _find_longest(self) -> int | None:
        """The engine's longest sequence; None where it does not say."""
        if self._longest is None:
            try:
                async with self._session.get(f"{self._url()}/v1/models", headers=self._headers) as answer:
                    models = msgspec.json.decode(await answer.read(), type=_Models).data
            except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError):
                return None
            self._longest = next((one.max_model_len for one in models if one.id == self._model), None)
        return self._longest

    def _failed(self, why: str) -> None:
        if not self.failures:
            log.warning("The draft engine fails: %s. Targets go on without drafts.", why)
        self.failures += 1
