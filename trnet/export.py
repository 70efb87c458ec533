"""Networks that run elsewhere: MXNet's symbols and ONNX files, neither of which needs trnet."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from mxnet.base import MXNetError
from mxnet.gluon import HybridBlock, SymbolBlock

from trnet.errors import lines_of
from trnet.extras import named_if_missing
from trnet.files import aside
from trnet.models.params_format import check_layout
from trnet.tensor.backend import as_numpy, mx

OPSET = 13  # the newest whose operators MXNet's converter writes
_SECONDS_TO_LOAD = 60.0  # a symbol, in a copy of the process
TOLERANCE = 1e-4  # of ONNX Runtime's outputs, of the largest of MXNet's

Parameters = dict[str, "mx.nd.NDArray"]


def export_symbol(
    network: HybridBlock,
    path: str | Path,
    image_shape: tuple[int, ...],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a network as MXNet's symbol and its parameters.

    ``SymbolBlock.imports`` and ``Module`` load them without trnet.

    Parameters
    ----------
    network : HybridBlock
        With parameters that have values; :func:`trnet.fold` it for speed.
    path : str or Path
        ``PATH-symbol.json`` and ``PATH-0000.params`` are written.
    image_shape : tuple of int
        Shape of a sample, without the batch.
    metadata : dict of str to str, optional
        Kept in the symbol: attributes ``__key__`` of its input.

    Returns
    -------
    Path
        That of the symbol.

    Raises
    ------
    ValueError
        For a network without values, or with several outputs.
    """
    symbol, parameters = _traced(network, image_shape, metadata or {})
    files = Path(f"{path}-symbol.json"), Path(f"{path}-0000.params")
    kinds = dict.fromkeys(symbol.list_auxiliary_states(), "aux")
    named = {f"{kinds.get(name, 'arg')}:{name}": array for name, array in parameters.items()}
    with aside(files[1]) as beside:
        mx.nd.save(str(beside), named)
    with aside(files[0]) as beside:
        symbol.save(str(beside))
    return files[0]


def export_onnx(
    network: HybridBlock,
    path: str | Path,
    image_shape: tuple[int, ...],
    images: np.ndarray | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a network as an ONNX file, and check it with ONNX Runtime.

    The file takes batches of any size. Weights are its initializers, and what does not depend on
    the input is computed once, as :func:`trnet.fold` does it.

    Parameters
    ----------
    network : HybridBlock
        In float32, with parameters that have values; :func:`trnet.fold` it for speed.
    path : str or Path
        Of the file, which replaces an earlier one once it is checked.
    image_shape : tuple of int
        Shape of a sample, without the batch.
    images : array, optional
        (batch, *image_shape): what the file is checked with; by default three random samples.
    metadata : dict of str to str, optional
        Kept in the file, as its ``metadata_props``.

    Returns
    -------
    Path
        That of the file.

    Raises
    ------
    ValueError
        For a network that ONNX cannot express, or whose ONNX file computes something else.
    MissingStack
        Without the extra ``onnx``.
    """
    with named_if_missing("export_onnx"):
        import onnx
        import onnxruntime
        from mxnet.onnx import export_model

    symbol, parameters = _simplified(*_traced(network, image_shape, {}), image_shape)
    known = {name: array.shape for name, array in parameters.items()}
    out_shape = symbol.infer_shape(data=(1, *image_shape), **known)[1][0][1:]
    with aside(Path(path)) as beside:
        with _quiet():
            try:
                export_model(
                    symbol,
                    parameters,
                    [(1, *image_shape)],
                    onnx_file_path=str(beside),
                    dynamic=True,
                    dynamic_input_shapes=[("batch", *image_shape)],
                )
            except (AttributeError, NotImplementedError) as error:
                raise ValueError(f"ONNX: {error}") from None
        model = onnx.load(str(beside))
        _finish(model, out_shape)
        onnx.helper.set_model_props(model, dict(metadata or {}))
        onnx.checker.check_model(model)
        onnx.save(model, str(beside))
        if images is None:
            images = np.random.default_rng(0).standard_normal((3, *image_shape), dtype="float32")
        session = onnxruntime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        _compare(session, network, np.asarray(images, dtype="float32"))
    return Path(path)


def load_exported(path: Path) -> tuple[Callable, dict[str, str]]:
    """Load what was exported.

    Parameters
    ----------
    path : Path
        ``….onnx`` or ``…-symbol.json``, with its parameters beside it.

    Returns
    -------
    callable, dict
        From a batch to the outputs, both as ``NDArray``; and the metadata.

    Raises
    ------
    ValueError
        For a file that is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    return _load_onnx(path) if path.suffix == ".onnx" else _load_symbol(path)


def _load_onnx(path: Path) -> tuple[Callable, dict[str, str]]:
    with named_if_missing("an ONNX file"):
        import onnxruntime
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class of its own for every kind of damage
        raise ValueError(f"{path}: expected an ONNX file: {lines_of(error)[0]}") from None
    name, *others = (given.name for given in session.get_inputs())
    if others:
        raise ValueError(f"{path}: expected a network with one input, got {1 + len(others)}")

    def run(images: mx.nd.NDArray) -> mx.nd.NDArray:
        return mx.nd.array(session.run(None, {name: images.asnumpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map


def _load_symbol(path: Path) -> tuple[Callable, dict[str, str]]:
    parameters = path.with_name(f"{path.name.removesuffix('-symbol.json')}-0000.params")
    if not parameters.is_file():
        raise ValueError(f"{path}: expected its parameters, {parameters}, beside it, found no file")
    try:
        check_layout(parameters)
        if not _survives(path, parameters):
            raise ValueError("MXNet crashes when it loads it")
        block = _imported(path, parameters)
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    except (MXNetError, AssertionError, ValueError) as error:
        raise ValueError(f"{path}: expected a symbol: {lines_of(error)[-1]}") from None
    block.hybridize(static_alloc=True)
    attributes = next(node.get("attrs", {}) for node in nodes if node["name"] == "data")
    return block, {name.strip("_"): text for name, text in attributes.items()}


def _imported(path: Path, parameters: Path) -> SymbolBlock:
    symbol = mx.sym.load(str(path))
    if "data" not in symbol.list_arguments():
        raise ValueError("its input, data, is not used")
    symbol.infer_shape_partial()  # refuses missing inputs of operators, with which MXNet crashes
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot decide type")  # of the images
        return SymbolBlock.imports(str(path), ["data"], str(parameters))


def _survives(path: Path, parameters: Path) -> bool:
    """Whether a copy of this process loads a symbol without a crash.

    MXNet reads operators with missing inputs or attributes, and then from memory that is not its.
    """

    def load() -> None:
        with suppress(Exception):  # which the process itself will raise
            _imported(path, parameters)

    process = get_context("fork").Process(target=load)
    process.start()
    process.join(_SECONDS_TO_LOAD)
    process.kill()
    process.join()
    return process.exitcode == 0


def _traced(
    network: HybridBlock, image_shape: tuple[int, ...], metadata: Mapping[str, str]
) -> tuple[mx.sym.Symbol, Parameters]:
    """The network's graph from ``data``, and the values of its parameters, by name."""
    owned = {p.name: p for p in network.collect_params().values()}
    empty = [name for name, parameter in owned.items() if parameter._data is None]
    if empty:
        raise ValueError(f"{empty[0]} has no values yet; initialize or load the network")
    attributes = {f"__{key}__": text for key, text in metadata.items()}
    symbol = network(mx.sym.var("data", shape=(1, *image_shape), attr=attributes))
    if not isinstance(symbol, mx.sym.Symbol):
        raise ValueError(f"expected a network with one output, got {len(symbol)}")
    # oneDNN changes the layout of weights in place, in a forward pass that may still be running.
    mx.nd.waitall()
    wanted = [name for name in symbol.list_inputs() if name != "data"]
    parameters = {name: owned[name].data(owned[name].list_ctx()[0]) for name in wanted}
    return symbol, {name: a.as_in_context(mx.cpu()) for name, a in parameters.items()}


def _simplified(
    symbol: mx.sym.Symbol, parameters: Parameters, image_shape: tuple[int, ...]
) -> tuple[mx.sym.Symbol, Parameters]:
    """The same graph for a converter, which takes less than MXNet does.

    No constant is computed in it, reshapes are by sizes, products of matrices, and names differ.
    """
    graph = json.loads(symbol.tojson())
    nodes, internals = graph["nodes"], symbol.get_internals()
    outputs = _first_outputs(nodes, internals.list_outputs())
    varies: list[bool] = []  # with the data
    for node in nodes:
        is_data = node["op"] == "null" and node["name"] == "data"
        varies.append(is_data or any(varies[source] for source, *_ in node["inputs"]))
    operands = {s for n, v in zip(nodes, varies) if v for s, *_ in n["inputs"]}
    constants = sorted(place for place in operands if not varies[place])
    values = _values([internals[outputs[place]] for place in constants], parameters)
    constant = dict(zip(constants, values))
    known = {name: array.shape for name, array in parameters.items()}
    shapes = [internals.infer_shape(data=(n, *image_shape), **known)[1] for n in (2, 3)]

    def shape_of(place: int) -> str:  # with -1 for what the batch decides
        sizes = zip(*(of_batch[outputs[place]] for of_batch in shapes))
        sizes = tuple(-1 if size != other else size for size, other in sizes)
        if sizes.count(-1) > 1:
            raise ValueError(f"expected one mode to depend on the batch, got {sizes}")
        return str(sizes)

    simplified: list[dict] = []
    new: dict[int, int] = {}  # place of each node in the simplified graph
    kept: Parameters = {}

    def add(op: str, name: str, inputs: list, attrs: dict) -> int:
        name = name if name == "data" else f"{name}_{len(simplified)}"
        simplified.append({"op": op, "name": name, "inputs": inputs, "attrs": attrs})
        return len(simplified) - 1

    def add_constant(name: str, array: mx.nd.NDArray) -> int:
        place = add("null", name, [], {})
        kept[simplified[place]["name"]] = array
        return place

    for place, node in enumerate(nodes):
        name, attrs = node["name"], node.get("attrs") or {}
        if place in constant:
            new[place] = add_constant(name, constant[place])
        if not varies[place]:
            continue
        inputs = [[new[source], *rest] for source, *rest in node["inputs"]]
        right = constant.get(node["inputs"][1][0]) if node["op"] == "dot" else None
        if node["op"] == "Reshape":
            new[place] = add("Reshape", name, inputs, {"shape": shape_of(place)})
        elif right is not None and right.ndim > 2:
            # (B, K) · (K, …) -> (B, …), by a matrix (K, …)
            matrix = add_constant(f"{name}_matrix", right.reshape((right.shape[0], -1)))
            product = add("dot", name, [inputs[0], [matrix, 0, 0]], attrs)
            new[place] = add("Reshape", name, [[product, 0, 0]], {"shape": shape_of(place)})
        else:
            new[place] = add(node["op"], name, inputs, {} if node["op"] == "null" else attrs)
    heads = [[new[place], *rest] for place, *rest in graph["heads"]]
    leaves = [place for place, node in enumerate(simplified) if node["op"] == "null"]
    graph = {"nodes": simplified, "arg_nodes": leaves, "heads": heads, "attrs": graph["attrs"]}
    symbol = mx.sym.load_json(json.dumps(graph))
    return symbol, {name: kept[name] for name in symbol.list_inputs() if name != "data"}


def _first_outputs(nodes: list[dict], outputs: list[str]) -> list[int]:
    """The place of each node's first output among those of all nodes, which come in order."""
    first, at = [], 0
    for node in nodes:
        first.append(at)
        at += 1
        while node["op"] != "null" and at < len(outputs):
            if outputs[at] != f"{node['name']}_output{at - first[-1]}":
                break
            at += 1
    return first


def _values(symbols: list[mx.sym.Symbol], parameters: Parameters) -> list[mx.nd.NDArray]:
    """Values of symbols that depend on parameters only."""
    if not symbols:
        return []
    group = mx.sym.Group(symbols)
    values = mx.nd.CachedOp(group)(*(parameters[name] for name in group.list_inputs()))
    return values if isinstance(values, list) else [values]


def _finish(model, out_shape: tuple[int, ...]) -> None:
    """State the operators' version and the output's shape, and keep the weights constant."""
    weights = {initializer.name for initializer in model.graph.initializer}
    inputs = [given for given in model.graph.input if given.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    del model.opset_import[1:]
    model.opset_import[0].version = OPSET
    model.ir_version = 8
    (output,) = model.graph.output
    for dim, size in zip(output.type.tensor_type.shape.dim, ("batch", *out_shape)):
        dim.Clear()
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size


def _compare(session, network: HybridBlock, images: np.ndarray) -> None:
    device = next(iter(network.collect_params().values())).list_ctx()[0]
    (ours,) = session.run(None, {"data": images})
    expected = as_numpy(network(mx.nd.array(images, ctx=device)))
    error = np.abs(ours - expected).max() / max(1e-12, np.abs(expected).max())
    if not error <= TOLERANCE:
        raise ValueError(
            f"expected ONNX Runtime to compute the same as MXNet, to {TOLERANCE:g} of the largest "
            f"output, got a difference of {error:.1e}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's warnings about single operators: its result is checked."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
