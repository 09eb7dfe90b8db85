#!/usr/bin/env python3
"""Compares qcc with ONNX Runtime on weights with a scale for each block: what `MatMulNBitsQuantizer` writes of a small network of products,
as `MatMulNBits` (2, 4 and 8 bits, with zero points and without) and as `DequantizeLinear` of INT4 and UINT4 with `block_size`.

usage: few_bits.py [--qcc PATH] [--keep DIR]

The rest of these networks is real, so that qcc rounds its values: the signal-to-noise ratio of the outputs must be LEAST decibels at least, of the
same network with its weights as reals at most WORSE decibels more. Where all blocks of an output agree (`channel_wised_quantize`) and scales
are positive, the compiled model must hold codes of 4 bits. Then models of qcc's own with weights of few bits are exported: ONNX Runtime must
read INT4 and UINT4, and the same codes must come back. Exits with 1 if anything is not so; skips visibly, with exit code 0, without the
packages.
"""
import argparse, os, subprocess, sys, tempfile

try:
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(0)

ort.set_default_logger_severity(4)
LEAST, WORSE = 28.0, 1.0
ROWS, DIMS = 16, [128, 192, 96, 64]
BLOCK = 32


def products(rng):
    """Three products with rectifiers between them."""
    name = lambda i: f"w{i}"
    weights = [numpy_helper.from_array((rng.standard_normal(pair) / np.sqrt(pair[0])).astype(np.float32), name(i)) for i, pair in enumerate(zip(DIMS, DIMS[1:]))]
    nodes, value = [], "x"
    for i in range(len(weights)):
        last = i + 1 == len(weights)
        nodes.append(helper.make_node("MatMul", [value, name(i)], ["y" if last else f"m{i}"], name=f"product{i}"))
        if not last:
            nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"]))
            value = f"r{i}"
    entry = lambda n, width: helper.make_tensor_value_info(n, TensorProto.FLOAT, [ROWS, width])
    graph = helper.make_graph(nodes, "products", [entry("x", DIMS[0])], [entry("y", DIMS[-1])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def quantized(model, folder):
    """The forms in which blocks are written: a name, a file, and whether all blocks of an output agree in scale and zero point."""
    forms = [(QuantFormat.QOperator, bits, symmetric, False) for bits in (4, 8, 2) for symmetric in (True, False)]
    forms += [(QuantFormat.QDQ, 4, symmetric, rows) for symmetric in (True, False) for rows in (False, True)]
    for form, bits, symmetric, rows in forms:
        name = f"{form.name}-{bits}-{'symmetric' if symmetric else 'asymmetric'}-{'rows' if rows else 'blocks'}"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=symmetric, quant_format=form, bits=bits, channel_wised_quantize=rows)
        quantizer = MatMulNBitsQuantizer(copy, algo_config=config)
        quantizer.process()
        path = os.path.join(folder, f"{name}.onnx")
        quantizer.model.save_model_to_file(path, False)
        yield name, path, False
        if rows and symmetric:
            # Its scales have the sign of what is greatest: of one sign, codes of 4 bits are few enough values for storage in 4.
            for tensor in quantizer.model.model.graph.initializer:
                if tensor.data_type == TensorProto.FLOAT:
                    tensor.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(tensor)), tensor.name))
            path = os.path.join(folder, f"{name}-positive.onnx")
            quantizer.model.save_model_to_file(path, False)
            yield f"{name}-positive", path, True


def session(path):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def call(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.strip()}")
    return done.stdout, done.stderr


def decibels(wanted, got):
    return 10 * np.log10((wanted.astype(np.float64) ** 2).sum() / ((wanted.astype(np.float64) - got) ** 2).sum())


def with_reals(path, folder):
    """The same network with the weights that stand in the file as real numbers, by ONNX Runtime."""
    model = onnx.load(path)
    names = {n.output[0]: n for n in model.graph.node}
    inits, nodes, value = [], [], "x"
    identity = np.eye(max(DIMS), dtype=np.float32)
    for i, (inputs, outputs) in enumerate(zip(DIMS, DIMS[1:])):
        node = next(n for n in model.graph.node if n.op_type in ("MatMul", "MatMulNBits") and n.output[0] == ("y" if i + 2 == len(DIMS) else f"m{i}"))
        one = onnx.ModelProto()
        one.CopyFrom(model)
        del one.graph.node[:], one.graph.input[:], one.graph.output[:]
        before, open_ = [], list(node.input[1:])
        while open_:
            producer = names.get(open_.pop())
            if producer is not None:
                before.insert(0, producer)
                open_ += producer.input
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[0] = "identity"
        one.graph.node.extend(before + [copy])
        one.graph.input.append(helper.make_tensor_value_info("identity", TensorProto.FLOAT, [inputs, inputs]))
        one.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, [inputs, outputs]))
        real = session(one.SerializeToString()).run(None, {"identity": identity[:inputs, :inputs]})[0]
        inits.append(numpy_helper.from_array(real, f"w{i}"))
    plain = products(np.random.default_rng(0))
    del plain.graph.initializer[:]
    plain.graph.initializer.extend(inits)
    out = os.path.join(folder, "reals.onnx")
    onnx.save(plain, out)
    return out


def check_blocks(qcc, folder, model, x):
    failed = False
    samples = os.path.join(folder, "x.npy")
    np.save(samples, x)

    def found(path):
        out = os.path.join(folder, "y.npy")
        call([qcc, "run", path, "--calibrate", samples, "--input", f"x={samples}", "--output", out])
        return np.load(out)

    for name, path, agree in quantized(model, folder):
        wanted = np.concatenate([session(path).run(None, {"x": part})[0] for part in np.split(x, len(x) // ROWS)])
        own, reals = decibels(wanted, found(path)), decibels(wanted, found(with_reals(path, folder)))
        compiled = os.path.join(folder, "model.so")
        _, said = call([qcc, path, "--calibrate", samples, "-o", compiled, "--quality", "off"])
        bits = [int(line.split()[2]) for line in call([qcc, "inspect", compiled])[0].splitlines() if "matmul" in line.partition(":")[2] and line.split()[2].isdigit()]
        told = "blocks of weights differ" in said
        wrong = own < LEAST or own < reals - WORSE or agree != (bits == [4] * (len(DIMS) - 1)) or told != ("blocks" in name)
        failed = failed or wrong
        print(f"{'WRONG ' if wrong else ''}{name}: {own:.1f} dB, with its weights as reals {reals:.1f} dB; weights of {bits} bits{', which it says' if told else ''}", flush=True)
    return failed


def check_exports(qcc, folder, model, x):
    """Models of qcc's own, exported and read again."""
    failed = False
    source, samples = os.path.join(folder, "products.onnx"), os.path.join(folder, "x.npy")
    onnx.save(model, source)
    for weights, activations, kinds in [("4", "8", {"INT4"}), ("3", "8", {"INT4"}), ("4", "4", {"INT4", "UINT4"}), ("5", "8", set()), ("6", "8", set()), ("pot4", "8", set()), ("table4", "8", set()), ("inq5", "8", set()), ("inq3", "8", {"INT4"})]:
        export, out = os.path.join(folder, "export.onnx"), os.path.join(folder, "y.npy")
        flags = ["--calibrate", samples, "--weights", weights, "--activations", activations, "--precision", ",".join(f"{name}.weights={weights}" for name in ("m0", "m1", "y"))]
        call([qcc, source, *flags, "-o", export, "--quality", "off", "--export-for", "vnni"])
        call([qcc, "run", source, *flags, "--input", f"x={samples}", "--output", out])
        own = np.load(out)
        constants = {t.name: t for t in onnx.load(export).graph.initializer}
        found = {TensorProto.DataType.Name(t.data_type) for t in constants.values()} & {"INT4", "UINT4"}
        theirs = np.concatenate([session(export).run(None, {"x": part})[0] for part in np.split(x, len(x) // ROWS)])
        call([qcc, "run", export, "--input", f"x={samples}", "--output", out])
        unit = float(numpy_helper.to_array(constants["y.scale"]))
        differ = lambda a, b: (int(np.round(np.abs(a.astype(np.float64) - b).max() / unit)), int((np.round(np.abs(a - b) / unit) > 0).sum()))
        runtime, again = differ(theirs, own), differ(np.load(out), own)
        wrong = found != kinds or runtime[0] > len(DIMS) or again[0] > 0
        failed = failed or wrong
        print(f"{'WRONG ' if wrong else ''}--weights {weights} --activations {activations}: {sorted(found)}; ONNX Runtime: worst {runtime[0]}, {runtime[1]} of {own.size} differ; again: worst {again[0]}", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qcc", default="target/debug/qcc")
    parser.add_argument("--keep", help="folder for the models")
    args = parser.parse_args()
    rng = np.random.default_rng(3)
    model, x = products(rng), rng.standard_normal([8 * ROWS, DIMS[0]]).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        folder = args.keep or folder
        os.makedirs(folder, exist_ok=True)
        failed = check_blocks(args.qcc, folder, model, x)
        failed = check_exports(args.qcc, folder, model, x) or failed
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
