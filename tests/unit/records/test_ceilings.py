"""What a machine makes of plain work, as a record keeps it."""

import pytest
from pydantic import ValidationError

from ring_attn_bench.records.ceilings import Ceilings, Gauged
from ring_attn_bench.records.record import append, read

TWO = (
    Gauged(matmul_tflops={"bfloat16": 700.0}, copy_gbs=4200.0, messages_gbs=300.0, pulls_gbs=370.0,
           square=8192, copied_bytes=2**30, sent_bytes=2**28),
    Gauged(matmul_tflops={"bfloat16": 650.0}, copy_gbs=4100.0, messages_gbs=290.0, pulls_gbs=375.0,
           square=8192, copied_bytes=2**30, sent_bytes=2**28),
)  # fmt: skip
AT = "2026-01-01T12:00:00+00:00"


def test_ceilings_are_those_of_the_slowest_process_and_of_the_faster_way_to_send():
    found = Ceilings.of("bfloat16", TWO, AT)

    assert found.matmul_tflops == (700.0, 650.0)
    assert (found.matmul, found.copy_rate, found.link) == (650.0, 4100.0, 370.0)


def test_what_one_process_lacks_is_no_ceiling_of_all():
    lame = TWO[1].model_copy(update={"pulls_gbs": None, "unmeasured": "no copies"})
    found = Ceilings.of("bfloat16", (TWO[0], lame), AT)

    assert found.pulls_gbs == ()
    assert found.link == 290.0
    assert found.unmeasured == "no copies"


def test_of_one_process_there_is_no_link_and_of_another_dtype_no_product():
    alone = TWO[0].model_copy(update={"messages_gbs": None, "pulls_gbs": None})
    found = Ceilings.of("float32", (alone,), AT)

    assert (found.matmul, found.copy_rate, found.link) == (None, 4200.0, None)


def test_a_record_keeps_them_and_one_of_before_has_none(make_record, tmp_path):
    path = tmp_path / "records.jsonl"
    ceilings = Ceilings.of("bfloat16", TWO, AT)
    append(path, make_record(ceilings=ceilings))
    append(path, make_record())

    new, old = read(path)
    assert new.ceilings == ceilings
    assert old.ceilings is None
    assert '"ceilings"' not in path.read_text().splitlines()[1]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_a_positive_number(rate):
    with pytest.raises(ValidationError):
        Gauged(copy_gbs=rate)
