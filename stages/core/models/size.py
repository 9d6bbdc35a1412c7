"""How big a model is: parameters, multiply-adds, bytes on disk."""

from pathlib import Path

from stages.core.models.answering import file_mb
from stages.core.models.checkpoint import network_of
from stages.core.models.macs import count_macs


def describe_size(folder: Path, *, length: int) -> dict[str, float]:
    """Return parameters, macs of one window of `length` tokens, and size_mb of the model in `folder`.

    Parameters and MACs are those of the network, whatever runs it: eight bits make neither fewer. The size is that of
    the file which is run, in 10^6 bytes.
    """
    network = network_of(folder)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs": count_macs(network, length),
        "size_mb": file_mb(folder),
    }
