"""The mathematics of Safe RLHF: pure functions of tensors and floats.

`masking` and `logprobs` say which numbers count, `preference` trains the reward and cost models, `credit` turns
scores into advantages, `policy` turns advantages into losses, `lagrange` weighs reward against cost, `constraint`
says what it must follow, `direct` turns preferences into losses of the policy itself; `offline_dual`, NumPy
alone, finds that weight from stored scores, and `selection` chooses one of several responses by both.
Nothing here knows of configs, devices, processes or files.

Every loss takes its denominator, so that a batch split in parts adds up to the same gradient, and returns
`(loss, Stats)`. Every field of a `Stats` is a detached 0-d tensor holding a sum: sums of micro-batches and of
processes add, and are divided by their count once, at the end.
"""
