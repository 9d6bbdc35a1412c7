"""Pretrained encoder -> teacher, trained on gold spans; a ready QA checkpoint is only verified and scored.

Where there are cloze questions it learns to find their phrases first, for which nobody has to label anything. Several
trainings from there on, each in another order, may be averaged: see `soup`.

Reads prepared train and dev data, and the cloze questions; writes the teacher, its dev quality and its loss history.
"""

import argparse
import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import InputError, clean_exit
from stages.core.models.source import EncoderParams, resolve_model
from stages.core.params import SEEDS, load_params, require
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, seed_everything, start
from stages.core.training.settings import FitParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TeacherParams(FitParams):
    """The `teacher` section: the settings of a training, passes over cloze questions, and how many trainings follow."""

    cloze_epochs: int  # passes over the cloze questions, where there are any, before all trainings on labels
    runs: int  # trainings from the same start, in other orders; their mean is the teacher, or the best of them

    def check(self) -> None:
        """Vouch for ranges."""
        super().check()
        for key in ("cloze_epochs", "runs"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "1 or more")


def run(
    params: TeacherParams,
    runtime_params: RuntimeParams,
    encoder: EncoderParams,
    decode: DecodeParams,
    *,
    data: Path,
    out: Path,
    metrics: Path,
    history: Path,
    scratch: Path,
) -> None:
    """Load the encoder, train it unless it is a QA model already, on cloze questions first, save it, score it on dev.

    Raises InputError where training diverges.
    """
    from stages.core.data.prepared import CLOZE, has_cloze, load_split, parts_for_teacher
    from stages.core.files import write_json
    from stages.core.models.checkpoint import save_checkpoint
    from stages.core.models.encoder import is_qa_checkpoint, load_qa_model, load_tokenizer
    from stages.core.qa.evaluation import quality, score_model
    from stages.core.qa.scoring import Scores, score
    from stages.core.training.fit import TrainingSet, fit, is_finite, joined, write_history
    from stages.core.training.losses import LabelLoss
    from stages.core.training.scratch import scratch_folder
    from stages.core.training.soup import soup

    runtime = start(runtime_params, params.seed)
    source = resolve_model(encoder.model, encoder.sha256)
    train, dev = load_split(data, "train"), load_split(data, "dev")

    def judge(model: "PreTrainedModel") -> Scores:
        if runs and not is_finite(model):
            return score(dev.examples, {})  # of several trainings one that diverges is left out, as it answers nothing
        return score_model(model, dev, decode, runtime.device, params.batch_size)

    runs = 0 if is_qa_checkpoint(source) else params.runs
    start_model, losses, after_cloze = load_qa_model(source, seed=params.seed), [], {}
    with scratch_folder(scratch, [params, runtime, encoder], [*parts_for_teacher(data), source]) as unfinished:
        if runs and has_cloze(data):
            training, passes = TrainingSet(load_split(data, CLOZE).windows), replace(params, epochs=params.cloze_epochs)
            losses.append(fit(start_model, LabelLoss(), training, passes, runtime, scratch=unfinished, name="cloze"))
            after_cloze = {"dev_after_cloze": quality(judge(start_model))}
        models = [start_model, *(copy.deepcopy(start_model) for _ in range(1, runs))]
        for number in range(runs):
            one, name = replace(params, seed=(params.seed + number) % SEEDS), f"teacher {number}"
            seed_everything(one.seed)
            training = TrainingSet(train.windows)
            losses.append(fit(models[number], LabelLoss(), training, one, runtime, scratch=unfinished, name=name))
        paragraphs = [example.context for example in dev.examples]
        found = soup(models, [judge(model) for model in models], judge, paragraphs, seed=params.seed)
        if runs and not is_finite(found.model):
            raise InputError(f"params.yaml: teacher.learning_rate {params.learning_rate}: training diverges; lower it")
        save_checkpoint(found.model.cpu(), load_tokenizer(source), out)
        write_history(joined(losses), history)
        counts = {"trained": runs, "averaged": len(found.averaged)}
        write_json(metrics, {"dev": quality(found.dev), **after_cloze, **counts})


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--data", "--out", "--metrics", "--history", "--scratch"):
        parser.add_argument(name, type=Path, required=True)
    paths = vars(parser.parse_args())
    params, runtime = load_params("teacher", TeacherParams), load_params("runtime", RuntimeParams)
    run(params, runtime, load_params("encoder", EncoderParams), load_params("decode", DecodeParams), **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
