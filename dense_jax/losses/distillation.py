"""A teacher's scores of a query's own passages, the answer first, as the target; NaN where it gave none.

A query without a teacher's score of its answer and of one other passage adds nothing to the loss.
"""

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, to_float32
from dense_jax.losses.similarity import MASKED_SCORE


def has_scores(teacher: Float[Array, "q g"]) -> Bool[Array, " q"]:
    """Which queries there is something to be learned of: the answer has a score, and another passage has one.

    >>> import jax.numpy as jnp
    >>> has_scores(jnp.array([[1.0, 2.0], [1.0, jnp.nan], [jnp.nan, 2.0]])).tolist()
    [True, False, False]
    """
    there = ~jnp.isnan(teacher)
    return there[:, 0] & jnp.any(there[:, 1:], axis=1)


def kl_divergence(
    student: Float[Array, "q g"], teacher: Float[Array, "q g"], *, temperature: float = 1.0, squared: bool = True
) -> Float[Array, " q"]:
    """KL(softmax(teacher / T) || softmax(student / T)) of each query, over the passages that the teacher scored.

    `squared`: times T^2, so that gradients keep their size (Hinton et al. 2015, section 2); Tevatron has no such
    factor. Lin et al. 2020, "Distilling Dense Representations for Ranking using Tightly-Coupled Teachers".

    >>> import jax.numpy as jnp
    >>> flat, steep = jnp.zeros((1, 2)), jnp.log(jnp.array([[3.0, 1.0]]))
    >>> round(float(kl_divergence(flat, steep)[0]), 4)  # 3/4 log(3/2) + 1/4 log(1/2)
    0.1308
    """
    used = _used(teacher)
    target = jax.nn.log_softmax(jnp.where(used, to_float32(teacher) / temperature, MASKED_SCORE), axis=1)
    found = jax.nn.log_softmax(jnp.where(used, to_float32(student) / temperature, MASKED_SCORE), axis=1)
    terms = jnp.where(used, jnp.exp(target) * (target - found), 0.0)
    return jnp.sum(terms, axis=1) * (temperature**2 if squared else 1.0)


def margin_mse(student: Float[Array, "q g"], teacher: Float[Array, "q g"]) -> Float[Array, " q"]:
    """Mean over a query's other passages of ((s+ - s-) - (t+ - t-))^2, for those that the teacher scored.

    Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation".

    >>> import jax.numpy as jnp
    >>> float(margin_mse(jnp.array([[3.0, 1.0, 0.0]]), jnp.array([[5.0, 4.0, 3.0]]))[0])  # (1 + 1) / 2
    1.0
    """
    used = _used(teacher)
    student, teacher = to_float32(student), to_float32(jnp.where(used, teacher, 0.0))
    errors = (student[:, :1] - student) - (teacher[:, :1] - teacher)
    others = used.at[:, 0].set(False)
    return jnp.sum(jnp.where(others, jnp.square(errors), 0.0), axis=1) / jnp.maximum(jnp.sum(others, axis=1), 1)


def _used(teacher: Float[Array, "q g"]) -> Bool[Array, "q g"]:
    return ~jnp.isnan(teacher) & has_scores(teacher)[:, None]
