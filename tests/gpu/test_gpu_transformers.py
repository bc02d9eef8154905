"""On a GPU: Hugging Face's models on our kernels, as near to float64 as on their own attention."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_models import KINDS, assert_as_near, attending, differentiated, made

pytest.importorskip("transformers", reason="transformers is not installed: the extra `hf` has it")
from ring_attn_bench.integrations.transformers import register

# what transformers warns of is its own matter
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280), pytest.mark.filterwarnings("ignore")]
TOKENS, PADDED = 96, 17


@pytest.fixture(scope="module")
def name():
    return register(backend="triton")


def seeded(*shape, integers=False):
    generator = torch.Generator().manual_seed(sum(shape))
    if integers:
        return torch.randint(3, 64, shape, generator=generator).cuda()
    return torch.randn(*shape, generator=generator).cuda()


def ours_plain_and_truth(kind, name, low=torch.float32):
    model = made(kind)
    ways = (name, low), ("eager", low), ("eager", torch.float64)
    rounded = attending(model, "eager", low)
    return [attending(rounded, how, dtype).cuda() for how, dtype in ways]


@pytest.mark.parametrize(
    ("kind", "low"),
    # in bfloat16 a router may choose otherwise for a rounding alone
    [*((kind, torch.float32) for kind in KINDS), ("llama", torch.bfloat16)],
)
def test_logits_and_gradients_are_as_near_the_truth_as_eager_ones(kind, low, name):
    ids, weights = seeded(2, TOKENS, integers=True), seeded(2, TOKENS, 64)

    assert_as_near(
        *(
            differentiated(model, weights.to(model.dtype), input_ids=ids)
            for model in ours_plain_and_truth(kind, name, low)
        )
    )


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_left_changes_nothing_of_what_is_there(kind, name):
    ours, plain, truth = ours_plain_and_truth(kind, name)
    ids = seeded(1, TOKENS, integers=True)
    there = torch.ones(1, TOKENS, dtype=torch.long, device="cuda")
    there[:, :PADDED] = 0
    with torch.no_grad():
        padded = ours(
            ids, attention_mask=there, position_ids=(there.cumsum(1) - 1).clamp(min=0)
        ).logits[:, PADDED:]
        bare = [model(ids[:, PADDED:]).logits for model in (plain, truth)]

    assert_as_near([padded], [bare[0]], [bare[1]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_is_generated_is_what_the_whole_of_it_gives(kind, name):
    ours, plain, truth = ours_plain_and_truth(kind, name)
    ids, new = seeded(2, TOKENS, integers=True), 8
    found = ours.generate(
        ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    logits = torch.stack(found.logits, 1)
    with torch.no_grad():
        whole = [
            model(found.sequences, use_cache=False).logits[:, -new - 1 : -1]
            for model in (plain, truth)
        ]

    assert_as_near([logits], [whole[0]], [whole[1]])
