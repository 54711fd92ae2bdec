"""The verbs: `dense-jax VERB --config=FILE[:variant] --key=value --workdir=DIR`."""

import os
import sys
from logging import CRITICAL, getLogger

from absl import logging

from dense_jax.errors import UserError
from dense_jax.stopping import stopping_on_sigterm

USAGE = """usage: dense-jax VERB --config=FILE[:variant] [--key=value ...] --workdir=DIR

  show      the checked config, a decoded example, the parameters, what a run will cost
            with --topology=v5e:16x16, of TPUs elsewhere: memory, step time and largest batch by their compiler
  prepare   documents -> sentences -> passages -> tokens
  train     pre-train; continues by itself where it was stopped
            with --restart it starts over, and moves what it wrote before aside
  refresh   beside a training that looks passages up: the index of each snapshot
  embed     the collection through the passage tower
  index     nearest-neighbour index over the embeddings
  search    queries, from the arguments or standard input -> score, title, text
  answer    questions -> answer, share, passage; with answer.questions=FILE exact match and answer recall
  mine      hard negatives for the training queries, by the trained retriever or by BM25
  evaluate  nDCG@10, MRR@10, Recall@100: BM25, before training, after training
  export    a folder for Hugging Face transformers and sentence-transformers
  compare   WORKDIR ... [--against=NAME] --workdir=DIR: a table and a chart of finished runs
"""


# What lets libtpu compile beside other processes, on a machine without TPUs or with TPUs that are at work. The last
# three keep it from asking a metadata server what it runs on.
COMPILER_ONLY = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def main() -> None:
    """The console script."""
    if any(arg.startswith("--topology") for arg in sys.argv):
        os.environ.update(COMPILER_ONLY)  # here, since JAX reads them when it is imported
    logging.set_verbosity(logging.FATAL)  # what a user must know, the verbs say themselves
    silence_background_writes()
    sys.exit(run(sys.argv[1:]))


def silence_background_writes() -> None:
    """Leaves out the errors that follow where one file of a checkpoint cannot be written, and that one is raised."""
    getLogger("asyncio").setLevel(CRITICAL)
    show = sys.unraisablehook
    sys.unraisablehook = lambda found: None if str(found.exc_value) == "Event loop is closed" else show(found)


def run(argv: list[str]) -> int:
    """Runs one command line and returns its exit status; an error that explains itself is printed, not raised."""
    if not argv or argv[0] in ("help", "--help", "-h"):
        print(USAGE)
        return 0
    try:
        with stopping_on_sigterm():
            from dense_jax import verbs  # here, since importing JAX takes seconds that help need not wait for

            verbs.call(argv[0], argv[1:])
    except UserError as error:
        print(f"dense-jax {argv[0]}: {error}", file=sys.stderr)
        return error.code
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    main()
