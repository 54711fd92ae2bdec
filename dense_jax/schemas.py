"""Shapes of the JSON files that are read: our own, and those of model folders.

`files.read_json` checks a file against one of these types before anything is made of its values. Keys that a type does
not name are free. Numbers are bounded, so that no array of an absurd size is asked for.
"""

from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # pydantic takes that of typing from Python 3.12 on
)

from pydantic import Field
from typing_extensions import TypedDict

Count = Annotated[int, Field(ge=0, lt=1 << 48)]
Size = Annotated[int, Field(ge=1, le=1 << 24)]  # of one axis of a parameter
Settings = dict[str, Any]
Digests = dict[str, str]  # name -> digest
Ids = list[str]

# What `prepare` writes.


class TextNotes(TypedDict):
    usable: NotRequired[Count]
    rejected: NotRequired[Count]
    near_duplicates: NotRequired[Count]
    vocabulary: NotRequired[Count]
    tokenizer: NotRequired[str]
    test: NotRequired[Digests]  # of the files of the held-out test set


class _TextCorpus(TypedDict):
    source: Settings
    held_out: Count


class _TextSettings(TypedDict):
    corpus: _TextCorpus
    tokenizer: Settings


class Text(TypedDict):
    """text.json."""

    settings: _TextSettings
    notes: TextNotes


class _SourceCounts(TypedDict):
    name: str
    count: Count
    documents: Count
    left_out: Count
    tokens: Count


class _SpanCounts(TypedDict):
    count: Count
    tokens: Count
    passages: Count


class Claim(TypedDict):
    """manifest.json or progress.json of passages or queries: what they are made with."""

    settings: Settings


class StoreProgress(TypedDict):
    """progress.json of passages: their manifest, as far as it is known."""

    settings: Settings
    notes: TextNotes
    count: NotRequired[Count]
    documents: NotRequired[Count]
    left_out: NotRequired[Count]
    tokens: NotRequired[Count]
    passages_per_shard: NotRequired[list[Count]]
    files: NotRequired[Digests]
    dtype: NotRequired[Literal["uint16", "uint32"]]
    parts: NotRequired[list[_SourceCounts]]
    spans: NotRequired[_SpanCounts]


class StoreManifest(StoreProgress):
    """manifest.json of passages."""

    count: Count
    documents: Count
    left_out: Count
    tokens: Count
    passages_per_shard: list[Count]
    files: Digests
    dtype: Literal["uint16", "uint32"]


class _QueryPart(TypedDict):
    name: str
    rows: Annotated[list[Count], Field(min_length=2, max_length=2)]
    tokens: Count


class QueryManifest(TypedDict):
    """manifest.json of queries."""

    settings: Settings
    notes: Settings
    parts: list[_QueryPart]
    files: Digests


class _OwnTokenizer(TypedDict):
    """tokenizer_config.json of a workdir."""

    pad_token: NotRequired[str | None]
    unk_token: NotRequired[str | None]
    cls_token: NotRequired[str | None]
    sep_token: NotRequired[str | None]
    mask_token: NotRequired[str | None]


class _DuplicateLine(TypedDict):
    """A line of duplicates.jsonl."""

    id: str
    duplicate_of: str


# What `embed`, `index`, `evaluate` and `answer` write.


class Plan(TypedDict):
    """plan.json of embeddings."""

    shard_size: Annotated[int, Field(ge=1, lt=1 << 48)]


class Manifest(TypedDict):
    """manifest.json of embeddings or of an index."""

    files: Digests


class VectorsManifest(TypedDict):
    """manifest.json of embeddings."""

    count: Count
    width: Size
    views: NotRequired[Size]
    files: Digests
    made_by: Settings


IndexManifest = TypedDict(
    "IndexManifest",
    {
        "kind": str,
        "count": Count,
        "width": Size,
        "embeddings": str,
        "made_by": Settings,
        "settings": Settings,
        "parts": NotRequired[Size],
        "files": Digests,
        "recall@10": float | None,
    },
)
"""manifest.json of an index."""

Share = Annotated[float, Field(ge=0, le=1)]
PerQuery = dict[str, dict[str, Share]]


class Evaluated(TypedDict):
    """Figures of a ranking, query by query."""

    step: Count | None
    per_query: PerQuery


class EvaluatedMeans(TypedDict):
    """Means of the same, and what they are of."""

    collection: str
    split: str
    step: Count | None
    mean: dict[str, Share]


class Answered(TypedDict):
    """Figures of answers, question by question."""

    step: Count
    figures: dict[str, Share]
    per_query: PerQuery


class AnsweredMeans(TypedDict):
    """Means of the same, and what they are of."""

    questions: str
    step: Count
    figures: dict[str, Share]


class _ResultSet(TypedDict):
    """set.json, of the set of queries or questions that results are of."""

    name: str
    place: str
    content: str


# What `train` writes.


class RememberedConfig(TypedDict):
    """settings.json of a workdir: the config that later verbs take."""

    config: str
    given: list[str]
    settings: Settings


class RunConfig(TypedDict):
    """config.json of a workdir: the settings of a run."""

    seed: NotRequired[int]
    steps: NotRequired[Count]
    batch: NotRequired[Count]
    objective: NotRequired[Settings]
    passages: NotRequired[Settings]
    digests: NotRequired[Settings]  # of the data that the run began with; no setting


class FinishedConfig(RunConfig):
    """The same, of a run that is reported on."""

    seed: int
    steps: Count


_Method = TypedDict("_Method", {"class": NotRequired[str]})


class _PassagesPlace(TypedDict):
    workdir: str


class _StartConfig(FinishedConfig):
    """The same, of a run that another one starts from."""

    objective: _Method
    passages: _PassagesPlace
    init_from: str


class StepLine(TypedDict):
    """A line of metrics.jsonl or skipped.jsonl."""

    step: Count


class MetricsLine(StepLine):
    """A line of metrics.jsonl."""

    tokens: float
    seconds: float


class _Saving(TypedDict):
    """saving.json of checkpoints."""

    step: Count


_Seal = Annotated[Digests, Field(min_length=1)]
"""digests-STEP.json of a checkpoint."""


class _ValidationResult(TypedDict):
    step: Count


class ValidationResults(TypedDict):
    """validation.json."""

    sample: str
    measure: str
    select: Literal["newest", "best"]
    patience: Count
    results: list[_ValidationResult]


# Model folders of Hugging Face and sentence-transformers: a null stands for a key that is left out.


class ModelKind(TypedDict):
    """config.json of a model, as far as tokenizers depend on it."""

    model_type: NotRequired[str | None]
    tokenizer_class: NotRequired[str | None]


class ModelConfig(TypedDict):
    """config.json of a model."""

    model_type: NotRequired[str | None]
    hidden_act: NotRequired[str | None]
    position_embedding_type: NotRequired[str | None]
    num_hidden_layers: NotRequired[Annotated[int, Field(ge=1, le=1_000)] | None]
    hidden_size: NotRequired[Size | None]
    num_attention_heads: NotRequired[Size | None]
    intermediate_size: NotRequired[Size | None]
    vocab_size: NotRequired[Size | None]
    max_position_embeddings: NotRequired[Size | None]
    type_vocab_size: NotRequired[Size | None]
    pad_token_id: NotRequired[Count | None]
    hidden_dropout_prob: NotRequired[Annotated[float, Field(ge=0, lt=1)] | None]
    attention_probs_dropout_prob: NotRequired[Annotated[float, Field(ge=0, lt=1)] | None]
    layer_norm_eps: NotRequired[Annotated[float, Field(gt=0, lt=1)] | None]
    initializer_range: NotRequired[Annotated[float, Field(ge=0, le=100)] | None]


PieceId = Annotated[int, Field(ge=0, lt=1 << 24)]  # every id up to the largest has a row in memory
PieceIds = dict[str, PieceId]
"""vocab.json or added_tokens.json."""


class _TokenizerModel(TypedDict):
    vocab: NotRequired[PieceIds | list[Any]]


class _Normalizer(TypedDict):
    normalizers: NotRequired[list[Settings]]


class _AddedToken(TypedDict):
    id: PieceId


class TokenizerFile(TypedDict):
    """tokenizer.json."""

    model: _TokenizerModel
    normalizer: NotRequired[_Normalizer | None]
    added_tokens: NotRequired[list[_AddedToken] | None]


class _Module(TypedDict):
    type: str
    path: str


Modules = Annotated[list[_Module], Field(min_length=1)]
"""modules.json."""


class SentenceSettings(TypedDict):
    """config_sentence_transformers.json."""

    prompts: NotRequired[dict[str, str | None] | None]
    default_prompt_name: NotRequired[str | None]
    similarity_fn_name: NotRequired[str | None]


class LengthSettings(TypedDict):
    """sentence_bert_config.json, or tokenizer_config.json."""

    max_seq_length: NotRequired[Annotated[int, Field(ge=1)] | None]
    query_length: NotRequired[Annotated[int, Field(ge=1)] | None]
    document_length: NotRequired[Annotated[int, Field(ge=1)] | None]
    model_max_length: NotRequired[Annotated[int | float, Field(ge=1)] | None]


class PoolingSettings(TypedDict):
    """config.json of a module that pools."""

    word_embedding_dimension: NotRequired[Size | None]
    pooling_mode: NotRequired[str | list[str] | None]
    include_prompt: NotRequired[bool | None]


class DenseSettings(TypedDict):
    """config.json of an affine layer."""

    in_features: Size
    out_features: Size
    bias: NotRequired[bool]
    activation_function: str


class WeightIndex(TypedDict):
    """model.safetensors.index.json."""

    weight_map: dict[str, str]
