"""What two GPUs must send each other: the KV cache of a prompt where prefill and decoding stand apart, or tokens and their
probabilities where a draft model stands apart from its target.

Two measures, because they answer two questions. The volume of a request says how full a link is on average; the rate says how
fast it must be so that what is sent comes in time for the next token. Nothing here is fitted to published ratios: the model's
shape is known, and how drafts are made is assumed and said.
"""

from __future__ import annotations

import msgspec


class Decoder(msgspec.Struct, frozen=True):
    """The shape of a decoder that decides what it must send."""

    layers: int
    kv_heads: int
    head_size: int
    vocabulary: int
    bytes_per_value: int = 2
    """16-bit caches and probabilities."""

    @property
    def kv_bytes_per_token(self) -> int:
        """A key and a value for each layer and head."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.bytes_per_value


LLAMA_7B = Decoder(layers=32, kv_heads=32, head_size=128, vocabulary=32_000)
"""As the defaults of the Llama configuration in Hugging Face's transformers, which are the 7B model's."""


class Drafts(msgspec.Struct, frozen=True):
    """How a draft model works. Both figures are assumed: GreenLLM names neither."""

    tokens: int = 4
    """Drafted in a round."""
    acceptance: float = 0.7
    """Chance that the target accepts a drafted token, below 1."""
    id_bytes: int = 8

    @property
    def tokens_per_round(self) -> float:
        """Expected: those accepted before the first refusal, and the target's own (Leviathan et al., ICML 2023, equation 1)."""
        return (1 - self.acceptance ** (self.tokens + 1)) / (1 - self.acceptance)


class Traffic(msgspec.Struct, frozen=True):
    """What one request sends over the link between the GPUs."""

    bytes_a_request: float
    bytes_at_once: float
    """The largest piece that the next token waits for."""

    def mean_bits_per_s(self, qps: float) -> float:
        """How busy the link is at that many requests a second."""
        return 8 * self.bytes_a_request * qps

    def needed_bits_per_s(self, qps: float, within_s: float) -> float:
        """How fast the link must be so that a piece arrives within that time, and the link keeps up with the requests."""
        return max(8 * self.bytes_at_once / within_s, self.mean_bits_per_s(qps))


def of_kv_cache(model: Decoder, input_tokens: int) -> Traffic:
    """Prefill on one GPU, decoding on the other: the prompt's cache crosses once, whole, before the second token."""
    size = float(model.kv_bytes_per_token * input_tokens)
    return Traffic(size, size)


def of_drafts(model: Decoder, output_tokens: int, drafts: Drafts) -> Traffic:
    """Drafts on one GPU, the target on the other: in each round the drafted tokens with a probability for each of the vocabulary.

    The accepted tokens that go back are a few bytes, and are not counted.
    """
    a_round = float(drafts.tokens * (model.vocabulary * model.bytes_per_value + drafts.id_bytes))
    return Traffic(a_round * output_tokens / drafts.tokens_per_round, a_round)
