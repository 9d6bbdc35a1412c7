"""Pretrained encoder -> teacher, trained on gold spans; a ready QA checkpoint is only verified and scored.

Reads prepared train and dev data; writes the teacher, its dev quality and its loss history.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from stages.core.errors import clean_exit
from stages.core.models.source import EncoderParams, resolve_model
from stages.core.params import load_params
from stages.core.qa.decoding import DecodeParams
from stages.core.runtime import RuntimeParams, start
from stages.core.training.settings import FitParams


@dataclass(frozen=True)
class TeacherParams(FitParams):
    """The `teacher` section: the settings of one training run."""


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
    """Load the encoder, train it unless it is a QA model already, save it, score it on dev."""
    from stages.core.data.prepared import load_split
    from stages.core.files import write_json
    from stages.core.models.checkpoint import save_checkpoint
    from stages.core.models.encoder import is_qa_checkpoint, load_qa_model, load_tokenizer
    from stages.core.qa.evaluation import answer_with, quality
    from stages.core.training.fit import History, TrainingSet, fit, write_history
    from stages.core.training.losses import LabelLoss
    from stages.core.training.scratch import scratch_folder

    runtime = start(runtime_params, params.seed)
    source = resolve_model(encoder.model, encoder.sha256)
    model = load_qa_model(source, seed=params.seed)
    train, dev = load_split(data, "train"), load_split(data, "dev")
    losses: History = []
    with scratch_folder(scratch, [params, runtime, encoder], [data, source]) as unfinished:
        if not is_qa_checkpoint(source):
            training = TrainingSet(train.windows)
            losses = fit(model, LabelLoss(), training, params, runtime, scratch=unfinished, name="teacher")
        answers = answer_with(model, dev, decode, runtime.device, params.batch_size)
        save_checkpoint(model.cpu(), load_tokenizer(source), out)
        write_history(losses, history)
        write_json(metrics, {"dev": quality(dev, answers), "trained": int(bool(losses))})


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
