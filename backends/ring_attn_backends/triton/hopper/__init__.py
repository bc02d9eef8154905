"""Kernels for Hopper in Gluon: a producer warp, and warpgroups that multiply what it fetched.

Every block that these cannot do, and every other GPU, is served by the plain kernels;
`serves` says what is served here, and `table` by what.
"""
