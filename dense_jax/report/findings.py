"""Warnings that the files of a run show by themselves, each with its fix."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from dense_jax.report.tables import BEFORE, TESTED, ResultTable
from dense_jax.run_results import BM25
from dense_jax.train.metrics import COLLAPSE
from dense_jax.train.validation import History

_FEW_DIRECTIONS = 8  # RankMe below which vectors lie in a small subspace
_ALIKE = 0.95  # mean cosine of different passages above which they point one way
_FLAT = 0.01  # relative fall of the loss from the third quarter of the steps to the last
_POINTS = 8  # logged losses below which nothing is said about their course
_OFTEN = 50  # visits of each passage above which the corpus is small for the run
_CHANCE = 0.05  # p-value
_RECALL = 0.9  # of an index

Lines = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Finding:
    """A warning with its fix."""

    text: str
    fix: str


def of_training(lines: Lines, step: int, steps: int, ended: bool, visits: float | None) -> Iterator[Finding]:
    """Findings about training that stands at `step` of `steps`, where it has `ended` or not.

    Each passage is visited `visits` times in all; None where training does not visit passages.
    """
    if not ended:
        yield Finding(f"Training stands at step {step:,} of {steps:,}.", "Give `dense-jax train` again: it continues.")
    yield from _of_collapse(lines)
    yield from _of_loss([line["loss"] for line in lines if "loss" in line])
    if visits is not None and visits > _OFTEN:
        text = f"Each passage is visited {visits:,.0f} times: the corpus is small for that number of steps."
        yield Finding(text, "Add text by --corpus.also=FILE, or train for fewer --steps.")
    if skipped := max((line.get("skipped_steps", 0) for line in lines), default=0):
        text = f"{skipped:,.0f} steps were skipped, since their loss or gradient was not finite."
        yield Finding(text, "Look at their examples in skipped.jsonl; lower --optimizer.learning_rate.")


def of_validation(history: History | None, ended: bool) -> Iterator[Finding]:
    """Findings about the validation results of a run whose training has `ended` or not."""
    if history is None or len(history.results) < 2:
        return
    if history.loss:
        fix = "Use a lower --optimizer.learning_rate in another --workdir, or --validation.select=best."
        yield Finding(f"{_capital(history.loss)}.", fix)
    elif ended and history.best == history.steps[-1] and len(history.results) > 2:
        text = f"{history.measure} was still rising at the last validation."
        yield Finding(text, "Train longer: raise --steps in another --workdir.")


def of_results(tables: Sequence[ResultTable]) -> Iterator[Finding]:
    """Findings about the retriever after training, in comparison with the others."""
    if not tables:
        fix = "Run `dense-jax evaluate`, with judged queries of your own by --evaluate.folder=DIR."
        yield Finding("The run was not evaluated.", fix)
    for table in tables:
        for name, fix in (
            (BEFORE, "Use a lower --optimizer.learning_rate, or fewer --steps."),
            (BM25, "Start from a trained model by --init_from, train longer, or fine-tune on judged queries."),
        ):
            other = table.row(name)
            if other is None or other is table.last or table.last.mean[TESTED] >= other.mean[TESTED]:
                continue
            if table.last.p.get(name, 1.0) < _CHANCE:
                figures = f"{table.last.mean[TESTED]:.3f} against {other.mean[TESTED]:.3f}"
                yield Finding(f"On {table.name} the model finds less than {name}: {TESTED} {figures}.", fix)


def of_data(rejected: int, first: str) -> Iterator[Finding]:
    """Findings about the corpus: `first` describes the first of its `rejected` rows."""
    if rejected:
        text = f"{rejected:,} rows of the corpus are no documents and were left out, such as {first}."
        yield Finding(text, "Correct them, all listed in rejects.jsonl, and prepare in another --workdir.")


def of_index(name: str, recall: float | None) -> Iterator[Finding]:
    """Findings about an index with its measured recall@10."""
    if recall is not None and recall < _RECALL:
        text = f"The index {name} finds {recall:.1%} of the ten nearest vectors."
        yield Finding(text, "Raise --index.leaves_searched or --index.reorder, and run `dense-jax index` again.")


def _of_collapse(lines: Lines) -> Iterator[Finding]:
    last = {name: value for line in lines for name, value in line.items() if name.startswith(COLLAPSE)}
    fix = (
        "Start from a trained model by --init_from, or train longer. Vectors of Condenser, coCondenser and RetroMAE "
        "are made to be fine-tuned: measure them after it."
    )
    if (rank := last.get(f"{COLLAPSE}rank_me")) is not None and rank < _FEW_DIRECTIONS:
        yield Finding(f"The passages' vectors use only {rank:.1f} directions (rank_me).", fix)
    if (cosine := last.get(f"{COLLAPSE}mean_cosine")) is not None and cosine > _ALIKE:
        yield Finding(f"Different passages have a mean cosine of {cosine:.2f}: all point one way.", fix)


def _of_loss(losses: Sequence[float]) -> Iterator[Finding]:
    quarter = len(losses) // 4
    if len(losses) < _POINTS:
        return
    before, after = median(losses[-2 * quarter : -quarter]), median(losses[-quarter:])
    if before - after < _FLAT * abs(before):
        text = f"The loss no longer falls: {before:.3f} in the third quarter of the steps, {after:.3f} in the last."
        yield Finding(text, "Compare validation results (--validation.every): stop earlier, or use a larger --batch.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
