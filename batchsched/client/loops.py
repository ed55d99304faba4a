"""The body of an offline loop, run for many items as one batch."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Never, TypeVar, Unpack, overload

from batchsched.client.answers import Answer
from batchsched.client.calls import BatchOptions
from batchsched.client.requests import Asked
from batchsched.errors import InvalidRequest

if TYPE_CHECKING:
    from batchsched.client.blocking import Client
    from batchsched.client.runs import Mapped

T = TypeVar("T")
R = TypeVar("R")


class Loop(Generic[T, R]):
    """One round of a loop for each item: first all their requests, then what each makes of its answer.

    A function that returns its request has the answer for its value. One that yields its request is given the answer there, and
    what it returns is its value; between the two it is held in memory.
    """

    def __init__(self, function: Callable[[T], Any]) -> None:
        self._function = function
        self._halves: list[Generator[Asked, Answer, R] | None] = []

    def requests(self, items: Iterable[T]) -> Iterator[Asked]:
        """What each item asks. Raises InvalidRequest."""
        if isinstance(items, str | bytes):
            raise InvalidRequest("One text alone was given for the items; put it into a list.", param="items")
        for number, item in enumerate(items):
            yield self._begin(number, item)

    async def requests_async(self, items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[Asked]:
        """The same of either kind of iterable."""
        number = 0
        if isinstance(items, AsyncIterable):
            async for item in items:
                yield self._begin(number, item)
                number += 1
        else:
            for asked in self.requests(items):
                yield asked

    def value(self, answer: Answer) -> Any:
        """What becomes of the item with this answer. Raises what its function does."""
        if not self._halves:
            return answer
        half, self._halves[answer.index] = self._halves[answer.index], None
        if half is None:
            raise InvalidRequest(f"The answer to item {answer.index} came before.")
        try:
            half.send(answer)
        except StopIteration as end:
            return end.value
        half.close()
        raise InvalidRequest(f"The function yielded twice for item {answer.index}; one round of a loop has one request.")

    def _begin(self, number: int, item: T) -> Asked:
        begun: Any = self._function(item)
        if not isinstance(begun, Generator):
            asked: Asked = begun
            return asked
        try:
            asked = next(begun)
        except StopIteration:
            text = f"The function returned before it yielded the request of item {number}; leave out items without one."
            raise InvalidRequest(text) from None
        self._halves.append(begun)
        return asked


class BatchFunction(Generic[T, R]):
    """A function that `batch` was put on: called, it does one item; `map` does many as one batch."""

    __name__: str

    def __init__(self, function: Callable[[T], Any], how: dict[str, Any], client: Client | None) -> None:
        functools.update_wrapper(self, function)
        self._function, self._how, self._client = function, how, client

    def __call__(self, item: T) -> R:
        """A batch of one, waited for."""
        with self.map([item]) as values:
            return next(values)

    def map(self, items: Iterable[T], **options: Unpack[BatchOptions]) -> Mapped[R]:
        """One batch of all items, submitted now; the values in their order, as they come. `options` go before the decorator's."""
        from batchsched.client.blocking import Client

        client = self._client or Client()
        ours = None if self._client else client.close
        how: dict[str, Any] = {**self._how, **options}
        try:
            mapped: Mapped[R] = client.map(self._function, items, **how)
        except BaseException:
            if ours:
                ours()
            raise
        return mapped.then(ours)


class Decorator:
    """What `batch(...)` gives, to be put on a function."""

    def __init__(self, how: dict[str, Any], client: Client | None) -> None:
        self._how, self._client = how, client

    @overload
    def __call__(self, function: Callable[[T], Generator[Asked, Answer, R]]) -> BatchFunction[T, R]: ...
    @overload
    def __call__(self, function: Callable[[T], Asked]) -> BatchFunction[T, Answer]: ...
    def __call__(self, function: Callable[[Any], Any]) -> BatchFunction[Any, Any]:
        return BatchFunction(function, self._how, self._client)


def batch(
    *bare: Never,
    model: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    client: Client | None = None,
    **options: Unpack[BatchOptions],
) -> Decorator:
    """Make one batch of what is done for many items: the decorator for the body of an offline loop.

    The function returns its request (a prompt, messages or a whole body), and its value is the `Answer`; or it yields its
    request, gets the `Answer` there, and its value is what it returns. Without `client` one is made of the environment and the
    configuration file for each batch. All is given by name; `@batch` without its
    parentheses raises InvalidRequest.
    """
    if bare:
        raise InvalidRequest('Write @batchsched.batch(model="...", ...), with its parentheses and the names of what it is given.')
    return Decorator({"model": model, "parameters": parameters, **options}, client)
