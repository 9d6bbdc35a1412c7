"""An ONNX graph with its matrices and word embeddings in eight bits, and activations that eight bits suit.

Matrices have a scale for each output and word embeddings one for each word; activations are quantised as they come,
with one scale for a whole tensor (ONNX Runtime's dynamic quantisation). A few channels of a transformer's activations
are much larger than the others and would leave these only a few of the 256 steps. So channels are first divided by a
factor each, by which the rows of the matrices that they enter are multiplied: the same function, in which the
activations vary less and the matrices more (Xiao et al. 2023, "SmoothQuant", equation 4). The answer head stays in
float32.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.core.data.batches import Batch, ordered_batches
from stages.core.data.windows import Windows
from stages.core.models.onnx import HEAD, silence, write_graph
from stages.core.models.session import GRAPH

EMBEDDINGS = "word_embeddings.weight"
TINY = 1e-5  # a channel or row whose largest value is below counts as this large
FLOOR = 0.05  # likewise, as a share of the median of the channels, or rows

Floats = NDArray[np.float32]


def save_onnx_int8(
    source: Path, folder: Path, batches: Sequence[Batch], *, smoothing: float, signed_weights: bool
) -> None:
    """Copy what `save_onnx` wrote into `source` to the empty or new `folder`, with the graph in eight bits.

    `batches` are windows to measure activations on. `smoothing`, above 0 to 1, is how much of their unevenness goes to
    the matrices; 0 leaves activations as they are. Unsigned weights are summed up exactly on every processor; signed
    ones are faster where there is VNNI and saturate where there is none.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    shutil.copytree(source, folder, dirs_exist_ok=True)
    proto = onnx.load(source / GRAPH)
    if smoothing > 0:
        smooth(proto, largest_activations(proto, batches), smoothing)
    _quantise_embeddings(proto)
    add_pre_process_metadata(proto)  # or it asks on standard error to fold what the exporter has folded already
    with silence():
        quantize_dynamic(
            proto,
            folder / GRAPH,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8 if signed_weights else QuantType.QUInt8,
            nodes_to_exclude=[node.name for node in proto.graph.node if node.name.startswith(HEAD)],
            extra_options={"MatMulConstBOnly": True},
        )
    write_graph(onnx.load(folder / GRAPH), folder / GRAPH)


def calibration_batches(windows: Windows, count: int, *, batch_size: int, seed: int) -> list[Batch]:
    """Return `count` windows (all, if there are fewer), drawn by the seed, in batches."""
    drawn = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[:count]
    return list(ordered_batches(windows.take(drawn), batch_size))


def largest_activations(proto: Any, batches: Sequence[Batch]) -> dict[str, Floats]:
    """Return the largest magnitude of each channel, (C,), of each tensor that enters a matrix, over all real tokens."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    names = list(dict.fromkeys(node.input[0] for node, _ in _matrices(proto)))
    if not names:  # pruned to nothing but embeddings and head; of no names ONNX Runtime would return all
        return {}
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = [each.name for each in session.get_inputs()]
    largest: dict[str, Floats] = {}
    for batch in batches:
        given = {"token_type_ids": torch.zeros_like(batch.input_ids), **batch.model_inputs()}
        real = batch.attention_mask.bool().numpy()
        for name, values in zip(names, session.run(names, {key: given[key].numpy() for key in wanted}), strict=True):
            channels = np.abs(values[real]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, channels), channels)
    return largest


def smooth(proto: Any, largest: Mapping[str, Floats], strength: float) -> None:
    """Divide channels of the activations that enter matrices and multiply the matrices' rows, in place.

    A channel's factor is largest activation ** strength / largest weight ** (1 - strength), over all matrices that the
    activations enter, up to a common factor. Where either is less than FLOOR of its median it counts as that much: what
    calibration has hardly seen would be divided by next to nothing, and, once it is there, take all of the eight bits.
    """
    from onnx import helper, numpy_helper

    graph = proto.graph
    for name, channels in largest.items():
        entered = [(node, table) for node, table in _matrices(proto) if node.input[0] == name]
        matrices = [numpy_helper.to_array(table) for _, table in entered]  # (C, outputs) each
        rows = np.maximum.reduce([np.abs(matrix).max(axis=1) for matrix in matrices])
        exponents = strength * _logs(channels) - (1 - strength) * _logs(rows)
        factors = np.exp(exponents - exponents.mean()).astype(np.float32)
        smoothed = f"{name}_smoothed"
        graph.initializer.append(numpy_helper.from_array(1 / factors, f"{smoothed}_by"))
        product = helper.make_node("Mul", [name, f"{smoothed}_by"], [smoothed], f"{smoothed}_product")
        graph.node.insert(min(list(graph.node).index(node) for node, _ in entered), product)
        for (node, table), matrix in zip(entered, matrices, strict=True):
            node.input[0] = smoothed
            table.CopyFrom(numpy_helper.from_array(matrix * factors[:, None], table.name))


def _logs(sizes: Floats) -> Floats:
    logs: Floats = np.log(np.maximum(sizes, max(FLOOR * float(np.median(sizes)), TINY)))
    return logs


def _matrices(proto: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each product with a matrix of weights and that matrix, (C, outputs), the answer head's apart."""
    tables = {each.name: each for each in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "MatMul" and node.input[1] in tables and not node.name.startswith(HEAD):
            yield node, tables[node.input[1]]


def _quantise_embeddings(proto: Any) -> None:
    """Keep the word embeddings as int8 with a float32 scale for each word, in place; looked up, then multiplied out."""
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    table = next(each for each in graph.initializer if each.name.endswith(EMBEDDINGS))
    lookup = next(node for node in graph.node if node.op_type == "Gather" and node.input[0] == table.name)
    values = numpy_helper.to_array(table)
    scale = np.abs(values).max(axis=1, keepdims=True).astype(np.float32) / 127
    scale[scale == 0] = 1
    tables = {f"{table.name}_quantized": np.rint(values / scale).astype(np.int8), f"{table.name}_scale": scale}
    graph.initializer.remove(table)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tables.items())
    whole, scales = (f"{name}_looked_up" for name in tables)
    eight_bits, words = tables
    nodes = [
        helper.make_node("Gather", [eight_bits, lookup.input[1]], [whole], f"{lookup.name}_quantized"),
        helper.make_node("Gather", [words, lookup.input[1]], [scales], f"{lookup.name}_scale"),
        helper.make_node("Cast", [whole], [f"{whole}_float"], f"{lookup.name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{whole}_float", scales], [lookup.output[0]], f"{lookup.name}_product"),
    ]
    place = list(graph.node).index(lookup)
    graph.node.remove(lookup)
    for shift, node in enumerate(nodes):
        graph.node.insert(place + shift, node)
