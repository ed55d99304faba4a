"""Make a tiny model that sees: `python tests/tiny_vision.py TINY FOLDER`, in the engine's environment (transformers, Pillow).

The tiny language model's tokenizer and shape behind a vision transformer of two layers, as Idefics3 joins them, with random
weights: what it says of a picture is gibberish, and of another other gibberish. Idefics3, because vLLM reads pictures for
it with Pillow alone; for LLaVA it imports torchvision, which the CPU build does without.
"""

from __future__ import annotations

import sys
from pathlib import Path

PIXELS, PATCH, SCALE = 56, 14, 2


def make(base: Path, folder: Path) -> None:
    """Write the model to `folder`; `base` is the tiny language model's."""
    import torch
    from transformers import AutoTokenizer, Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    edge = {"longest_edge": PIXELS}
    tokenizer = AutoTokenizer.from_pretrained(base)
    pictures = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    tokens = (PIXELS // PATCH // SCALE) ** 2
    processor = Idefics3Processor(pictures, tokenizer, image_seq_len=tokens, chat_template=tokenizer.chat_template)
    text = LlamaConfig.from_pretrained(base)
    text.vocab_size = len(tokenizer)  # with the tokens that stand for pictures
    vision = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Idefics3Config(
        vision_config={**vision, "image_size": PIXELS, "patch_size": PATCH},
        text_config=text.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=SCALE,
    )
    torch.manual_seed(0)
    Idefics3ForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
