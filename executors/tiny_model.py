"""Make a tiny language model with random weights, for demos, tests and benchmarks without a GPU.

`ENGINE_PYTHON tiny_model.py OUT_DIR` under the engine's own Python; needs transformers, tokenizers and torch, which vLLM brings.
The answers are gibberish; everything else about serving it is real. About 2.7 MB; made once, left alone when it is there.

`--further 6` makes a larger one that mostly agrees with it: the same two layers, and so many more above them whose weight in the
sum is small. Of such a pair speculative decoding lives: a draft model that is mostly right, at a part of the work. (With six, the
two agree on 74 % of the tokens of greedy answers.)
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<pad>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = "A batch of requests can wait for the wind to blow and for the sun to shine before it runs."
CONTEXT_TOKENS = 8192
LAYERS = 2
FURTHER_WEIGHT = 0.05
"""Of what further layers add, against what they would add as they were drawn."""


def make_tiny_model(out: Path, further: int = 0) -> bool:
    """Write the model, with so many further layers, to `out`; False where a whole one is there already.

    A half-made one never appears under that name.
    """
    if (out / "config.json").is_file():
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-")
    try:
        _save_weights(folder, _save_tokenizer(folder), further)
        Path(folder).chmod(0o755)
        Path(folder).rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def _save_tokenizer(folder: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # pyright: ignore[reportMissingImports]
    from transformers import PreTrainedTokenizerFast  # pyright: ignore[reportMissingImports]

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106 - a vocabulary entry, not a password
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator([CORPUS] * 20, trainers.BpeTrainer(special_tokens=SPECIAL, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _save_weights(folder: str, tokenizer: Any, further: int) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    model = _drawn(tokenizer, LAYERS, seed=0)
    if further:
        larger, scaled = _drawn(tokenizer, LAYERS + further, seed=1), ("self_attn.o_proj.weight", "mlp.down_proj.weight")
        with torch.no_grad():
            for name, weights in larger.named_parameters():
                if name.endswith(scaled):
                    weights.mul_(FURTHER_WEIGHT)
        larger.load_state_dict(model.state_dict(), strict=False)
        model = larger
    model.to(torch.bfloat16).save_pretrained(folder)


def _drawn(tokenizer: Any, layers: int, seed: int) -> Any:
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import LlamaConfig, LlamaForCausalLM  # pyright: ignore[reportMissingImports]

    # Tied embeddings would make greedy answers repeat one token; head_dim 64 is one that every attention backend accepts.
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=False,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make a tiny language model with random weights.")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--further", type=int, default=0, help="layers above the tiny model's own")
    args = parser.parse_args()
    made = make_tiny_model(args.out, args.further)
    print(json.dumps({"model": str(args.out), "made": made}))  # noqa: T201 - a script's answer
