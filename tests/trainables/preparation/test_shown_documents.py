"""Documents with their entropies: what the schedule may drop of them, and how the page shows it."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from search.results.page.trial import TrialPage, render_trial
from tests import tiny
from trainables.preparation import shown_documents
from trainables.preparation.shown_documents import DOCUMENTS, show_documents
from trainables.training.token_dropout import TokenDropout
from trainables.training.warm_model import WarmModel


@pytest.mark.parametrize("tokens", ["low_entropy", "high_entropy", "random"])
def test_the_page_of_a_trial_marks_the_same_tokens(tokens: str, tmp_path: Path) -> None:
    prepared = tiny.prepared(tmp_path)
    entrodrop = replace(tiny.entrodrop(quantile=0.3, mask_ratio=0.6), tokens=tokens)
    metrics = TokenDropout(WarmModel(prepared, tiny.CPU), entrodrop, 0).metrics
    page = TrialPage("a", {100: 6.0}, 100, None, show_documents(prepared, None)["tokens"], metrics)
    shown = show_documents(prepared, entrodrop)
    expected = [text for tokens in shown["tokens"] for text, _, kind in tokens if kind == "candidate"]
    text = render_trial(page)
    assert [unescape(token) for token in re.findall(r"<s [^>]*>([^<]*)</s>", text)] == expected
    assert f"up to {100 * shown['share']:.0f} %" in text


@pytest.mark.parametrize("kind", ["texts", "chats"])
def test_the_tokens_below_the_threshold_are_candidates(kind: str, tmp_path: Path) -> None:
    how = {"splits": tiny.chats(), "chat_template": tiny.CHAT_TEMPLATE} if kind == "chats" else {}
    prepared = tiny.prepared(tmp_path, **how)
    shown = show_documents(prepared, tiny.entrodrop(quantile=0.3, mask_ratio=0.6))
    packed, entropy_RT = prepared.packed("train"), prepared.entropy("train")
    threshold = np.quantile(entropy_RT[packed.droppable_RT].double().numpy(), 0.3)
    assert len(shown["tokens"]) == DOCUMENTS
    assert shown["share"] == pytest.approx(0.6)
    for index, tokens in enumerate(shown["tokens"]):
        which_RT = packed.document_RT == index
        for (text, entropy, kind_of), token, own, trained, droppable in zip(
            tokens,
            tiny.tokenizer().convert_ids_to_tokens(packed.token_RT[which_RT].tolist()),
            entropy_RT[which_RT].tolist(),
            packed.trained_RT[which_RT].tolist(),
            packed.droppable_RT[which_RT].tolist(),
            strict=True,
        ):
            assert text.strip() == token
            assert entropy == (None if own == torch.inf else round(own, 6))
            learned = ("candidate" if own <= threshold else "learned") if droppable else "kept"
            assert kind_of == (learned if trained else "read")
    kinds = {token[2] for tokens in shown["tokens"] for token in tokens}
    assert kinds == {"candidate", "learned", "kept", *(["read"] if kind == "chats" else [])}


def test_of_a_long_document_the_part_that_is_learned_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = tiny.prepared(tmp_path, splits=tiny.chats(), chat_template=tiny.CHAT_TEMPLATE)
    whole = show_documents(prepared, None)["tokens"]
    monkeypatch.setattr(shown_documents, "TOKENS", 6)
    monkeypatch.setattr(shown_documents, "BEFORE", 2)
    for all_tokens, shown in zip(whole, show_documents(prepared, None)["tokens"], strict=True):
        first = next(i for i, (_, _, kind) in enumerate(all_tokens) if kind != "read")
        start = first - 2 if first >= 3 else 0
        assert [kind for _, _, kind in shown] == [kind for _, _, kind in all_tokens[start : start + 6]]
        assert any(kind != "read" for _, _, kind in shown)


def test_nothing_is_dropped_without_a_schedule(tmp_path: Path) -> None:
    shown = show_documents(tiny.prepared(tmp_path), None)
    assert shown["share"] == 0
    assert {kind for tokens in shown["tokens"] for _, _, kind in tokens} == {"kept", "learned"}


def test_the_page_shows_each_token_as_it_is() -> None:
    environment = Environment(loader=PackageLoader("search.results.page"), autoescape=True, undefined=StrictUndefined)
    tokens = [["<b>", None, "read"], [" 2", 4.0, "learned"], [" +\n", 0.5, "candidate"], [" </s>", 1.0, "kept"]]
    macro = environment.get_template("documents.html.j2").module.documents  # type: ignore[attr-defined]
    page = str(macro({"tokens": [tokens], "share": 0.25}))
    assert "each with a probability of up to 25 %" in page
    found = re.findall(r"<(s|i|span)((?: [^>]*)?)>([^<]*)</\1>", page.partition('<p class="document"')[2])
    assert [(tag, unescape(text)) for tag, _, text in found] == [
        ("i", "<b>"),
        ("span", " 2"),
        ("s", " +\n"),
        ("span", " </s>"),
    ]
    assert [re.findall(r"\) (\d+)%|title=\"(.*?) nats", attributes) for _, attributes, _ in found] == [
        [],
        [("45", ""), ("", "4.00")],
        [("6", ""), ("", "0.50")],
        [("11", ""), ("", "1.00")],
    ]
    assert "Nothing is dropped." in str(macro({"tokens": [tokens], "share": 0.0}))
    assert "script" not in page
