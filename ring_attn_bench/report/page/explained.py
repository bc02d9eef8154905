"""What the figures of a page mean, in our own words."""

HOW = (
    (
        "latency",
        "The median over iterations of the slowest rank's time. ± is the larger side of that "
        "median's 95 % confidence interval, from order statistics (binomial, no assumption about "
        "the distribution); below 6 samples there is none.",
    ),
    (
        "ahead, behind",
        "How many times as long the slower one takes: the ratio of the medians, in brackets "
        "between what it is with 95 % confidence, from intervals of both medians at 97.5 %. "
        "Contestants were timed in turns in one run; what differs between runs, as clocks and "
        "placement do, is not in it.",
    ),
    (
        "TFLOP/s",
        "Useful work, from the exact area of the mask: 4 x area x heads x head_dim x batch for a "
        "forward, 2.5 times that for a backward, 3.5 times for both; divided by the latency and by "
        "the GPUs (CPU processes) that shared the work.",
    ),
    (
        "% of 1 GPU",
        "The ring's speed beside the same kernel's in one call on one GPU, at one GPU's share of "
        "the useful work. 100 would be a ring that costs nothing.",
    ),
    (
        "% of twin",
        "Its speed beside the same launches on local keys; what is missing to 100 is "
        "communication.",
    ),
    (
        "where the time goes",
        "ring = one call + uneven work + launches + communication. One call is the kernel alone at "
        "one GPU's share of the work; uneven work is what the busiest rank has beyond it, by the "
        "plan, at that pace; launches are what the twin takes beyond both: more and shorter "
        "launches, merging, the host. Each is a difference of medians, in brackets between what "
        "both medians' 97.5 % intervals leave, so that it holds with 95 %; what may be nothing is "
        "`within noise` and no part of a bar. Of a peer only one call is known.",
    ),
    (
        "link alone, hidden",
        "What the plan has the busiest rank receive, or send, over what one link made of large "
        "messages or copies in the same run. Communication beyond that is no transfer: ranks that "
        "wait for each other, launches that transfers slow down. What of it communication does not "
        "show lies under launches: it is hidden.",
    ),
    (
        "speeds of light",
        "Before a ring's first contestant, its processes measure all at once a product of large "
        "square matrices in the cases' dtype, a copy inside the device, a maximum over a large "
        "tensor (read GB/s, in runs since that was added), and what a link between neighbours "
        "moves in one direction. % of matmul, % of reading and % of link are beside the slowest of "
        "them. A datasheet's figures are of clocks that nobody saw.",
    ),
    (
        "MiB",
        "Of a call: the peak of torch's allocator beyond what was held before it, without the "
        "inputs, with the results (a forward's also while its backward runs). Behind the +, what "
        "stays on the GPU between calls, by the GPU's free memory before the ring was made and "
        "after its first call: the communicator's buffers and symmetric memory, which torch's "
        "allocator does not count. Rings, peers' too, are made anew for it, so that each shows a "
        "communicator of its own; where there is no + it is not measured. Both are the largest "
        "over ranks.",
    ),
    (
        "predicted MiB",
        "What the plan of a call takes, said before it runs: results, keys that leave and land, "
        "accumulators, partial gradients on their way, what a launch returns, and for itself what "
        "the kernel says. Where it says nothing the ring alone is predicted, `ring` in "
        "`predicted_of`, and what is measured beyond that is the kernel's. Of peers, and over "
        "transports that take buffers of their own, nothing is predicted.",
    ),
    (
        "errors",
        "Against float64, over all ranks. A result is wrong if its max_abs or its rmse exceeds its "
        "bound: 2 times (out, lse) or 3 times (dq, dk, dv) the error that plain PyTorch makes in "
        "the same precision on the same inputs, and a few units in the last place. rmse / "
        "PyTorch's is its ratio to plain PyTorch's, rmse / no ring to that of the same kernel in "
        "one call: of errors, not of speeds. Above 10 the other error is next to nothing "
        "(results.csv has the figure), and `of bound` says whether that matters: the share of the "
        "allowed error that is used, of max_abs or rmse the worse.",
    ),
    (
        "suspicious",
        "While a row was timed, each rank asked NVML how its GPU was: at each batch, when its "
        "calls were on their way. A row is suspicious where heat, the power supply or the hardware "
        "slowed a GPU down, where a clock moved by more than 5 % from the first half of the looks "
        "to the second, or where somebody else was on the GPU. A power cap is no suspicion: dense "
        "kernels reach it.",
    ),
    ("auto took", "What stood for options that were left to `auto` is `took` in results.csv."),
    (
        "W = 4 played on 2",
        "Each of two GPUs does what one rank of a ring of 4 does, and gets from the other what the "
        "other ranks would send it, in the same steps. The time is of that; the numbers mean "
        "nothing, and what was judged is the same ring by loopback, all of its ranks on one GPU "
        "(of `judged_tokens`). TFLOP/s, % of 1 GPU and % of twin are those of a GPU of the larger "
        "ring.",
    ),
    (
        "no figure",
        "A wrong row has no speed, and neither has an interpreted kernel. An empty cell is a "
        "figure that does not apply.",
    ),
)
