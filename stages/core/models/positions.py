"""How long a window an encoder can read."""

from pathlib import Path

from stages.core.errors import InputError
from stages.core.models.encoder import make_config, read_config
from stages.core.models.families import family_name


def positions(folder: Path) -> int:
    """Tokens a window may have at most for the encoder in `folder`. Raises InputError."""
    fields = read_config(folder)
    config = make_config(fields)
    # Two families count positions from behind the padding index; MPNet does not read it off its config.
    padding = {"roberta": config.pad_token_id, "mpnet": 1}.get(family_name(fields["model_type"]), -1)
    if padding is None:
        raise InputError(f"{folder / 'config.json'}: pad_token_id is null; give the padding token's number")
    return int(config.max_position_embeddings) - (int(padding) + 1)
