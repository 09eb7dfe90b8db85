#!/usr/bin/env python3
"""Compares every operator of an exported network with ONNX Runtime, on equal operands.

usage: agreement.py [--qcc PATH] [--samples N] [--verbose] [NET ..]

A code that one rounding decides the other way changes many codes behind it, so that outputs of deep networks say little about single
operators. For each network, compiled with samples and exported as QDQ:

 local   each quantized value of ONNX Runtime (optimizations off), whose operands are qcc's own codes: at most 1 unit from qcc's, and
         different in at most 0.02 % of all codes, and 0.1 % of those of one kind of operator (of 20000 and more)
 whole   the outputs of both on equal inputs, in units of the output's scale: at most 1

qcc's codes of inner values are what its integer graph computes when it returns them too. Networks are those of `../shared/data/models`
that are there, and two small ones made here. Exits with 1 if a bound is exceeded. Skips visibly, with exit code 0, without the packages.
"""
import argparse, collections, os, re, subprocess, sys, tempfile

try:
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import helper, numpy_helper
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(0)
import quantized

ort.set_default_logger_severity(4)
MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "shared", "data", "models")
NORMAL, PIXELS = (0.0, 1.0), (128.0, 64.0)
# Shape of a sample, mean and deviation of its elements, and flags.
NETS = {
    "mlperftiny_resnet8_cifar10": ([1, 3, 32, 32], PIXELS, []),
    "cifar10_resnet20": ([1, 3, 32, 32], NORMAL, []),
    "mlperftiny_vww_mobilenetv1_025_96": ([1, 3, 96, 96], (0.5, 0.25), []),
    "ch_ppocr_mobile_v2.0_cls_infer": ([1, 3, 48, 192], (0.0, 0.5), ["--shape", "x=1x3x48x192"]),
}
LOCAL, LOCAL_KIND, FEW = 2e-4, 1e-3, 20000
# Their codes may lie in another order in the integer graph, with the weights behind them.
MOVES = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
VALUE = r'%("(?:[^"\\]|\\.)*"|[\w.$/-]+)'


def sample(dims, spread, rng):
    """An image of blotches: neighbours are alike, as in photographs."""
    coarse = rng.standard_normal(dims[:2] + [(d + 3) // 4 for d in dims[2:]])
    smooth = coarse.repeat(4, 2).repeat(4, 3)[:, :, : dims[2], : dims[3]] * 0.8 + rng.standard_normal(dims) * 0.6
    return (spread[0] + spread[1] * smooth).clip(spread[0] - 2 * spread[1], spread[0] + 2 * spread[1]).astype(np.float32)


def call(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(" ".join(done.stderr.split())[:400])


def bare(name):
    return name[1:-1] if name.startswith('"') else name


def returning_all(text, wanted):
    """An integer graph that returns what is wanted too; which of its values is which, and the names of all outputs in turn."""
    lines = text.split("\n")
    types = {}
    for line in lines:
        made = re.match(r"\s+" + VALUE + r" = .*?\) ?(?:\{.*?\})? ?: (tensor<.*?>+)(?: loc\(.*)?$", line)
        if made:
            types[made.group(1)] = made.group(2)
    known = {bare(name): name for name in types}
    found = {w: known[name] for w in wanted for name in (w + ".nhwc", w) if name in known}
    head = next(i for i, line in enumerate(lines) if line.startswith("graph"))
    last = next(i for i, line in enumerate(lines) if line.strip().startswith("return"))
    outputs = re.findall(VALUE, lines[last])
    more = [v for v in dict.fromkeys(found.values()) if v not in outputs]
    before, after = lines[head].split(" -> (")
    lines[head] = before + " -> (" + after.rstrip()[:-3] + "".join(", " + types[v] for v in more) + ") {"
    lines[last] = "  return " + ", ".join("%" + v for v in outputs + more)
    return "\n".join(lines), {w: bare(v) for w, v in found.items()}, [bare(v) for v in outputs + more]


def run(qcc, model, feeds, names, folder):
    command = [qcc, "run", model, "--io", "float"]
    for i, (name, array) in enumerate(feeds.items()):
        np.save(os.path.join(folder, f"in{i}.npy"), array)
        command += ["--input", f"{name}={os.path.join(folder, f'in{i}.npy')}"]
    files = {name: os.path.join(folder, f"out{i}.npy") for i, name in enumerate(names)}
    call(command + [part for name, file in files.items() for part in ("--output", f"{name}={file}")])
    return {name: np.load(file) for name, file in files.items()}


def evaluate(model, feeds):
    session = quantized.session(model.SerializeToString(), as_written=True)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds)))


def codes(real, scale, zero, like):
    """The codes of real numbers in the order of axes of `like`: the integer graph has channels last."""
    q = np.rint(real.astype(np.float64) / scale) + int(zero)
    orders = [q.reshape(like.shape)] if q.ndim != 4 or like.ndim != 4 else [o for o in (q.transpose(0, 3, 1, 2), q) if o.shape == like.shape]
    return min(orders, key=lambda o: np.abs(o - like).mean()).astype(like.dtype)


def kind(model, node, producers):
    """The operator before a cast, and that a layer is added to."""
    before = producers.get(node.input[0])
    if before is None:
        return "input"
    adds = before.op_type in ("Add", "Sub") and any(i in producers and producers[i].op_type in ("Conv", "Gemm", "MatMul") for i in before.input)
    return ("layer + " if adds else "") + before.op_type


def check(qcc, path, flags, feeds, folder):
    """Codes, differing ones and the greatest difference of each kind of operator; the outputs' differences in units."""
    export, graph, everything = (os.path.join(folder, name) for name in ("q.onnx", "q.qir", "all.qir"))
    for file in (export, graph):
        call([qcc, path, "-o", file, "--quality", "off", *flags])
    model = onnx.load(export)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    types = {t.name: t.data_type for t in model.graph.initializer}
    casts = {n.output[0]: n for n in model.graph.node if n.op_type == "QuantizeLinear"}
    text, found, names = returning_all(open(graph).read(), [c.removesuffix(".q") for c in casts])
    open(everything, "w").write(text)
    own = run(qcc, everything, feeds, names, folder)
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.output.extend(helper.make_tensor_value_info(c, types[n.input[2]], None) for c, n in casts.items())
    theirs = evaluate(whole, feeds)
    given, producers = {}, {o: n for n in model.graph.node for o in n.output}
    for c, n in casts.items():
        if n.input[0] in producers and producers[n.input[0]].op_type in MOVES:
            continue
        value = found.get(c.removesuffix(".q"))
        if value is not None:
            given[c] = codes(own[value], constants[n.input[1]], constants[n.input[2]], theirs[c])
        elif n.input[0] in feeds:
            given[c] = theirs[c]
    local = onnx.ModelProto()
    local.CopyFrom(model)
    for n in local.graph.node:
        for i, name in enumerate(n.input):
            if name in given:
                n.input[i] = name + ".given"
    del local.graph.output[:]
    local.graph.output.extend(helper.make_tensor_value_info(c, types[casts[c].input[2]], None) for c in given)
    local.graph.input.extend(helper.make_tensor_value_info(c + ".given", types[casts[c].input[2]], v.shape) for c, v in given.items())
    got = evaluate(local, {**feeds, **{c + ".given": v for c, v in given.items()}})
    rows = collections.defaultdict(lambda: np.zeros(3, int))
    for c, v in given.items():
        d = np.abs(got[c].astype(int) - v.astype(int))
        row = rows[kind(model, casts[c], producers)]
        row[:2] += d.size, (d > 0).sum()
        row[2] = max(row[2], d.max(initial=0))
    worst = 0
    for o in model.graph.output:
        node = producers[o.name]
        if node.op_type == "DequantizeLinear":
            # Behind values of 8 bits, an output of 16 is as exact as these.
            unit = max(float(constants[node.input[1]]), float(np.ptp(theirs[o.name])) / 255)
            worst = max(worst, float(np.abs(own[o.name].reshape(theirs[o.name].shape).astype(np.float64) - theirs[o.name]).max()) / unit)
    return rows, worst, len(casts) - len(given)


def networks(names, folder):
    for name, (dims, spread, flags) in NETS.items():
        path = os.path.join(MODELS, name + ".onnx")
        if names and name not in names:
            continue
        if os.path.exists(path):
            yield name, path, dims, spread, flags
        else:
            print(f"skipped: {name}: there is no {path}")
    for build in (quantized.residual, quantized.branches):
        model = build(np.random.default_rng(3))
        if not names or model.graph.name in names:
            path = os.path.join(folder, model.graph.name + ".onnx")
            onnx.save(model, path)
            yield model.graph.name, path, [1, 3, 16, 16], NORMAL, []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qcc", default="target/debug/qcc")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("nets", nargs="*")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, path, dims, spread, flags in networks(args.nets, folder):
            rng = np.random.default_rng(11)
            np.save(os.path.join(folder, "samples.npy"), np.concatenate([sample(dims, spread, rng) for _ in range(16)]))
            flags = ["--calibrate", os.path.join(folder, "samples.npy"), *flags]
            entry = onnx.load(path).graph.input[0].name
            total, worst, inner = collections.defaultdict(lambda: np.zeros(3, int)), 0, 0
            for _ in range(args.samples):
                rows, units, inner = check(args.qcc, path, flags, {entry: sample(dims, spread, rng)}, folder)
                worst = max(worst, units)
                for k, row in rows.items():
                    total[k] = np.array([*(total[k][:2] + row[:2]), max(total[k][2], row[2])])
            count, differ, most = (sum(r[0] for r in total.values()), sum(r[1] for r in total.values()), max(r[2] for r in total.values()))
            kinds = [k for k, r in total.items() if r[0] >= FEW and r[1] > LOCAL_KIND * r[0]]
            wrong = most > 1 or differ > LOCAL * count or bool(kinds) or worst > 1.01
            failed = failed or wrong
            print(f"{name}: {differ} of {count} codes differ, worst {most}; outputs {worst:.2f} units; {inner} values without codes of their own" + (": WRONG" if wrong else ""), flush=True)
            for k, (n, d, m) in total.items():
                if args.verbose or k in kinds or m > 1:
                    print(f"    {k}: {d} of {n} differ, worst {m}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
