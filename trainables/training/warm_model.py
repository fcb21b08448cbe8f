"""A model on its device with its data, kept between runs.

Shapes: R rows, T positions.
"""

import torch
from torch import nn
from torch._dynamo import config as dynamo

from trainables import parallel
from trainables.data.packing import Packed
from trainables.forward import Forward
from trainables.models.loading import add_lora, check_forward, load_model, quantize
from trainables.preparation.prepared import Prepared
from trainables.settings import ModelSettings
from trainables.training.evaluate import HeldOut
from trainables.training.sharding import check_answers, choose_sharding, device_bytes, distribute, reshard


class WarmModel:
    """What a slot keeps between runs: a new run copies the base weights back in place.

    Attributes:
        step: the forward pass that is trained, over all ranks.
        forward: the same without what only training needs (DistributedDataParallel).
        entropy_RT, droppable_RT: of the training split, on the CPU.
        base_loss_RT: of the labels of `train` under the model before its training, in nats, on the CPU.
        train: the training split and, as the last row, one without tokens.
        rows: of the training split.
        tokens, labels: how many there are in each row of `train`.
        documents: likewise; padding counts as one.

    Raises:
        DataError: the model cannot be used, or no rank would have the whole of one that is to generate answers.
    """

    def __init__(self, prepared: Prepared, device: torch.device, how: ModelSettings | None = None) -> None:
        self.prepared, self.device, self.how = prepared, device, how or ModelSettings()
        quantized = self.how.base_weights == "nf4"
        self.model = load_model(prepared.folder, torch.device("cpu") if quantized else device)
        if quantized:
            quantize(self.model, device)
        check_forward(self.model, packed=prepared.layout == "packed")
        if self.how.lora is not None:
            add_lora(self.model, self.how.lora)
        if self.how.gradient_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        if self.how.compile:
            # By default compiled code ignores hooks that come later, as those of a run's hidden dropout do.
            dynamo.skip_nnmodule_hook_guards = False
            self.model.base_model.compile()
        # Compiled code would be compiled anew for each number of tokens and of documents.
        self.forward = Forward(self.model, by_document=not self.how.compile)
        counts = [(p.numel(), p.requires_grad) for p in self.model.parameters()]
        sharding = choose_sharding(
            self.how.sharding,
            sum(count for count, _ in counts),
            sum(count for count, trained in counts if trained),
            device_bytes(device),
            parallel.size(),
        )
        questions = self.how.exact_match.questions if self.how.exact_match is not None else 0
        check_answers(questions, sharding, parallel.size(), prepared.model)
        self.step: nn.Module = distribute(self.forward, sharding)
        self.base = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        packed = prepared.packed("train")
        self.entropy_RT = prepared.entropy("train")
        self.droppable_RT = packed.droppable_RT
        # Stored for tokens: the label of position i is token i + 1.
        self.base_loss_RT = nn.functional.pad(prepared.base_loss("train")[:, 1:], (0, 1, 0, 1))
        self.rows = len(packed.token_RT)
        train = _with_empty_row(packed)
        self.tokens: list[int] = (train.document_RT >= 0).sum(dim=1).tolist()
        self.labels: list[int] = (train.label_RT >= 0).sum(dim=1).tolist()
        self.documents: list[int] = (torch.diff(train.document_RT) != 0).sum(dim=1).add(1).tolist()
        self.train = train.to(device)
        self.validation = HeldOut.on(device, prepared.packed("validation"), prepared.groups("validation"))
        self._test = prepared.packed("test"), prepared.groups("test")
        general = prepared.general()
        self.general = HeldOut.on(device, general) if general is not None else None
        self.ordinary_W = torch.tensor(prepared.vocabulary.ordinary, device=device)

    @property
    def test(self) -> HeldOut:
        """The test split; it takes no memory of the device but when it is measured, once in a run."""
        return HeldOut.on(self.device, *self._test)

    def reset(self) -> None:
        reshard(self.step)
        # A run that broke off within a step left its gradients.
        self.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in self.base:
                    parameter.copy_(self.base[name])


def _with_empty_row(packed: Packed) -> Packed:
    """`packed` and one row without tokens: what fills up an epoch's last batch."""
    return Packed(
        **{
            name: nn.functional.pad(tensor, (0, 0, 0, 1), value=-1 if name == "document_RT" else 0)
            for name, tensor in packed.tensors().items()
        }
    )
