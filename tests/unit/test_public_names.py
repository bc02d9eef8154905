"""What `import ring_attn_bench` offers is frozen: a change here is a change for users."""

import inspect

import ring_attn_bench

FLASH_ATTN_TAIL = [
    ("dropout_p", 0.0), ("softmax_scale", None), ("causal", False), ("window_size", (-1, -1)),
    ("alibi_slopes", None), ("deterministic", False), ("return_attn_probs", False),
    ("group", None),
]  # fmt: skip
RINGS = ("ring_flash_attn", "zigzag_ring_flash_attn", "stripe_flash_attn", "triton_ring_flash_attn")
PACKINGS = {"func": ["q", "k", "v"], "kvpacked_func": ["q", "kv"], "qkvpacked_func": ["qkv"]}


def test_the_public_names_are_these():
    functions = {f"{ring}_{packing}" for ring in RINGS for packing in PACKINGS}
    others = {
        "ring_attn_func", "flash_attn_func", "flash_attn_varlen_func",
        "RingContext", "RingOptions", "shard", "unshard", "join_shards",
        "position_ids", "BackendUnavailable", "InvalidArgument", "NoProcessGroup",
        "RingAttnBenchError", "TransportUnavailable", "UnknownName", "Unsupported",
    }  # fmt: skip

    assert set(ring_attn_bench.__all__) == functions | others
    assert set(dir(ring_attn_bench)) == functions | others


def test_the_ring_functions_have_the_signatures_that_people_know():
    for ring in RINGS:
        for packing, tensors in PACKINGS.items():
            function = getattr(ring_attn_bench, f"{ring}_{packing}")
            parameters = inspect.signature(function).parameters

            assert function.__name__ == f"{ring}_{packing}"
            assert list(parameters)[: len(tensors)] == tensors
            tail = list(parameters.values())[len(tensors) :]
            assert [(p.name, p.default) for p in tail[:8]] == FLASH_ATTN_TAIL
            assert [p.name for p in tail[8:]] == [
                "backend", "softcap", "dropout_seed", "sink", "context",
            ]  # fmt: skip
            assert all(p.kind is p.KEYWORD_ONLY for p in tail[8:])
