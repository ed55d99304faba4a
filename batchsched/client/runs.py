"""Requests in, answers out in the same order: what `run` and `map` of the blocking client give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from batchsched.client.answers import Answer, InOrder, answer
from batchsched.client.frames import Results
from batchsched.client.results import Batch, Report
from batchsched.client.showing import watch

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from batchsched.client.blocking import Batches

R = TypeVar("R")


class Numbered:
    """A batch whose requests are numbered, as it was last seen."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    @property
    def id(self) -> str:
        """The batch's."""
        return self.batch.id

    def _seen(self, batch: Batch) -> Batch:
        self.batch = batch
        return batch

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.batch.status!r})"

    def _repr_html_(self) -> str:
        return self.batch._repr_html_()  # pyright: ignore[reportPrivateUsage]


class Run(Numbered):
    """A batch whose requests are numbered. Iterate over it for the answers in the order of the requests, as they come.

    It goes on without this object, and without this process: `Client.attach` with its id takes it up again. `batch` is as it was
    last seen.
    """

    def __init__(self, batches: Batches, batch: Batch) -> None:
        super().__init__(batch)
        self._batches = batches

    def wait(
        self,
        *,
        progress: bool = True,
        on_progress: Callable[[Batch], None] | None = None,
        poll_s: float = 5.0,
        patience_s: float = 60.0,
    ) -> Batch:
        """Wait until it is done, however it ends.

        `progress`: show how far it is, on a terminal or in a notebook; elsewhere nothing is shown. The rest is as with
        `batches.wait`.
        """
        with watch(progress, on_progress, self._seen) as look:
            return self._batches.wait(self.id, on_progress=look, poll_s=poll_s, patience_s=patience_s)

    def results(self, *, poll_s: float = 2.0, patience_s: float = 60.0) -> Results[Answer]:
        """The answers in the order of the requests, each as soon as it is its turn; what has none has an `error`.

        Ends when the batch has. Raises InvalidInputFile where the server refused the requests, before anything ran; RequestFailed
        where the batch was cancelled before they were looked at.
        """
        return Results(self._in_order(poll_s, patience_s))

    def as_completed(self, *, poll_s: float = 2.0, patience_s: float = 60.0) -> Results[Answer]:
        """The answers as they come, in any order; `index` says whose each is."""
        return Results(map(answer, self._batches.results(self.id, follow=True, poll_s=poll_s, patience_s=patience_s)))

    def to_pandas(self) -> pd.DataFrame:
        """A row for each request, when all are answered. Raises MissingExtra where pandas is not installed."""
        return self.results().to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """A row for each request, when all are answered. Raises MissingExtra where polars is not installed."""
        return self.results().to_polars()

    def to_arrow(self) -> pa.Table:
        """A row for each request, when all are answered. Raises MissingExtra where pyarrow is not installed."""
        return self.results().to_arrow()

    def cancel(self) -> Batch:
        """Ask for its end; what is done is kept."""
        return self._seen(self._batches.cancel(self.id))

    def report(self) -> Report:
        """Its energy, grams and savings."""
        return self._batches.report(self.id)

    def _in_order(self, poll_s: float, patience_s: float) -> Iterator[Answer]:
        order = InOrder()
        try:
            for line in self._batches.results(self.id, follow=True, poll_s=poll_s, patience_s=patience_s):
                yield from order.add(line)
            order.end(self._seen(self._batches.retrieve(self.id)))
        finally:
            order.close()

    def __iter__(self) -> Iterator[Answer]:
        return self.results()


class Mapped(Generic[R]):
    """The values of a function over items, in their order, to be read once; a `for` loop over it waits for each.

    `run`: the batch behind it; None where there were no items. What the function raises for one item comes out here, and the
    next item can be asked for all the same.
    """

    def __init__(self, run: Run | None, value: Callable[[Answer], R]) -> None:
        self.run = run
        self._answers = iter(run) if run else iter(())
        self._value = value
        self._after: Callable[[], None] | None = None

    def then(self, after: Callable[[], None] | None) -> Mapped[R]:
        """Itself; `after` is called once there is nothing more to come."""
        self._after = after
        return self

    def close(self) -> None:
        """Ask for no further values. The batch goes on."""
        after, self._after, self._answers = self._after, None, iter(())
        if after:
            after()

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        try:
            found = next(self._answers)
        except BaseException:
            self.close()
            raise
        return self._value(found)

    def __enter__(self) -> Mapped[R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
