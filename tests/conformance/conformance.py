#!/usr/bin/env python3
"""Scores qcc on the node tests of the `onnx` package.

usage: conformance.py [--qcc PATH] [--only PATTERN] [--score A|B|C] [--failures] [--json FILE] [--require A=220,AB=95,B=30,C=35]

 A  import and float evaluation (`qcc run --float`) of tests whose operators are all on the lists below, at the
    suite's tolerance. Operands that are no floats (shapes, axes, positions, conditions) are given as constants, because
    qcc knows shapes at compile time; so are parameters (weights, scales) and what conversions convert.
 B  operators of quantization and the functions that define them, bit for bit. Element types f16, f8 and f4 are left out.
 C  the float tests of A, compiled to integers with the test's own inputs as calibration: signal-to-noise ratio of the
    result in dB. Tests whose result does not depend on a float input are left out, and so are results of integers.

Skips visibly, with exit code 0, where Python lacks the `onnx` package.
"""
import argparse, collections, concurrent.futures, fnmatch, json, os, re, subprocess, sys, tempfile, warnings

warnings.filterwarnings("ignore")
try:
    import numpy as np
    import onnx
    from onnx import numpy_helper
    from onnx.backend.test.case.node import collect_testcases
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(0)

# `../shared/FIELD.md` section 7.
MUST = """Conv BatchNormalization Relu Clip MaxPool AveragePool GlobalAveragePool Gemm MatMul Add Mul Concat Flatten Reshape
Transpose Squeeze Unsqueeze Softmax Identity Constant Dropout Pad Sigmoid HardSigmoid HardSwish LRN QuantizeLinear
DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger""".split()
SHOULD = """Sub Div Sum Mean ReduceMean ReduceSum ReduceMax Shape Gather Slice Split Cast Resize Upsample LeakyRelu PRelu Tanh
Elu Selu Softplus Mish Swish Gelu Erf Sqrt Pow Exp Log Reciprocal Neg Abs Floor Ceil Round Min Max LayerNormalization
InstanceNormalization GroupNormalization LpNormalization LogSoftmax ConvTranspose DepthToSpace SpaceToDepth Where Expand
Equal ConstantOfShape Tile Range ArgMax TopK GlobalMaxPool""".split()
QUANT = """QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger""".split()
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
SMALL = re.compile(r"float16|float8|float4|e4m3|e5m2|e2m1|e8m0|f8|f4")


def operators(case):
    return {n.op_type for n in case.model.graph.node}


def tensor_type(value):
    return value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else None


def name_of(output, index):
    return output.name or f"out{index}"


# Operands that are parameters: from these positions on they are constant in every network, and qcc asks for that.
PARAMETERS = {"Pad": 1, "Resize": 1, "Upsample": 1, "Range": 0, "Dropout": 1, "QuantizeLinear": 1, "DequantizeLinear": 1,
    "QLinearConv": 1, "QLinearMatMul": 1, "Conv": 1, "ConvTranspose": 1, "BatchNormalization": 1, "InstanceNormalization": 1,
    "GroupNormalization": 1, "LayerNormalization": 1, "Cast": 0, "Pow": 1}


def parameters(graph):
    return {name for n in graph.node if n.op_type in PARAMETERS for name in n.input[PARAMETERS[n.op_type]:] if name}


class Test:
    """A test with its first data set, float inputs apart from constants."""

    def __init__(self, case):
        self.name, self.ops = case.name, operators(case)
        self.rtol, self.atol = case.rtol, case.atol
        inputs, outputs = case.data_sets[0]
        self.model = onnx.ModelProto()
        self.model.CopyFrom(case.model)
        graph = self.model.graph
        self.feeds = {}
        frozen = parameters(graph)
        for value, data in zip(list(graph.input), inputs):
            array = data if isinstance(data, np.ndarray) or np.isscalar(data) else None
            if array is None and not isinstance(data, onnx.TensorProto):
                raise ValueError("not a tensor")
            proto = data if isinstance(data, onnx.TensorProto) else numpy_helper.from_array(np.asarray(data))
            if tensor_type(value) in FLOATS and value.name not in frozen and np.size(numpy_helper.to_array(proto)) > 0:
                self.feeds[value.name] = np.ascontiguousarray(numpy_helper.to_array(proto).astype(np.float32))
                dims = value.type.tensor_type.shape.dim
                del dims[:]
                for d in self.feeds[value.name].shape:
                    dims.add().dim_value = d
            else:
                constant = onnx.TensorProto()
                constant.CopyFrom(proto)
                constant.name = value.name
                graph.initializer.append(constant)
                graph.input.remove(value)
        self.wanted = [o if isinstance(o, np.ndarray) else numpy_helper.to_array(o) if isinstance(o, onnx.TensorProto) else np.asarray(o) for o in outputs]
        self.outputs = [o.name for o in graph.output]

    def write(self, folder):
        path = os.path.join(folder, "model.onnx")
        with open(path, "wb") as f:
            f.write(self.model.SerializeToString())
        arrays = []
        for i, (name, array) in enumerate(self.feeds.items()):
            file = os.path.join(folder, f"in{i}.npy")
            np.save(file, array)
            arrays += ["--input", f"{name}={file}"]
        results = []
        for i, name in enumerate(self.outputs):
            results += ["--output", f"{name}={os.path.join(folder, f'out{i}.npy')}"]
        return path, arrays, results

    def read(self, folder):
        return [np.load(os.path.join(folder, f"out{i}.npy")) for i in range(len(self.outputs))]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode == 0:
        return None
    lines = [l for l in done.stderr.splitlines() if l.startswith("error")] or done.stderr.splitlines()[-1:] or ["no message"]
    return f"exit {done.returncode}: {lines[0]}" if done.returncode > 0 and done.returncode < 100 else f"CRASH {done.returncode}: {lines[0]}"


def evaluate(qcc, test, exact):
    """Score A and B: None, or what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        model, arrays, results = test.write(folder)
        fault = run([qcc, "run", model, "--float", "--io", "int", *arrays, *results])
        if fault:
            return fault
        for name, got, wanted in zip(test.outputs, test.read(folder), test.wanted):
            if got.shape != wanted.shape:
                return f"{name}: shape {got.shape} for {wanted.shape}"
            if exact or wanted.dtype.kind in "iub":
                if not np.array_equal(got.astype(np.float64), wanted.astype(np.float64), equal_nan=True):
                    worst = np.max(np.abs(got.astype(np.float64) - wanted.astype(np.float64)))
                    return f"{name}: differs by up to {worst}"
                continue
            try:
                np.testing.assert_allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=test.rtol, atol=test.atol)
            except AssertionError as e:
                return f"{name}: " + " ".join(str(e).split())[:160]
    return None


def signal_to_noise(qcc, test):
    """Score C: dB, or None if it does not apply, or what is wrong."""
    if not test.feeds or any(a.size == 0 or a.ndim == 0 for a in test.feeds.values()):
        return None
    if any(w.dtype.kind in "iub" or w.size == 0 for w in test.wanted):
        return None
    if any(not np.isfinite(a.astype(np.float64)).all() for a in [*test.feeds.values(), *test.wanted]):
        return None
    with tempfile.TemporaryDirectory() as folder:
        model, arrays, results = test.write(folder)
        samples = os.path.join(folder, "samples.npz")
        np.savez(samples, **test.feeds)
        fault = run([qcc, "run", model, "--calibrate", samples, *arrays, *results])
        if fault:
            return fault
        signal = noise = 0.0
        for got, wanted in zip(test.read(folder), test.wanted):
            wanted = wanted.astype(np.float64)
            signal += float(np.sum(wanted**2))
            noise += float(np.sum((got.astype(np.float64).reshape(wanted.shape) - wanted) ** 2))
        if signal == 0.0:
            return None
        return 99.0 if noise == 0.0 else min(99.0, 10 * np.log10(signal / noise))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    parser.add_argument("--qcc", default=os.environ.get("QCC", os.path.join(root, "target/debug/qcc")))
    parser.add_argument("--only", default="*", help="names of tests, with * and ?")
    parser.add_argument("--score", choices="ABC", help="one score instead of all")
    parser.add_argument("--failures", action="store_true", help="say for each test what is wrong")
    parser.add_argument("--json", help="write all results to this file")
    parser.add_argument("--require", default="", help="least scores, else exit code 3: A (must tests), AB (percent of must and should), B, C (median dB)")
    args = parser.parse_args()

    must, should, quant = set(MUST), set(SHOULD), set(QUANT)
    tests, left_out = [], collections.Counter()
    for case in collect_testcases(None):
        ops = operators(case)
        if not ops or not ops <= must | should or not fnmatch.fnmatch(case.name, args.only):
            continue
        try:
            tests.append(Test(case))
        except Exception as e:  # sequences, strings
            left_out[type(e).__name__] += 1
    results = {}
    workers = max(1, (os.cpu_count() or 2) // 2)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        def one(test):
            # The function that an operator is defined by counts as the operator.
            quantizes = test.ops <= quant or test.name.startswith("test_dynamicquantizelinear")
            out = {"ops": sorted(test.ops), "A": None, "B": None, "C": None}
            if args.score in (None, "A"):
                out["A"] = evaluate(args.qcc, test, False) or "ok"
            if args.score in (None, "B") and quantizes and not SMALL.search(test.name):
                out["B"] = evaluate(args.qcc, test, True) or "ok"
            if args.score in (None, "C") and not quantizes:
                out["C"] = signal_to_noise(args.qcc, test)
            return test.name, out
        results = dict(pool.map(one, tests))

    report(results, must, args)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(results, f, indent=1)
    return check(results, must, args.require)


def single(r):
    """The operator of a test of one operator; `composite` else."""
    return r["ops"][0] if len(r["ops"]) == 1 else "composite"


def scores(results, must):
    a = [r for r in results.values() if r["A"] is not None]
    m = [r for r in a if set(r["ops"]) <= must]
    b = [r for r in results.values() if r["B"] is not None]
    c = [r["C"] for r in results.values() if r["C"] is not None]
    decibels = sorted(x if isinstance(x, (int, float)) else -99.0 for x in c)
    ok = lambda rs, s: sum(r[s] == "ok" for r in rs)
    return {
        "A": (ok(m, "A"), len(m)), "AB": (ok(a, "A"), len(a)), "B": (ok(b, "B"), len(b)),
        "C": (decibels[len(decibels) // 2] if decibels else None, len(c), sum(isinstance(x, str) for x in c)),
    }


def report(results, must, args):
    rows = collections.defaultdict(lambda: {"A": [], "B": [], "C": []})
    for r in results.values():
        for s in "ABC":
            if r[s] is not None:
                rows[single(r)][s].append(r[s])
    ratio = lambda v: f"{sum(x == 'ok' for x in v)}/{len(v)}" if v else "-"
    print(f"{'operator':<24}{'A float':>10}{'B exact':>10}{'C median dB':>13}{'C refused':>11}")
    for op in sorted(rows, key=lambda o: (o == "composite", o not in must, o)):
        c = rows[op]["C"]
        numbers = sorted(x for x in c if not isinstance(x, str))
        median = f"{numbers[len(numbers) // 2]:.1f}" if numbers else "-"
        refused = f"{len(c) - len(numbers)}/{len(c)}" if c else "-"
        print(f"{op:<24}{ratio(rows[op]['A']):>10}{ratio(rows[op]['B']):>10}{median:>13}{refused:>11}")
    s = scores(results, must)
    print()
    percent = 100.0 * s["AB"][0] / max(1, s["AB"][1])
    print(f"A  import and float evaluation: must {s['A'][0]} of {s['A'][1]}; must and should {s['AB'][0]} of {s['AB'][1]} ({percent:.1f} %)")
    print(f"B  quantization, bit for bit:   {s['B'][0]} of {s['B'][1]}")
    if s["C"][0] is not None:
        print(f"C  compiled to integers:        median {s['C'][0]:.1f} dB of {s['C'][1]} (of which refused, counted as -99 dB: {s['C'][2]})")
    if args.failures:
        for name, r in sorted(results.items()):
            for k in "AB":
                if r[k] not in (None, "ok"):
                    print(f"{k} {name}: {r[k]}")
            if isinstance(r["C"], str) or isinstance(r["C"], float) and r["C"] < 30:
                print(f"C {name}: {r['C']}")


def check(results, must, require):
    if not require:
        return 0
    s = scores(results, must)
    found = {"A": s["A"][0], "AB": 100.0 * s["AB"][0] / max(1, s["AB"][1]), "B": s["B"][0], "C": s["C"][0] or 0.0}
    crashes = [n for n, r in results.items() if any(isinstance(r[k], str) and r[k].startswith("CRASH") for k in "ABC")]
    low = [f"{k} is {found[k]:.1f}, below {v}" for k, v in (p.split("=") for p in require.split(",")) if found[k] < float(v)]
    for fault in low + [f"{n} crashed" for n in crashes]:
        print(f"not met: {fault}")
    return 3 if low or crashes else 0


if __name__ == "__main__":
    sys.exit(main())
