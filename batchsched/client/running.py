"""What turns requests in a program into a batch: `client.run`, `client.map` and `client.attach`. Imported as they are used."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from batchsched.errors import InvalidRequest

if TYPE_CHECKING:
    from batchsched.client.answers import Answer
    from batchsched.client.blocking import Batches
    from batchsched.client.calls import BatchOptions
    from batchsched.client.requests import Asked
    from batchsched.client.runs import Mapped, Run

T = TypeVar("T")
R = TypeVar("R")


class Runner:
    """`run`, `map` and `attach`, which `Client` has."""

    batches: Batches

    def run(
        self,
        requests: Iterable[Asked],
        *,
        model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> Run:
        """Submit requests as one batch; iterate over what comes back for the answers, in the order of the requests.

        A request is a prompt (str), the messages of a chat (list of dicts) or a whole body (dict). They are read once, one by
        one, and streamed through a file on disk. `model` and `parameters` (`max_tokens`, `temperature`, ...) go into each body
        that does not name them itself. With an `idempotency_key` it may be called again: the same key for the same requests gives
        the same batch. Raises InvalidRequest, naming the request, before anything is submitted.
        """
        run = self._submit(requests, model, parameters, idempotency_key, options)
        if run is None:
            raise InvalidRequest("There are no requests, so there is nothing to run.", param="requests")
        return run

    @overload
    def map(
        self, function: Callable[[T], Generator[Asked, Answer, R]], items: Iterable[T], *,
        model: str | None = None, parameters: Mapping[str, Any] | None = None, idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> Mapped[R]: ...  # fmt: skip
    @overload
    def map(
        self, function: Callable[[T], Asked], items: Iterable[T], *,
        model: str | None = None, parameters: Mapping[str, Any] | None = None, idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> Mapped[Answer]: ...  # fmt: skip
    def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        model: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> Mapped[Any]:
        """One batch for all items, submitted now; the values in the order of the items, as they come.

        `function` returns the request of an item, and the value is its `Answer`; or it yields the request, gets the `Answer`
        there, and the value is what it returns. The rest is as with `run`.
        """
        from batchsched.client.loops import Loop
        from batchsched.client.runs import Mapped

        loop = Loop[Any, Any](function)
        run = self._submit(loop.requests(items), model, parameters, idempotency_key, options)
        return Mapped(run, loop.value)

    def attach(self, batch_id: str) -> Run:
        """A batch that `run` or `map` made earlier, in this process or another."""
        from batchsched.client.runs import Run

        return Run(self.batches, self.batches.retrieve(batch_id))

    def _submit(
        self,
        requests: Iterable[Asked],
        model: str | None,
        parameters: Mapping[str, Any] | None,
        idempotency_key: str | None,
        options: BatchOptions,
    ) -> Run | None:
        from batchsched.client.requests import Writer, write
        from batchsched.client.runs import Run
        from batchsched.lines import CHAT

        with TemporaryFile() as out:
            if not write(requests, Writer(out, model, options.get("endpoint", CHAT), parameters)):
                return None
            return Run(self.batches, self.batches.create(file=out, idempotency_key=idempotency_key, **options))
