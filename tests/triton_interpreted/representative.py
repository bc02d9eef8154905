"""Those that the oldest Triton runs: every kernel, kind of mask and feature, in fifty tests.

What another Triton does otherwise shows in any number of a kernel: a product of all cases adds
minutes and finds no more. Names as pytest has them, without the folder; `*` as in a shell.
"""

REPRESENTATIVE = (
    # one chunk of indices: both dtypes, masks of every kind, odd lengths and dims, grouped heads
    "test_kernels.py::test_out_and_gradients_are_as_good_as_plain_torch[causal-torch.float*]",
    "test_kernels.py::test_out_and_gradients_are_as_good_as_plain_torch[full-more-keys-gqa-*32]",
    "test_kernels.py::test_out_and_gradients_are_as_good_as_plain_torch[window-both-gqa-*16]",
    "test_kernels.py::test_out_and_gradients_are_as_good_as_plain_torch[rows-without-keys-*16]",
    "test_kernels.py::test_out_and_gradients_are_as_good_as_plain_torch[d59-dv40-*32]",
    "test_kernels.py::test_out_and_gradients_are_as_good_as_plain_torch[d192-dv128-*16]",
    "test_kernels.py::test_out_and_gradients_are_as_good_as_plain_torch[softcap-window-gqa-*16]",
    "test_kernels.py::test_views_with_any_strides_give_the_same_bits[torch.float16]",
    "test_kernels.py::test_no_keys_at_all_give_an_empty_result",
    "test_kernels.py::test_the_interpreter_is_named_and_bfloat16_refused_in_it",
    # chunks, and ALiBi
    "test_positions.py::test_out_and_gradients_are_as_good_as_plain_torch[and what it fetched-*]",
    "test_positions.py::test_out_and_gradients_are_as_good_as_plain_torch[many chunks, window-*16]",
    "test_positions.py::test_out_and_gradients_are_as_good_as_plain_torch[strides-*16]",
    "test_positions.py::test_out_and_gradients_are_as_good_as_plain_torch[nothing is seen-*16]",
    "test_positions.py::test_out_and_gradients_are_as_good_as_plain_torch[ALiBi, zigzag-*16]",
    "test_positions.py::test_out_and_gradients_are_as_good_as_plain_torch[ALiBi, far away-*32]",
    "test_positions.py::test_a_tile_that_nothing_is_added_to_is_not_written",
    # dropout
    "test_dropout.py::test_a_tile_keeps_the_same_weights_bit_for_bit",
    "test_dropout.py::test_the_forward_drops_by_position_and_scales_what_it_keeps[two chunks]",
    "test_dropout.py::test_out_and_gradients_are_as_good_as_plain_torch_with_the_same_weights["
    "softcap and ALiBi-*16]",
    "test_dropout.py::test_out_and_gradients_are_as_good_as_plain_torch_with_the_same_weights["
    "rows without keys-*32]",
    # kernels that go on from what is there, and those that merge
    "test_accumulating.py::test_blocks_one_after_another_are_the_attention_over_all_of_them["
    "{'dropout_p': 0.3}-*16]",
    "test_accumulating.py::test_gradients_of_keys_are_added_to_those_that_are_there",
    "test_accumulating.py::test_huge_weights_do_not_overflow_and_an_infinite_one_is_handed_on[*]",
    "test_accumulating.py::test_a_ring_merges_in_its_kernels_and_nowhere_else[zigzag-causal]",
    "test_accumulating.py::test_a_ring_merges_in_its_kernels_and_nowhere_else["
    "striped-window, by position]",
    "test_accumulating.py::test_a_sink_is_what_the_kernels_go_on_from",
    "test_merge.py::test_a_merge_is_the_weighted_sum_and_rows_without_keys_stay_empty[59-*]",
    "test_merge.py::test_strided_views_are_merged_in_place_and_nothing_beside_them_is_touched",
    # documents
    "test_packed.py::test_each_document_is_what_it_is_alone[float16-causal, window (30, 0)]",
    "test_packed.py::test_each_document_is_what_it_is_alone[float16, ALiBi-causal]",
    "test_packed.py::test_each_document_is_what_it_is_alone[float32-full]",
    "test_packed.py::test_a_documents_number_is_its_batch_entry_in_dropout",
    # one launch over the keys of many ranks
    "test_gathered.py::test_out_and_gradients_are_as_good_as_plain_torch[zigzag, causal]",
    "test_gathered.py::test_out_and_gradients_are_as_good_as_plain_torch[everything]",
    "test_gathered.py::test_a_piece_is_not_read_before_its_word[*]",
    "test_gathered.py::test_what_never_comes_is_not_waited_for_and_makes_everything_nan[*-meanwhile]",
    # a cache
    "test_cached.py::test_what_is_appended_lands_where_the_reference_puts_it",
    "test_cached.py::test_room_that_nobody_uses_and_pages_change_no_bit[5-3]",
    "test_cached.py::test_packed_queries_see_what_they_see_by_themselves",
    # numbers at the edge, and a public call
    "test_edges.py::test_what_is_not_finite_goes_where_the_references_does[nan in k*-0.0-*32]",
    "test_edges.py::test_scores_of_ten_thousand_neither_overflow_nor_lose_the_softmax[1-*16]",
    "test_edges.py::test_a_public_call_without_queries_or_keys_gives_nothing[0-9]",
)
