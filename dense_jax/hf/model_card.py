"""Model card of an exported encoder: origin, use and results."""

from dataclasses import dataclass

from dense_jax.models.encoder import MultiViewEncoder
from dense_jax.terminal.markdown import fenced, plain
from dense_jax.types import Layout, Similarity, Tower, Towers

_TITLES = {
    Layout.BODY: "Passages are their text; titles were not used.",
    Layout.JOINED: 'A passage with a title is one string, title first: `f"{title} {text}"`.',
    Layout.PAIR: (
        "A passage is a pair: `model.encode([(title, text)])`, with an empty title if it has none. "
        "A bare string is laid out as a query is."
    ),
}


@dataclass(frozen=True)
class CardResult:
    """Measured value of a metric."""

    dataset: str
    split: str  # empty: the data set has no splits
    metric: str  # such as nDCG@10
    value: float


@dataclass(frozen=True)
class CardContent:
    """Facts about the model that the card reports."""

    name: str
    method: str  # of training, such as "the inverse cloze task (Lee et al. 2019)"
    corpus: str  # of training
    steps: int
    batch: int  # examples per step
    settings: str = ""  # the whole config, as text
    license: str = ""  # of the weights, as the Hugging Face Hub spells it
    results: tuple[CardResult, ...] = ()
    base: str = ""  # description of the initial weights; empty: random
    base_model: str = ""  # Hugging Face model that the first run started from; empty: none


def render_card(card: CardContent, towers: Towers, shared: bool) -> str:
    """Render README.md for the export of `towers`: one model if `shared`, else query/ and passage/."""
    from huggingface_hub import EvalResult, ModelCardData  # slow to import: a third of a second

    data = ModelCardData(
        license=card.license or None,
        base_model=card.base_model or None,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "dense-retrieval", "dense_jax"],
        model_name=card.name,
        eval_results=[
            EvalResult("text-retrieval", r.dataset, r.dataset, r.metric, r.value, dataset_split=r.split or None)
            for r in card.results
        ]
        or None,
    )
    header = f"---\n{data.to_yaml()}\n---"
    sections = [header, _introduction(card), _usage(towers, shared), _results(card), _settings_section(card)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(card: CardContent) -> str:
    """First paragraph: the base model and its training here."""
    if card.steps:
        start = f": {plain(card.base)}, trained further" if card.base else ", trained"
        method, steps = f"{plain(card.method)} on {plain(card.corpus)}", f"{card.steps:,} steps"
        done = f"with {method}: {steps} of {card.batch:,} examples, by dense_jax"
    elif card.base:
        start, done = f": {plain(card.base)}", "as it is, without further training, exported by dense_jax"
    else:
        start, done = "", "of random numbers, without any training, exported by dense_jax"
    return f"# {plain(card.name)}\n\nA dense retrieval encoder{start} {done}."


def _usage(towers: Towers, shared: bool) -> str:
    query, passage = towers.query, towers.passage
    views = isinstance(passage.encoder, MultiViewEncoder)
    notes = [
        *_prompt_notes(query, passage),
        _TITLES[passage.layout],
        f"Queries were cut to {query.length} tokens and passages to {passage.length}, special tokens included"
        + (
            "; set `model.max_seq_length` for longer queries."
            if shared and not views and query.length != passage.length
            else "."
        ),
        *(
            [f"A passage has {passage.encoder.views} vectors, of which the best counts; a query has one."]
            if views
            else []
        ),
        f"Vectors have {passage.encoder.width} numbers and are compared by {_comparison(towers.similarity)}.",
        "sentence-transformers pools as trained. Plain transformers gives hidden states only: see the modules.",
    ]
    code = _code_of_views(passage) if views else _code(towers, shared)
    return f"## Use\n\n```python\n{code}\n```\n\n" + "\n".join(f"- {note}" for note in notes)


def _code(towers: Towers, shared: bool) -> str:
    query, passage = towers.query, towers.passage
    folders = ("PATH", "PATH") if shared else ("PATH/query", "PATH/passage")
    prompt = "" if passage.layout is Layout.PAIR else _prompt_argument(passage, "document")
    return (
        "from sentence_transformers import SentenceTransformer\n\n"
        f'queries = SentenceTransformer("{folders[0]}").encode(["A question?"]{_prompt_argument(query, "query")})\n'
        f'model = SentenceTransformer("{folders[1]}")\n'
        f"passages = model.encode({_example(passage)}{prompt})\n"
        "print(model.similarity(queries, passages))"
    )


def _code_of_views(passage: Tower) -> str:
    return (
        "from sentence_transformers import MultiVectorEncoder  # version 6 or newer\n\n"
        'model = MultiVectorEncoder("PATH")\n'
        'queries = model.encode_query(["A question?"])\n'
        f"passages = model.encode_document({_example(passage)})\n"
        "print(model.similarity(queries, passages))"
    )


def _example(passage: Tower) -> str:
    pair = passage.layout is Layout.PAIR
    return '[("A title", "A text that may answer it.")]' if pair else '["A text that may answer it."]'


def _prompt_argument(tower: Tower, name: str) -> str:
    return f', prompt_name="{name}"' if tower.prompt else ""


def _prompt_notes(query: Tower, passage: Tower) -> list[str]:
    notes = []
    if query.prompt:
        notes.append(f"Queries start with {plain(repr(query.prompt))}, the prompt called `query`.")
    if passage.prompt and passage.layout is Layout.PAIR:
        notes.append(f"Put {plain(repr(passage.prompt))} before each title: a prompt cannot be put before a pair.")
    elif passage.prompt:
        notes.append(f"Passages start with {plain(repr(passage.prompt))}, the prompt called `document`.")
    return notes


def _comparison(similarity: Similarity) -> str:
    return "cosine (they have length 1)" if similarity is Similarity.COSINE else "their inner product"


def _results(card: CardContent) -> str:
    if not card.results:
        return ""
    cells = [[plain(r.dataset), plain(r.split), plain(r.metric), f"{r.value:.4f}"] for r in card.results]
    rows = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(["## Results", "", "| Data set | Split | Measure | Value |", "| --- | --- | --- | --- |", *rows])


def _settings_section(card: CardContent) -> str:
    return f"## Settings\n\n{fenced(card.settings)}" if card.settings else ""
