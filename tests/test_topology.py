"""Plans for TPUs that are not attached: with CPU devices instead, and once by the TPU compiler, if it is installed."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest

from dense_jax import __main__
from dense_jax.config import Config, MeshConfig, PassagesConfig, Unit
from dense_jax.config.command_line import parse
from dense_jax.config.tree import with_vocabulary
from dense_jax.errors import ConfigError, MachineError
from dense_jax.mesh import platform
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.objectives.contriever import Contriever
from dense_jax.objectives.ict import ICT
from dense_jax.planning import compiled_step, topology
from dense_jax.planning.compiled_step import CompiledStep, TooLargeError
from dense_jax.planning.hlo import Collective
from dense_jax.planning.topology import BatchSearch
from tests.test_objectives import FILES
from tests.tpu_compiler import needs_tpu_compiler, printed

BERT = BertConfig(layers=1, width=16, heads=2, feed_forward=16, vocab_size=50, positions=256)
METHOD = ICT(Encoder(BERT, pooling=Pooling.MEAN), query_length=8, passage_length=16)
CONFIG = Config(METHOD, steps=10, batch=16)
ICT_FILE = next(path for path in FILES if path.stem == "ict")


@pytest.fixture
def chips(monkeypatch):
    """Four CPU devices replace v5e:2x2; larger batches, three compilations, are not tried."""
    monkeypatch.setattr(topology, "topology_devices", lambda name, slices: jax.devices()[: 4 * slices])
    monkeypatch.setattr(
        topology, "search_larger", lambda config, chips, step, room: untried(step, f"{room / 2**30} GiB")
    )


def untried(step, room):
    """As if the double did not fit into `room`."""
    return BatchSearch(CONFIG, [], {CONFIG.batch: step}, {2 * CONFIG.batch: room})


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_published_method_has_its_shapes_without_a_corpus(file, tmp_path):
    argv = [f"--config={file}:tiny", f"--workdir={tmp_path}", "--batch=16", "--steps=2"]
    argv += ["--corpus.questions=some"] if file.stem == "orqa" else []
    config = parse(argv).config
    config = replace(config, objective=with_vocabulary(config.objective, 100))
    batch = compiled_step.abstract_batch(config)[1]
    assert {len(x) for x in jax.tree.leaves(batch)} <= {16, 8, 4}  # rows, or fewer where several are side by side


@pytest.mark.slow
def test_a_plan_says_what_a_step_takes_of_a_chip(chips):
    said = topology.plan_report(CONFIG, "v5e:2x2", 50, traffic=True)
    mesh = "{'dcn': 1, 'data': 2, 'update': 2, 'fsdp': 1, 'tensor': 1}"
    assert f"== v5e:2x2: 4 chips {mesh}\nthe TPU compiler's account of a step, none of it measured" in said
    parameters = 50 * 16 + 2 * 16 + 256 * 16 + 2 * 16 + 4 * (256 + 16) + 2 * 256 + 32 + 2 * 32
    assert f"parameters {parameters * 4 / 2**20:>48,.1f} MiB" in said
    assert "bound by memory" in said
    assert "== largest batch\n16\n          16: 0.00 GiB\n          32: no, 15.75 GiB\n\n== largest slice" in said
    assert "between slices" not in said
    assert "keeps busy\nnone: 384 tokens with padding, 96 on a chip of v5e:2x2, and one chip should have 2,000" in said
    table = said.partition("== memory traffic by line of code\n")[2]
    assert "100.0%" not in table and "  models/layers.py:" in table


@pytest.mark.slow
def test_a_plan_names_each_collective_with_its_bytes_and_sums_up_the_small_ones(chips, monkeypatch):
    large = [Collective("all-gather", 2_000_000, 2, times=24), Collective("all-reduce", 1_000_000, 4)]
    small = [Collective("all-reduce", size, 4) for size in range(1, 101)]
    monkeypatch.setattr(compiled_step, "collectives", lambda text, chips: [*small, *large])
    section = topology.plan_report(CONFIG, "v5e:2x2", 50).partition("== collectives of a step\n")[2].splitlines()
    assert section[0] == "all-gather of 2 chips               24 x       2,000,000 bytes =        48.00 MB"
    assert section[1] == "all-reduce of 4 chips                1 x       1,000,000 bytes =         1.00 MB"
    assert section[2] == "all-reduce of 4 chips                1 x             100 bytes =         0.00 MB"
    assert section[16:] == ["smaller ones, all-reduce            86 x                       =         0.00 MB"]


@pytest.mark.slow
def test_a_plan_for_several_slices_tells_what_goes_between_them(chips):
    said = topology.plan_report(replace(CONFIG, mesh=MeshConfig(dcn=2)), "v5e:2x2", 50)
    assert "== v5e:2x2, 2 slices: 8 chips {'dcn': 2, 'data': 2, 'update': 2, 'fsdp': 1, 'tensor': 1}" in said
    assert "== transfers of a chip to its host, for the network between slices" in said
    assert compiled_step.slice_count(MeshConfig(dcn=-1)) == 1


@pytest.mark.slow
def test_parameters_that_are_split_take_their_share(chips):
    meshes = MeshConfig(shard_update=False), MeshConfig(-1, 4)
    whole, split = (compiled_step.compile_step(replace(CONFIG, mesh=mesh), jax.devices()[:4]) for mesh in meshes)
    arguments = [step.sizes.argument_size_in_bytes for step in (whole, split)]
    assert arguments[1] < 0.35 * arguments[0]


def test_chips_that_do_not_share_the_mesh_or_the_batch_are_refused(chips):
    with pytest.raises(ConfigError, match=r"mesh.data=-1 x mesh.fsdp=3 x mesh.tensor=1 does not make 4 devices"):
        topology.plan_report(replace(CONFIG, mesh=MeshConfig(-1, 3)), "v5e:2x2", 50)
    with pytest.raises(ConfigError, match=r"batch=18 is not divisible by 4 data devices; use --batch=16 or 20"):
        topology.plan_report(replace(CONFIG, batch=18), "v5e:2x2", 50)


def test_rows_of_several_texts_must_split_over_the_chips_too(chips):
    method = Contriever(Encoder(BERT), packing=0.5, view_length=16, query_length=8, passage_length=8)
    crops = Config(method, steps=10, batch=8, passages=PassagesConfig(unit=Unit.CHUNKS, length=16))
    with pytest.raises(ConfigError, match=r"batch=8 makes 2 rows of several texts here, which 4 devices do not"):
        topology.plan_report(crops, "v5e:2x2", 50)


def step_of(peak):
    """A step of which only the bytes are known."""
    kinds = ("argument", "output", "alias", "temp", "generated_code")
    step = object.__new__(CompiledStep)
    object.__setattr__(step, "sizes", SimpleNamespace(**{f"{kind}_size_in_bytes": 0 for kind in kinds}))
    step.sizes.temp_size_in_bytes = peak
    return step


def fake_compiler(monkeypatch, room, rule=10**9):
    """One byte for each example and 100 besides; batches above `rule` break one."""
    tried = []

    def compile_step(config, chips):
        tried.append(config.batch)
        if config.batch > rule:
            raise ConfigError("a rule")
        if 100 + config.batch > room:
            raise TooLargeError(config.batch, f"{100 + config.batch}B of {room}B")
        return step_of(100 + config.batch)

    monkeypatch.setattr(topology, "compile_step", compile_step)
    return tried


@pytest.mark.parametrize(("room", "best", "compiled"), [(131, 16, [32]), (140, 32, [32]), (300, 128, [32, 128])])
def test_the_largest_batch_is_reckoned_from_two_and_verified(monkeypatch, room, best, compiled):
    tried = fake_compiler(monkeypatch, room)
    assert topology.search_larger(CONFIG, [], step_of(116), float(room)).largest == best
    assert tried == compiled


def test_where_memory_grows_faster_than_reckoned_the_batch_is_halved_until_it_fits(monkeypatch):
    tried = fake_compiler(monkeypatch, room=300)
    found = topology.search_larger(CONFIG, [], step_of(116), 700.0)
    assert tried == [32, 512, 256, 128]
    assert found.largest == 128
    assert str(found).splitlines()[-1] == "         256: no, 356B of 300B"


def test_a_rule_that_larger_batches_break_is_told(monkeypatch):
    fake_compiler(monkeypatch, room=1_000, rule=16)
    said = str(topology.search_larger(CONFIG, [], step_of(116), 1e9))
    assert said.splitlines()[0] == "16"
    assert said.splitlines()[-1] == "          32: no, a rule"


def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch):
    tried = fake_compiler(monkeypatch, room=130)
    found = topology.search_smaller(replace(CONFIG, batch=96), jax.devices(), "196B of 130B")
    assert tried == [48, 24]
    assert str(found).splitlines() == [
        "24",
        "          24: 0.00 GiB",
        "          96: no, 196B of 130B",
        "          48: no, 148B of 130B",
    ]


@pytest.mark.parametrize(("chunk", "compiled"), [(0, [48, 24, 8]), (32, [32])])
def test_a_batch_is_halved_down_to_the_least_that_mesh_and_chunk_allow(monkeypatch, chunk, compiled):
    tried = fake_compiler(monkeypatch, room=100)
    found = topology.search_smaller(replace(CONFIG, batch=96, chunk=chunk), jax.devices(), "196B of 100B")
    assert tried == compiled
    assert str(found).splitlines()[0] == "none"


def room_for(batch, monkeypatch, *users):
    """Chips that a step of more than `batch` examples does not fit into, as modules that compile one see them."""
    real = compiled_step.compile_step

    def compile_step(config, chips):
        if config.batch > batch:
            raise TooLargeError(config.batch, f"{config.batch}.0G of {batch}.5G")
        return real(config, chips)

    for module in (topology, *users):
        monkeypatch.setattr(module, "compile_step", compile_step)


def shown(tmp_path, capsys):
    """What `show` does and says of a batch of 16 on four chips."""
    argv = [f"--config={ICT_FILE}:tiny", f"--workdir={tmp_path}", "--topology=v5e:2x2", "--batch=16"]
    argv += ["--objective.encoder.bert.width=16", "--tokenizer.vocab_size=300"]
    return __main__.run(["show", *argv]), *capsys.readouterr()


@pytest.mark.slow
def test_of_a_batch_that_does_not_fit_the_largest_half_that_does_is_shown_before_the_error(
    chips, monkeypatch, tmp_path, capsys
):
    room_for(4, monkeypatch)
    code, out, err = shown(tmp_path, capsys)
    assert code == 2
    assert "== a batch of 16 does not fit into a chip of v5e:2x2\nit takes 16.0G of 4.5G; what follows is of" in out
    assert "== largest batch\n4\n           4: 0.00 GiB\n          16: no, 16.0G of 4.5G\n           8: no" in out
    assert "query/ids                int32    [4, 32]" in out
    assert "at most" in out
    assert "batch=16 takes more memory than a chip has, 16.0G of 4.5G; use --batch=4, which fits, --" in err


def test_where_no_half_of_a_batch_fits_either_what_was_tried_is_shown(chips, monkeypatch, tmp_path, capsys):
    room_for(2, monkeypatch)
    code, out, err = shown(tmp_path, capsys)
    assert code == 2
    assert "it takes 16.0G of 2.5G, and no half of it fits\n\n== largest batch\nnone\n          16: no" in out
    assert "no half of it that mesh and chunk allow fits, so use a smaller --chunk, dtype=bfloat16" in err


@pytest.mark.slow
def test_the_benchmark_names_the_largest_half_of_a_batch_that_does_not_fit(monkeypatch):
    monkeypatch.syspath_prepend(ICT_FILE.parents[1] / "benchmarks")  # its files import each other by their plain names
    script = importlib.import_module("topology")
    monkeypatch.setattr(script, "topology_devices", lambda name, slices: jax.devices()[:4])
    room_for(4, monkeypatch, script)
    asked = [f"{ICT_FILE}:tiny", "v5e:2x2", ["--batch=16", "--objective.encoder.bert.width=16"]]
    row = {"config": "ict.py:tiny", "batch": 16, "topology": "v5e:2x2", "all": "too large: 16.0G of 4.5G"}
    assert script._row(*asked, largest=False) == row
    assert script._row(*asked, largest=True) == row | {"largest batch": "4"}


@pytest.mark.parametrize(
    ("error", "sizes"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (256.01G) "
            "exceeds available HBM (15.75G).",
            "256.01G of 15.75G",
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 43.08G of 15.75G hbm.", "43.08G of 15.75G"),
        ("RESOURCE_EXHAUSTED: something new\nmore", "RESOURCE_EXHAUSTED: something new"),
    ],
)
def test_a_step_that_is_too_large_is_refused_with_both_sizes(error, sizes):
    assert compiled_step.parse_sizes(error) == sizes


def test_without_a_compiler_the_extra_is_named(monkeypatch):
    def missing(**_):
        raise RuntimeError("JAX TPU support not installed")

    monkeypatch.setattr(compiled_step.topologies, "get_topology_desc", missing)
    with pytest.raises(MachineError, match=r"pip install 'dense_jax\[tpu\]'"):
        topology.plan_report(CONFIG, "v5e:2x2", 50)


def test_a_topology_that_the_compiler_refuses_is_named_with_its_reason(monkeypatch):
    def refuse(**_):
        raise jax.errors.JaxRuntimeError('INVALID_ARGUMENT: layout "v5e:3x17" is not divisible\nat line 7')

    monkeypatch.setattr(compiled_step.topologies, "get_topology_desc", refuse)
    with pytest.raises(
        ConfigError, match=r'topology=v5e:3x17 is unknown .*"v5e:3x17" is not divisible\); name the chips'
    ):
        topology.plan_report(CONFIG, "v5e:3x17", 50)


def test_only_show_compiles_for_chips_elsewhere(tmp_path):
    argv = [f"--config={FILES[0]}:tiny", f"--workdir={tmp_path}", "--topology=v5e:2x2"]
    with pytest.raises(ConfigError, match=r"train takes no --topology=v5e:2x2"):
        parse(argv, "train")


@pytest.mark.slow
def test_nothing_need_be_prepared(chips, tmp_path, capsys):
    code, out, _ = shown(tmp_path, capsys)
    assert code == 0
    assert "300 words, of tokenizer.vocab_size, since nothing is prepared" in out


def test_the_platform_is_that_of_the_mesh():
    assert platform() == "cpu"
    with jax.set_mesh(jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])):
        assert platform() == "cpu"


ON_TPUS = """
from tests.test_topology import CONFIG, METHOD, BERT
from dataclasses import replace
from dense_jax.planning.compiled_step import compile_step, topology_devices
from dense_jax.models.encoder import Encoder, Pooling
bert = replace(BERT, width=128)
method = replace(METHOD, encoder=Encoder(bert, pooling=Pooling.MEAN), query_length=128, passage_length=256)
step = compile_step(replace(CONFIG, objective=method), topology_devices("v5e:2x2"))
print(step.peak, "tpu_custom_call" in step.text, [one.kind for one in step.sent])
"""
ON_TWO_SLICES = """
from tests.test_topology import BERT, CONFIG, METHOD
from dataclasses import replace
from dense_jax.config import MeshConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.planning.hlo import host_transfers
from dense_jax.planning.compiled_step import compile_step, topology_devices
from dense_jax.terminal.show import whole_bytes
bert = replace(BERT, width=128, feed_forward=512, vocab_size=2_000)
method = replace(METHOD, encoder=Encoder(bert, pooling=Pooling.MEAN))
config = replace(CONFIG, objective=method, mesh=MeshConfig(dcn=2))
step = compile_step(config, topology_devices("v5e:2x2", 2))
print(sum(one.size for one in host_transfers(step.text)), whole_bytes(step.program.like.params))
"""


@pytest.mark.slow
@needs_tpu_compiler
def test_a_step_compiles_for_tpus_with_their_attention_kernel():
    peak, splash, kinds = printed(ON_TPUS).split(maxsplit=2)
    assert 2**20 < int(peak) < 2**28
    assert splash == "True"
    assert "all-reduce" in kinds


@pytest.mark.slow
@needs_tpu_compiler
def test_between_two_slices_goes_each_chips_share_of_the_gradients():
    handed, parameters = map(int, printed(ON_TWO_SLICES).split())
    assert parameters / 4 <= handed < parameters / 2  # small arrays are not shared out, and there are vectors too


@pytest.mark.slow
@needs_tpu_compiler
def test_a_slice_may_be_one_chip():
    program = (
        "from dense_jax.planning.compiled_step import topology_devices\n"
        "for n in (1, 2): print(len(topology_devices(f'v5e:{n}x{n}')))"
    )
    assert printed(program) == "1\n4\n"
