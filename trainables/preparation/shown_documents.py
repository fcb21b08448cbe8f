"""Documents with the entropies of their tokens, for the report: which tokens the chosen schedule drops."""

from typing import Any

import torch

from trainables.masking import candidates, dropped_range
from trainables.models.loading import load_tokenizer
from trainables.preparation.prepared import Prepared
from trainables.settings import EntroDrop

DOCUMENTS, TOKENS = 3, 300
# Of these, where the first learned token stands far behind, those before it.
BEFORE = 50


def show_documents(prepared: Prepared, entrodrop: EntroDrop | None) -> dict[str, Any]:
    """The beginnings of the first training documents, or of what is learned of them, as summary.json has them.

    Args:
        entrodrop: what is dropped; None: nothing.

    Returns:
        `tokens`: of each document its tokens, each as [text, entropy in nats or null, kind]: "read", "kept" (learned,
        never dropped), "learned" or "candidate" (the schedule may drop it). `share`: of the candidates that are dropped
        at full strength.
    """
    packed, entropy_RT = prepared.packed("train"), prepared.entropy("train")
    droppable_RT, candidate_RT, share = packed.droppable_RT, torch.zeros_like(packed.trained_RT), 0.0
    if entrodrop is not None:
        least, greatest, rate = dropped_range(entrodrop, entropy_RT, droppable_RT)
        candidate_RT, share = candidates(entropy_RT, droppable_RT, least, greatest), rate * entrodrop.mask_ratio
    tokenizer = load_tokenizer(prepared.folder)
    documents = []
    for index in range(min(DOCUMENTS, int(packed.document_RT.max()) + 1)):
        which_RT = packed.document_RT == index
        # Of a long one the part with the first tokens that are learned.
        learned = packed.trained_RT[which_RT].nonzero()
        first = int(learned[0]) - BEFORE if len(learned) and int(learned[0]) >= TOKENS // 2 else 0
        part = slice(max(0, first), max(0, first) + TOKENS)
        ids = packed.token_RT[which_RT][part].tolist()
        flags = [mask[which_RT][part].tolist() for mask in (packed.trained_RT, droppable_RT, candidate_RT)]
        kinds = [
            "candidate" if low else "learned" if droppable else "kept" if trained else "read"
            for trained, droppable, low in zip(*flags, strict=True)
        ]
        entropies = [round(h, 6) if h < torch.inf else None for h in entropy_RT[which_RT][part].tolist()]
        tokens, text = [], ""
        for end, (entropy, kind) in enumerate(zip(entropies, kinds, strict=True), 1):
            longer = str(tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False))
            # The bytes of a character may be several tokens: it stands with the last of them.
            piece = "" if longer.endswith("\ufffd") else longer[len(text) :]
            text += piece
            tokens.append([piece, entropy, kind])
        documents.append(tokens)
    return {"tokens": documents, "share": share}
