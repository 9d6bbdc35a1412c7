"""How long a window an encoder can read."""

from pathlib import Path

from stages.core.models.encoder import make_config, read_config
from stages.core.models.families import family_name

# These families count positions from behind the padding index.
OFFSETS = {"roberta": 2, "mpnet": 2}


def positions(folder: Path) -> int:
    """Tokens a window may have at most for the encoder in `folder`. Raises InputError."""
    fields = read_config(folder)
    return int(make_config(fields).max_position_embeddings) - OFFSETS.get(family_name(fields["model_type"]), 0)
