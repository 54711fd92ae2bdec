"""Probes a run while it trains, keeps the checkpoint of the best state, and says when to stop."""

from pathlib import Path

from dense_jax.arrays import Params
from dense_jax.config import Config, Select
from dense_jax.multihost import is_process_0
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.history import continued
from dense_jax.train.metrics import MetricsLog
from dense_jax.train.probe import Probe

PREFIX = "retrieval/"  # of the names in metrics.jsonl and TensorBoard


class Selection:
    """The probes of a run that goes on from step `first`; without a `probe` there are none."""

    def __init__(
        self, config: Config, probe: Probe | None, workdir: Path, checkpoints: Checkpoints, log: MetricsLog, first: int
    ) -> None:
        self.config, self.probe, self.workdir, self.checkpoints, self.log = config, probe, workdir, checkpoints, log
        self.history = continued(workdir, config.probe, probe.sample.fingerprint if probe else "", first)
        if probe is not None:
            self._remember()

    def due(self, step: int) -> bool:
        """True if the state after `step` is to be probed and was not yet: the first, the last, every k-th."""
        if self.probe is None or step in self.history.steps:
            return False
        every = self.config.probe.every
        return step in (0, self.config.steps) or (every > 0 and step % every == 0)

    def look(self, step: int, params: Params) -> None:
        """Probes the state after `step`, which is due."""
        assert self.probe is not None
        with self.log.paused():
            figures = self.probe(params)
        self.history = self.history.added(step, figures)
        best = self.history.best
        rank = "the best so far" if best == step else f"the best is of step {best:,}"
        self.log.add(step, {PREFIX + name: value for name, value in figures.items()}, rank)
        self._remember()
        ends = step == self.config.steps or bool(self.history.ended)
        if ends and (loss := self.history.loss):
            self.log.say(f"warning: {loss}; try a lower --optimizer.learning_rate in another --workdir")

    def is_best(self, step: int) -> bool:
        """Whether the state after `step` is to be kept as the best."""
        return self.config.probe.select is Select.BEST and self.history.best == step

    def over(self, step: int) -> bool:
        """Whether training ends with `step`, before its last; then says by which rule."""
        reason = self.history.ended
        if not reason or step == self.config.steps:
            return False
        self.log.say(
            f"training ended at step {step:,} of {self.config.steps:,}: {reason}; to go on, use a larger one, or 0"
        )
        return True

    def _remember(self) -> None:
        if is_process_0():
            self.history.write(self.workdir)
        if self.config.probe.select is Select.BEST and self.history.best is not None:
            self.checkpoints.protect(self.history.best)
