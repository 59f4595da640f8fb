"""Written forms become objects; nothing in them is run as code."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch

from bench import features, measures, metrics, names, samplers, schedules
from bench.cli.options import schedule_of
from bench.data import preprocess
from bench.measures import DataPrediction
from bench.samplers import DDIM, DPMpp2M
from bench.schedules import (
    AlignYourSteps,
    Beta,
    ConstantRate,
    Karras,
    LogSNR,
    Native,
    Snapped,
)
from bench.training import OnlineConstantRate, laws, weighting
from bench.types import CostMeasure, Extractor, Measure, Metric, Rate, Sampler, Schedule

RATE = Rate("v_x", torch.arange(1, 6), torch.ones(5))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Karras", Karras()),
        ("karras", Karras()),
        (" Karras() ", Karras()),
        ("Karras(3)", Karras(3)),
        ("Karras(rho=3.5)", Karras(3.5)),
        ("log_snr", LogSNR()),
        ("log-snr", LogSNR()),
        ("Snapped(Karras(rho=5))", Snapped(Karras(5))),
        ("Snapped(schedule=Snapped(Native()))", Snapped(Snapped(Native()))),
        ("ConstantRate(v_x)", ConstantRate(RATE)),
        ("Snapped(Karras)", Snapped(Karras())),
        ("ConstantRate(v_x, 0.5, 'angle')", ConstantRate(RATE, 0.5, "angle")),
        ("ConstantRate(v_x, 0.5, angle)", ConstantRate(RATE, 0.5, "angle")),
        ("ConstantRate(v_x, coordinate=logsnr)", ConstantRate(RATE, coordinate="logsnr")),
        (
            "Snapped(ConstantRate(v_x, coordinate=sigma))",
            Snapped(ConstantRate(RATE, coordinate="sigma")),
        ),
        ("Beta(of=sigma)", Beta(of="sigma")),
        ("AlignYourSteps(sdxl)", AlignYourSteps("sdxl")),
        ("constantrate(rate=v_x, xi=0.5)", ConstantRate(RATE, 0.5)),
        ("Snapped(ConstantRate(v_x, xi=2))", Snapped(ConstantRate(RATE, 2))),
    ],
)
def test_schedules_from_text(text: str, want: object) -> None:
    assert names.build(text, schedules, {"v_x": RATE}) == want


@pytest.mark.parametrize(
    ("text", "want"), [("ddim", DDIM()), ("DPMpp2M", DPMpp2M()), ("dpm-pp-2m", DPMpp2M())]
)
def test_samplers_from_text(text: str, want: object) -> None:
    assert names.build(text, samplers) == want


@pytest.mark.parametrize("text", ["v_x", "v-x", "v-x()", "DataPrediction", "data-prediction()"])
def test_a_measure_answers_to_its_label(text: str) -> None:
    assert names.build(text, measures) == DataPrediction()


@pytest.mark.parametrize("module", [schedules, samplers, measures, metrics, laws, weighting])
def test_every_public_dataclass_is_found_by_its_name(module) -> None:
    known = names.public(module)
    assert known
    for name, kind in known.items():
        assert kind.__name__ == name and kind.__module__.startswith(module.__name__)
        assert names.called(name, module) is kind


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Karras(3)", Karras(3)),
        ("online-constant-rate", OnlineConstantRate()),
        (
            "OnlineConstantRate(start=Karras(rho=5), measure='v_eps')",
            OnlineConstantRate(start=Karras(5), measure="v_eps"),
        ),
        (
            "onlineconstantrate(start=Snapped(Native()))",
            OnlineConstantRate(start=Snapped(Native())),
        ),
        ("Snapped(ConstantRate(v_x, xi=2))", Snapped(ConstantRate(RATE, 2))),
    ],
)
def test_forms_of_several_modules_nest(text: str, want: object) -> None:
    assert names.build(text, (schedules, laws), {"v_x": RATE}) == want


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Karas", "did you mean Karras"),
        ("OnlineConstantRat()", "did you mean OnlineConstantRate"),
        ("zzzzzz", "(?=.*Native)(?=.*OnlineConstantRate)"),
        ("OnlineConstantRate(start=Karas())", "did you mean Karras"),
        ("OnlineConstantRate(start='Karras')", "start must be a schedule"),
        ("OnlineConstantRate(stat=Karras())", "start: "),
    ],
)
def test_errors_speak_of_all_modules(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        names.build(text, (schedules, laws))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Karas", "did you mean Karras"),
        ("karas(rho=7)", "did you mean Karras"),
        ("LogSRN()", "did you mean LogSNR"),
        ("Snapped(Karas())", "did you mean Karras"),
        ("ConstantRate(v_eps)", "did you mean v_x"),
        ("ConstantRate()", "rate: .*Rate"),
        ("Karras(rh=7)", "rho: .*float"),
        ("Karras(1, 2)", "rho: .*float"),
        ("Karras(rho=-1)", "rho > 0"),
        ("Karras(rho='a')", "rho: .*float"),
        ("Karras(rho=7", "Name\\(field=value"),
        ("Karras rho=7", "Name\\(field=value|no 'Karras"),
        ("zzzzzz", "known: .*Native"),
        ("", "known: .*Native"),
        ("Karras(rho={[]: 1})", "Karras|literal"),
        (
            "ConstantRate(mix())",
            "mix needs a value of 'rates'. It takes: rates: Mapping.Rate, float",
        ),
        ("ConstantRate(mix({v_x: 1}, floor=2))", "mix has no parameter 'floor'"),
        ("ConstantRate(mix(v_x))", "mix needs"),
        ("ConstantRate(mix({**v_x}))", "keys .* are names"),
        ("ConstantRate(v_x, coordinate=logsn)", "did you mean logsnr"),
        ("ConstantRate(v_x, coordinate=v_x)", "known: sigma, alpha, angle, logsnr"),
        ("ConstantRate(v_x, coordinates=1)", "coordinate: sigma . alpha . angle . logsnr"),
        ("Karras(rho=sigma)", "unknown name 'sigma'"),
        ("nomodule:Karras", "no module 'nomodule'"),
        (":Karras", "module"),
        (".there:Karras", "module"),
    ],
)
def test_errors_say_what_is_known(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        names.build(text, schedules, {"v_x": RATE, "mix": measures.mix})


@pytest.mark.parametrize("text", ["ConstantRate(3)", "ConstantRate('v_x')", "Snapped('Karras')"])
def test_a_field_of_another_kind_is_refused_when_built(text: str) -> None:
    with pytest.raises(ValueError):
        names.build(text, schedules, {"v_x": RATE})


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {}')",
        "Karras(__import__('os').system('touch {}'))",
        "Karras(rho=__import__('pathlib').Path('{}').touch())",
        "Karras(rho=open('{}', 'w'))",
        "(lambda: open('{}', 'w'))()",
        "Karras(rho=[open('{}', 'w') for _ in (1,)][0])",
        "exec('open({!r}, \"w\")')",
        "Karras(rho=(lambda: open('{}', 'w'))())",
        "Karras.__init__(open('{}', 'w'))",
        "Karras(**dict(rho=open('{}', 'w')))",
        "Karras(*[open('{}', 'w')])",
        'f\'{{open("{}", "w")}}\'',
    ],
)
def test_code_is_refused_and_not_run(text: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    with pytest.raises(ValueError):
        names.build(text.format(trap), schedules)
    assert not trap.exists()


MINE = """
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class Straight:
    x: float = 1.0
    mode: Literal["near", "far"] | None = None

    def __call__(self, steps, process):
        return torch.linspace(self.x, 0, steps + 1, dtype=torch.float64)


def experiment():
    return 42
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module of the user's own, in the folder they work in."""
    name = f"mylab_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


@pytest.mark.parametrize(
    ("form", "x"), [("Straight", 1.0), ("Straight()", 1.0), ("Straight(x=3)", 3)]
)
def test_a_users_own_class(form: str, x: float, lab: str) -> None:
    made = names.build(f"{lab}:{form}", schedules)
    assert type(made).__name__ == "Straight"
    assert made.x == x
    assert made(4, None).shape == (5,)


def test_a_users_own_class_among_several_modules(lab: str) -> None:
    assert names.build(f"{lab}:Straight(x=3)", (schedules, laws)).x == 3


def test_a_users_own_class_takes_forms_of_ours(lab: str) -> None:
    assert names.build(f"{lab}:Straight(x=Karras(3))", schedules).x == Karras(3)
    with pytest.raises(ValueError, match=f"no 'Karras' in {lab}"):
        names.build(f"{lab}:Karras(3)", schedules)


@pytest.mark.parametrize("field", ["mode=near", "mode='near'"])
def test_texts_of_a_users_own_class_need_no_quotes(field: str, lab: str) -> None:
    assert names.build(f"{lab}:Straight({field})", schedules).mode == "near"
    with pytest.raises(ValueError, match="did you mean near"):
        names.build(f"{lab}:Straight(mode=nera)", schedules)


def test_a_users_own_class_is_suggested(lab: str) -> None:
    with pytest.raises(ValueError, match="did you mean Straight"):
        names.build(f"{lab}:Strait(x=3)", schedules)


def test_an_attribute_of_the_users(lab: str) -> None:
    assert names.attribute(f"{lab}:experiment")() == 42
    with pytest.raises(ValueError, match="did you mean experiment"):
        names.attribute(f"{lab}:experimnt")
    with pytest.raises(ValueError, match="no module"):
        names.attribute("nomodule_at_all:experiment")


TRAINED = (schedules, laws, measures)  # the rooms of --law
WEIGHED = (weighting, schedules, laws, measures)
Role = weighting.Weighting


@pytest.mark.parametrize(
    ("text", "rooms", "role", "close", "never"),
    [
        ("Cosin", TRAINED, Schedule, "Cosine", "GITS"),
        ("Cosin()", TRAINED, Schedule, "Cosine", "GITS"),
        ("OnlineConstantRate(mixed=Cosin)", TRAINED, Schedule, "Cosine", "KLUB"),
        ("OnlineConstantRate(mixed=Cosin())", TRAINED, Schedule, "Cosine", "KLUB"),
        ("OnlineConstantRate(start=Nativ)", TRAINED, Schedule, "Native", "mix"),
        ("OnlineConstantRate(measure=v_epz)", TRAINED, Schedule, "v_eps", "Native"),
        ("OnlineConstantRate(measure=Entropi)", TRAINED, Schedule, "Entropy", "Native"),
        ("Importance(target=Nativ)", WEIGHED, Role, "Native", "MinSNR"),
        ("Importance(Nativ())", WEIGHED, Role, "Native", "MinSNR"),
        ("MinSNRR", WEIGHED, Role, "MinSNR", "EDMWeighting"),
        ("EDMWeightin", WEIGHED, Role, "EDM", "Karras"),
        ("FeatureFrechet(EffNetLit0)", (measures, features), Measure, "effnet-lite0", "Reference"),
        ("OfSchedule(Cosin)", (measures, features, schedules), Measure, "Cosine", "clean"),
        ("DataPredicton", (measures, features, schedules), Measure, "DataPrediction", "clean"),
        ("ConstantRate(mix({v_y: 1}))", schedules, Schedule, "v_x", "Karras"),
    ],
)
def test_only_names_that_can_stand_there_are_offered(text, rooms, role, close, never) -> None:
    with pytest.raises(ValueError) as error:
        names.build(text, rooms, {"v_x": RATE, "mix": measures.mix}, role)
    known = str(error.value).partition("(known: ")[2].rstrip(")").split(", ")
    assert f"did you mean {close}? " in str(error.value)
    assert close in known and never not in known


@pytest.mark.parametrize(
    ("rooms", "role", "written"),
    [
        (preprocess, None, "none, adm-lsun, ldm, centre-crop"),
        (WEIGHED, Role, "Unweighted, MinSNR, EDM, Importance"),
        (measures, CostMeasure, "GITS, KLUB"),
    ],
)
def test_names_are_offered_as_they_are_written(rooms, role, written: str) -> None:
    with pytest.raises(ValueError, match=rf"\(known: {written}\)$"):
        names.build("zzz", rooms, None, role)


@pytest.mark.parametrize(
    ("rooms", "role"),
    [
        (schedules, Schedule), (samplers, Sampler), (measures, Measure), (metrics, Metric),
        (features, Extractor), (weighting, Role), (preprocess, None),
    ],
)  # fmt: skip
def test_every_name_that_is_offered_is_known(rooms, role) -> None:
    with pytest.raises(names.UnknownName) as error:
        names.build("zzz", rooms, None, role)
    written = str(error.value).partition("(known: ")[2].rstrip(")").split(", ")
    found = [names.called(name, rooms) for name in written]
    assert None not in found and len(set(found)) == len(found)
    assert set(found) == {one for one in names.public(rooms).values()
                          if role is None or issubclass(one, role)}  # fmt: skip


def test_both_names_of_the_two_networks_are_known() -> None:
    assert names.called("effnet-lites", features) is features.EffNetLites
    assert names.called("effnet-lite0-lite2", features) is features.EffNetLites
    assert features.EffNetLites.recorded == "effnet-lite0-lite2"  # of records and references


def test_a_form_of_another_role_is_refused_by_name() -> None:
    for text in ("DataPrediction", "v_x", "DataPrediction()"):
        with pytest.raises(ValueError, match="is no schedule .known: "):
            names.build(text, TRAINED, None, Schedule)
    with pytest.raises(ValueError, match="'v_x' is no rate or schedule"):
        names.build("OnlineConstantRate(mixed=v_x)", TRAINED, None, Schedule)


def test_the_start_of_a_name_is_enough_for_a_suggestion() -> None:
    with pytest.raises(ValueError, match="did you mean adm-lsun?"):
        names.build("adm", preprocess)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "OnlineConstantRate(mixd=Cosine)",
            "OnlineConstantRate has no parameter 'mixd'; did you mean 'mixed'? It takes: "
            "measure: v_x | v_eps | Measure, xi: float, coordinate: sigma | alpha | angle | logsnr",
        ),
        ("OnlineConstantRate(mixd=Cosine)", "mixed: Rate | Schedule | None, share: float"),
        ("Karras(zzz=7)", "Karras has no parameter 'zzz'. It takes: rho: float"),
        ("Karras(1, 2)", "Karras has 1 parameter, but 2 values are given. It takes: rho: float"),
        ("Karras(1, rho=2)", "Karras has two values of 'rho'. It takes: rho: float"),
        ("Native(rho=2)", "Native has no parameter 'rho'. It takes: nothing"),
        ("ConstantRate(xi=2)", "ConstantRate needs a value of 'rate'. It takes: rate: Rate, "),
        ("Karras(rho='a')", "Karras: rho must be a number, not 'a'. It takes: rho: float"),
        ("Karras(rho=Native)", "rho must be a number, not Native()"),
        ("Karras(rho=sgma)", "unknown name 'sgma'; write a value of type float"),
        ("Levels(levels=(1, 0), x=2)", "tuple[float, ...]"),
        ("ConstantRate(mix(rate=1))", "mix has no parameter 'rate'; did you mean 'rates'?"),
        ("ConstantRate('v_x')", "write its name without quotes: ConstantRate(v_x)"),
        ("CheapestPath('gits')", "write their name without quotes: CheapestPath(gits)"),
    ],
)
def test_wrong_arguments_are_said_in_plain_words(text: str, says: str) -> None:
    with pytest.raises(ValueError) as error:
        names.build(text, TRAINED, {"v_x": RATE, "mix": measures.mix}, Schedule)
    assert says in str(error.value)
    assert not re.search(r"bench\.|__init__|unexpected|positional|instances", str(error.value))


NEEDS = "name the model folder or the file that has it with --rates, or measure it: "


@pytest.mark.parametrize(
    ("text", "others", "says"),
    [
        ("ConstantRate(v_x)", TRAINED[1:], "no rate v_x is known here; " + NEEDS),
        ("ConstantRate(v_x)", (), NEEDS + "crs-bench measure MODEL --measure DataPrediction"),
        ("ConstantRate(v_mine)", (), NEEDS + "crs-bench measure MODEL --measure MEASURE"),
        ("Snapped(ConstantRate(v_eps))", (), "no rate v_eps is known here; "),
        ("ConstantRate(mix({v_x: 1}))", TRAINED[1:], "no rate v_x is known here; "),
        ("OnlineConstantRate(mixed=v_x)", TRAINED[1:], "no rate v_x is known here; "),
        (
            "OnlineConstantRate(mixed=v_mine)",
            TRAINED[1:],
            "; a rate of another model needs --rates",
        ),
        ("CheapestPath(gits)", (), "no costs gits are known here; "),
        ("CheapestPath(gits)", (), "crs-bench measure MODEL --measure GITS"),
    ],
)
def test_a_rate_that_is_not_known_is_asked_for(text: str, others: tuple, says: str) -> None:
    with pytest.raises(ValueError) as error:
        schedule_of(text, [], *others)
    assert says in str(error.value)


def test_a_rate_of_a_similar_name_is_suggested(tmp_path: Path) -> None:
    file = measures.save(tmp_path / "v_x.json", RATE)
    with pytest.raises(ValueError, match=r"did you mean v_x\? \(known: v_x\); name the model"):
        schedule_of("ConstantRate(v_xx)", [file])
    with pytest.raises(ValueError, match=r"did you mean Karras\? \(known: mix, CheapestPath"):
        schedule_of(f"OnlineConstantRate(start=ConstantRate({file}), mixed=Karas)", [], laws)


def test_nearest() -> None:
    assert "did you mean quick?" in names.nearest("quik", ["quick", "fmnist"])
    assert "did you mean" not in names.nearest("zzz", ["quick", "fmnist"])
    assert "known: quick, fmnist" in names.nearest("zzz", ["quick", "fmnist"])
    assert "known: none" in names.nearest("zzz", [])


def test_numbers_are_read_as_python_reads_them() -> None:
    assert names.build("Karras(1e1)", schedules).rho == 10.0
    assert math.isclose(names.build("Karras(rho=0.1)", schedules).rho, 0.1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Karras(rho=7, rho=8)", "two values of one parameter"),
        ("Karras(**{'rho': 7})", "name=value"),
    ],
)
def test_a_parameter_is_written_once_and_by_its_name(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        names.build(text, schedules)
