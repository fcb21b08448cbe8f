from typing import Any

import pytest

from tests.configs import MINIMAL, failure, tells
from trainables.config.fields import FloatRange
from trainables.config.loader import load
from trainables.config.run import RunConfig
from trainables.config.schedule import EntropyThreshold, Schedule, SplineShape


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("0.5", 0.5),
        ("0", 0.0),
        ("[0.25, 1]", [0.25, 1.0]),
        ("{low: 0, high: 1}", {"low": 0.0, "high": 1.0, "log": False}),
        ("{low: 1.0e-3, high: 1, log: true}", {"low": 0.001, "high": 1.0, "log": True}),
    ],
)
def test_a_searchable_setting_is_fixed_or_searched(write: Any, given: str, expected: Any) -> None:
    space = load(write(MINIMAL), [f"schedule.mask_ratio={given}"], RunConfig).config
    assert space.model_dump()["schedule"]["mask_ratio"] == expected
    assert isinstance(space.schedule.mask_ratio, FloatRange) == isinstance(expected, dict)


def test_one_shape_stands_for_a_list_of_one(write: Any) -> None:
    space = load(write(MINIMAL + "schedule:\n  curriculum: {shape: step, at: 0.5}\n"), (), RunConfig).config
    assert space.model_dump()["schedule"]["curriculum"] == [{"shape": "step", "at": 0.5}]


# (what follows MINIMAL, line, message)
WRONG_VALUES = [
    (
        "schedule:\n  mask_ratio: 1.5",
        9,
        "schedule.mask_ratio: given 1.5; allowed: from 0 to 1 (share of these token",
    ),
    (
        "schedule:\n  mask_ratio:\n    low: 0\n    high: 2",
        11,
        "schedule.mask_ratio.high: given 2; allowed: from 0 to 1 (share o",
    ),
    (
        "schedule:\n  mask_ratio:\n    low: 0.5\n    high: 0.5",
        11,
        "schedule.mask_ratio.high: given 0.5; allowed: a number above low, which is 0.5",
    ),
    (
        "schedule:\n  mask_ratio: {low: 0, high: 1, log: true}",
        9,
        "schedule.mask_ratio.low: given 0.0; allowed: a number above 0, as log is true",
    ),
    (
        "schedule:\n  mask_ratio: {low: 0, high: 1, log: 1}",
        9,
        "mask_ratio.log: given 1; allowed: true or false; true needs",
    ),
    (
        "schedule:\n  mask_ratio: {low: 0.1}",
        9,
        "schedule.mask_ratio.high: given nothing; allowed: from 0 to 1 (sh",
    ),
    (
        "schedule:\n  mask_ratio: {low: 0.1, hihg: 1}",
        9,
        "schedule.mask_ratio.hihg: given an unknown key; allowed: low, high, log; did you mean 'high'?",
    ),
    (
        "schedule:\n  mask_ratio: {low: 0, high: 1, range: 2}",
        9,
        "schedule.mask_ratio.range: given an unknown key; allowed: low, high, log",
    ),
    ("schedule:\n  mask_ratio: []", 9, "schedule.mask_ratio: given []; allowed: from 0 to 1 (share of t"),
    (
        "schedule:\n  mask_ratio:\n    - 0.5\n    - 1.5",
        11,
        "schedule.mask_ratio.1: given 1.5; allowed: from 0 to 1 (share o",
    ),
    ("schedule:\n  mask_ratio: [1, 1.0]", 9, "schedule.mask_ratio.1: 1.0 is given a second time; leave it o"),
    (
        "schedule:\n  presentation: inputs",
        9,
        "given 'inputs'; allowed: input (the token's embedding becomes zero), input_mask_token (it becomes the mas",
    ),
    (
        "schedule:\n  presentation: [loss, loss]",
        9,
        "schedule.presentation.1: 'loss' is given a second time; leav",
    ),
    (
        "schedule:\n  presentation: {low: 0, high: 1}",
        9,
        'given {"low": 0, "high": 1}; allowed: input (the token\'s embedding bec',
    ),
    (
        "schedule:\n  entropy_threshold: 0.5",
        9,
        "schedule.entropy_threshold: given 0.5; allowed: a mapping {quantile, nats}",
    ),
    (
        "schedule:\n  curriculum:\n    - shape: linear\n    - shape: sigmoidal",
        11,
        "schedule.curriculum.1.shape: given 'sigmoidal'; allowed: constant, linear, cosine, sigmoid, step, spline; ",
    ),
    (
        "schedule:\n  curriculum:\n    shape: linear\n    midpoint: 0.5",
        11,
        "schedule.curriculum.midpoint: given an unknown key; allowed: shape, until; 'midpoint' belongs to shape s",
    ),
    (
        "schedule:\n  curriculum:\n    - shape: sigmoid\n      steepness: {low: 0, high: 9}",
        11,
        "schedule.curriculum.0.steepness.low: given 0; allowed: above 0; 4 is ge",
    ),
    (
        "schedule:\n  curriculum: [{at: 0.5}]",
        9,
        "schedule.curriculum.0.shape: given nothing; allowed: constant,",
    ),
    (
        "schedule:\n  curriculum: [{shape: [step]}]",
        9,
        'schedule.curriculum.0.shape: given ["step"]; allowed: const',
    ),
    (
        "schedule:\n  curriculum: linear",
        9,
        "schedule.curriculum: given 'linear'; allowed: a mapping with shape cons",
    ),
    ("schedule:\n  curriculum: []", 9, "schedule.curriculum: given []; allowed: a mapping with shape consta"),
    (
        "schedule:\n  curriculum:\n    - shape: step\n    - at: 0.5\n      shape: step",
        12,
        "schedule.curriculum.1.shape: step is given a second time; search its parameters i",
    ),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG_VALUES, ids=[text[:50] for text, _, _ in WRONG_VALUES])
def test_a_wrong_value_is_told_with_its_line(write: Any, text: str, line: int, message: str) -> None:
    tells(write(MINIMAL + text + "\n"), line, message)


def schedule(write: Any, *overrides: str) -> Schedule:
    loaded = load(write(MINIMAL), [f"schedule.{override}" for override in overrides], RunConfig).config.schedule
    assert loaded is not None
    return loaded


def test_null_drops_nothing(write: Any) -> None:
    assert load(write(MINIMAL + "schedule: null\n"), (), RunConfig).config.schedule is None


def test_the_threshold_is_a_quantile_or_nats(write: Any) -> None:
    assert schedule(write).entropy_threshold == EntropyThreshold(quantile=FloatRange(low=0.2, high=0.9))
    nats = schedule(write, "entropy_threshold={nats: {low: 0, high: 2}}").entropy_threshold
    assert nats == EntropyThreshold(nats=FloatRange(low=0.0, high=2.0))


def test_the_other_keys(write: Any) -> None:
    given = schedule(
        write,
        "tokens=[low_entropy, random]",
        "presentation=[input, input_mask_token]",
        "refresh_epochs=[0, 2]",
        "mask_token='[MASK]'",
    )
    assert given.tokens == ["low_entropy", "random"]
    assert given.refresh_epochs == [0, 2]
    assert given.needs_mask_token
    assert not schedule(write, "presentation=input_random_token").needs_mask_token
    assert schedule(write, "presentation=input_mask_token").needs_mask_token


@pytest.mark.parametrize(
    ("given", "knots", "rises"),
    [
        ("{shape: spline}", 3, None),
        ("{shape: spline, knots: 5}", 5, None),
        ("{shape: spline, rises: [0, 1, 0.5]}", 2, [0.0, 1.0, 0.5]),
        ("{shape: spline, rises: [0, 1, 0.5], knots: 2}", 2, [0.0, 1.0, 0.5]),
    ],
)
def test_a_spline_has_knots_or_rises(write: Any, given: str, knots: int, rises: list[float] | None) -> None:
    (shape,) = schedule(write, f"curriculum={given}").curriculum
    assert isinstance(shape, SplineShape)
    assert (shape.knots, shape.rises) == (knots, rises)
    assert SplineShape.model_validate(shape.model_dump()) == shape


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("entropy_threshold={}", "schedule.entropy_threshold: neither quantile nor nats is given; give one of them"),
        ("entropy_threshold={quantile: 0.5, nats: 1}", "schedule.entropy_threshold.nats: quantile is given too; leav"),
        ("entropy_threshold.nats=-1", "schedule.entropy_threshold.nats: given -1; allowed: nats, at least 0 (toke"),
        ("entropy_threshold={quantile: {low: 0}}", "schedule.entropy_threshold.quantile.high: given nothing; allo"),
        ("entropy_threshold={nats: {low: 2, high: 1}}", "schedule.entropy_threshold.nats.high: given 1.0; allowed"),
        ("entropy_threshold={nats: [1, -1]}", "schedule.entropy_threshold.nats.1: given -1; allowed: nats, at lea"),
        ("tokens=low", "schedule.tokens: given 'low'; allowed: low_entropy; or, to compare with, random (as many of"),
        ("tokens=[random, randm]", "schedule.tokens.1: given 'randm'; allowed: low_entropy; or, to compare with, "),
        ("redraw=always", "schedule.redraw: given 'always'; allowed: epoch (in each), or never (the same tokens in e"),
        ("refresh_epochs=-1", "schedule.refresh_epochs: given -1; allowed: an integer of at least 0; 0 for never (epo"),
        ("refresh_epochs=[1, 0.5]", "schedule.refresh_epochs.1: given 0.5; allowed: an integer of at least 0"),
        ("refresh_epochs={low: 1, high: 2}", 'schedule.refresh_epochs: given {"low": 1, "high": 2}; allowed: an integ'),
        ("mask_token=''", "schedule.mask_token: given ''; allowed: one token of the tokeniz"),
        ("reference=[builtin/nano]", 'schedule.reference: given ["builtin/nano"]; allowed: a model\'s name; null f'),
        ("curriculum={shape: spline, knots: 9}", "schedule.curriculum.knots: given 9; allowed: an integer from 1 to 8"),
        ("curriculum={shape: spline, rises: [1]}", "schedule.curriculum.rises: given [1]; allowed: a list of 2 to"),
        ("curriculum={shape: spline, rises: [1, -1]}", "schedule.curriculum.rises.1: given -1; allowed: a list of 2 "),
        ("curriculum={shape: spline, rises: [1, 1], knots: 3}", "schedule.curriculum.knots: given 3; allowed: 1, "),
        ("curriculum={shape: step, knots: 3}", "schedule.curriculum.knots: given an unknown key; allowed: shape, at"),
    ],
)  # fmt: skip
def test_wrong_new_keys_are_told(write: Any, override: str, told: str) -> None:
    assert told in failure(write(MINIMAL), f"schedule.{override}")


def test_a_schedule_that_is_no_block_is_told(write: Any) -> None:
    assert "schedule: given 3; allowed: a mapping {entropy_threshold, tokens, " in failure(write(MINIMAL), "schedule=3")
