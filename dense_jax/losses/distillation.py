"""Distillation: a teacher's scores of a query's own passages as the target.

Column 0 is the answer, the others are negatives; NaN marks a passage without a teacher's score. A query contributes
only if the teacher scored its answer and at least one other passage.
"""

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, to_float32
from dense_jax.losses.similarity import MASKED_SCORE


def has_scores(teacher: Float[Array, "q g"]) -> Bool[Array, " q"]:
    """Return True where the teacher scored the answer and another passage.

    >>> import jax.numpy as jnp
    >>> has_scores(jnp.array([[1.0, 2.0], [1.0, jnp.nan], [jnp.nan, 2.0]])).tolist()
    [True, False, False]
    """
    is_scored = ~jnp.isnan(teacher)
    return is_scored[:, 0] & jnp.any(is_scored[:, 1:], axis=1)


def kl_divergence(
    student: Float[Array, "q g"], teacher: Float[Array, "q g"], *, temperature: float = 1.0, squared: bool = True
) -> Float[Array, " q"]:
    """KL(softmax(teacher / T) || softmax(student / T)) of each query, over the passages that the teacher scored.

    With `squared` it is multiplied by T^2, so that gradients keep their size (Hinton et al. 2015, section 2); Tevatron
    omits the factor. Lin et al. 2020, "Distilling Dense Representations for Ranking using Tightly-Coupled Teachers".

    >>> import jax.numpy as jnp
    >>> flat, steep = jnp.zeros((1, 2)), jnp.log(jnp.array([[3.0, 1.0]]))
    >>> round(float(kl_divergence(flat, steep)[0]), 4)  # 3/4 log(3/2) + 1/4 log(1/2)
    0.1308
    """
    is_used = _is_used(teacher)
    target = jax.nn.log_softmax(jnp.where(is_used, to_float32(teacher) / temperature, MASKED_SCORE), axis=1)
    found = jax.nn.log_softmax(jnp.where(is_used, to_float32(student) / temperature, MASKED_SCORE), axis=1)
    terms = jnp.where(is_used, jnp.exp(target) * (target - found), 0.0)
    return jnp.sum(terms, axis=1) * (temperature**2 if squared else 1.0)


def margin_mse(student: Float[Array, "q g"], teacher: Float[Array, "q g"]) -> Float[Array, " q"]:
    """Mean over a query's negatives of ((s+ - s-) - (t+ - t-))^2, for those that the teacher scored.

    Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation".

    >>> import jax.numpy as jnp
    >>> float(margin_mse(jnp.array([[3.0, 1.0, 0.0]]), jnp.array([[5.0, 4.0, 3.0]]))[0])  # (1 + 1) / 2
    1.0
    """
    is_used = _is_used(teacher)
    student, teacher = to_float32(student), to_float32(jnp.where(is_used, teacher, 0.0))
    errors = (student[:, :1] - student) - (teacher[:, :1] - teacher)
    negatives = is_used.at[:, 0].set(False)
    return jnp.sum(jnp.where(negatives, jnp.square(errors), 0.0), axis=1) / jnp.maximum(jnp.sum(negatives, axis=1), 1)


def _is_used(teacher: Float[Array, "q g"]) -> Bool[Array, "q g"]:
    return ~jnp.isnan(teacher) & has_scores(teacher)[:, None]
