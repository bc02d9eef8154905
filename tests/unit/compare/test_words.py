"""What rows are called in a comparison."""

from ring_attn_bench.compare.words import CaseWords


def test_a_case_that_differs_in_any_field_has_another_word(changed_cases):
    base, others = changed_cases

    for name, other in others.items():
        words = CaseWords.of([base, other])
        assert words.case(base) != words.case(other), name


def test_an_axis_that_has_no_word_of_its_own_is_called_by_its_name(changed_cases):
    base, others = changed_cases

    assert CaseWords.of([base, others["sinks"]]).case(others["sinks"]) == "sinks"
    assert "sinks" not in CaseWords.of([base]).shared
    assert CaseWords.of([others["deterministic"]]).shared.endswith("deterministic")


def test_what_all_cases_share_is_said_once_in_the_order_of_the_table(make_case):
    words = CaseWords.of([make_case(), make_case(causal=False)])

    assert words.shared == "8K a rank, W = 4, batch 1, heads 32:8, head dim 128, bfloat16"
    assert words.case(make_case()) == "causal"
