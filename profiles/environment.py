"""What a run was computed on, for one that does not come to `benchmark`, which tells it beside its timings.

Run where the stages ran, with the same params.yaml in place:

    python -m profiles.environment --out metrics/environment.yaml
"""

import argparse
from pathlib import Path

import yaml

from stages.core.errors import clean_exit
from stages.core.files import write_text
from stages.core.params import load_params
from stages.core.runtime import RuntimeParams, describe, start


def main() -> None:
    """Take the file from the command line and `runtime` from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="YAML file of device, precision and versions")
    options = parser.parse_args()
    machine = start(load_params("runtime", RuntimeParams), seed=0)  # nothing is drawn
    write_text(options.out, yaml.safe_dump(describe(machine), sort_keys=False))


if __name__ == "__main__":
    with clean_exit():
        main()
