"""The tiny model as a GGUF file, for llama.cpp: `python tests/tiny_gguf.py FOLDER FILE`, in an environment with `gguf`.

Names of tensors are those of GGUF's "llama" architecture; its rotary layout interleaves what Hugging Face keeps in halves.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_NORMAL, _CONTROL = 1, 3  # GGUF's kinds of tokens


def tensors(folder: Path) -> dict[str, Any]:
    """The bfloat16 weights as float32, by their names in the folder."""
    import numpy as np

    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, start = json.loads(data[8 : 8 + length]), 8 + length
    found: dict[str, Any] = {}
    for name, about in header.items():
        if name != "__metadata__":
            begin, end = about["data_offsets"]
            halves = np.frombuffer(data[start + begin : start + end], dtype="<u2").astype(np.uint32) << 16
            found[name] = halves.view(np.float32).reshape(about["shape"])
    return found


def renamed(name: str) -> str:
    """A tensor's name in GGUF."""
    bare = name.removesuffix(".weight")
    if bare in _WHOLE:
        return f"{_WHOLE[bare]}.weight"
    _, _, layer, part = bare.split(".", 3)
    return f"blk.{layer}.{_PARTS[part]}.weight"


def interleaved(weights: Any, heads: int) -> Any:
    """Rotary halves of each head next to each other."""
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write(folder: Path, target: Path) -> None:
    """Make the file."""
    import numpy as np
    from gguf import GGUFWriter

    config = json.loads((folder / "config.json").read_bytes())
    words = json.loads((folder / "tokenizer.json").read_bytes())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = GGUFWriter(target, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    vocabulary = {**words["model"]["vocab"], **{one["content"]: one["id"] for one in words["added_tokens"]}}
    special = {one["id"] for one in words["added_tokens"]}
    ordered = sorted(vocabulary, key=lambda word: vocabulary[word])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(ordered)
    writer.add_token_types([_CONTROL if vocabulary[word] in special else _NORMAL for word in ordered])
    merges = words["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(value=False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text("utf-8"))
    for name, weights in tensors(folder).items():
        turned = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2])
        laid = interleaved(weights, turned) if turned else weights
        writer.add_tensor(renamed(name), np.ascontiguousarray(laid if laid.ndim == 1 else laid.astype(np.float16)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
