"""`crs-bench bench`: every line is read, counted and written down; no speed is asserted."""

import json
import math
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench import benchmarks, checkpoints, cli
from bench.benchmarks import (
    Reading,
    Trial,
    cells_of,
    content,
    fitting,
    profiling,
    record,
    sampler_table,
    time_cells,
    time_samplers,
    untrained,
)
from bench.benchmarks import whole as whole_cells
from bench.benchmarks.throughput import SIDES
from bench.benchmarks.untrained import card_of, network_of, write_untrained
from bench.checkpoints import Checkpoint, Models, compiled
from bench.checkpoints.quick import Quick
from bench.engines import InProcess
from bench.samplers import DDIM, Heun
from bench.types import Scoring
from bench.zoo import presets
from bench.zoo.adm import ADMFlags, ADMNet


def bench(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Exit status of `crs-bench bench ...`."""
    monkeypatch.setattr(sys, "argv", ["crs-bench", "bench", *words])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    return exit.value.code


def test_the_command_reads_every_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "readings.json"
    words = "--nfe", "5", "--repeats", "2", "--seconds", "600", "--device", "cpu", "--json"
    assert bench(monkeypatch, "sampler", *words, str(out)) == 0
    printed, whole = capsys.readouterr().out, json.loads(out.read_text())
    assert whole["verb"] == "sampler" and whole["counts"].startswith("the median of 2")
    assert whole["arguments"]["nfe"] == 5 and whole["arguments"]["seconds"] == 600
    assert whole["device"].startswith("CPU") and "diffusers" in whole["versions"]
    alone, *readings = whole["readings"]
    assert alone["what"] == "network alone" and "overhead" not in alone and not alone["peers"]
    assert [one["what"] for one in readings] == [repr(one) for one in benchmarks.sampling.SAMPLERS]
    peers = {one["what"].partition("(")[0]: peer for one in readings for peer in one["peers"]}
    assert peers.keys() == {"DDIM", "DPMpp2M", "UniPC", "DPMpp2MSDE"}
    for one in (alone, *readings):
        assert one["network"] == "tiny" and one["parameters"] > 1e4 and one["what"] in printed
        assert one["batch"] == 4 and one["dtype"] == "float32"
        for timed in (one, *one["peers"]):
            assert timed["calls"] == 5 and len(timed["runs"]) == 2
            assert timed["seconds"] == pytest.approx(sum(timed["runs"]) / 2)  # the median
            assert -1 < timed.get("overhead", 0) < math.inf and "difference" not in timed
        for peer in one["peers"]:
            assert peer["name"] == "diffusers" and peer["version"] == version("diffusers")
            assert peer["ratio"] == peer["seconds"] / one["seconds"]


def test_works_run_in_turn_after_a_warm_up() -> None:
    ran: list[str] = []
    runs = record.in_turns([lambda: ran.append("a"), lambda: ran.append("b")], 2, "cpu")
    assert ran == ["a", "b"] * 3 and [len(each) for each in runs] == [2, 2]


def test_a_peer_without_a_package_has_no_version() -> None:
    one = Reading("work", 2.0).beside("theirs", 3.0, unit="s").beside("torch's", 1.0, "torch")
    assert content([one])[0]["peers"] == [
        {"name": "theirs", "version": None, "seconds": 3.0, "ratio": 1.5, "unit": "s"},
        {"name": "torch's", "version": version("torch"), "seconds": 1.0, "ratio": 0.5},
    ]
    assert "1.50" in benchmarks.table([one]) and "theirs" in benchmarks.table([one])


def test_another_network_is_read_beside_the_first_and_compared_with_it() -> None:
    class Off(nn.Module):
        """The network, its output moved a little."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> object:
            return type(self.net(x, t))(sample=self.net(x, t).sample + 0.5)

    def moved(model: Checkpoint) -> Checkpoint:
        return replace(model, net=Off(model.net))

    trial = Trial(untrained("tiny"), nfe=4, batch=3, repeats=1)
    for prepare, differs in ((lambda model: model, False), (moved, True)):
        *_, alone, ddim, heun = time_samplers(trial, prepare, (DDIM(), Heun()))
        assert alone.what == "network alone, compiled" and heun.what == "Heun(), compiled"
        assert "difference" not in alone.more and "overhead" not in alone.more
        assert (ddim.more["calls"], heun.more["calls"]) == (4, 3)
        for one in (ddim, heun):
            assert (one.more["difference"] > 0) == (one.more["grey_levels"] > 0) == differs


@pytest.mark.slow
def test_the_compiled_network_makes_the_same_states() -> None:
    trial = Trial(untrained("tiny"), nfe=3, batch=2, repeats=1)
    *_, one = time_samplers(trial, compiled, (DDIM(),))
    assert one.what.endswith(", compiled") and one.more["difference"] <= 1e-3


def test_final_states_are_not_quantised_and_depend_on_the_seed_alone() -> None:
    model = untrained("tiny")
    states = Trial(model, 3, 4).ours(DDIM())()
    assert states.dtype == torch.float32 and states.shape == (4, *model.shape)
    assert len(states.unique()) > 256
    assert torch.equal(states, Trial(untrained("tiny"), 3, 4).ours(DDIM())())


@pytest.mark.parametrize(("name", "millions"), [("adm-256", 552.8), ("latent", 274.1), ("tiny", 0)])
def test_networks_are_of_their_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        net, shape = network_of(name)
        x = torch.empty(2, *shape)
        assert net(x, torch.empty(2)).sample.shape == x.shape
    weights = sum(weight.numel() for weight in net.parameters()) / 1e6
    assert weights == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--network", "adm"), "did you mean adm-256"),
        (("--network", "edm-cifar10-uncond-vp"), "no network 'edm-cifar10-uncond-vp' (known: adm"),
        (("--dtype", "int8"), "unknown dtype 'int8'"),
        (("--nfe", "0"), "--nfe must be at least 1, not 0"),
        (("--batch", "-1"), "--batch must be at least 1, not -1"),
        (("--repeats", "0"), "--repeats must be at least 1, not 0"),
        (("--seconds", "0.001"), "with a batch of 1, but the limit is 0 s; raise --seconds"),
    ],
)
def test_wrong_words_are_one_line(
    words: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench(monkeypatch, "sampler", "--device", "cpu", *words) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_several_networks_are_read_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        benchmarks, "time_samplers", lambda trial, compiled: [Reading("x", 1.0, trial.about)]
    )
    out = tmp_path / "readings.json"
    words = "--network", "tiny", "--network", "tiny", "--batch", "3", "--device", "cpu", "--json"
    assert bench(monkeypatch, "sampler", *words, str(out)) == 0
    assert [one["batch"] for one in json.loads(out.read_text())["readings"]] == [3, 3]
    assert capsys.readouterr().out.count("tiny, batch 3, float32") == 2


def test_compiled_states_that_are_far_from_eager_ones_are_told() -> None:
    trial = Trial(untrained("tiny"), 4, 32)
    near, far = (Reading("DDIM()", 4.0, {"difference": d}) for d in (1e-4, 0.02))
    assert "states differ" not in sampler_table(trial, [near])
    said = sampler_table(trial, [near, far])
    assert "compiled and eager states differ by 0.02, more than 0.001" in said


def test_states_that_are_not_finite_are_named() -> None:
    model = untrained("tiny")
    with torch.no_grad():
        next(model.net.parameters()).mul_(math.nan)
    with pytest.raises(FloatingPointError, match="tiny made NaN .* try another --dtype"):
        Trial(model, 2, 2).ours(DDIM())()


@pytest.mark.parametrize(
    ("asked", "seconds", "batch"),
    [(0, math.inf, 62), (0, 18.0, 31), (100, math.inf, 100), (100, 1e9, 50), (100, 2.0, 3)],
)
def test_a_batch_is_halved_until_it_fits(
    asked: int, seconds: float, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that holds 70 images and takes 1 ms an image and call."""

    def works(trial: Trial, one: object):
        def work() -> None:
            if trial.batch > 70:
                raise torch.OutOfMemoryError("too large")

        return work

    monkeypatch.setattr(Trial, "ours", works)
    monkeypatch.setattr(Trial, "theirs", works)
    monkeypatch.setattr(Trial, "seconds", lambda trial, work: 1e-3 * trial.batch * trial.nfe)
    model = replace(untrained("tiny"), device="cuda")
    found = fitting(model, 10, asked, 3, False, seconds)  # 10 calls of 14 lines in 4 turns
    assert (found.batch, found.nfe, found.repeats) == (batch, 10, 3)


def test_on_a_cpu_four_images_are_taken_untried() -> None:
    assert fitting(untrained("tiny"), 10, 0, 3, False, math.inf).batch == 4


def test_throughput_goes_on_until_a_batch_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model = untrained("tiny")
    sizes = []

    class Small(torch.nn.Module):
        def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            sizes.append((len(x), len(timestep), x.shape[1:]))
            if len(x) > 4:
                raise RuntimeError("out of memory")
            return x

    small = replace(model, net=Small())
    found = list(benchmarks.throughput(small, (8, 1, 4), 0, untrained("tiny")))
    assert [one.more["batch"] for one in found] == [1, 4]
    for one in found:
        (peer,) = one.peers
        assert (peer.name, peer.version) == ("diffusers UNet2DModel, float32", version("diffusers"))
        for timed, seconds in ((one.more, one.seconds), (peer.more, peer.seconds)):
            assert timed["images_a_second"] == pytest.approx(one.more["batch"] / seconds)
            assert timed["memory_gib"] is None
    assert {size[0] for size in sizes} == {1, 4, 8} and sizes[0][2] == model.shape
    (alone,) = benchmarks.throughput(model, (2,), 0, small)
    assert alone.peers[0].name == "as published, float32" and alone.peers[0].version is None
    (alone,) = benchmarks.throughput(model, (5,), 0, small)
    assert not alone.peers  # it does not fit
    with pytest.raises(RuntimeError, match="out of memory"):
        list(benchmarks.throughput(replace(model, net=Small()), (8,), seconds=0))
    with pytest.raises(ValueError, match="--batch must be 1 or more"):
        list(benchmarks.throughput(model, (0,)))
    monkeypatch.setitem(SIDES, "cpu", 64)
    asked = ["crs-bench", "bench", "network", "tiny", "--batches", "1,2", "--dtype", "float32"]
    asked += ["--seconds", "0", "--device", "cpu", "--profile", "--json", str(tmp_path / "r.json")]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code and "images a second" in capsys.readouterr().out
    whole = json.loads((tmp_path / "r.json").read_text())
    product, *found = whole["readings"]
    found, (profile, *parts) = found[:2], found[2:]
    assert whole["arguments"]["batches"] == "1,2" and [one["batch"] for one in found] == [1, 2]
    assert profile["what"] == "tiny, batch 2, profiled" and profile["batch"] == 2
    assert [one["what"] for one in parts] == list(profiling.CLASSES)
    assert sum(one["share"] for one in parts) == pytest.approx(1) and 0 < profile["busy"] <= 1
    assert sum(one["kernels"] for one in parts) == pytest.approx(profile["kernels"])
    assert sum(one["seconds"] for one in parts) <= profile["seconds"]
    products, attention, pointwise = (one["longest"] for one in parts[:3])
    assert "aten::mkldnn_convolution" in products and "aten::native_group_norm" in pointwise
    assert any("attention" in name for name in attention)
    assert all(one["peers"][0]["ratio"] > 0 for one in found)
    flops = product["tflops"] / product["images_a_second"]
    assert product["network_tflop"] == pytest.approx(flops) and flops > 0


def test_a_compiled_network_is_compiled_for_every_batch_size() -> None:
    """Dynamo stops at eight shapes, and calls the network uncompiled for others."""
    sizes = []

    def backend(graph: torch.fx.GraphModule, given: list[torch.Tensor]) -> torch.fx.GraphModule:
        sizes.append(max(len(one) for one in given if one.ndim == 4))
        return graph

    class Small(torch.nn.Module):
        def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return x + 1

    net = torch.compile(Small(), dynamic=False, backend=backend)
    batches = tuple(range(2, 12))
    found = benchmarks.throughput(replace(untrained("tiny"), net=net), batches, 0)
    assert [one.more["batch"] for one in found] == sizes == list(batches)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_dgrad_implicit_gemm_indexed_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128", 0),
        ("nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_bias_TNN", 0),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", 0),
        ("aten::slow_conv_transpose2d", 0),
        ("triton_tem_fused_mm_3", 0),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64_4x1x1", 1),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel)", 1),
        ("triton_poi_fused__to_copy_cat_silu_168", 2),
        ("triton_per_fused_select_var_mean_112", 2),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>", 2),
        ("aten::native_group_norm", 2),
        ("void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda", 3),
        ("void cudnn::ops::nchwToNhwcKernel<float, float, float, false, true, (cudnnKernel", 3),
        ("triton_poi_fused__to_copy_clone_2", 3),
        ("Memcpy DtoD (Device -> Device)", 3),
        ("_sum_kernel", 4),
    ],
)  # fmt: skip
def test_kernels_have_a_class(name: str, kind: int) -> None:
    assert profiling.class_of(name) == profiling.CLASSES[kind]


FLAGS = {"image_size": 8, "num_channels": 32, "channel_mult": (1, 1), "num_res_blocks": 1,
         "attention_resolutions": (4,), "num_head_channels": 32, "learn_sigma": False}  # fmt: skip


@pytest.mark.parametrize("family", ["unet2d", "adm"])
def test_a_compiled_half_network_is_quickened_on_a_gpu(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # `compiled` sets it
    model = untrained("tiny")
    if family == "adm":
        model = replace(model, net=ADMNet(ADMFlags.model_validate(FLAGS)),
                        card=model.card.model_copy(update={"family": "adm"}))  # fmt: skip
    for device, dtype in (("cpu", torch.bfloat16), ("cuda", torch.float32)):
        plain = compiled(replace(model, device=device, dtype=dtype)).net
        assert plain._orig_mod is model.net
    for dtype in (torch.float16, torch.bfloat16):
        fast = compiled(replace(model, device="cuda", dtype=dtype)).net._orig_mod
        assert not any(isinstance(one, Quick) for one in fast.modules())
        before, after = ({type(one).__name__ for one in net.modules()} for net in (model.net, fast))
        assert "_Filled" in after and "_Filled" not in before
        assert family == "adm" or ("ChannelNorm" in after and "ChannelNorm" not in before)


def test_the_name_of_a_preset_is_random_unless_a_folder_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    preset = SimpleNamespace(draft=lambda name: card_of("tiny").model_copy(update={"name": name}))
    monkeypatch.setattr(presets, "all_presets", lambda: {"tiny-one": ("unet2d", preset)})
    timed = ("--batches", "1", "--seconds", "0.01", "--no-peers", "--device", "cpu")
    assert bench(monkeypatch, "network", "tiny-two", *timed) == 2
    assert "no network or model 'tiny-two'; did you mean tiny-one?" in capsys.readouterr().err
    for name, more, random in (
        ("tiny", (), True), ("tiny-one", (), True), ("tiny-one", ("--models", tmp_path), False),
        ("oracle-mixture", (), False),
    ):  # fmt: skip
        if more:
            write_untrained("tiny", tmp_path)
            (tmp_path / "tiny").rename(tmp_path / "tiny-one")
        assert bench(monkeypatch, "network", name, *timed, *map(str, more)) == 0
        out = capsys.readouterr().out
        assert ("random weights" in out) == random and ", batch 1" in out


def test_a_record_has_no_folders_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_untrained("tiny", tmp_path)
    timed = ("--batches", "1", "--seconds", "0.01", "--no-peers", "--device", "cpu", "--json")
    record = str(tmp_path / "record.json")
    for words in (("tiny", "--models", str(tmp_path)), (str(tmp_path / "tiny"),)):
        assert bench(monkeypatch, "network", *words, *timed, record) == 0
        text = Path(record).read_text()
        assert str(tmp_path) not in text and json.loads(text)["arguments"]["model"] == "tiny"
    sha256 = checkpoints.read_card(tmp_path / "tiny").weights_sha256
    assert sha256 and json.loads(text)["readings"][0]["weights_sha256"] == sha256


def test_metrics_are_timed_beside_their_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "metrics.json"
    words = ("--images", "64", "--dim", "24", "--repeats", "1", "--device", "cpu")
    assert not bench(monkeypatch, "metrics", *words, "--json", str(out))
    said = capsys.readouterr().out
    assert "ratio" in said and "clean-fid" in said
    readings = json.loads(out.read_text())["readings"]
    assert [one["what"] for one in readings] == ["frechet", "neighbours", "inception"]
    for one in readings:
        assert {peer["name"].split(",")[0] for peer in one["peers"]} >= {"torch-fidelity"}
        for peer in one["peers"]:
            assert peer["value"] == pytest.approx(one["value"], rel=1e-5) and peer["version"]
            assert peer["seconds"] == min(peer["runs"]) and peer["memory_mib"] >= 0
    assert bench(monkeypatch, "metrics", "--only", "fid") == 2
    assert "no task 'fid'" in capsys.readouterr().err


def test_whole_cells_are_timed_with_each_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_adm(name: str, models: Path) -> None:
        """A network that a process opens without diffusers, whose import takes seconds."""
        card = card_of(name).model_copy(update={"family": "adm", "network": FLAGS})
        net = ADMNet(ADMFlags.model_validate(FLAGS))
        checkpoints.save(models / name, card, net.state_dict())

    monkeypatch.setattr(whole_cells, "write_untrained", write_adm)
    monkeypatch.setattr(whole_cells, "_REAL", 500)
    out = tmp_path / "readings.json"
    words = "--nfe", "2", "--images", "32", "--cells", "2", "--workers", "1", "--features"
    more = "flatten", "--batch", "5", "--seconds", "0.1", "--device", "cpu", "--json"
    assert bench(monkeypatch, "run", "tiny", *words, *more, str(out)) == 0
    printed, whole = capsys.readouterr().out, json.loads(out.read_text())
    assert whole["verb"] == "run" and whole["arguments"]["workers"] == "1"
    alone, own, *others = whole["readings"]
    assert alone["what"] == "network alone" and len(alone["rates"]) == 2 and alone["batch"] == 5
    assert alone["seconds"] == pytest.approx(5 / alone["images_a_second"])
    assert [one["what"] for one in others] == ["processes, 1 worker"]
    for one in (own, *others):
        assert one["images"] == 64 and one["evaluations"] == 2 and one["shard"] == 8
        assert one["batch"] == 5 and one["cells"] == 2 and one["what"] in printed
        assert one["images_a_second"] == pytest.approx(64 / one["seconds"])
        rate = alone["images_a_second"]
        assert one["efficiency"] == pytest.approx(one["images_a_second"] * 2 / rate)
        assert 0 < one["after_shards"] < one["seconds"] and 0 < one["in_shards"] < 1
        assert one["efficiency"] < one["sampling"]
        assert one["scores"] == own["scores"]
    assert set(own["scores"]) == {"fd", "precision", "recall"}


def test_several_workers_are_compared_with_one_of_the_same_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(whole_cells, "_REAL", 500)
    scoring = Scoring("flatten", "", batch=64)
    made = cells_of("tiny", 1, 64, 1, 2, scoring, Models(), "cpu", lambda model: model)
    with made as cells:
        mine, engines = InProcess(), [("a", 2), ("a", 1), ("b", 1), ("a", 2)]
        found = time_cells(cells, [(name, count, mine) for name, count in engines], 0.01)
    _, own, early, one, other, two = found
    assert [x.more["speedup"] for x in (own, early)] == [None, None]
    assert one.more["speedup"] == other.more["speedup"] == other.more["sampling_speedup"] == 1
    assert two.more["speedup"] == one.seconds / two.seconds


@pytest.mark.parametrize(
    ("asked", "shard"),
    [((512, 64, 2), 64), ((20_000, 1_000, 2), 1_000), ((20_000, 64, 2), 1_000), ((64, 5, 2), 8)],
)
def test_shards_have_one_size_and_full_batches_if_they_can(asked: tuple, shard: int) -> None:
    assert whole_cells._shard(*asked) == shard


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tiny", "--images", "40", "--workers", "1,2"), "take a multiple of 64"),
        (("tiny", "--workers", "two"), "--workers 'two': write whole numbers"),
        (("tiny", "--engine", "rays"), "did you mean ray"),
        (("tiny", "--features", "inceptoin"), "inceptoin"),
        (("fmnist-pixl",), "did you mean fmnist-pixel"),
    ],
)
def test_wrong_words_of_whole_cells_are_one_line(
    words: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench(monkeypatch, "run", "--device", "cpu", *words) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
