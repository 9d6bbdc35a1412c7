"""The one training loop: AdamW, warm-up and linear decay, clipping, a loss history, and checkpoints to go on from.

Everything drawn at random comes from the seed: the batch order from a generator per epoch, dropout from torch's global
generator, whose state is part of a checkpoint. A run that was interrupted ends with the same weights as one that was
not.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from stages.core.data.batches import Batch, FlatLogits, Heard, count_batches, shuffled_batches
from stages.core.data.windows import NO_LABEL, Windows
from stages.core.errors import InputError
from stages.core.files import write_text
from stages.core.models.families import word_embeddings
from stages.core.models.kernels import set_inference_kernel, set_training_kernel
from stages.core.runtime import Runtime, autocast
from stages.core.training.graphs import WIDTHS, Pass, RecordedPass, pays
from stages.core.training.losses import Loss, LossTerms
from stages.core.training.settings import FitParams

History = list[dict[str, float]]
COLUMNS = ("step", "epoch", "learning_rate", "loss")  # and the parts of the loss


@dataclass
class _Progress:
    """Where a run is: updates made, parts of the loss since the last row, the rows so far."""

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: History = field(default_factory=list)
    unread: list[LossTerms] = field(default_factory=list)  # still on the device: reading them waits for it

    def read(self) -> None:
        """Add what is unread to the sums."""
        for terms in self.unread:
            values = torch.stack([term.float() for term in terms.values()]).tolist()
            for name, value in (*zip(terms, values, strict=True), ("updates", 1.0)):
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.unread = []

    def row(self, rate: float, per_epoch: int) -> dict[str, float]:
        """Add a row of means since the last one to the history, and return it."""
        self.read()
        updates = self.sums.pop("updates")
        means = {name: value / updates for name, value in self.sums.items()}
        self.history.append({"step": self.step, "epoch": self.step / per_epoch, "learning_rate": rate, **means})
        self.sums = {}
        return self.history[-1]


@dataclass(frozen=True)
class TrainingSet:
    """Windows to train on, and what a loss asks for beside them.

    That is the teacher's logits, and its own windows where it is to be run on other tokens.
    """

    windows: Windows
    teacher_logits: FlatLogits | None = None
    heard: Heard | None = None

    def take(self, rows: Tensor) -> "TrainingSet":
        """Return the windows `rows`, (R,) int64, as a set of their own."""
        tokens = self.windows.tokens_of(rows)
        logits = (
            None if self.teacher_logits is None else (self.teacher_logits[0][tokens], self.teacher_logits[1][tokens])
        )
        return TrainingSet(self.windows.take(rows), logits, None if self.heard is None else self.heard.take(rows))

    def labelled(self) -> "TrainingSet":
        """Return the windows that have a label as a set of their own."""
        rows = torch.nonzero(self.windows.start_positions != NO_LABEL).flatten()
        return self if len(rows) == len(self.windows) else self.take(rows)

    def join(self, others: "TrainingSet") -> "TrainingSet":
        """Return these windows and the others behind them.

        Both have the teacher's logits, and both have its windows or neither has.
        """
        assert self.teacher_logits is not None and others.teacher_logits is not None
        start, end = (torch.cat(pair) for pair in zip(self.teacher_logits, others.teacher_logits, strict=True))
        assert (self.heard is None) == (others.heard is None)
        heard = None if self.heard is None or others.heard is None else self.heard.join(others.heard)
        return TrainingSet(self.windows.join(others.windows), (start, end), heard)


def fit(
    model: nn.Module,
    loss: Loss,
    data: TrainingSet,
    params: FitParams,
    runtime: Runtime,
    *,
    scratch: Path,
    name: str,
    after_epoch: Callable[[int], None] | None = None,
    updates: int | None = None,
) -> History:
    """Train `model` in place and return its loss history, a row every `log_steps` updates.

    There are as many updates as `params.epochs` passes over the data have, or `updates`, in as many passes as it takes.
    A `loss` that is a module with parameters of its own has them trained too. Checkpoints are kept in `scratch`; if
    there is one, training goes on from it. A training that diverges ends at the row of the history that shows it, for
    its weights are lost. `after_epoch(epoch)` is called after each epoch, or the part of one that a training ends in,
    and again for none of those a checkpoint has behind it. On a GPU a training of many updates records its passes as
    CUDA graphs where `runtime.cuda_graphs` says so: `loss` is then called once or twice for each width, and for each
    batch that is not full.
    """
    model.to(runtime.device)
    set_training_kernel(model, runtime.device)
    _set_dropout(model, params.dropout)
    words = word_embeddings(model)
    words.requires_grad_(not params.freeze_embeddings)
    model.train()
    trained: list[nn.Module] = [model]
    if isinstance(loss, nn.Module):
        trained.append(loss.to(runtime.device))
    optimizer = torch.optim.AdamW(_parameter_groups(trained, params.weight_decay), lr=params.learning_rate, fused=True)
    per_epoch = count_batches(data.windows, params.batch_size)
    total = per_epoch * params.epochs if updates is None else updates
    checkpoint = scratch / f"{name}.pt"
    progress = _resume(checkpoint, trained, optimizer, runtime.device)
    recorded = runtime.cuda_graphs and pays(runtime.device, total)
    gradients = _gradients(model, loss, runtime)
    if recorded:
        gradients = RecordedPass(gradients, params.batch_size, runtime.device)
    bar = tqdm(total=total, initial=progress.step, desc=name, unit="update", disable=None)
    diverged = False
    for epoch in range(progress.step // per_epoch, -(-total // per_epoch)) if progress.step < total else ():
        skip = progress.step - epoch * per_epoch
        ahead = _epoch(data, params, epoch, skip=skip, widths=WIDTHS if recorded else 1)
        for batch in islice(ahead, total - progress.step):
            rate = learning_rate_at(progress.step, total, params)
            progress.unread.append(gradients(batch))
            _step(trained, optimizer, rate, params, keep_gradients=recorded)
            progress.step += 1
            if progress.step % params.log_steps == 0 or progress.step == total:
                row = progress.row(rate, per_epoch)
                diverged = not math.isfinite(row["loss"]) and not is_finite(model)
                bar.set_postfix(loss=f"{row['loss']:.3f}", rate=f"{rate:.1e}", refresh=False)
            bar.update()
            if diverged:
                break
            if progress.step % params.checkpoint_steps == 0 and progress.step % per_epoch:
                _keep(checkpoint, trained, optimizer, progress, runtime.device)
        if after_epoch is not None:
            after_epoch(epoch)
            model.train()
        if diverged:
            break
        _keep(checkpoint, trained, optimizer, progress, runtime.device)
    bar.close()
    optimizer.zero_grad()
    words.requires_grad_(True)
    model.eval()
    set_inference_kernel(model)
    return progress.history


def is_finite(model: nn.Module) -> bool:
    """Whether no weight of a model has become infinite or lost its value."""
    return all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


def learning_rate_at(step: int, total: int, params: FitParams) -> float:
    """Return the rate of update `step` (from 0) of `total`: a linear rise to the peak, then a linear fall to zero."""
    warmup = max(1, round(params.warmup_ratio * total))
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    return params.learning_rate * (total - step) / max(1, total - warmup)


def write_history(history: History, path: Path) -> None:
    """Write a loss history as CSV: step, epoch, learning_rate, loss and the loss's parts."""
    frame = pd.DataFrame(history) if history else pd.DataFrame(columns=COLUMNS)
    write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def read_history(path: Path) -> History:
    """Return a loss history that `write_history` wrote, to its six digits; raises InputError where there is none."""
    try:
        rows = pd.read_csv(path).to_dict("records")
    except (FileNotFoundError, ValueError):
        raise InputError(f"{path}: no loss history; run the stage that writes it") from None
    return [{str(name): value for name, value in row.items()} for row in rows]


def joined(histories: Iterable[History]) -> History:
    """Return the histories of trainings that follow one another as one: steps and epochs go on counting."""
    rows: History = []
    for history in histories:
        before = {name: rows[-1][name] if rows else 0.0 for name in ("step", "epoch")}
        rows += [{**row, **{name: row[name] + count for name, count in before.items()}} for row in history]
    return rows


def _set_dropout(model: nn.Module, probability: float) -> None:
    """Set the dropout of every layer; the config, which says how the encoder was pretrained, stays as it is."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


def _parameter_groups(modules: list[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices decay; biases and normalisation, which are vectors, do not."""
    trainable = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _epoch(data: TrainingSet, params: FitParams, epoch: int, skip: int, widths: int) -> Iterator[Batch]:
    """Yield an epoch's batches, without the first `skip`, which a checkpoint has behind it."""
    generator = torch.Generator().manual_seed(params.seed * 10_007 + epoch)
    batches = shuffled_batches(
        data.windows, params.batch_size, generator, data.teacher_logits, heard=data.heard, widths=widths
    )
    for number, batch in enumerate(batches):
        if number >= skip:
            yield batch


def _gradients(model: nn.Module, loss: Loss, runtime: Runtime) -> Pass:
    """Return what adds a batch's gradients and returns the parts of its loss, still on the device.

    Nothing in it waits for a GPU.
    """

    def gradients(batch: Batch) -> LossTerms:
        with autocast(runtime.device, runtime.precision):
            terms = loss(model, batch.to(runtime.device))
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        return {name: term.detach() for name, term in terms.items()}

    return gradients


def _step(
    trained: list[nn.Module], optimizer: torch.optim.Optimizer, rate: float, params: FitParams, *, keep_gradients: bool
) -> None:
    """Change the weights by their gradients, and set these to zero or, unless they are kept in their place, to none."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    nn.utils.clip_grad_norm_([p for module in trained for p in module.parameters()], params.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=not keep_gradients)


def _keep(
    path: Path,
    trained: list[nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: _Progress,
    device: torch.device,
) -> None:
    """Write a checkpoint, whole or not at all."""
    progress.read()
    state: dict[str, Any] = {
        "modules": [module.state_dict() for module in trained],
        "optimizer": optimizer.state_dict(),
        "random": _random_state(device),
        "step": progress.step,
        "sums": progress.sums,
        "history": progress.history,
    }
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def _resume(path: Path, trained: list[nn.Module], optimizer: torch.optim.Optimizer, device: torch.device) -> _Progress:
    """Load a checkpoint into the modules and the optimizer, if there is one, and return where it stands."""
    if not path.exists():
        return _Progress()
    state = torch.load(path, map_location="cpu", weights_only=True)
    for module, weights in zip(trained, state["modules"], strict=True):
        module.load_state_dict(weights)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"][0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["random"][1], device)
    return _Progress(state["step"], state["sums"], state["history"])


def _random_state(device: torch.device) -> list[Tensor]:
    """The states of torch's global generators that a training on `device` draws from."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states
