"""One sequence as the draft service knows it: its tokens, and what the draft model thinks comes next."""

from __future__ import annotations

from array import array


class Sequence:
    """Tokens that the target has said, and a guess that may reach beyond them.

    `version` changes when a guess turns out wrong, so that an answer of the engine that was asked for before is not taken.
    """

    def __init__(self) -> None:
        self.tokens = array("I")
        self.read = 0
        """So many of its tokens were before the engine, and are in its prefix cache if that still holds them."""
        self.refused = False
        """The engine does not take it: too long, or of another vocabulary."""
        self.warming = False
        self.version = 0
        self._guess: list[int] = []
        self._guessed_from = 0

    def say(self, tokens: list[int]) -> None:
        """The target said these. A guess stays as far as it agrees."""
        guessed = self._guess[len(self.tokens) - self._guessed_from :]
        if any(said != thought for said, thought in zip(tokens, guessed, strict=False)):
            self._drop()
        self.tokens.extend(tokens)

    def guess(self) -> list[int]:
        """What is thought to come next."""
        return self._guess[max(0, len(self.tokens) - self._guessed_from) :]

    def prompt(self) -> list[int]:
        """What the engine is to continue: the tokens and the guess."""
        return self.tokens.tolist() + self.guess()

    def learn(self, position: int, tokens: list[int], version: int) -> None:
        """The engine continued the first `position` tokens of `prompt`, as it was at `version`, by these."""
        if version != self.version:
            return
        if self._guessed_from + len(self._guess) != position:
            self._guess, self._guessed_from = [], position
        self._guess += tokens
        if position < len(self.tokens):  # the target has said more meanwhile
            said = self.tokens[position:]
            if any(theirs != ours for theirs, ours in zip(said, self._guess[position - self._guessed_from :], strict=False)):
                self._drop()

    def _drop(self) -> None:
        self._guess, self._guessed_from = [], 0
        self.version += 1
