"""Models of Hugging Face's, of a few thousand parameters, made from their configurations."""

from __future__ import annotations

import copy

import torch

SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WINDOW = {"sliding_window": 5}

KINDS = {
    "llama": ("Llama", "LlamaConfig", {"head_dim": 8}),
    "qwen": (
        "Qwen2", "Qwen2Config", {"use_sliding_window": True, "max_window_layers": 1, **WINDOW}
    ),
    "gemma": (
        "Gemma2", "Gemma2Config",
        {"head_dim": 8, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 8, **WINDOW},
    ),
    "gpt_oss": (
        "GptOss", "GptOssConfig",
        {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, **WINDOW,
         "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    ),
}  # fmt: skip
"""Grouped heads; a window in one layer of two; window and softcap; window and sink."""

BART = {
    "vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None,
}  # fmt: skip
"""An encoder, and a decoder that looks at it."""


def made(kind: str) -> torch.nn.Module:
    """A model with numbers of a seed, whose sinks and scores are large enough to be felt."""
    import transformers

    torch.manual_seed(3)
    if kind == "bert":
        found = transformers.BertForMaskedLM(transformers.BertConfig(**SHAPE))
    elif kind == "bart":
        found = transformers.BartForConditionalGeneration(transformers.BartConfig(**BART))
    else:
        model, config, more = KINDS[kind]
        found = getattr(transformers, f"{model}ForCausalLM")(
            getattr(transformers, config)(**SHAPE, **more)
        )
    if kind == "gpt_oss":
        found.set_experts_implementation("eager")  # which alone knows float64
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "sinks")):
                parameter.normal_(std=0.5)
    return found.eval()


def attending(model: torch.nn.Module, attention: str, dtype: torch.dtype) -> torch.nn.Module:
    """A copy with that attention and dtype."""
    model = copy.deepcopy(model).to(dtype)
    model.set_attn_implementation(attention)
    return model


def differentiated(
    model: torch.nn.Module, weights: torch.Tensor, **given: object
) -> list[torch.Tensor]:
    """Logits, and the gradients of every parameter for a sum of them by weights."""
    model.zero_grad()
    logits = model(**given, use_cache=False).logits
    (logits * weights).sum().backward()
    return [logits.detach(), *(parameter.grad for parameter in model.parameters())]


def assert_as_near(found, plain, truth) -> None:
    """Logits, and gradients: as near the truth as plain torch of their dtype.

    Errors count in a tensor's largest element. One may be 3 times the largest of plain torch's, of
    logits or of all gradients, and 4 roundings.
    """
    for part in (slice(0, 1), slice(1, None)):
        ours, theirs, right = found[part], plain[part], truth[part]
        allowed = 3 * max(map(error, theirs, right), default=0.0)
        for one, correct in zip(ours, right, strict=True):
            assert error(one, correct) <= allowed + 4 * torch.finfo(one.dtype).eps


def error(found: torch.Tensor, truth: torch.Tensor) -> float:
    largest = float(truth.abs().max())  # 0 of an expert that no token chose
    return float((found - truth).abs().max()) / (largest or 1.0)
