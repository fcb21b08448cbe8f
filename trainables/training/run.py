"""The training loop of one run: plain PyTorch, alone or under torch.distributed.

Shapes: R rows of the training split, B rows of a batch or micro-batch, T positions.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables import parallel
from trainables.forward import PRECISIONS
from trainables.learning_rate import learning_rate
from trainables.loss import TokenLoss
from trainables.models.loading import save_model
from trainables.models.resolve import HUB
from trainables.noise import Noise
from trainables.preparation.scoring import score
from trainables.settings import Settings
from trainables.storage.files import Place, replace_folder, safetensors_errors
from trainables.storage.manifest import digest
from trainables.token_weight import Labels, TokenWeight
from trainables.training import checkpoint
from trainables.training.evaluate import evaluate, measure
from trainables.training.generate import exact_match, right_answers
from trainables.training.sharding import reshard
from trainables.training.token_dropout import TokenDropout, present_all
from trainables.training.warm_model import WarmModel


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite."""


class Run:
    """One fine-tuning run, from evaluation to evaluation.

    Attributes:
        history: the metrics of each evaluation so far.

    Args:
        keep_best: the weights of the best evaluation are kept as well, for `test`.
    """

    def __init__(self, warm: WarmModel, settings: Settings, keep_best: bool = False) -> None:
        assert settings.lora in (None, warm.how.lora)
        warm.reset()
        self.warm, self.settings = warm, settings
        self.history: list[dict[str, float]] = []
        self._steps, self._tokens = 0, 0
        # Since the last evaluation, also before an interruption.
        self._seconds = 0.0
        # This rank's summed loss, labels and dropped tokens since the last evaluation.
        self._sums = torch.zeros(3, dtype=torch.float64, device=warm.device)
        self._parameters = {name: p for name, p in warm.model.named_parameters() if p.requires_grad}
        self._best = {name: p.detach().clone() for name, p in self._parameters.items()} if keep_best else {}
        parameters = list(self._parameters.values())
        decayed = {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay}
        plain = {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}
        self._optimizer = torch.optim.AdamW([decayed, plain], lr=settings.learning_rate, betas=(0.9, 0.95), fused=True)
        rows = warm.rows
        self._steps_per_epoch = math.ceil(rows / settings.batch_size)
        self._total_steps = self._steps_per_epoch * settings.epochs
        self._total_tokens = warm.prepared.train_tokens * settings.epochs
        self._order: tuple[int, list[int], Tensor] | None = None
        self._noise = Noise(warm.model, settings, warm.how.lora.dropout if warm.how.lora is not None else 0.0)
        self._weight = settings.token_weight
        needs_base = self._weight is not None and self._weight.base
        self._base_loss_RT = warm.base_loss_RT.to(warm.device) if needs_base else None
        self._dropout = (
            TokenDropout(warm, settings.entrodrop, settings.seed) if settings.entrodrop is not None else None
        )

    @property
    def finished(self) -> bool:
        return len(self.history) >= self.settings.evaluations

    @property
    def tokens(self) -> int:
        """Those that it has trained on."""
        return self._tokens

    @property
    def progress(self) -> float:
        """The share of the full budget's optimizer steps that has been done."""
        return self._steps / self._total_steps

    @property
    def _strength(self) -> float:
        """The curriculum's at this point of the budget's tokens."""
        entrodrop = self.settings.entrodrop
        return 0.0 if entrodrop is None else entrodrop.curriculum(self._tokens / self._total_tokens)

    def advance(self, stepped: Callable[[], object] = lambda: None) -> dict[str, float]:
        """Trains up to the next evaluation, evaluates, and appends the metrics to `history`.

        Args:
            stepped: called after each optimizer step. If it raises, the run can be saved there, and goes on from there.

        Returns:
            loss, high_entropy_loss, low_entropy_loss (validation, nats), high_entropy_accuracy (share of these tokens),
            general_loss (nats, if there is a general split), exact_match (share of the answers, at the last evaluation,
            if it is measured), train_loss (nats), mask_rate (dropped tokens / tokens since the last evaluation),
            curriculum_strength (now, in [0, 1]; 0 without a curriculum), least_dropped_entropy and
            greatest_dropped_entropy (nats, of the tokens that the schedule may drop, where there is such an end),
            full_mask_rate (the share of these that it drops at full strength), learning_rate, tokens (seen so far),
            epoch, tokens_per_s.

        Raises:
            NonFiniteLossError: a training or validation loss is NaN or infinite; the same on every rank.
        """
        began = time.perf_counter() - self._seconds
        try:
            with self._noise:
                for _ in range(self._steps, self._step_of_evaluation(len(self.history) + 1)):
                    self._refresh()
                    self._sums += self._optimizer_step()
                    stepped()
        finally:
            self._seconds = time.perf_counter() - began
        losses = self._evaluate()
        loss_sum, labels, dropped = parallel.sum_over_ranks(self._sums).tolist()
        self._sums.zero_()
        train_loss = loss_sum / max(labels, 1)
        if not all(map(math.isfinite, [train_loss, *losses.values()])):
            raise NonFiniteLossError(f"loss {train_loss} after {self._tokens:,} tokens")
        seen = self._tokens - int(self.history[-1]["tokens"] if self.history else 0)
        self.history.append(
            {
                **losses,
                "train_loss": train_loss,
                "mask_rate": dropped / max(seen, 1),
                "curriculum_strength": self._strength,
                **(self._dropout.metrics if self._dropout is not None else {}),
                "learning_rate": learning_rate(self.settings, self._steps - 1, self._total_steps),
                "tokens": float(self._tokens),
                "epoch": self._steps / self._steps_per_epoch,
                "tokens_per_s": seen / (time.perf_counter() - began),
            }
        )
        self._seconds = 0.0
        if losses["high_entropy_loss"] <= min(metrics["high_entropy_loss"] for metrics in self.history):
            _copy(self._parameters, self._best)
        return self.history[-1]

    def test(self, reading: Callable[[str], object] = lambda _: None) -> dict[str, dict[str, Any]]:
        """Reads the test split, once and at the end: losses by document, as `Measured.to_json` gives them.

        Args:
            reading: called with "final" and with "best" while the model has these weights.

        Returns:
            "best": with the weights of the evaluation of least high-entropy loss on the validation split, "final": with
            the last ones; each "test", and "general" if there is a general split. "test" has the right answers too, if
            they are asked for. The weights stay the best ones.
        """
        results = {"final": self._test()}
        reading("final")
        reshard(self.warm.step)
        _copy(self._best, self._parameters)
        results = {"best": self._test(), **results}
        reading("best")
        return results

    def _test(self) -> dict[str, Any]:
        warm, precision = self.warm, PRECISIONS[self.settings.precision]
        splits = {"test": warm.test, "general": warm.general}
        results: dict[str, Any] = {
            name: measure(warm.forward, split, precision).to_json()
            for name, split in splits.items()
            if split is not None
        }
        if warm.how.test_answers and warm.how.exact_match is not None:
            questions = warm.prepared.test_questions
            right = right_answers(warm.model, warm.prepared, questions, warm.how.exact_match, precision)
            asked = [float(question is not None) for question in questions]
            results["test"]["exact_match"] = {"sums": right, "counts": asked}
        return results

    def _evaluate(self) -> dict[str, float]:
        warm, settings = self.warm, self.settings
        precision = PRECISIONS[settings.precision]
        losses = evaluate(warm.forward, warm.validation, precision)
        if warm.general is not None:
            losses["general_loss"] = evaluate(warm.forward, warm.general, precision)["loss"]
        if warm.how.exact_match is not None and len(self.history) + 1 == settings.evaluations:
            losses["exact_match"] = exact_match(warm.model, warm.prepared, warm.how.exact_match, precision)
        return losses

    def _refresh(self) -> None:
        """Computes the entropies anew at the start of every k-th epoch."""
        epoch, step = divmod(self._steps, self._steps_per_epoch)
        every = self._dropout.refresh_epochs if self._dropout is not None else 0
        if self._dropout is None or not every or step or not epoch or epoch % every:
            return
        rows = self.warm.rows
        entropy_RT, _ = score(self.warm.forward, self.warm.train[:rows], PRECISIONS[self.settings.precision])
        self._dropout.set_entropies(entropy_RT)

    def _step_of_evaluation(self, number: int) -> int:
        """The step after which evaluation `number` (from 1) stands."""
        epoch, part = divmod(number, self.settings.evaluations_per_epoch)
        return epoch * self._steps_per_epoch + math.ceil(
            part * self._steps_per_epoch / self.settings.evaluations_per_epoch
        )

    def _batch(self) -> tuple[list[int], Tensor]:
        """The rows of the next optimizer step, as numbers and on the device; the index behind the last row is the empty
        row. A whole epoch's are copied at once: each copy waits for what the device still has to do."""
        epoch, step = divmod(self._steps, self._steps_per_epoch)
        rows = self.warm.rows
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
            order = torch.randperm(rows, generator=generator)
            padding = self._steps_per_epoch * self.settings.batch_size - rows
            order = torch.cat([order, torch.full((padding,), rows)])
            self._order = epoch, order.tolist(), order.to(self.warm.device)
        part = slice(step * self.settings.batch_size, (step + 1) * self.settings.batch_size)
        return self._order[1][part], self._order[2][part]

    def _optimizer_step(self) -> Tensor:
        """One optimizer step. Returns this rank's summed loss, labels and dropped tokens, float64."""
        settings, warm = self.settings, self.warm
        warm.step.train()
        batch, batch_B = self._batch()
        epoch = self._steps // self._steps_per_epoch
        presented = (
            self._dropout.present(batch_B, epoch, self._strength) if self._dropout else present_all(warm, batch_B)
        )
        rows, label_BT, dropped_BT = presented.rows, presented.label_BT, presented.dropped_BT
        # Every rank knows the whole batch, so that dividing by its labels needs no communication.
        labels = (label_BT >= 0).sum().clamp(min=1)
        totals = torch.zeros(3, dtype=torch.float64, device=warm.device)
        weight_sum = torch.zeros((), dtype=torch.float64, device=warm.device)
        mine = list(self._micro_batches(len(batch)))
        for i, part in enumerate(mine):
            _synchronize(warm.step, last=i == len(mine) - 1)
            self._noise.begin(epoch, batch[part], self._steps, i * parallel.size() + parallel.rank())
            result = warm.step(
                rows[part],
                label_BT[part],
                PRECISIONS[settings.precision],
                entropy=self._weight is not None and self._weight.entropy,
                likeliest=self._weight.likeliest if self._weight is not None else None,
                label_smoothing=settings.label_smoothing,
                zeroed_BT=dropped_BT[part] if presented.by_zeros else None,
                noise=self._noise,
                most_labels=sum(warm.labels[row] for row in batch[part]),
                most_documents=sum(warm.documents[row] for row in batch[part]),
            )
            loss = weighted = result.loss_N.sum()
            if self._weight is not None:
                weight_BT = self._weigh(self._weight, result, label_BT[part], batch_B[part])
                weighted = (result.loss_N * weight_BT.flatten()).sum()
                weight_sum += weight_BT.sum()
            # DistributedDataParallel and FSDP average over the ranks; the loss is a mean over the whole batch.
            (weighted * (parallel.size() / labels)).backward()
            totals += torch.stack([loss.detach(), (label_BT[part] >= 0).sum(), dropped_BT[part].sum()])
        if self._weight is not None and self._weight.weighted_mean:
            # Only now is the sum known; one of less than 1 is 0, as all gradients are.
            factor = labels / parallel.sum_over_ranks(weight_sum).clamp(min=1)
            for parameter in self._parameters.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        nn.utils.clip_grad_norm_(self._parameters.values(), settings.gradient_clip)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(settings, self._steps, self._total_steps)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._steps += 1
        self._tokens += sum(warm.tokens[row] for row in batch)
        return totals

    def _weigh(self, weight: TokenWeight, result: TokenLoss, label_BT: Tensor, batch_B: Tensor) -> Tensor:
        shape = label_BT.shape
        base_BT = self._base_loss_RT[batch_B] if self._base_loss_RT is not None else None
        labels = Labels(
            label_BT >= 0, result.loss_N.detach().view(shape), result.entropy_N.detach().view(shape), base_BT
        )
        return weight(labels)

    def _micro_batches(self, rows: int) -> Iterator[slice]:
        """This rank's parts of a batch, one for each micro-batch."""
        size = rows // (self.settings.accumulation * parallel.size())
        for i in range(self.settings.accumulation):
            start = (i * parallel.size() + parallel.rank()) * size
            yield slice(start, start + size)

    def identity(self) -> str:
        """SHA-256 of all that the run's result depends on, apart from how many ranks share it, and in which parts."""
        warm, prepared = self.warm, self.warm.prepared
        # The adapters are in the model's identity.
        apart = ("accumulation", "lora")
        settings = {name: value for name, value in self.settings.to_json().items() if name not in apart}
        hashes = [prepared.base_hash, prepared.data_hash, prepared.evaluation_hash]
        return digest([settings, prepared.model, *hashes, warm.how.identity(), bool(self._best)])

    def _state(self) -> dict[str, Tensor]:
        """The weights in training, the optimizer's moments and the entropies: what a checkpoint holds.

        Before the first step the optimizer has no moments; zeros stand for them, as they do for it.
        """
        state = {f"model.{name}": p.detach() for name, p in self._parameters.items()}
        for name, parameter in self._parameters.items():
            own = self._optimizer.state[parameter]
            if not own:
                own["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                own["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                own["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state |= {f"optimizer.{name}.{kind}": tensor for kind, tensor in own.items()}
        state |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        if self._dropout is not None and self._dropout.refresh_epochs:
            state["entropy"] = self._dropout.entropy_RT
        return state

    def save(self, folder: Place) -> None:
        """Writes the run's exact state, whole or not at all; every rank calls this."""
        sums = parallel.sum_over_ranks(self._sums.clone()).tolist()
        about = {"steps": self._steps, "tokens": self._tokens, "history": self.history, "sums": sums}
        about["seconds"] = self._seconds
        checkpoint.save(folder, self._state(), self.identity(), self._steps, about)

    def restore(self, folder: Place) -> None:
        """Goes on from a checkpoint: what follows is what would have followed without the interruption.

        Raises:
            CheckpointError: cut short, damaged, or of another run.
        """
        state = self._state()
        about: dict[str, Any] = checkpoint.load(folder, state, self.identity())
        self._steps, self._tokens, self.history = about["steps"], about["tokens"], about["history"]
        # One of an older version does not have it.
        self._seconds = about.get("seconds", 0.0)
        self._sums.zero_()
        if parallel.rank() == 0:
            self._sums += torch.tensor(about["sums"], dtype=torch.float64)
        if self._dropout is not None and "entropy" in state:
            self._dropout.set_entropies(state["entropy"])

    def weights(self) -> dict[str, Tensor]:
        """The whole model's state on the CPU, gathered from all ranks; every rank calls this."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return dict(get_model_state_dict(self.warm.model, options=options))  # type: ignore[arg-type]

    def save_model(self, folder: Place) -> None:
        """Writes the weights and the tokenizer as a model folder, in place of the one before; every rank calls this."""
        weights, prepared = self.weights(), self.warm.prepared
        published = prepared.model.removeprefix(HUB) if prepared.model.startswith(HUB) else None
        if parallel.rank() == 0:
            with safetensors_errors(folder):
                replace_folder(
                    folder,
                    lambda scratch: save_model(
                        self.warm.model, weights, prepared.folder, scratch, prepared.chat_template, published
                    ),
                )
        parallel.barrier()


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _synchronize(step: nn.Module, last: bool) -> None:
    """DDP exchanges gradients at the last micro-batch of an optimizer step only; FSDP at each one, as a rank would have
    to keep the whole gradient until then."""
    if isinstance(step, DistributedDataParallel):
        step.require_backward_grad_sync = last
