"""Settings of the device mesh."""

from dataclasses import dataclass, field

from dense_jax.config.rules import MeshAxis


@dataclass
class MeshConfig:
    """Devices along each axis, the outermost first; -1 for one axis: all that are left."""

    dcn: MeshAxis = field(default=1, kw_only=True)  # batch; slices (of GPUs: nodes) that the data-centre network joins
    data: MeshAxis = -1  # batch
    fsdp: MeshAxis = 1  # batch, and parameters, which are gathered layer by layer
    tensor: MeshAxis = 1  # parameters alone: heads and feed-forward units, the vocabulary if it divides it
