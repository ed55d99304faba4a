"""Every check that a file's lines must pass, in one pass over a stream: at upload, at create and in `batchsched validate`.

The pass notes what creating a batch needs to know (endpoint, model, limits, where to cut) in `Facts`, which are kept with the
file: a file whose facts suit a batch is not read again. Only a file that does not suit is, to name its lines.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Mapping

import msgspec

from batchsched.lines import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, RESPONSES, Line, LineError, Run, iter_lines, iter_runs
from batchsched.lines.cuts import Cuts
from batchsched.lines.limits import MOST, answers_of, limit_of
from batchsched.lines.rules import Rules
from batchsched.lines.shapes import MAX_MODEL_CHARS, Body, Form, PlainBody, PlainForm, kind_of, loose, plain
from batchsched.lines.smuggling import refuse
from batchsched.lines.strict import Flaw, read, shown, strictly

_NEEDED = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input", RESPONSES: "input"}
_MOST_KINDS = 1000


class Facts(msgspec.Struct, frozen=True):
    """What is known of a file whose every line is sound under `rules`."""

    rules: Rules
    endpoint: str
    model: str
    lines: int
    max_tokens: int | None
    """The most that any line lets one of its answers have; None where some line sets no limit."""
    max_tokens_total: int | None
    """Sum over the lines, several answers a line counted; None where some line sets no limit."""
    cuts: list[tuple[int, int, int]]
    """The chunks: number of lines, first byte, byte after the last."""

    def suit(self, rules: Rules, endpoint: str, models: Mapping[str, int | None] | None) -> bool:
        """May a batch be made of it under these rules, with these models (and their longest contexts) served?"""
        if rules != self.rules or endpoint != self.endpoint or (models is not None and self.model not in models):
            return False
        longest = (models or {}).get(self.model)
        return longest is None or self.max_tokens is None or self.max_tokens < longest


class Checker:
    """Checks a file's lines one after the other, keeping what spans lines: custom_ids, the one endpoint, the one model.

    `endpoint`: None takes the first line's. `models`: the names that may be served, with the longest context of each where it is
    known; None lets any pass. `contexts`: the same of models that need not be all. At most `max_errors` errors are kept;
    `error_count` counts all of them.
    """

    def __init__(
        self,
        rules: Rules,
        endpoint: str | None = None,
        models: Mapping[str, int | None] | None = None,
        max_errors: int = 100,
        *,
        contexts: Mapping[str, int | None] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.model: str | None = None
        self.errors: list[LineError] = []
        self.error_count = 0
        self.lines = 0
        self._rules, self._models, self._max_errors = rules, models, max_errors
        self._contexts = {**(models or {}), **(contexts or {})}
        self._allowed, self._domains = frozenset(rules.allow_fields), [domain.lower() for domain in rules.media_domains]
        self._ids, self._cuts = _Ids(), Cuts(rules.chunk_lines, rules.chunk_bytes)
        self._limit, self._total, self._unlimited = 0, 0, False
        self._kinds: dict[Hashable, int] = {}

    def run(self, blocks: Iterable[bytes]) -> None:
        """Check every line of a file. Where there are too many, or one is endless, the rest is not looked at."""
        for run in iter_runs(blocks, self._rules.max_line_bytes):
            if not self._take(run):
                for line in run.lines():
                    self.feed(line)
                    if self.lines > self._rules.max_lines:
                        return

    def _take(self, run: Run) -> bool:
        """Accept lines many at a time where all are plain, as most are; False, and nothing done, if one needs a closer look."""
        if self.lines + len(run.pieces) > self._rules.max_lines or max(map(len, run.pieces)) > self._rules.max_line_bytes:
            return False
        try:
            forms = [plain(piece) for piece in run.pieces]
            for piece in run.pieces:
                strictly(piece)
            tokens = sum([self._tokens(form) for form in forms])
        except (msgspec.DecodeError, ValueError, Flaw):
            return False
        for form in forms:
            self._ids.add(form.custom_id)
        self._cuts.add(run.start, [len(piece) + run.newline for piece in run.pieces])
        self._total += tokens
        self.lines += len(forms)
        return True

    def _tokens(self, form: PlainForm) -> int:
        """As `_hold`; lines that are alike in all that it looks at are looked at once."""
        kind = kind_of(form)
        tokens = self._kinds.get(kind)
        if tokens is None:
            tokens = self._hold(form)
            if len(self._kinds) < _MOST_KINDS:
                self._kinds[kind] = tokens
        return tokens

    def feed(self, line: Line) -> None:
        """Check any one line; what is wrong is noted."""
        self.lines += 1
        self._cuts.add(line.start, [line.end - line.start])
        try:
            if len(line.data) > self._rules.max_line_bytes:
                raise Flaw("line_too_long", f"The line has more than {self._rules.max_line_bytes} bytes.")
            if self.lines > self._rules.max_lines:
                raise Flaw("too_many_requests", f"The file has more than {self._rules.max_lines} requests.")
            self._look(line.data)
        except Flaw as flaw:
            self._note(LineError(flaw.code, flaw.message, line.number, flaw.param))

    def _look(self, line: bytes) -> None:
        found = read(line)
        try:
            form = plain(line)
        except msgspec.DecodeError:
            odd = loose(line, found)
            self._ids.add(odd.custom_id)
            self._total += self._hold(odd)
            refuse(found["body"], odd.url, self._allowed, self._domains)
        else:
            self._ids.add(form.custom_id)
            self._total += self._tokens(form)

    def finish(self, again: Callable[[], Iterable[bytes]]) -> Facts | None:
        """Note what only the end shows; the facts, where all is sound. `again` reads the file once more, if it must be."""
        if self.lines == 0:
            self._note(LineError("empty_file", "The input file has no requests."))
        repeated = self._ids.repeated(self._max_errors)
        if repeated:
            self._name_repeated(again(), repeated)
        self.errors = sorted(self.errors, key=lambda error: error.line or 0)[: self._max_errors]
        if self.errors or self.endpoint is None or self.model is None:
            return None
        most, total = (None, None) if self._unlimited else (self._limit, min(self._total, MOST))
        return Facts(self._rules, self.endpoint, self.model, self.lines, most, total, self._cuts.all())

    def _hold(self, form: PlainForm | Form) -> int:
        """A line against the others of its file, and against its endpoint; the tokens that its answers may have, if known."""
        if form.method != "POST":
            raise Flaw("invalid_value", f"'method' must be POST, not '{shown(form.method)}'.", "method")
        if form.url != self.endpoint:
            self._other_url(form.url)
        body, needed = form.body, _NEEDED[form.url]
        if type(body.model) is not str or not 0 < len(body.model) <= MAX_MODEL_CHARS:
            raise Flaw(
                "invalid_request", f"'body.model' is required: a string of at most {MAX_MODEL_CHARS} characters.", "body.model"
            )
        if getattr(body, needed) is msgspec.UNSET:
            raise Flaw("invalid_request", f"'body.{needed}' is required.", f"body.{needed}")
        if body.stream:
            raise Flaw("streaming_unsupported", "Streaming is not supported in a batch; leave out 'stream'.", "body.stream")
        if body.model != self.model:
            self._other_model(body.model)
        return self._limits(body, form.url, body.model)

    def _other_url(self, url: str) -> None:
        if self.endpoint is not None:
            text = f"The URL '{shown(url)}' does not match the batch's endpoint '{self.endpoint}'."
            raise Flaw("invalid_url", text, "url")
        if url not in ENDPOINTS:
            raise Flaw("invalid_url", f"The URL '{shown(url)}' is not served; served: {', '.join(ENDPOINTS)}.", "url")
        self.endpoint = url

    def _other_model(self, model: str) -> None:
        if self._models is not None and model not in self._models:
            known = ", ".join(sorted(self._models)) or "none"
            raise Flaw("model_not_found", f"The model '{shown(model)}' is not served here; served: {known}.", "body.model")
        if self.model is not None:
            text = f"The model '{shown(model)}' differs from '{shown(self.model)}' on earlier lines; a batch has one model."
            raise Flaw("model_mismatch", text, "body.model")
        self.model = model

    def _limits(self, body: PlainBody | Body, endpoint: str, model: str) -> int:
        name, limit = limit_of(body, endpoint)
        if limit is None:
            self._unlimited = True
            return 0
        longest = self._contexts.get(model)
        if longest is not None and limit >= longest:
            text = f"'{name}' is {limit}, but prompt and answer together have at most {longest} tokens with '{model}'."
            raise Flaw("invalid_value", text, f"body.{name}")
        self._limit = max(self._limit, limit)
        return limit * answers_of(body, endpoint, _prompts(body))

    def _name_repeated(self, blocks: Iterable[bytes], suspects: frozenset[int]) -> None:
        """Tell which lines repeat a custom_id, by the ids themselves: equal hashes alone are no error."""
        seen, before = set[str](), len(self.errors)
        for line in iter_lines(blocks, self._rules.max_line_bytes):
            custom_id = _custom_id(line.data)
            if custom_id is None or hash(custom_id) not in suspects:
                continue
            if custom_id in seen:
                text = f"The custom_id '{shown(custom_id)}' was used on an earlier line."
                self.errors.append(LineError("duplicate_custom_id", text, line.number, "custom_id"))
                if len(self.errors) - before == self._max_errors:
                    break
            seen.add(custom_id)
        self.error_count += self._ids.repeats if len(self.errors) > before else 0

    def _note(self, error: LineError) -> None:
        self.error_count += 1
        if len(self.errors) < self._max_errors:
            self.errors.append(error)


class _Ids:
    """The custom_ids of a file, eight bytes each: their hashes (Python's own, seeded anew in each process)."""

    def __init__(self) -> None:
        self._buckets = [array("q") for _ in range(256)]
        self.repeats = 0
        """How many came after the first of their kind; known after `repeated`."""

    def add(self, custom_id: str) -> None:
        value = hash(custom_id)
        self._buckets[value & 255].append(value)

    def repeated(self, most: int) -> frozenset[int]:
        """Up to `most` hashes that came more than once."""
        found: set[int] = set()
        for bucket in self._buckets:
            unique = set(bucket)
            self.repeats += len(bucket) - len(unique)
            if len(found) < most and len(unique) < len(bucket):
                for value in bucket:
                    if value in unique:
                        unique.remove(value)
                    elif len(found) < most:
                        found.add(value)
        return frozenset(found)


def _custom_id(line: bytes) -> str | None:
    try:
        return loose(line, read(line)).custom_id
    except Flaw:
        return None


def _prompts(body: PlainBody | Body) -> int:
    """Of a completions line, which may have several; else one."""
    if type(body.prompt) is list and body.prompt and type(body.prompt[0]) is not int:
        return len(body.prompt)
    return 1
