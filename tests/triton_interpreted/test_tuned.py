"""What `tune` says of the configurations that are shipped, where Triton interprets."""

from ring_attn_backends.triton import TritonBackend

from ring_attn_bench.records.outcome import TypedTrial
from ring_attn_bench.tune.verify import fault


def test_gradients_of_keys_are_right_in_float32_at_the_widest_head_dim():
    backend = TritonBackend()
    (shipped,) = (
        trial
        for trial in backend.offer().trials
        if (trial.kernel, trial.head_dim, trial.shipped) == ("backward_dkdv", 256, True)
        and "float32" in trial.dtypes
    )

    assert fault(backend, TypedTrial(trial=shipped, dtype="float32"), "cpu") is None
