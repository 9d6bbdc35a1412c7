"""One training loop: the same bytes from the same seed, interrupted or not, and what each setting does."""

import io
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import PreTrainedModel

from stages.core.data.batches import Batch, FlatLogits, collate
from stages.core.data.windows import Windows
from stages.core.errors import InputError
from stages.core.runtime import Runtime, seed_everything
from stages.core.training.fit import (
    History,
    TrainingSet,
    fit,
    is_finite,
    joined,
    learning_rate_at,
    read_history,
    write_history,
)
from stages.core.training.losses import DistillationLoss, IntermediateLoss, LabelLoss, Loss, LossTerms
from stages.core.training.settings import FitParams
from tests.toy_models import FAMILY_NAMES, toy_inputs, toy_qa_model
from tests.toy_questions import toy_questions
from tests.toy_training import CPU, fit_params, weights_of

# 22 windows, 4 an update: 6 updates an epoch, 12 in all, the last one of an epoch a short one.
UPDATES_AN_EPOCH, UPDATES = 6, 12


class Interrupted(Exception):  # noqa: N818 (no error: a test's own way to stop a run)
    """Stands in for whatever stops a run."""


class Counting:
    """Calls another loss, keeps the windows it saw, and calls `at_the_end` instead of the update numbered `stop`."""

    def __init__(self, loss: Loss, stop: int | None = None, at_the_end: Callable[[], None] | None = None) -> None:
        self.loss, self.stop, self.at_the_end = loss, stop, at_the_end
        self.rows: list[list[int]] = []

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        if len(self.rows) == self.stop and self.at_the_end is not None:
            self.at_the_end()
        self.rows.append(batch.rows.tolist())
        return self.loss(model, batch)


class CountingModule(nn.Module):
    """The same for a loss with weights of its own."""

    def __init__(self, loss: IntermediateLoss, stop: int | None, at_the_end: Callable[[], None]) -> None:
        super().__init__()
        self.weights = loss
        self.counting = Counting(loss, stop, at_the_end)

    def forward(self, model: nn.Module, batch: Batch) -> LossTerms:
        return self.counting(model, batch)


def give_up() -> None:
    raise Interrupted


def toy_windows(folder: Path) -> Windows:
    return toy_questions(folder / "tokenizer", 22, seed=1).windows


def toy_logits(windows: Windows) -> FlatLogits:
    drawn = torch.randn(2, int(windows.row_splits[-1]), generator=torch.Generator().manual_seed(7))
    return drawn[0], drawn[1]


def toy_training(folder: Path) -> TrainingSet:
    windows = toy_windows(folder)
    return TrainingSet(windows, toy_logits(windows))


def distil(
    folder: Path, stop: int | None = None, at_the_end: Callable[[], None] = give_up, **changes: float
) -> tuple[dict[str, bytes], History, list[list[int]]]:
    """Train a narrow student with projections and dropout; return all weights, the history and the windows seen."""
    seed_everything(3)
    student = toy_qa_model("bert", 2, layers=1, width=16)
    inner = IntermediateLoss(DistillationLoss(2.0, 0.5), student, toy_qa_model("bert", 1), [(1, 3)], 1.0)
    loss = CountingModule(inner, stop, at_the_end)
    params = fit_params(**{"dropout": 0.3, "checkpoint_steps": 4, "log_steps": 5, **changes})
    history = fit(student, loss, toy_training(folder), params, CPU, scratch=folder, name="run")
    return weights_of(student, loss), history, loss.counting.rows


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], History, list[list[int]]]:
    return distil(tmp_path_factory.mktemp("uninterrupted"))


Run = tuple[dict[str, bytes], History, list[list[int]]]


def test_same_seed_same_bytes(tmp_path: Path, uninterrupted: Run) -> None:
    again = distil(tmp_path)
    assert again == uninterrupted


@pytest.mark.parametrize("changes", [{"seed": 2}, {"dropout": 0.2}, {"learning_rate": 1.1e-3}, {"weight_decay": 0.5}])
def test_another_setting_other_bytes(tmp_path: Path, uninterrupted: Run, changes: dict[str, float]) -> None:
    assert distil(tmp_path, **changes)[0] != uninterrupted[0]


def test_checkpoints_change_nothing(tmp_path: Path, uninterrupted: Run) -> None:
    assert distil(tmp_path, checkpoint_steps=1000) == uninterrupted


# The first update at which the run goes on: the last checkpoint (every 4 updates, and after each epoch).
@pytest.mark.parametrize(("stop", "goes_on_at"), [(0, 0), (3, 0), (4, 4), (5, 4), (6, 6), (9, 8), (11, 8)])
def test_interrupted_run_ends_as_if_it_had_not_been(
    tmp_path: Path, uninterrupted: Run, stop: int, goes_on_at: int
) -> None:
    with pytest.raises(Interrupted):
        distil(tmp_path, stop)
    torch.rand(5)  # whatever else drew from the global generator in between
    weights, history, seen = distil(tmp_path)
    assert seen == uninterrupted[2][goes_on_at:]
    assert history == uninterrupted[1]
    assert weights == uninterrupted[0]


def test_interrupted_twice_and_once_finished(tmp_path: Path, uninterrupted: Run) -> None:
    for stop in (5, 3):  # the second counts from update 4
        with pytest.raises(Interrupted):
            distil(tmp_path, stop)
    assert distil(tmp_path)[:2] == uninterrupted[:2]
    assert distil(tmp_path) == (*uninterrupted[:2], []), "a finished run is not trained again"


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from tests.test_fit import distil
torch.set_num_threads(1)
distil(Path(sys.argv[1]), 10, lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_killed_in_the_middle_of_an_epoch_and_started_again(tmp_path: Path, uninterrupted: Run) -> None:
    command, root = [sys.executable, "-c", KILLED, tmp_path], Path(__file__).parents[1]
    killed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stderr == "", "no progress bar where there is no terminal"
    weights, history, seen = distil(tmp_path)
    assert seen == uninterrupted[2][8:], "did not go on from the checkpoint of the killed process"
    assert history == uninterrupted[1]
    assert weights == uninterrupted[0]


def test_a_training_on_the_cpu_leaves_a_gpu_beside_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Run
) -> None:
    def opened(*_: object) -> None:
        pytest.fail("the GPU was opened")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, opened)
    with pytest.raises(Interrupted):
        distil(tmp_path, 7)
    assert distil(tmp_path)[:2] == uninterrupted[:2]


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, saved = torch.save, []

    def fail_at_the_second(state: object, path: Path) -> None:
        saved.append(path)
        if len(saved) == 2:
            path.write_bytes(b"half")
            raise OSError("disk full")
        save(state, path)

    expected = distil(tmp_path / "other")[0]
    monkeypatch.setattr(torch, "save", fail_at_the_second)
    with pytest.raises(OSError, match="disk full"):
        distil(tmp_path)
    monkeypatch.undo()
    weights, _, seen = distil(tmp_path)
    assert len(seen) == UPDATES - 4
    assert weights == expected


def train(
    folder: Path,
    loss: Loss,
    params: FitParams,
    model: PreTrainedModel | None = None,
    after_epoch: Callable[[int], None] | None = None,
    runtime: Runtime = CPU,
) -> History:
    model = model or toy_qa_model("bert", 1, layers=1)
    return fit(model, loss, toy_training(folder), params, runtime, scratch=folder, name="run", after_epoch=after_epoch)


def test_every_window_once_an_epoch_in_another_order_each(tmp_path: Path) -> None:
    loss = Counting(LabelLoss())
    train(tmp_path, loss, fit_params())
    first, second = loss.rows[:UPDATES_AN_EPOCH], loss.rows[UPDATES_AN_EPOCH:]
    for epoch in (first, second):
        assert sorted(row for rows in epoch for row in rows) == list(range(22))
    assert first != second


def test_learning_rate_rises_then_falls_to_zero() -> None:
    params = fit_params(learning_rate=1.0, warmup_ratio=0.4)
    rates = [learning_rate_at(step, 10, params) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert learning_rate_at(10, 10, params) == 0


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.5, 0.99])
def test_learning_rate_of_the_shortest_runs(total: int, warmup_ratio: float) -> None:
    params = fit_params(learning_rate=1.0, warmup_ratio=warmup_ratio)
    rates = [learning_rate_at(step, total, params) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1


def test_the_optimizer_is_given_the_schedule(tmp_path: Path) -> None:
    given: list[float] = []
    params = fit_params(log_steps=1)
    with step_hook(lambda optimizer: given.extend({group["lr"] for group in optimizer.param_groups})):
        history = train(tmp_path, LabelLoss(), params)
    assert given == [learning_rate_at(step, UPDATES, params) for step in range(UPDATES)]
    assert [row["learning_rate"] for row in history] == given


@contextmanager
def step_hook(look: Callable[[torch.optim.Optimizer], None]) -> Iterator[None]:
    """Call `look` with the optimizer just before each of its updates."""
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: look(optimizer))
    try:
        yield
    finally:
        handle.remove()


def gradient_lengths(training: Callable[[], object]) -> list[float]:
    """Train; return the length of the gradient of each update, over all weights that are trained."""
    lengths = []

    def look(optimizer: torch.optim.Optimizer) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        lengths.append(float(torch.cat([w.grad.flatten() for w in weights if w.grad is not None]).norm()))

    with step_hook(look):
        training()
    return lengths


@pytest.mark.parametrize("projected", [False, True])
def test_gradients_are_clipped_to_their_length(tmp_path: Path, projected: bool) -> None:
    """Those of a loss's own weights, here of projections, with the others."""

    def lengths(name: str, most: float) -> list[float]:
        if projected:
            return gradient_lengths(lambda: distil(tmp_path / name, max_grad_norm=most))
        return gradient_lengths(lambda: train(tmp_path / name, LabelLoss(), fit_params(max_grad_norm=most)))

    free, clipped = lengths("free", 1e6), lengths("clipped", 0.25)
    assert min(free) > 0.25
    assert clipped == pytest.approx([0.25] * UPDATES, rel=1e-4)


class Indifferent:
    """A loss whose gradients are all zero: what still changes, weight decay has changed."""

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        return {"loss": sum((0 * weight.sum() for weight in model.parameters()), torch.zeros(()))}


def test_weight_decay_shrinks_matrices_only(tmp_path: Path) -> None:
    model = toy_qa_model("bert", 1, layers=1)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    params = fit_params(weight_decay=0.5, learning_rate=0.1)
    train(tmp_path, Indifferent(), params, model)
    kept = 1.0
    for step in range(UPDATES):
        kept *= 1 - 0.5 * learning_rate_at(step, UPDATES, params)
    for name, weight in model.named_parameters():
        expected = before[name] * (kept if weight.dim() > 1 else 1.0)
        assert torch.allclose(weight, expected, rtol=1e-4, atol=0), name


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_frozen_word_embeddings_stay_and_all_else_learns(tmp_path: Path, family: str) -> None:
    model = toy_qa_model(family, 1)
    words = model.get_input_embeddings().weight
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    windows = toy_questions(tmp_path / "tokenizer", 4, seed=1, family=family).windows
    params = fit_params(epochs=1, freeze_embeddings=True)
    fit(model, LabelLoss(), TrainingSet(windows), params, CPU, scratch=tmp_path, name="run")
    # A type or a position that no window has learns nothing either, but for the decay of its matrix.
    same = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    assert [id(dict(model.named_parameters())[name]) for name in same] == [id(words)]
    assert all(weight.requires_grad for weight in model.parameters()), "the model is left frozen"


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_dropout_is_set_in_every_layer(tmp_path: Path, family: str) -> None:
    model = toy_qa_model(family, 1)
    shipped = model.config.to_dict()
    during: list[tuple[bool, bool]] = []

    def look(model: nn.Module, batch: Batch) -> LossTerms:
        outputs = [model(**toy_inputs(family)).start_logits for _ in range(2)]
        during.append((model.training, torch.equal(*outputs)))
        return LabelLoss()(model, batch)

    windows = toy_questions(tmp_path / "tokenizer", 4, seed=1, family=family).windows
    for probability in (0.0, 0.3):
        params = fit_params(epochs=1, dropout=probability)
        folder = tmp_path / str(probability)
        folder.mkdir()
        fit(model, look, TrainingSet(windows), params, CPU, scratch=folder, name="run")
        assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {probability}
    assert during == [(True, True), (True, False)]
    assert model.config.to_dict() == shipped


def test_model_comes_back_ready_to_answer(tmp_path: Path) -> None:
    model = toy_qa_model("bert", 1)
    train(tmp_path, LabelLoss(), fit_params(dropout=0.5), model)
    assert not any(module.training for module in model.modules())
    assert model.config._attn_implementation == "sdpa"


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    history = train(tmp_path, LabelLoss(), fit_params(epochs=10, log_steps=UPDATES_AN_EPOCH))
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]


class Falling:
    """A loss of 12, 11, 10 and so on, with a part that is the double of it."""

    def __init__(self) -> None:
        self.value = 13

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        self.value -= 1
        nothing = Indifferent()(model, batch)["loss"]
        return {"loss": nothing + self.value, "part": torch.tensor(2 * self.value)}


def test_history_has_means_since_the_last_row_and_a_last_row(tmp_path: Path) -> None:
    history = train(tmp_path, Falling(), fit_params(log_steps=5))
    assert [row["step"] for row in history] == [5, 10, 12]
    assert [row["epoch"] for row in history] == pytest.approx([5 / 6, 10 / 6, 2.0])
    assert [row["loss"] for row in history] == [10.0, 5.0, 1.5]
    assert [row["part"] for row in history] == [20.0, 10.0, 3.0]
    assert list(history[0]) == ["step", "epoch", "learning_rate", "loss", "part"]


def test_histories_that_follow_one_another_go_on_counting() -> None:
    first: History = [{"step": 5, "epoch": 0.5, "loss": 3.0}, {"step": 8, "epoch": 0.8, "loss": 2.0}]
    second: History = [{"step": 2, "epoch": 1.0, "loss": 1.0}]
    assert joined([first, [], second]) == [*first, {"step": 10, "epoch": 1.8, "loss": 1.0}]
    assert joined([]) == []


def test_a_history_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"loss\.csv: no loss history; run the stage that writes it"):
        read_history(tmp_path / "loss.csv")


def test_history_is_written_as_csv(tmp_path: Path) -> None:
    history: History = [{"step": 2, "epoch": 1 / 3, "learning_rate": 3e-5, "loss": 1.23456789}]
    write_history(history, tmp_path / "new" / "loss.csv")
    assert (tmp_path / "new" / "loss.csv").read_bytes() == (
        b"step,epoch,learning_rate,loss\n2,0.333333,3e-05,1.23457\n"
    )
    write_history([], tmp_path / "loss.csv")
    assert (tmp_path / "loss.csv").read_bytes() == b"step,epoch,learning_rate,loss\n"
    assert read_history(tmp_path / "loss.csv") == []
    assert {path.name for path in tmp_path.iterdir()} == {"new", "loss.csv"}


def test_after_epoch_is_called_once_an_epoch_and_may_change_the_mode(tmp_path: Path) -> None:
    called: list[int] = []
    model = toy_qa_model("bert", 1, layers=1)
    modes: list[bool] = []

    def judge(epoch: int) -> None:
        called.append(epoch)
        model.eval()

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        modes.append(model.training)
        return LabelLoss()(model, batch)

    train(tmp_path, loss, fit_params(epochs=3), model, judge)
    assert called == [0, 1, 2]
    assert all(modes)


def test_after_epoch_is_not_called_again_for_what_a_checkpoint_has_behind_it(tmp_path: Path) -> None:
    called: list[int] = []
    with pytest.raises(Interrupted):
        train(tmp_path, Counting(LabelLoss(), UPDATES_AN_EPOCH + 1, give_up), fit_params(), after_epoch=called.append)
    train(tmp_path, LabelLoss(), fit_params(), after_epoch=called.append)
    assert called == [0, 1]


def test_a_finished_run_that_is_asked_again_calls_after_no_epoch(tmp_path: Path) -> None:
    called: list[int] = []
    updates = UPDATES_AN_EPOCH + 2  # ends within an epoch
    for _ in range(2):
        model, data = toy_qa_model("bert", 1, layers=1), toy_training(tmp_path)
        settings = {"scratch": tmp_path, "name": "run", "updates": updates}
        fit(model, LabelLoss(), data, fit_params(), CPU, after_epoch=called.append, **settings)
    assert called == [0, 1]


def test_a_training_that_diverges_ends_at_the_row_that_shows_it(tmp_path: Path) -> None:
    called: list[int] = []
    made = []

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        terms = LabelLoss()(model, batch)
        made.append(len(made))
        return {**terms, "loss": terms["loss"] * (float("nan") if len(made) == 3 else 1.0)}

    model = toy_qa_model("bert", 1, layers=1)
    history = train(tmp_path, loss, fit_params(epochs=3, log_steps=2), model, called.append)
    assert [row["step"] for row in history] == [2, 4]
    assert math.isfinite(history[0]["loss"]) and math.isnan(history[1]["loss"])
    assert len(made) == 4 and called == [0]
    assert not is_finite(model) and not model.training


@pytest.mark.parametrize("updates", [2, UPDATES_AN_EPOCH, 2 * UPDATES_AN_EPOCH + 3])
def test_a_number_of_updates_may_take_the_place_of_epochs(tmp_path: Path, updates: int) -> None:
    for stop in (None, updates - 1):
        loss, folder = Counting(LabelLoss(), stop, give_up), tmp_path / str(stop)
        settings = {"scratch": folder, "name": "run", "updates": updates}
        data, params = toy_training(folder), fit_params(epochs=1, checkpoint_steps=1, log_steps=1)
        if stop is not None:
            with pytest.raises(Interrupted):
                fit(toy_qa_model("bert", 1, layers=1), loss, data, params, CPU, **settings)
            loss = Counting(LabelLoss())
        history = fit(toy_qa_model("bert", 1, layers=1), loss, data, params, CPU, **settings)
        assert len(loss.rows) == (updates if stop is None else 1)
        rates = [learning_rate_at(step, updates, params) for step in range(updates)]
        assert [row["learning_rate"] for row in history] == rates
        seen = sorted(row for rows in loss.rows[:UPDATES_AN_EPOCH] for row in rows)
        assert stop is not None or updates < UPDATES_AN_EPOCH or seen == list(range(22))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_quiet_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, LabelLoss(), fit_params())
    assert capsys.readouterr() == ("", "")


def test_bar_tells_loss_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train(tmp_path, LabelLoss(), fit_params())
    last = terminal.getvalue().rstrip().split("\r")[-1]
    assert last.startswith("run: 100%")
    assert "12/12" in last
    assert "loss=" in last
    assert "rate=" in last
    assert "<00:00" in last


def each_token(windows: Windows) -> Iterator[Tensor]:
    for row in range(len(windows)):
        yield collate(windows, torch.tensor([row])).input_ids.flatten()


def test_sets_are_joined_and_the_labelled_part_found_again(tmp_path: Path) -> None:
    first = toy_training(tmp_path)
    rows = torch.tensor([3, 5])
    bare = TrainingSet(first.windows.take(rows).without_labels(), first.take(rows).teacher_logits)
    joined = first.join(bare)
    assert len(joined.windows) == 24
    labelled = joined.labelled()
    assert labelled.windows.fingerprint() == first.windows.fingerprint()
    assert first.labelled() is first
    for whole, part, mine in zip(*(each.teacher_logits for each in (joined, first, labelled)), strict=True):  # type: ignore[arg-type]
        assert torch.equal(part, mine)
        assert torch.equal(whole[: len(part)], part)
    again = joined.take(torch.tensor([22, 23])).teacher_logits
    assert again is not None
    assert all(map(torch.equal, again, bare.teacher_logits))  # type: ignore[arg-type]


def test_some_windows_keep_their_own_logits(tmp_path: Path) -> None:
    """Logits that spell the token's number show which token they belong to."""
    windows = toy_windows(tmp_path)
    spelled = (windows.input_ids.float(), -windows.input_ids.float())
    rows = torch.tensor([7, 2, 21])
    taken = TrainingSet(windows, spelled).take(rows)
    assert taken.teacher_logits is not None
    batch = collate(taken.windows, torch.arange(3), taken.teacher_logits)
    assert [row.tolist() for row in each_token(taken.windows)] == [
        list(each_token(windows))[row].tolist() for row in rows
    ]
    assert batch.teacher_start_logits is not None
    real = batch.attention_mask.bool()
    assert torch.equal(batch.teacher_start_logits[real], batch.input_ids[real].float())
    assert TrainingSet(windows).take(rows).teacher_logits is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_runs_in_the_precision_of_the_runtime(tmp_path: Path, precision: str) -> None:
    seen: list[bool] = []

    class Looking(Falling):
        def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().__call__(model, batch)

    train(tmp_path, Looking(), fit_params(epochs=1), runtime=replace(CPU, precision=precision))
    assert set(seen) == {precision == "bf16"}
