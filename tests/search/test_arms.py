from typing import Any

import pytest

from search.space import Space, load
from tests.configs import MINIMAL, tells

ARMS = """\
arms:
  - {name: none, schedule: null}
  - name: entrodrop
  - name: late
    schedule: {curriculum: {shape: step, at: 0.7}}
  - name: regularized
    schedule: null
    training: {hidden_dropout: {low: 0.0, high: 0.4}}
"""

WRONG = [
    (
        "arms:\n  - {name: none, schedule: null}\n  - name: a\n  - name: a",
        11,
        "arms.2.name: given 'a' a second time; allowed: arms with different names",
    ),
    (
        "arms:\n  - name: a\n  - name: b",
        8,
        "arms: there is no baseline to compare a, b with; add {name: none, schedule: null}",
    ),
    (
        "arms:\n  - name: a\n  - name: none\n    schedule: {mask_ratio: 0.5}",
        11,
        "arms.1.schedule: the arm none drops no tokens; write null",
    ),
    (
        "arms:\n  - name: none\n  - name: a",
        9,
        "arms.0.schedule: the arm none drops no tokens; write null",
    ),
    (
        "arms:\n  - name: none\n    schedule: null\n    training:\n      neftune_alpha: 5.0\n  - name: a",
        12,
        "arms.0.training.neftune_alpha: the arm none has no regularizer but weight decay, and no token weight; le",
    ),
    (
        "arms:\n  - name: none\n    schedule: null\n    training: {token_weight: {kind: dft}}\n  - name: a",
        11,
        "arms.0.training.token_weight: the arm none has no regularizer but weight decay, and no token weight; le",
    ),
    (
        "training: {label_smoothing: 0.1}\narms:\n  - {name: none, schedule: null}\n  - name: a\n"
        "    training: {token_weight: {kind: dft}}",
        12,
        "arms.1.training.token_weight: the formula of this token weight does not hold with label smoothing; leav",
    ),
    (
        "training: {token_weight: {kind: dft}}\narms:\n  - {name: none, schedule: null}\n  - name: a\n"
        "    training: {label_smoothing: [0.0, 0.1]}",
        12,
        "arms.1.training.label_smoothing: the formula of this token weight does not hold with label smoothing; leav",
    ),
    ("arms: [{name: none, schedule: null}]", 8, "arms: there is only the baseline, none; add an arm to compar"),
    ("arms: []", 8, "arms: given []; allowed: "),
    ("arms:\n  - {name: a/b}", 9, "arms.0.name: given 'a/b'; allowed: up to 100 letters, digits"),
    ("arms:\n  - {schedule: null}", 9, "arms.0.name: given nothing; allowed: up to 100 letters"),
    (
        "arms:\n  - {name: none, schedule: null}\n  - name: a\n    schedule: {mask_ratio: 2.0}",
        11,
        "arms.1.schedule.mask_ratio: given 2.0; allowed: from 0 to 1 (share o",
    ),
    (
        "arms:\n  - {name: none, schedule: null}\n  - name: a\n    training: {warmup: 0.1}",
        11,
        "arms.1.training.warmup: given an unknown key; allowed: learning_rate, weight_decay, ",
    ),
]


def test_arms_load(write: Any) -> None:
    arms = load(write(MINIMAL + ARMS)).config.arms
    assert arms is not None
    assert [arm.name for arm in arms] == ["none", "entrodrop", "late", "regularized"]
    assert [arm.schedule is None for arm in arms] == [True, False, False, True]


def test_the_baseline_may_tune_what_is_no_regularizer(write: Any) -> None:
    text = (
        MINIMAL + "arms:\n  - name: none\n    schedule: null\n    training: {weight_decay: [0.0, 0.1]}\n  - name: a\n"
    )
    arms = load(write(text)).config.arms
    assert arms is not None
    assert arms[0].training.weight_decay == [0.0, 0.1]


@pytest.mark.parametrize(("text", "line", "message"), WRONG, ids=[message[:40] for _, _, message in WRONG])
def test_wrong_arms_are_told_with_their_line(write: Any, text: str, line: int, message: str) -> None:
    tells(write(f"{MINIMAL}{text}\n"), line, message, Space)
