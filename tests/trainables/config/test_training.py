from typing import Any, get_args

import pytest

from tests.configs import MINIMAL, failure, tells
from trainables.config.fields import FloatRange, NotNegative
from trainables.config.loader import load
from trainables.config.run import RunConfig
from trainables.config.training import OF_PROBABILITIES, EaftWeight, LoraAdapters, TokenWeight
from trainables.token_weight import KINDS

# (what follows MINIMAL, line, message)
WRONG_VALUES = [
    ("training:\n  learning_rate: 0", 9, "training.learning_rate: given 0; allowed: above 0 (AdamW's p"),
    ("training:\n  learning_rate: true", 9, "training.learning_rate: given true; allowed: above 0 (AdamW's"),
    (
        "training:\n  learning_rate: .nan",
        9,
        "training.learning_rate: given .nan, which is not finite; allowed: ab",
    ),
    (
        "training:\n  gradient_clip: .inf",
        9,
        "training.gradient_clip: given .inf, which is not finite; allowed: ab",
    ),
    (
        "training:\n  gradient_clip: 1.0e+999",
        9,
        "training.gradient_clip: given .inf, which is not finite; all",
    ),
    (
        "training:\n  weight_decay: -.inf",
        9,
        "training.weight_decay: given -.inf, which is not finite; allowed: ",
    ),
    ("training:\n  warmup: 1", 9, "training.warmup: given 1; allowed: from 0 to below 1 (share of the bu"),
    ("training:\n  sequence_length: 7", 9, "given 7; allowed: an integer of at least 8"),
    (
        "training:\n  learning_rate: '1e-4'",
        9,
        "given the text '1e-4'; allowed: above 0 (AdamW's peak learning rate); write 1e-4 without quotes",
    ),
    ("training:\n  precision: 16", 9, "training.precision: given 16; allowed: fp32 or bf16 (number "),
    (
        "evaluation:\n  low_entropy: 0.9",
        9,
        "evaluation.low_entropy: given 0.9; allowed: a number of at most 0.8",
    ),
    (
        "evaluation:\n  high_entropy: 0.6",
        9,
        "evaluation.high_entropy: given 0.6; allowed: a number of at most 0.5",
    ),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG_VALUES, ids=[text[:50] for text, _, _ in WRONG_VALUES])
def test_a_wrong_value_is_told_with_its_line(write: Any, text: str, line: int, message: str) -> None:
    tells(write(MINIMAL + text + "\n"), line, message)


ANSWERED = """\
models: [builtin/nano]
data: {source: files, path: a.jsonl, template: "{a}", prompt: "{q}", answer: "{a}", train: 9, validation: 5, test: 1}
"""


def test_the_new_keys(write: Any) -> None:
    overrides = [
        "training.lr_schedule=wsd",
        "training.lr_decay=0.95",
        "training.hidden_dropout=[0, 0.1]",
        "training.neftune_alpha={low: 0, high: 10}",
        "training.token_weight={kind: eaft, k: [10, 20], alpha: {low: 0.3, high: 1}}",
        "training.lora={rank: 8, alpha: 16}",
        "training.sharding=ddp",
        "evaluation.exact_match=5",
        "evaluation.answer_pattern='#### (.+)'",
    ]
    config = load(write(ANSWERED), overrides, RunConfig).config
    assert config.training.lora == LoraAdapters(rank=8, alpha=16.0)
    assert config.training.hidden_dropout == [0.0, 0.1]
    alpha = FloatRange[NotNegative](low=0.3, high=1.0)
    assert config.training.token_weight == EaftWeight(kind="eaft", k=[10, 20], alpha=alpha)
    assert config.training.neftune_alpha == FloatRange(low=0.0, high=10.0)
    assert config.evaluation.max_new_tokens == 256
    # reasoning-gym's problems have answers.
    assert load(write(MINIMAL), ["evaluation.exact_match=5"], RunConfig).config.evaluation.exact_match == 5


def test_adapters_can_be_searched(write: Any) -> None:
    lora = (
        "{rank: [4, 8], alpha: {low: 4, high: 32}, dropout: [0, 0.1], target_modules: [all-linear, [q_proj, v_proj]]}"
    )
    config = load(write(MINIMAL), [f"training.lora={lora}"], RunConfig).config
    assert config.training.lora is not None
    targets = config.training.lora.settings["target_modules"]
    assert targets == ["all-linear", "q_proj v_proj"]
    fixed = load(write(MINIMAL), ["training.lora={rank: 4, alpha: 8, target_modules: [q_proj, v_proj]}"], RunConfig)
    assert fixed.config.training.lora is not None
    assert fixed.config.training.lora.settings["target_modules"] == ["q_proj v_proj"]


@pytest.mark.parametrize("kind", ["eaft", "mile", "stm"])
def test_a_weight_that_is_not_of_the_label_goes_with_label_smoothing(write: Any, kind: str) -> None:
    overrides = [f"training.token_weight={{kind: {kind}}}", "training.label_smoothing={low: 0, high: 0.1}"]
    assert load(write(MINIMAL), overrides, RunConfig).config.training.token_weight is not None


def test_every_kind_of_token_weight_can_be_given() -> None:
    kinds = {block.model_fields["kind"].annotation for block in get_args(get_args(TokenWeight)[0])}
    assert {get_args(kind)[0] for kind in kinds} == set(KINDS)
    assert {n for n, kind in KINDS.items() if kind.probability} == {
        block.model_fields["kind"].annotation.__args__[0] for block in OF_PROBABILITIES
    }


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["training.lr_schedule=linear"], "training.lr_schedule: given 'linear'; allowed: constant, cosine (to "),
        (["training.lr_decay=0"], "training.lr_decay: given 0; allowed: above 0 and at most 1 (with ws"),
        (["training.lr_decay=1.5"], "training.lr_decay: given 1.5; allowed: above 0 and at most 1 (with ws"),
        (["training.lr_schedule=wsd", "training.lr_decay=1"], "training.lr_decay: given 1.0; allowed: with wsd, a"),
        (["training.lr_schedule=wsd", "training.warmup=0.9"], "training.warmup: given 0.9; allowed: with wsd, a n"),
        (["training.label_smoothing=1"], "training.label_smoothing: given 1; allowed: from 0 to below 1 (share of"),
        (["training.hidden_dropout=[0, 1]"], "training.hidden_dropout.1: given 1; allowed: from 0 to below 1 (dro"),
        (["training.attention_dropout={low: 0, high: 1}"], "training.attention_dropout.high: given 1; allowed: from 0"),
        (["training.neftune_alpha=-1"], "training.neftune_alpha: given -1; allowed: at least 0; 5 is usual, 0 is "),
        (["training.layout=pad"], "training.layout: given 'pad'; allowed: packed (several in a row, without atte"),
        (["training.compile=1"], "training.compile: given 1; allowed: true or false (whether t"),
        (["training.sharding=fsdp2"], "training.sharding: given 'fsdp2'; allowed: ddp (each the whole model), fsd"),
        (["training.token_weight=eaft"], "training.token_weight: given 'eaft'; allowed: a mapping with kind eaft, df"),
        (["training.token_weight={kind: eaftt}"], "training.token_weight.kind: given 'eaftt'; allowed: eaft, dft, po"),
        (["training.token_weight={k: 3}"], "training.token_weight.kind: given nothing; allowed: eaft, dft, po"),
        (["training.token_weight={kind: eaft, k: 1}"], "training.token_weight.k: given 1; allowed: an integer of at"),
        (["training.token_weight={kind: dft, gamma: 1}"], "training.token_weight.gamma: given an unknown key; allo"),
        (["training.token_weight={kind: power}"], "training.token_weight.exponent: given nothing; allowed: at least"),
        (["training.token_weight={kind: stm, perplexity: 1}"], "training.token_weight.perplexity: given 1; allowed: "),
        (["training.token_weight={kind: selective, share: 0}"], "training.token_weight.share: given 0; allowed: ab"),
        (
            ["training.token_weight={kind: dft}", "training.label_smoothing=[0, 0.1]"],
            "training.token_weight: the formula of this token weight does not hold with label smoothing; leave out",
        ),
        (["training.base_weights=nf4"], "training.base_weights: given nf4; allowed: full, as all weights are trained"),
        (
            ["training.base_weights=nf4", "training.lora={rank: 1, alpha: 1}", "training.sharding=fsdp"],
            "training.sharding: given fsdp; allowed: ddp or auto: weights of 4 bits",
        ),
        (["training.lora={rank: 0, alpha: 1}"], "training.lora.rank: given 0; allowed: an integer of at least 1"),
        (["training.lora={rank: 8}"], "training.lora.alpha: given nothing; allowed: above 0 (the ada"),
        (["training.lora=8"], "training.lora: given 8; allowed: a mapping {rank, alpha, dropout, target_modules}"),
        (["training.lora={rank: 8, alpha: 1, dropout: 1}"], "training.lora.dropout: given 1; allowed: from 0 to below"),
        (["training.lora={rank: 8, alpha: 1, target_modules: all}"], "training.lora.target_modules: given 'all'; all"),
        (["training.lora={rank: 8, alpha: 1, target_modules: []}"], "training.lora.target_modules: given []; allow"),
        (
            ["training.lora={rank: 8, alpha: 1, target_modules: [[q_proj], [q_proj]]}"],
            'training.lora.target_modules.1: ["q_proj"] is given a second time; leave it out',
        ),
        (["evaluation.exact_match=6"], "evaluation.exact_match: given 6; allowed: at most 5, which is data.validation"),
        (["training.sharding=fsdp", "evaluation.exact_match=1"], "evaluation.exact_match: with training.sharding fsdp"),
        (["data.answer=null", "evaluation.exact_match=1"], "evaluation.exact_match: there is no data.answer to com"),
        (["evaluation.exact_match=-1"], "evaluation.exact_match: given -1; allowed: an integer of at least 0"),
        (["evaluation.max_new_tokens=0"], "evaluation.max_new_tokens: given 0; allowed: an integer of at least 1"),
        (["evaluation.answer_pattern='(a'"], "evaluation.answer_pattern: given '(a'; allowed: a regular expressio"),
        (["evaluation.answer_pattern='a'"], "evaluation.answer_pattern: given 'a', which has 0 groups; allowed: a"),
        (["evaluation.answer_pattern=(a)(b)"], "evaluation.answer_pattern: given '(a)(b)', which has 2 groups; al"),
        (["evaluation.answer_pattern=3"], "evaluation.answer_pattern: given 3; allowed: a regular expression with"),
    ],
)  # fmt: skip
def test_wrong_new_keys_are_told(write: Any, overrides: list[str], told: str) -> None:
    assert told in failure(write(ANSWERED), *overrides)
