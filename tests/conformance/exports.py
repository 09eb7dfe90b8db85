#!/usr/bin/env python3
"""Compiles every operator of the fixtures as a model of its own, calibrated, and writes it as QDQ.

usage: exports.py [--qcc PATH] [--sets attention,contrib,..] [CASE ..]

A case `y.CASE` of `tests/fixtures/operators_SET.onnx` that depends on an input becomes a model. For each:

 sqnr    the outputs of machine code against ONNX Runtime's on the float model, in decibels: at least 15
 export  `onnx.checker` takes the file, ONNX Runtime loads it, inputs and outputs have their names and types, and its outputs differ
         from those of machine code by at most 2 units of the output's scale, without optimizations: two roundings on the way
         may fall on either side of a tie

What qcc refuses is counted; a refusal must say why. Exits with 1 if a case is wrong. Skips visibly, with exit code 0, without the packages.
"""
import argparse, os, subprocess, sys, tempfile

try:
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import helper, numpy_helper
    from quantized import full_weights, saturates
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(0)

ort.set_default_logger_severity(4)
FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")
# A comparison of two real numbers may fall on either side where both are near: nothing is measured.
UNMEASURED = ("equal",)


def session(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def sqnr(want, got):
    want, got = np.asarray(want, np.float64), np.asarray(got, np.float64)
    if want.shape != got.shape:
        return -999.0
    signal, noise = (want**2).sum(), ((want - got) ** 2).sum()
    return 200.0 if noise == 0 else 10 * np.log10(max(signal, 1e-300) / noise)


def cases(path):
    """Name, model, inputs and samples of each case of a fixture."""
    model = onnx.load(path)
    constants = {t.name: t for t in model.graph.initializer}
    producers = {o: n for n in model.graph.node for o in n.output}
    entries = {i.name: i for i in model.graph.input}
    rng = np.random.default_rng(0)
    for output in model.graph.output:
        if not output.name.startswith("y.") or output.name not in producers:
            continue
        nodes, inputs, seen = [], set(), set()

        def visit(name):
            if not name or name in seen:
                return
            seen.add(name)
            if name in producers:
                for operand in producers[name].input:
                    visit(operand)
                if producers[name] not in nodes:
                    nodes.append(producers[name])
            elif name in entries:
                inputs.add(name)

        visit(output.name)
        if not inputs:
            continue
        feeds, samples = {}, {}
        for name in sorted(inputs):
            x = feeds[name] = numpy_helper.to_array(constants["in." + name])
            near = lambda: (x + rng.normal(size=x.shape) * 0.05 * x.std()).astype(x.dtype) if x.dtype == np.float32 else x
            samples[name] = np.stack([x] + [near() for _ in range(3)])
        used = [constants[i] for i in {i for n in nodes for i in n.input} if i in constants]
        graph = helper.make_graph(nodes, "case", [entries[i] for i in sorted(inputs)], [output], used)
        yield output.name[2:], helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version), feeds, samples


def check(qcc, model, feeds, samples, folder):
    """What is wrong with a case, or nothing; a refusal is a text that begins so."""
    path, library, export = (os.path.join(folder, name) for name in ("m.onnx", "m.so", "q.onnx"))
    onnx.save(model, path)
    own = session(path)
    want = own.run(None, feeds)
    np.savez(os.path.join(folder, "samples.npz"), **samples)
    flags = ["--calibrate", os.path.join(folder, "samples.npz")]
    made = subprocess.run([qcc, path, "-o", library] + flags, capture_output=True, text=True)
    if made.returncode != 0:
        return ("refused: " if made.returncode == 1 and "this is a bug" not in made.stderr else "") + " ".join(made.stderr.split())
    command = [qcc, "run", library, "--output", os.path.join(folder, "y.npy")]
    for i, (name, array) in enumerate(feeds.items()):
        np.save(os.path.join(folder, f"{i}.npy"), array)
        command += ["--input", f"{name}={os.path.join(folder, f'{i}.npy')}"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        return " ".join(ran.stderr.split())
    got = np.load(os.path.join(folder, "y.npy"))
    if sqnr(want[0], got) < 15 and not own.get_outputs()[0].name.startswith(tuple("y." + name for name in UNMEASURED)):
        return f"sqnr {sqnr(want[0], got):.1f} dB"
    written = subprocess.run([qcc, path, "-o", export] + flags, capture_output=True, text=True)
    if written.returncode != 0:
        return "export: " + " ".join(written.stderr.split())
    try:
        onnx.checker.check_model(onnx.load(export), full_check=True)
        again = session(export)
        found = again.run(None, feeds)[0]
    except Exception as e:
        return f"export: {e}"
    interface = lambda s: [(v.name, v.type) for v in s.get_inputs() + s.get_outputs()]
    if interface(own) != interface(again):
        return f"export: {interface(again)} and not {interface(own)}"
    graph = onnx.load(export).graph
    node = next(n for n in graph.node if again.get_outputs()[0].name in n.output)
    scales = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    scale = float(scales[node.input[1]]) if node.op_type == "DequantizeLinear" else 1.0
    if got.size and got.dtype == np.float32:
        # Behind values of 8 bits, an output of 16 is as exact as these.
        scale = max(scale, float(got.max() - got.min()) / 255)
    units = np.abs(found.astype(np.float64) - got.astype(np.float64)).max() / scale if got.size else 0
    return f"export: {units:.1f} units" if units > 2.01 else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qcc", default="target/debug/qcc")
    parser.add_argument("--sets", default="attention,contrib,microsoft,run_time,whole")
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    count = refused = wrong = 0
    saturated = saturates()
    for name in args.sets.split(","):
        for case, model, feeds, samples in cases(os.path.join(FIXTURES, f"operators_{name}.onnx")):
            if args.cases and case not in args.cases:
                continue
            count += 1
            constants = {t.name: t for t in model.graph.initializer}
            if saturated and any(n.op_type == "QAttention" and full_weights(n, constants) for n in model.graph.node):
                print(f"{name}/{case}: skipped: ONNX Runtime saturates its sums of products here (no VNNI)")
                continue
            with tempfile.TemporaryDirectory() as folder:
                fault = check(args.qcc, model, feeds, samples, folder)
            refused += bool(fault and fault.startswith("refused"))
            wrong += bool(fault and not fault.startswith("refused"))
            if fault:
                print(f"{name}/{case}: {fault[:300]}")
    print(f"{count} cases, {refused} refused, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
