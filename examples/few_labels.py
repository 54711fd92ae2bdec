"""What do a few judged queries buy? A retriever is fine-tuned on them and compared with itself, BM25, and both.

    python examples/few_labels.py MODEL FOLDER WORKDIR --try optimizer.learning_rate=2e-5,1e-4 --try negatives=none,bm25
    python examples/few_labels.py MODEL FOLDER WORKDIR --set negatives=bm25 --shares 0.1 0.3 1 --others OTHER_FOLDER

MODEL is a folder of sentence-transformers or its name on the Hub, FOLDER a BEIR folder. The values of each `--try` are
compared on the dev queries, with the first seed, and the best one is kept; of equal ones the first. Then each share of
the training queries is learned from with each seed, and measured on the test queries; with `--others` also on the test
queries of other collections, the mean of each run and MODEL too. Finished runs are lines of WORKDIR/runs.jsonl, and the
same command continues.

Without qrels/train.tsv the test queries are divided: of five in a row two train, one is for choices (dev), two test.
If there is a choice, but no qrels/dev.tsv, every fifth training query is a dev query.
"""

import argparse
import csv
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest

import dense_jax
from dense_jax.config import ValidationConfig
from dense_jax.retrieval.beir import Qrels, read_test_set
from dense_jax.retrieval.evaluate import markdown
from dense_jax.retrieval.metrics import HEADLINE
from dense_jax.retrieval.sample import make_sample
from dense_jax.retrieval.significance import bootstrap_interval, randomisation_test

NEGATIVES = "negatives"  # not a setting itself; its values, to be joined as in bm25+mined:
MINED = {
    "none": {},  # those of the batch alone
    "bm25": {"mine.source": "bm25"},
    "mined": {"mine.source": "dense"},  # by MODEL
    "far": {"mine.source": "dense", "mine.margin": "relative", "mine.margin_size": 0.05},  # the 95 % rule
}
BM25, DENSE, HYBRID = "BM25", "dense", "hybrid"
FILES = {BM25: "BM25", DENSE: "[ab]*_training", HYBRID: "hybrid_*_training"}  # of figures in the folder of results

Settings = dict[str, Any]
Record = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """Runs from one model on one collection, each done once."""

    model: str
    folder: Path  # BEIR folder with the splits that are used
    work: Path
    length: int  # tokens of a passage where it is measured; 0: those of MODEL
    sample: tuple[int, int]  # test queries and documents that are measured at most

    def validated(self, settings: Settings) -> float:
        """The figure of a run on the dev queries."""
        return self._once({"dev": settings}, lambda: self._validate(settings))["curve"][-1]

    def tested(self, settings: Settings, folder: Path, *, mean: bool = False) -> Record:
        """The figures of each query of a test set, by a run or by its mean with the model that it started from."""
        what = {"test": settings, "on": folder.name, "mean": mean}
        return self._once(what, lambda: self._test_mean(settings, folder) if mean else self._test(settings, folder))

    def sampled(self, folder: Path) -> Path:
        """The test collection in `folder`, or its sample."""
        queries, documents = self.sample
        config = self._config({}).config
        sizes = ValidationConfig(folder=str(folder), queries=queries, documents=documents)
        return make_sample(self.work / "test", folder, "test", replace(config, validation=sizes))

    def _once(self, what: Record, measure: Callable[[], Record]) -> Record:
        """The record of `what`, measured now if it is not in the log."""
        log, key = self.work / "runs.jsonl", json.dumps(what, sort_keys=True)
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        done = {json.dumps(record["what"], sort_keys=True): record for record in map(json.loads, lines)}
        if key not in done:
            done[key] = {"what": what} | measure()
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[key]) + "\n")
        return done[key]

    def _validate(self, settings: Settings) -> Record:
        run = self._run(settings, {"validation.folder": self.folder})
        run.train()
        results = json.loads((run.path / "validation.json").read_text())["results"]
        print(f"dev: {settings} {[round(result[HEADLINE[0]], 3) for result in results]}", file=sys.stderr)
        return {"steps": [result["step"] for result in results], "curve": [result[HEADLINE[0]] for result in results]}

    def _test(self, settings: Settings, folder: Path) -> Record:
        run = self._run(settings)
        if run.config.steps:
            run.train()
        learned = {name: value for name, value in settings.items() if not name.endswith("_length")}
        config = {"evaluate.folder": folder, "evaluate.before": False} | self._length
        return figures(dense_jax.Run(run.path, self._config(self._given(learned) | config)))

    def _test_mean(self, settings: Settings, folder: Path) -> Record:
        run = self._run(settings)
        target = run.path.with_name(f"{run.path.name}-mean")
        if not (target / "export").is_dir():
            dense_jax.average([run.path, self.model], target)
        config = {"evaluate.folder": folder} | self._length
        return figures(dense_jax.Run(target, dense_jax.load_config(f"pretrained:{target / 'export'}", config)))

    def _run(self, settings: Settings, further: Settings | None = None) -> dense_jax.Run:
        """The prepared run of `settings` in its workdir; `further` ones do not alter what is trained."""
        workdir = self.work / "runs" / xxh3_64_hexdigest(json.dumps(settings, sort_keys=True).encode())
        run = dense_jax.Run(workdir, self._config(self._given(settings) | (further or {})))
        run.prepare()
        return run

    def _given(self, settings: Settings) -> Settings:
        """`settings` without `negatives`, and with the settings of its value."""
        given, kinds = dict(settings), settings.get(NEGATIVES, "none")
        given.pop(NEGATIVES, None)
        if kinds == "none":
            return given | {"objective.negatives": 0}
        return given | {"corpus.queries": [self._mined(kind) for kind in kinds.split("+")]}

    @functools.cache  # noqa: B019  one study a process
    def _mined(self, kind: str) -> Path:
        """The file of negatives of all training queries."""
        start, out = self.work / "start", self.work / "mined" / kind
        run = dense_jax.Run(start, self._config({"steps": 0} | self._length))
        run.prepare()
        if MINED[kind]["mine.source"] == "dense":
            run.embed()  # here, for all kinds
        dense_jax.Run(start, self._config({"steps": 0} | self._length | MINED[kind]), out=out).mine()
        return next((out / "mined").glob("*.jsonl"))

    def _config(self, settings: Settings) -> Any:
        given = {"corpus.source": self.folder, "corpus.max_rejects": 0.01}
        return dense_jax.load_config(f"finetune:{self.model}", given | settings)

    @property
    def _length(self) -> Settings:
        return {"objective.passage_length": self.length} if self.length else {}


def figures(run: dense_jax.Run) -> Record:
    """The measures of each test query, by BM25, by the model, and by both."""
    folder = run.evaluate().folder
    paths = {name: next(folder.glob(f"{file}.json")) for name, file in FILES.items()}
    return {name: json.loads(path.read_text())["per_query"] for name, path in paths.items()}


def choose(study: Study, settings: Settings, candidates: dict[str, list[str]]) -> Settings:
    """`settings` with the best value of each candidate on the dev queries, one after the other."""
    for name, values in candidates.items():
        settings = max(({**settings, name: value} for value in values), key=study.validated)
    return settings


def with_splits(folder: Path, target: Path, choices: bool) -> Path:
    """`folder`, or `target` with the same corpus and queries, divided into the splits that are used."""
    found = {path.stem for path in (folder / "qrels").glob("*.tsv")}
    if "train" in found and ("dev" in found or not choices):
        return folder
    test = read_test_set(folder, "test").qrels
    if "train" in found:
        train = read_test_set(folder, "train").qrels
        parts = {"train": every_fifth(train, (0, 1, 2, 3)), "dev": every_fifth(train, (4,)), "test": test}
    else:
        parts = {"train": every_fifth(test, (0, 1)), "dev": every_fifth(test, (2,)), "test": every_fifth(test, (3, 4))}
    (target / "qrels").mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file() and not (target / path.name).exists():
            (target / path.name).symlink_to(path.absolute())
    for split, qrels in parts.items():
        with (target / "qrels" / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
            rows = [(query, document, grade) for query, own in qrels.items() for document, grade in own.items()]
            csv.writer(file, delimiter="\t").writerows([("query-id", "corpus-id", "score"), *rows])
    return target


def every_fifth(qrels: Qrels, places: Sequence[int]) -> Qrels:
    """The queries whose number, from 0, leaves one of the remainders `places` when divided by 5."""
    return {query: own for number, (query, own) in enumerate(qrels.items()) if number % 5 in places}


def table(start: Record, rows: dict[str, list[Record]]) -> str:
    """The means of each row over seeds and queries, and its gains over `start`, BM25, and both together."""
    references = {"MODEL": (start, DENSE), "BM25": (start, BM25), "MODEL + BM25": (start, HYBRID)}
    cells = [["", *HEADLINE, *(f"over {name}" for name in references)]]
    lines = {name: ([record], side) for name, (record, side) in references.items()}
    for name, records in rows.items():
        lines |= {name: (records, DENSE), f"{name}, with BM25": (records, HYBRID)}
    for name, (records, side) in lines.items():
        means = [np.mean([values(record, side, measure) for record in records]) for measure in HEADLINE]
        own = np.mean([values(record, side) for record in records], axis=0)
        spread = np.std([values(record, side).mean() for record in records], ddof=1) if len(records) > 1 else None
        shown = [f"{mean:.3f}" for mean in means]
        shown[0] += f" ± {spread:.3f}" if spread is not None else ""
        gains = [
            gain(own, values(record, side)) if name in rows or "," in name else ""
            for record, side in references.values()
        ]
        cells.append([name, *shown, *gains])
    return markdown(cells)


def values(record: Record, side: str, measure: str = HEADLINE[0]) -> np.ndarray:
    """A measure of each query, by the order of their ids."""
    return np.array([record[side][query][measure] for query in sorted(record[side])])


def gain(own: np.ndarray, theirs: np.ndarray) -> str:
    """The mean difference with its interval and p-value."""
    low, high = bootstrap_interval(own, theirs) or (np.nan, np.nan)
    return f"{np.mean(own - theirs):+.3f} ({low:+.3f} to {high:+.3f}), p {randomisation_test(own, theirs):.2g}"


def main(argv: list[str] | None = None) -> None:
    given = arguments(argv)
    candidates = {name: texts.split(",") for name, texts in given.candidates}
    folder = with_splits(given.folder, given.workdir / given.folder.name, bool(candidates))
    study = Study(given.model, folder, given.workdir, given.length, (given.queries, given.documents))
    settings = choose(study, dict(given.settings) | {"seed": given.seeds[0]}, candidates)
    print(f"settings: {settings}\n", flush=True)
    report(study, settings, given.shares, given.seeds, [folder, *given.others])


def report(
    study: Study, settings: Settings, shares: Sequence[float], seeds: Sequence[int], folders: Sequence[Path]
) -> None:
    """Measure the runs of all shares and seeds on each test set, and print a table of each."""
    part = {share: {"corpus.query_share": share} if share < 1 else {} for share in shares}
    runs = {share: [settings | part[share] | {"seed": seed} for seed in seeds] for share in shares}
    new = without_known_answers(study.folder)
    for place in folders:
        folder = study.sampled(place)
        start = study.tested({"steps": 0}, folder)
        rows = {f"{share:.0%}": [study.tested(run, folder) for run in of] for share, of in runs.items()}
        if len(folders) > 1:
            means = {share: [study.tested(run, folder, mean=True) for run in of] for share, of in runs.items()}
            rows |= {f"{share:.0%}, mean with MODEL": of for share, of in means.items()}
        print(f"{folder.name}: {len(start[DENSE])} queries\n\n{table(start, rows)}\n", flush=True)
        if place == study.folder and (chosen := new & start[DENSE].keys()):
            rows = {name: [only(each, chosen) for each in of] for name, of in rows.items()}
            print(f"{len(chosen)} of them share no relevant document with a training query:\n")
            print(f"{table(only(start, chosen), rows)}\n", flush=True)


def without_known_answers(folder: Path) -> set[str]:
    """The test queries that share no relevant document with any training query."""
    train, test = (relevant(read_test_set(folder, split).qrels) for split in ("train", "test"))
    known = set().union(*train.values())
    return {query for query, own in test.items() if not own & known}


def relevant(qrels: Qrels) -> dict[str, set[str]]:
    return {query: {document for document, grade in own.items() if grade > 0} for query, own in qrels.items()}


def only(record: Record, queries: set[str]) -> Record:
    """The figures of some queries."""
    return {side: {query: of for query, of in record[side].items() if query in queries} for side in FILES}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder of sentence-transformers, or ORG/NAME of the Hub")
    parser.add_argument("folder", type=Path, help="a BEIR folder")
    parser.add_argument("workdir", type=Path)
    pair = {"metavar": "NAME=VALUE", "default": [], "action": "append", "type": lambda text: tuple(text.split("=", 1))}
    parser.add_argument("--set", dest="settings", help="a setting of all runs; `negatives` too", **pair)
    parser.add_argument("--try", dest="candidates", help="values to choose from, with commas between them", **pair)
    parser.add_argument("--shares", type=float, nargs="*", default=[1.0], help="of the training queries")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="BEIR folders to measure forgetting on")
    parser.add_argument("--length", type=int, default=0, help="tokens of a passage at measuring; default: MODEL's")
    parser.add_argument(
        "--queries", type=int, default=1_000_000, help="queries of a test set that are measured at most"
    )
    parser.add_argument("--documents", type=int, default=1_000_000, help="the same of documents; relevant ones first")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
