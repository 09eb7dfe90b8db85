#!/usr/bin/env python3
"""Compares qcc with ONNX Runtime on quantized models, and checks what qcc writes as ONNX.

usage: quantized.py [--qcc PATH] [--inputs N] [--keep DIR] [--nets resnet50,mobilenet_v2] [--no-export] [MODEL.onnx ..]

Without models it makes two small networks, quantized by ONNX Runtime: QDQ and QOperator, U8S8 and S8S8, per channel, and QDQ with
activations of 16 bits, and QDQ with weights and activations of 4 (INT4, UINT4), which ONNX Runtime computes as floats: there outputs may be off by 2 units; with
`--nets`, networks of torchvision with random weights instead (needs torch), or the float models NAME.onnx of `--from DIR`. For each:

 network  the outputs of qcc and of ONNX Runtime as it runs by default, in units of the output's scale: at most 1
 nodes    in QOperator models, each node alone on ONNX Runtime's own operands, in units: at most 1
 export   `--emit onnx-qdq`: ONNX Runtime (and OpenVINO, if installed) loads the file; its outputs against qcc's, in units
 again    qcc compiles its own export to the same integers; QLinearAdd of codes with a sign rounds some ties another way than the
          sum of real numbers that stands for it in an export, so that there `again` is judged as `export` is

ONNX Runtime does not compute all quantized models with integers: on x86-64 it runs the parts of a QDQ model with codes of a sign
(S8) that it cannot convert as floats, whose sums depend on their order. How many such operators there are is printed; where there
are any, `network` is told and not judged.

On x86-64 without VNNI it adds pairs of products of U8 and S8 in 16 bits, which saturate: its results for full weights are wrong there. That
is found by a product of its own. There QDQ models are compared with its optimizations off, as they are written, and outputs may be off
by 2 units; layers of QOperator models, which have no other form, are skipped, and it is said. Exports are always compared with
optimizations off.

Exits with 1 if a network or a node is off by more than 1 unit, if an export is refused or differs by more than 1 unit for each quantized
value on the way, or if compiling an export changes a result. Skips visibly, with exit code 0, without the packages.
"""
import argparse, collections, os, subprocess, sys, tempfile

try:
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(0)
try:
    import openvino
except ImportError:
    openvino = None

ort.set_default_logger_severity(4)
# Types of activations and weights, and whether each channel has a scale.
FEW_BITS = [
    (QuantType.QUInt8, QuantType.QInt4, True), (QuantType.QInt8, QuantType.QInt4, False), (QuantType.QUInt8, QuantType.QUInt4, True),
    (QuantType.QUInt4, QuantType.QInt4, True), (QuantType.QInt4, QuantType.QInt4, True), (QuantType.QUInt4, QuantType.QUInt4, False),
]
TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}


def residual(rng):
    """Convolutions, a residual, both kinds of pooling over everything, a linear layer."""
    w = lambda name, *dims: numpy_helper.from_array((rng.standard_normal(dims) / np.sqrt(np.prod(dims[1:]))).astype(np.float32), name)
    inits = [w("w1", 16, 3, 3, 3), w("b1", 16), w("w2", 16, 16, 3, 3), w("b2", 16), w("w3", 32, 16, 1, 1), w("w4", 10, 32), w("b4", 10)]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "p1"], ["a"]),
        helper.make_node("Relu", ["a"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c3"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"], transB=1),
    ]
    return graph("residual", nodes, inits, [1, 3, 16, 16], [1, 10])


def branches(rng):
    """Depthwise convolution, clip, gate, concat of different ranges, average pooling, softmax."""
    w = lambda name, *dims: numpy_helper.from_array((rng.standard_normal(dims) / np.sqrt(np.prod(dims[1:]))).astype(np.float32), name)
    inits = [w("w1", 8, 3, 3, 3), w("w2", 8, 1, 3, 3), w("b2", 8), w("w3", 8, 8, 1, 1), w("w4", 12, 16, 1, 1), numpy_helper.from_array(np.float32(0), "lo"), numpy_helper.from_array(np.float32(6), "hi"), w("w5", 48, 10)]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Clip", ["c1", "lo", "hi"], ["k1"]),
        helper.make_node("Conv", ["k1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Sigmoid", ["c2"], ["s2"]),
        helper.make_node("Mul", ["c2", "s2"], ["m2"]),
        helper.make_node("Conv", ["k1", "w3"], ["c3"]),
        helper.make_node("LeakyRelu", ["c3"], ["l3"], alpha=0.1),
        helper.make_node("Concat", ["m2", "l3"], ["cat"], axis=1),
        helper.make_node("Conv", ["cat", "w4"], ["c4"]),
        helper.make_node("AveragePool", ["c4"], ["p4"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["p4"], ["f"]),
        helper.make_node("MatMul", ["f", "w5"], ["d"]),
        helper.make_node("Softmax", ["d"], ["y"], axis=1),
    ]
    return graph("branches", nodes, inits, [1, 3, 16, 16], [1, 10])


def graph(name, nodes, inits, x, y):
    value = lambda n, d: helper.make_tensor_value_info(n, TensorProto.FLOAT, d)
    g = helper.make_graph(nodes, name, [value("x", x)], [value("y", y)], inits)
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


class Samples(CalibrationDataReader):
    name = "x"

    def __init__(self, dims):
        rng = np.random.default_rng(1)
        self.rest = iter([{self.name: rng.standard_normal(dims).astype(np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self.rest, None)


def quantize(source, name, dims, folder):
    """The four forms of a float model."""
    models = []
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        for act in (QuantType.QUInt8, QuantType.QInt8):
            out = os.path.join(folder, f"{name}-{form.name}-{'u8' if act == QuantType.QUInt8 else 's8'}.onnx")
            quantize_static(source, out, Samples(dims), quant_format=form, per_channel=True, activation_type=act, weight_type=QuantType.QInt8)
            models.append(out)
    return models


def make(folder):
    models = []
    for build in (residual, branches):
        model = build(np.random.default_rng(3))
        source = os.path.join(folder, model.graph.name + ".onnx")
        onnx.save(model, source)
        models += quantize(source, model.graph.name, [1, 3, 16, 16], folder)
        for act in (QuantType.QUInt16, QuantType.QInt16):
            out = os.path.join(folder, f"{model.graph.name}-QDQ-{'u16' if act == QuantType.QUInt16 else 's16'}.onnx")
            quantize_static(source, out, Samples([1, 3, 16, 16]), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=act, weight_type=QuantType.QInt8)
            models.append(out)
        model.opset_import[0].version, model.ir_version = 21, 10
        source = os.path.join(folder, model.graph.name + "-21.onnx")
        onnx.save(model, source)
        for act, weight, each in FEW_BITS:
            out = os.path.join(folder, f"{model.graph.name}-QDQ-{act.name[1:].lower()}-{weight.name[1:].lower()}{'' if each else '-one'}-4.onnx")
            quantize_static(source, out, Samples([1, 3, 16, 16]), quant_format=QuantFormat.QDQ, per_channel=each, activation_type=act, weight_type=weight)
            models.append(out)
    return models


def torchvision(names, source_folder, folder):
    """Networks of torchvision, exported and quantized."""
    models = []
    for name in names:
        source = os.path.join(folder, name + ".onnx")
        if source_folder:
            source = os.path.join(source_folder, name + ".onnx")
        else:
            import torch, torchvision.models
            torch.manual_seed(1)
            torch.onnx.export(getattr(torchvision.models, name)(weights=None).eval(), torch.randn(1, 3, 224, 224), source, input_names=["x"], dynamo=False)
        entry = onnx.load(source).graph.input[0]
        Samples.name = entry.name
        models += quantize(source, name, [d.dim_value for d in entry.type.tensor_type.shape.dim], folder)
    Samples.name = "x"
    return models


def session(model, optimized=None, as_written=False):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized:
        options.optimized_model_filepath = optimized
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def float_operators(model, folder):
    """How many operators between the casts at the edge ONNX Runtime computes as floats."""
    path = os.path.join(folder, "optimized.onnx")
    session(model, path)
    return sum(n.op_type in ("Conv", "FusedConv", "Gemm", "MatMul", "Add", "Mul") for n in onnx.load(path).graph.node)


def saturates():
    """Whether ONNX Runtime adds products of U8 and S8 in 16 bits here: 255 * 127, 64 times, is what it should find."""
    tensor = lambda name, array: numpy_helper.from_array(np.asarray(array), name)
    inits = [tensor("s", np.float32(1)), tensor("b", np.full((64, 16), 127, np.int8)), tensor("z", np.uint8(0)), tensor("w", np.int8(0)), tensor("t", np.float32(255 * 127 * 64 / 200))]
    node = helper.make_node("QLinearMatMul", ["a", "s", "z", "b", "s", "w", "t", "z"], ["y"])
    value = lambda n, dims: helper.make_tensor_value_info(n, TensorProto.UINT8, dims)
    probe = helper.make_graph([node], "probe", [value("a", [8, 64])], [value("y", [8, 16])], inits)
    model = helper.make_model(probe, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return not (session(model.SerializeToString()).run(None, {"a": np.full((8, 64), 255, np.uint8)})[0] == 200).all()


def full_weights(node, constants):
    """Whether a node multiplies U8 or S8 activations by S8 constants so great that a pair of products leaves 16 bits."""
    weights = [numpy_helper.to_array(constants[i]) for i in node.input if i in constants]
    return any(w.dtype == np.int8 and w.size > 1 and np.abs(w.astype(int)).max() > 64 for w in weights)


def run(qcc, model, feeds, io, folder):
    """The first output of qcc for a dictionary of arrays; several samples lie along their first axis."""
    command = [qcc, "run", model, "--io", io, "--output", os.path.join(folder, "y.npy")]
    for i, (name, array) in enumerate(feeds.items()):
        file = os.path.join(folder, f"in{i}.npy")
        np.save(file, array)
        command += ["--input", f"{name}={file}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.strip()}")
    return np.load(os.path.join(folder, "y.npy"))


def output_scale(model):
    """The scale of the last cast before the output; 1 for integers."""
    produced = {o: n for n in model.graph.node for o in n.output}
    constants = {t.name: t for t in model.graph.initializer}
    node = produced.get(model.graph.output[0].name)
    while node is not None and node.op_type not in ("DequantizeLinear", "QuantizeLinear"):
        node = produced.get(node.input[0])
    if node is None or model.graph.output[0].type.tensor_type.elem_type != TensorProto.FLOAT or node.input[1] not in constants:
        return 1.0
    return float(numpy_helper.to_array(constants[node.input[1]]))


def units(a, b, scale):
    d = np.round(np.abs(a.astype(np.float64) - b.astype(np.float64).reshape(a.shape)) / scale)
    return int(d.max()), int((d > 0).sum())


def check_nodes(qcc, model, x, folder, saturated):
    """The greatest difference of a QLinear node alone, and how many elements differ, by operator. Where sums are saturated, layers with
    full weights are left out; their number is the second result."""
    skipped = 0
    constants = {t.name: t for t in model.graph.initializer}
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    names = [o for n in model.graph.node for o in n.output]
    del whole.graph.output[:]
    whole.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    values = dict(zip(names, session(whole.SerializeToString()).run(None, {model.graph.input[0].name: x})))
    table = collections.defaultdict(lambda: [0, 0, 0, 0])
    for node in model.graph.node:
        if not node.op_type.startswith("QLinear") and node.op_type != "QGemm":
            continue
        if saturated and full_weights(node, constants):
            skipped += 1
            continue
        activations = [i for i in dict.fromkeys(node.input) if i and i not in constants]
        value = lambda n: helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(values[n].dtype), values[n].shape)
        one = helper.make_graph([node], "one", [value(i) for i in activations], [value(node.output[0])], [constants[i] for i in node.input if i in constants])
        path = os.path.join(folder, "one.onnx")
        onnx.save(helper.make_model(one, opset_imports=model.opset_import, ir_version=model.ir_version), path)
        got = run(qcc, path, {i: values[i] for i in activations}, "int", folder)
        worst, differ = units(values[node.output[0]], got, 1.0)
        row = table[node.op_type]
        row[0], row[1], row[2], row[3] = row[0] + 1, row[1] + got.size, row[2] + differ, max(row[3], worst)
    return table, skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qcc", default="target/debug/qcc")
    parser.add_argument("--inputs", type=int, default=5)
    parser.add_argument("--keep", help="folder for the models and exports")
    parser.add_argument("--nets", help="networks of torchvision, separated by commas")
    parser.add_argument("--from", dest="source", help="folder of float models to take instead of exporting them")
    parser.add_argument("--no-export", action="store_true", help="leave the checks of exports and nodes out")
    parser.add_argument("--saturated", action="store_true", help="behave as on a machine whose sums of products saturate")
    parser.add_argument("models", nargs="*")
    args = parser.parse_args()
    failed = False
    saturated = args.saturated or saturates()
    if saturated:
        print("ONNX Runtime saturates sums of products here (no VNNI): QDQ models are compared with its optimizations off")
    with tempfile.TemporaryDirectory() as folder:
        keep = args.keep or folder
        os.makedirs(keep, exist_ok=True)
        made = torchvision(args.nets.split(","), args.source, keep) if args.nets else args.models or make(keep)
        for path in made:
            model = onnx.load(path)
            name = os.path.basename(path)
            operators = any(n.op_type.startswith("QLinear") for n in model.graph.node)
            # Optimized, ONNX Runtime leaves casts of 16 bits out.
            # So are those of 4 bits compared as they are written.
            written = name.endswith(("16.onnx", "-4.onnx")) or saturated and not operators
            reference = session(path, as_written=written)
            entry = reference.get_inputs()[0]
            dims = [d if isinstance(d, int) else 1 for d in entry.shape]
            kind = TYPES[entry.type]
            rng = np.random.default_rng(5)
            io = "float" if kind == np.float32 else "int"
            draw = lambda: rng.standard_normal(dims).astype(kind) if io == "float" else rng.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, dims).astype(kind)
            inputs = [draw() for _ in range(args.inputs)]
            batch = np.concatenate(inputs)
            scale = output_scale(model)
            wanted = np.concatenate([reference.run(None, {entry.name: x})[0] for x in inputs])
            got = run(args.qcc, path, {entry.name: batch}, io, folder)
            rows = {"network": units(wanted, got, scale)}
            # Its optimizations make models of 4 bits that it refuses itself.
            floats = 0 if name.endswith("-4.onnx") else float_operators(path, folder)
            if saturated and operators:
                print(f"{name}: skipped: network, whose layers ONNX Runtime saturates here")
            elif written:
                failed = failed or rows["network"][0] > 2
            else:
                failed = failed or floats == 0 and rows["network"][0] > 1
            if not args.no_export:
                export = os.path.join(keep, name.removesuffix(".onnx") + ".export.onnx")
                emitted = subprocess.run([args.qcc, path, "--emit", "onnx-qdq", "-o", export], capture_output=True, text=True)
                if emitted.returncode != 0:
                    print(f"{name}: export: {emitted.stderr.strip()}")
                    failed = True
                    continue
                again = session(export, as_written=True)
                steps = sum(n.op_type == "QuantizeLinear" for n in onnx.load(export).graph.node)
                exported, out = again.get_inputs()[0].name, again.get_outputs()[0].name
                constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(export).graph.initializer}
                # An export takes and gives what the model does.
                codes_out = np.issubdtype(got.dtype, np.integer)
                own = 1.0 if codes_out else float(constants[f"{out}.scale"])
                samples = np.split(batch, args.inputs)
                rows["export"] = units(np.concatenate([again.run(None, {exported: x})[0] for x in samples]), got, own)
                if openvino:
                    vino = openvino.compile_model(openvino.Core().read_model(export), "CPU")
                    rows["openvino"] = units(np.concatenate([np.asarray(vino([x])[0]) for x in samples]), got, own)
                rows["again"] = units(run(args.qcc, export, {exported: batch}, io, folder), got, own)
                ties = any(n.op_type == "QLinearAdd" for n in model.graph.node)
                failed = failed or rows["export"][0] > steps or rows["again"][0] > (steps if ties else 0)
            note = f" (ONNX Runtime computes {floats} operators as floats)" if floats else ""
            print(f"{name}: {got.size} results; " + "; ".join(f"{k}: worst {w}, {d} differ" for k, (w, d) in rows.items()) + note, flush=True)
            if not args.no_export and operators:
                table, left_out = check_nodes(args.qcc, model, inputs[0], folder, saturated)
                if left_out:
                    print(f"    skipped: {left_out} layers that ONNX Runtime saturates here")
                for op, (nodes, elements, differ, worst) in table.items():
                    print(f"    {op}: {nodes} nodes, {differ} of {elements} results differ, worst {worst}")
                    failed = failed or worst > 1
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
