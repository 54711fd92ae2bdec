"""Losses as pure functions of arrays, in float32 whatever the encoder's compute type; float64 stays float64.

A loss is written for the global batch: under `jit` over a mesh, with the batch sharded, each device holds only the
score rows of its own queries, and XLA gathers the passages and sums their gradients over devices.
"""
