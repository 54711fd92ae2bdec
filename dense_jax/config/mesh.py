"""Settings of the device mesh."""

import enum
from dataclasses import dataclass, field

from dense_jax.config.rules import IDENTITY, MeshAxis


class GradientDtype(enum.Enum):
    """Type in which the gradients of the layers' kernels are summed over the chips."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"  # half the bytes; where the layers compute in bfloat16


@dataclass
class MeshConfig:
    """Devices along each axis, the outermost first; one axis may be -1: all remaining devices."""

    dcn: MeshAxis = field(default=1, kw_only=True)  # batch; slices (of GPUs: nodes) that the data-centre network joins
    data: MeshAxis = -1  # batch
    fsdp: MeshAxis = 1  # batch, and parameters, which are gathered layer by layer
    # parameters alone: heads, feed-forward units, and the vocabulary, if its size is divisible by this
    tensor: MeshAxis = 1
    shard_update: bool = True  # each chip of the data axis holds and updates a share of parameters and moments
    gradient_dtype: GradientDtype = field(default=GradientDtype.FLOAT32, metadata=IDENTITY)
