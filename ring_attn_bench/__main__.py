"""`python -m ring_attn_bench` is `ring-attn-bench`."""

from ring_attn_bench.cli import main

if __name__ == "__main__":
    main()
