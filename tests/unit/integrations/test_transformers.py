"""Hugging Face's models on our attention against their own, in float64: one device."""

from __future__ import annotations

import pytest
import torch

from ring_attn_bench import InvalidArgument
from tests.tiny_models import KINDS, assert_as_near, attending, differentiated, made

pytest.importorskip("transformers", reason="transformers is not installed: the extra `hf` has it")
from ring_attn_bench.integrations.transformers import register

pytestmark = pytest.mark.filterwarnings("ignore")  # what transformers warns of is its own matter

TOKENS = 12
IDS = torch.randint(3, 64, (2, TOKENS), generator=torch.Generator().manual_seed(5))
WEIGHTS = torch.randn(2, TOKENS, 64, generator=torch.Generator().manual_seed(6))
F32, F64 = torch.float32, torch.float64


@pytest.fixture(scope="module")
def name():
    return register(backend="reference")


def ours_plain_and_truth(kind, name):
    model = made(kind)
    return (
        attending(model, name, F32), attending(model, "eager", F32), attending(model, "eager", F64)
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_as_near_the_truth_as_eager_ones(kind, name):
    results = [
        differentiated(model, WEIGHTS.to(model.dtype), input_ids=IDS)
        for model in ours_plain_and_truth(kind, name)
    ]
    assert_as_near(*results)


PADDED = 4
"""Tokens of the first row that are none."""


def padded(side):
    there = torch.ones(2, TOKENS, dtype=torch.long)
    there[0, slice(None, PADDED) if side == "left" else slice(-PADDED, None)] = 0
    return there


def added(parts):
    """Logits one behind another, and gradients, of several calls."""
    logits, *gradients = zip(*parts, strict=True)
    return [torch.cat([x.flatten(0, 1) for x in logits]), *map(sum, gradients)]


def row_by_row(model, there):
    """Without padding: what it must not change. (eager gives NaN for padding in float64.)"""
    rows = zip(IDS, WEIGHTS.to(model.dtype), there.bool(), strict=True)
    return added([differentiated(model, w[t][None], input_ids=x[t][None]) for x, w, t in rows])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_not_attended_to(kind, name, side):
    there = padded(side)
    ours, plain, truth = ours_plain_and_truth(kind, name)
    positions = (there.cumsum(1) - 1).clamp(min=0)
    logits, *gradients = differentiated(
        ours, WEIGHTS * there[..., None], input_ids=IDS, attention_mask=there,
        position_ids=positions,
    )  # fmt: skip
    found = [logits[there.bool()], *gradients]
    assert_as_near(found, row_by_row(plain, there), row_by_row(truth, there))


LENGTHS = 5, 7
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS]).expand(2, -1)


def one_by_one(model):
    """Of every document by itself, row by row: what a packed sequence must be."""
    found = []
    for row, weights in zip(IDS, WEIGHTS.to(model.dtype), strict=True):
        parts = zip(row.split(LENGTHS), weights.split(LENGTHS), strict=True)
        found += [differentiated(model, w[None], input_ids=x[None]) for x, w in parts]
    return added(found)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_see_nothing_of_each_other(kind, name):
    ours, plain, truth = ours_plain_and_truth(kind, name)
    logits, *gradients = differentiated(ours, WEIGHTS, input_ids=IDS, position_ids=POSITIONS)
    theirs, right = one_by_one(plain), one_by_one(truth)
    assert_as_near([logits.flatten(0, 1), *gradients], theirs, right)

    starts = torch.tensor([0, 5, 12], dtype=torch.int32)
    told = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": 7, "max_length_k": 7}
    with torch.no_grad():
        (logits,) = ours(IDS[:1], position_ids=POSITIONS[:1], **told).logits
    assert_as_near([logits], [theirs[0][:TOKENS]], [right[0][:TOKENS]])


NEW = 5


def generated(model, cache):
    """Texts, and the logits that each new token came from."""
    found = model.generate(
        IDS, attention_mask=padded("left"), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
        cache_implementation=cache, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    return found.sequences, torch.stack(found.logits, 1)


def without_a_cache(model, texts):
    """The same logits, of every text at once and by itself."""
    found = []
    with torch.no_grad():
        for text, there in zip(texts, padded("left"), strict=True):
            given = text[TOKENS - int(there.sum()) :][None]
            found.append(model(given, use_cache=False).logits[0, -NEW - 1 : -1])
    return torch.stack(found)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_generated_over_a_cache_is_what_the_whole_text_gives(kind, name, cache):
    ours, plain, truth = ours_plain_and_truth(kind, name)
    texts, logits = generated(ours, cache)
    assert_as_near([logits], [without_a_cache(plain, texts)], [without_a_cache(truth, texts)])


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("queries", [5, TOKENS, 17])
def test_a_decoder_sees_all_that_an_encoder_gave_but_padding(name, queries, padding):
    there = None if padding is None else padded(padding)
    decoder = torch.randint(3, 64, (2, queries), generator=torch.Generator().manual_seed(7))
    weights = torch.randn(2, queries, 64, generator=torch.Generator().manual_seed(8))
    model = made("bart")
    found, right = (
        differentiated(
            attending(model, attention, F64), weights.double(), input_ids=IDS,
            attention_mask=there, decoder_input_ids=decoder,
        )
        for attention in (name, "eager")
    )  # fmt: skip
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)


def test_a_row_that_is_all_padding_is_0_for_a_decoder(name):
    there = padded("left")
    there[0] = 0
    found = attending(made("bart"), name, F32)(IDS, attention_mask=there, decoder_input_ids=IDS)
    alone = attending(made("bart"), name, F32)(IDS[1:], decoder_input_ids=IDS[1:])
    torch.testing.assert_close(found.logits[1:], alone.logits, rtol=1e-4, atol=1e-5)
    assert bool(found.logits.isfinite().all())


def test_a_batch_that_is_all_padding_has_gradients_of_0(name):
    model = attending(made("llama"), name, F32)
    logits = model(IDS, attention_mask=torch.zeros(2, TOKENS, dtype=torch.long)).logits
    logits.sum().backward()
    gradient = model.model.layers[0].self_attn.q_proj.weight.grad
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize("use_cache", [False, True])
def test_what_a_mask_does_not_reach_is_no_token(name, use_cache):
    model = attending(made("llama"), name, F32)
    there = torch.ones(2, TOKENS - 3, dtype=torch.long)
    there[0, :2] = 0
    whole = torch.nn.functional.pad(there, (0, 3))
    found, right = (
        model(IDS, attention_mask=mask, use_cache=use_cache).logits for mask in (there, whole)
    )
    assert torch.equal(found, right)


def test_positions_and_masks_are_saved_as_they_were_before_a_model_read_them(name, tmp_path):
    model = attending(made("llama"), name, F32)
    positions, there = POSITIONS.clone(), padded("left")
    model(IDS, position_ids=positions)
    model(IDS, attention_mask=there)
    torch.save([positions, there], tmp_path / "batch.pt")
    for found, right in zip(torch.load(tmp_path / "batch.pt"), (positions, there), strict=True):
        assert torch.equal(found, right)


def test_padding_between_tokens_is_a_sentence_where_a_window_counts_it(name):
    there = torch.ones(2, TOKENS, dtype=torch.long)
    there[0, 3:5] = 0
    with pytest.raises(InvalidArgument, match="has padding between tokens"):
        attending(made("qwen"), name, F32)(IDS, attention_mask=there)
    model = made("llama")
    ours, right = (
        attending(model, attention, F32)(IDS, attention_mask=there).logits
        for attention in (name, "sdpa")
    )
    torch.testing.assert_close(ours[there.bool()], right[there.bool()], rtol=1e-4, atol=1e-5)


def test_positions_that_are_changed_in_place_are_read_again(name):
    model = attending(made("llama"), name, F32)
    positions = torch.arange(TOKENS)[None].expand(2, -1).contiguous()
    with torch.no_grad():
        whole = model(IDS, position_ids=positions).logits
        positions.copy_(POSITIONS)
        packed = model(IDS, position_ids=positions).logits
        assert torch.equal(packed, model(IDS, position_ids=POSITIONS).logits)
    assert not torch.equal(packed, whole)
    with torch.inference_mode():  # where torch counts no changes
        positions = torch.arange(TOKENS)[None].expand(2, -1).contiguous()
        model(IDS, position_ids=positions)
        positions.copy_(POSITIONS)
        assert torch.equal(model(IDS, position_ids=positions).logits, packed)


def test_a_model_is_compiled_without_a_graph_break(name):
    torch._dynamo.reset()
    model = attending(made("llama"), name, F32)

    def logits(ids):
        return model(ids, attention_mask=None, use_cache=True).logits

    compiled = torch.compile(logits, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(IDS), logits(IDS), rtol=0, atol=0)


def test_what_is_more_than_a_known_mask_is_a_sentence(name):
    model = attending(made("llama"), name, F32)
    with pytest.raises(InvalidArgument, match="it must be \\(batch, keys\\)"):
        model(IDS, attention_mask=torch.ones(2, 1, TOKENS, TOKENS))

    from transformers.masking_utils import create_causal_mask

    blocks = torch.zeros(2, TOKENS, dtype=torch.long)
    inputs = torch.zeros(2, TOKENS, 32)
    with pytest.raises(InvalidArgument, match="the model's mask has a part or_masks"):
        create_causal_mask(model.config, inputs, None, None, block_sequence_ids=blocks)
    with pytest.raises(InvalidArgument, match="head_mask is given"):
        model(IDS, head_mask=torch.ones(4))


def test_a_group_without_a_partition_is_a_sentence():
    with pytest.raises(InvalidArgument, match="pass partition='zigzag'"):
        register(context=object())
