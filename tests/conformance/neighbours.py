#!/usr/bin/env python3
"""Compiles small models around what quantization gets wrong, and random ones, and compares the results with the float model's.

usage: neighbours.py [--qcc PATH] [--mode static,free,dynamic,all16] [--every N] [--random N] [--seed S] [CASE ..]

Cases are spellings of functions of one value, of softmax and its relatives and of normalizations, sentinels in padding and masks, and
values that span decades; random models chain such operators. Modes: `static` calibrates, `free` has no samples, `dynamic` is
`--mode int8_dynamic`, `all16` calibrates with `--precision all=16`. A case is wrong if

 static   it is below 20 dB (random: where ONNX Runtime's static int8 of the same model and samples has 25)
 all16    it is below 40 dB (random: 30; 20 where the input itself spans six decades)
 free     it is below 20 dB, and nothing said so
 dynamic  it is below 10 dB, and nothing said so: what qcc says on stderr is taken for a word
 any      qcc ends otherwise than with a result or a refusal with help

`--every N` takes each N-th case. Exits with 1 if a case is wrong. Skips visibly, with exit code 0, without the packages.
"""
import argparse, logging, os, re, subprocess, sys, tempfile

try:
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper, parser
    from onnxruntime.quantization import QuantFormat, quantize_static
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(0)
import quantized

logging.disable(logging.WARNING)
ROWS, IMAGE = [1, 8, 16], [1, 8, 6, 6]
RNG = np.random.default_rng(7)
CASES = {}
SAMPLES = 32


class Case:
    """Nodes in ONNX's text, split by `;`, on an input `x` and constants: numbers are f32, lists int64."""

    def __init__(self, nodes, dims, constants=None, scale=1.0, result=TensorProto.FLOAT, draw=None, mask=None):
        self.nodes, self.dims, self.constants, self.scale = nodes, dims, constants or {}, scale
        # Results below `mask` stand for what is masked.
        self.result, self.draw, self.mask = result, draw, mask

    def model(self):
        tensor = lambda v: np.array(v, np.int64) if isinstance(v, list) else np.asarray(v) if np.asarray(v).dtype == bool else np.asarray(v, np.float32)
        constants = [numpy_helper.from_array(np.ascontiguousarray(tensor(v)), k) for k, v in self.constants.items()]
        nodes = [parser.parse_node(n) for n in self.nodes.split("; ")]
        value = lambda name, ty, dims: helper.make_tensor_value_info(name, ty, dims)
        graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, self.dims)], [value("y", self.result, None)], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def sample(self, rng, plain):
        return (rng.standard_normal(self.dims) if plain else self.draw(self.dims) if self.draw else rng.standard_normal(self.dims) * self.scale).astype(np.float32)


def case(name, *args, **kwargs):
    CASES[name] = Case(*args, **kwargs)


def weights(*dims):
    return RNG.standard_normal(dims) / np.sqrt(dims[-1])


def decades(dims):
    return 10 ** RNG.uniform(-5, 1, dims)


def uneven_rows(least, greatest):
    """Rows of the magnitudes 10^least to 10^greatest."""
    return lambda dims: RNG.standard_normal(dims) * 10 ** RNG.uniform(least, greatest, (dims[0], dims[1], 1))


# Functions of one value, in every spelling.
case("softplus_node", "y = Softplus(x)", ROWS, scale=4)
case("mish_tanh_softplus", "a = Softplus(x); b = Tanh(a); y = Mul(x, b)", ROWS, scale=4)
case("mish_exp", "e = Exp(x); a = Add(e, one); s = Mul(a, a); u = Sub(s, one); v = Add(s, one); t = Div(u, v); y = Mul(x, t)", ROWS, {"one": 1}, scale=3)
case("tanh_by_exp", "d = Mul(x, two); e = Exp(d); u = Sub(e, one); v = Add(e, one); y = Div(u, v)", ROWS, {"one": 1, "two": 2}, scale=2)
case("tanh_by_sigmoid", "d = Mul(x, two); e = Sigmoid(d); u = Mul(e, two); y = Sub(u, one)", ROWS, {"one": 1, "two": 2}, scale=2)
case("gelu_erf", "d = Div(x, s2); e = Erf(d); u = Add(e, one); v = Mul(x, u); y = Mul(v, half)", ROWS, {"s2": 2**0.5, "one": 1, "half": 0.5}, scale=2)
case("gelu_tanh", "p = Pow(x, three); q = Mul(p, c); a = Add(x, q); b = Mul(a, k); t = Tanh(b); u = Add(t, one); h = Mul(x, half); y = Mul(h, u)", ROWS, {"three": 3, "c": 0.044715, "k": (2/np.pi)**0.5, "one": 1, "half": 0.5}, scale=2)
case("quick_gelu", "a = Mul(x, c); b = Sigmoid(a); y = Mul(x, b)", ROWS, {"c": 1.702}, scale=2)
case("hardswish_clip", "a = Add(x, three); c = Clip(a, zero, six); m = Mul(x, c); y = Div(m, six)", ROWS, {"three": 3, "zero": 0, "six": 6}, scale=3)
case("leakyrelu_max", "m = Mul(x, a); y = Max(x, m)", ROWS, {"a": 0.1}, scale=3)
case("leakyrelu_where", "c = Less(x, z); m = Mul(x, a); y = Where(c, m, x)", ROWS, {"a": 0.1, "z": 0}, scale=3)
case("leakyrelu_relu", "p = Relu(x); g = Neg(x); q = Relu(g); m = Mul(q, a); y = Sub(p, m)", ROWS, {"a": 0.1}, scale=3)
case("elu_where", "c = Greater(x, z); e = Exp(x); m = Sub(e, one); y = Where(c, x, m)", ROWS, {"one": 1, "z": 0}, scale=3)
case("selu", "y = Selu(x)", ROWS, scale=3)
case("celu", "y = Celu<alpha=0.7>(x)", ROWS, scale=3)
case("softsign_spelled", "a = Abs(x); b = Add(a, one); y = Div(x, b)", ROWS, {"one": 1}, scale=3)
case("log1p_abs", "a = Abs(x); b = Add(a, one); y = Log(b)", ROWS, {"one": 1}, scale=300)
case("logsigmoid", "a = Sigmoid(x); y = Log(a)", ROWS, scale=6)
case("logsigmoid_softplus", "a = Neg(x); b = Softplus(a); y = Neg(b)", ROWS, scale=6)
case("logit", "p = Sigmoid(x); q = Sub(one, p); d = Div(p, q); y = Log(d)", ROWS, {"one": 1}, scale=3)
case("rsqrt", "a = Mul(x, x); b = Add(a, e); c = Sqrt(b); y = Reciprocal(c)", ROWS, {"e": 0.01}, scale=1)
case("sqrt_sq", "a = Mul(x, x); y = Sqrt(a)", ROWS, scale=3)
case("pow3", "y = Pow(x, t)", ROWS, {"t": 3}, scale=2)
case("exp_then_div", "a = Exp(x); b = Add(a, one); y = Div(one, b)", ROWS, {"one": 1}, scale=5)
case("silu_by_exp", "g = Neg(x); a = Exp(g); b = Add(a, one); y = Div(x, b)", ROWS, {"one": 1}, scale=4)
case("glu", "a, b = Split<axis=2>(x); s = Sigmoid(b); y = Mul(a, s)", ROWS, scale=3)
# Softmax and its relatives.
for ax in (0, 1, 2):
    case(f"softmax_axis{ax}", f"y = Softmax<axis={ax}>(x)", ROWS, scale=5)
    case(f"logsoftmax_axis{ax}", f"y = LogSoftmax<axis={ax}>(x)", ROWS, scale=5)
    case(f"lse_axis{ax}", f"y = ReduceLogSumExp<axes=[{ax}], keepdims=1>(x)", ROWS, scale=5)
case("lse_two_axes", "y = ReduceLogSumExp<axes=[1, 2], keepdims=0>(x)", ROWS, scale=5)
case("lse_spelled", "m = ReduceMax<axes=[-1], keepdims=1>(x); d = Sub(x, m); e = Exp(d); s = ReduceSum<keepdims=1>(e, ax); l = Log(s); y = Add(l, m)", ROWS, {"ax": [-1]}, scale=5)
case("lse_spelled_nokeep", "e = Exp(x); s = ReduceSum<keepdims=0>(e, ax); y = Log(s)", ROWS, {"ax": [-1]}, scale=3)
case("softmax_temp", "d = Div(x, t); y = Softmax<axis=-1>(d)", ROWS, {"t": 0.1}, scale=1)
case("softmax_rows_big", "d = Mul(x, s); e = Add(d, o); y = Softmax<axis=-1>(e)", ROWS, {"s": 4, "o": (np.arange(8)*-15.).reshape(1, 8, 1)}, scale=1)
case("softmax_nokeepdims_expand", "e = Exp(x); s = ReduceSum<keepdims=0>(e, ax); u = Unsqueeze(s, ax); y = Div(e, u)", ROWS, {"ax": [-1]}, scale=4)
case("logsoftmax_log_of_softmax", "p = Softmax<axis=-1>(x); y = Log(p)", ROWS, scale=4)
case("logsoftmax_clip", "p = Softmax<axis=-1>(x); q = Clip(p, lo, hi); y = Log(q)", ROWS, {"lo": 1e-7, "hi": 1}, scale=4)
case("logsoftmax_eps", "p = Softmax<axis=-1>(x); q = Add(p, e); y = Log(q)", ROWS, {"e": 1e-8}, scale=4)
case("entropy", "p = Softmax<axis=-1>(x); l = Log(p); m = Mul(p, l); s = ReduceSum<keepdims=1>(m, ax); y = Neg(s)", ROWS, {"ax": [-1]}, scale=2)
case("softmin", "g = Neg(x); y = Softmax<axis=-1>(g)", ROWS, scale=4)
# Normalizations, spelled out.
g16, b16 = (1+0.2*RNG.standard_normal(16)), (0.3*RNG.standard_normal(16))
LAYER_NORM = "m = ReduceMean<axes=[-1]>(x); d = Sub(x, m); q = Pow(d, two); v = ReduceMean<axes=[-1]>(q); w = Add(v, e); s = Sqrt(w); z = Div(d, s); h = Mul(z, g); y = Add(h, b)"
TERMS = {"two": 2, "e": 1e-5, "g": g16, "b": b16}
case("ln_spelled", LAYER_NORM, ROWS, TERMS, scale=3)
case("ln_two_subs", "m = ReduceMean<axes=[-1]>(x); d = Sub(x, m); d2 = Sub(x, m); q = Mul(d2, d2); v = ReduceMean<axes=[-1]>(q); w = Add(v, e); s = Sqrt(w); y = Div(d, s)", ROWS, TERMS, scale=3)
case("ln_tf", "m = ReduceMean<axes=[-1]>(x); d = Sub(x, m); q = Mul(d, d); v = ReduceMean<axes=[-1]>(q); w = Add(v, e); s = Sqrt(w); rs = Reciprocal(s); k = Mul(rs, g); xk = Mul(x, k); mk = Mul(m, k); c = Sub(b, mk); y = Add(xk, c)", ROWS, TERMS, scale=3)
case("ln_var_minus", "m = ReduceMean<axes=[-1]>(x); xx = Mul(x, x); q = ReduceMean<axes=[-1]>(xx); mm = Mul(m, m); v = Sub(q, mm); w = Add(v, e); s = Sqrt(w); d = Sub(x, m); y = Div(d, s)", ROWS, TERMS, scale=3)
case("rms", "q = Mul(x, x); v = ReduceMean<axes=[-1]>(q); w = Add(v, e); s = Sqrt(w); i = Reciprocal(s); z = Mul(x, i); y = Mul(g, z)", ROWS, TERMS, scale=3)
case("rms_pow", "q = Pow(x, two); v = ReduceMean<axes=[-1]>(q); w = Add(v, e); i = Pow(w, mh); y = Mul(x, i)", ROWS, dict(TERMS, mh=-0.5), scale=3)
case("l2norm", "y = LpNormalization<axis=-1, p=2>(x)", ROWS, scale=3)
case("l2_reduce", "s = ReduceL2<axes=[-1], keepdims=1>(x); c = Clip(s, e); y = Div(x, c)", ROWS, {"e": 1e-12}, scale=3)
case("l2_expand", "s = ReduceL2<axes=[-1], keepdims=1>(x); c = Max(s, e); ce = Expand(c, sh); y = Div(x, ce)", ROWS, {"e": 1e-12, "sh": [1, 8, 16]}, scale=3)
case("ln_axis1", "m = ReduceMean<axes=[1]>(x); d = Sub(x, m); q = Mul(d, d); v = ReduceMean<axes=[1]>(q); w = Add(v, e); s = Sqrt(w); y = Div(d, s)", ROWS, TERMS, scale=3)
case("ln_small", LAYER_NORM, ROWS, TERMS, scale=0.01)
case("ln_offset", "xo = Add(x, o); " + re.sub(r"\bx\b", "xo", LAYER_NORM), ROWS, dict(TERMS, o=3), scale=1)
group_norm = "r = Reshape(x, s1); i = InstanceNormalization<epsilon=1e-5>(r, one, zero); j = Reshape(i, s2); k = Mul(j, g); y = Add(k, b)"
case("groupnorm_torch", group_norm, IMAGE, {"s1": [1, 2, -1], "s2": [1, 8, 6, 6], "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32), "g": (1+0.2*RNG.standard_normal((8, 1, 1))), "b": (0.2*RNG.standard_normal((8, 1, 1)))}, scale=3)
case("groupnorm_spelled", "r = Reshape(x, s1); m = ReduceMean<axes=[2]>(r); d = Sub(r, m); q = Mul(d, d); v = ReduceMean<axes=[2]>(q); w = Add(v, e); s = Sqrt(w); z = Div(d, s); j = Reshape(z, s2); k = Mul(j, g); y = Add(k, b)", IMAGE, {"e": 1e-5, "s1": [1, 2, -1], "s2": [1, 8, 6, 6], "g": (1+0.2*RNG.standard_normal((8, 1, 1))), "b": (0.2*RNG.standard_normal((8, 1, 1)))}, scale=3)
case("instancenorm", "y = InstanceNormalization(x, g, b)", IMAGE, {"g": g16[:8], "b": b16[:8]}, scale=3)
case("instancenorm_spelled", "m = ReduceMean<axes=[2, 3]>(x); d = Sub(x, m); q = Mul(d, d); v = ReduceMean<axes=[2, 3]>(q); w = Add(v, e); s = Sqrt(w); y = Div(d, s)", IMAGE, {"e": 1e-5}, scale=3)
case("lrn", "y = LRN<size=5>(x)", IMAGE, scale=3)
# Sentinels.
for v in (-1e4, -1e9, -3.4028234e38, -np.inf, -65504.):
    case(f"pad_{v:g}_maxpool", "q = Pad(x, p, v); y = MaxPool<kernel_shape=[3, 3], strides=[2, 2]>(q)", IMAGE, {"p": [0, 0, 1, 1, 0, 0, 1, 1], "v": v}, scale=3)
kept = RNG.random((1, 8, 16)) < 0.6
kept[:, :, 0] = True
case("where_argmax", "s = Where(m, x, lo); y = ArgMax<axis=-1>(s)", ROWS, {"m": kept, "lo": -1e9}, scale=3, result=TensorProto.INT64)
case("where_topk", "s = Where(m, x, lo); y, i = TopK<axis=-1>(s, k)", ROWS, {"m": kept, "lo": -1e9, "k": [2]}, scale=3)
case("where_logsumexp", "s = Where(m, x, lo); y = ReduceLogSumExp<axes=[-1], keepdims=1>(s)", ROWS, {"m": kept, "lo": -1e9}, scale=3)
case("where_softmax", "s = Where(m, x, lo); y = Softmax<axis=-1>(s)", ROWS, {"m": kept, "lo": -1e9}, scale=3)
case("addmask_softmax", "s = Add(x, m); y = Softmax<axis=-1>(s)", ROWS, {"m": np.where(kept, 0, -1e9)}, scale=3)
case("addmask_logsoftmax", "s = Add(x, m); y = LogSoftmax<axis=-1>(s)", ROWS, {"m": np.where(kept, 0, -1e9)}, scale=3, mask=-1e6)
case("mask_div_scale_softmax", "s = Where(m, x, lo); d = Div(s, t); y = Softmax<axis=-1>(d)", ROWS, {"m": kept, "lo": -1e9, "t": 8.}, scale=30)
case("mask_mul_reducemax", "s = Where(m, x, lo); d = Mul(s, t); y = ReduceMax<axes=[-1]>(d)", ROWS, {"m": kept, "lo": -1e9, "t": 0.5}, scale=3)
case("masked_mean", "s = Where(m, x, z); y = ReduceMean<axes=[-1]>(s)", ROWS, {"m": kept, "z": 0}, scale=3)
case("where_min", "s = Where(m, x, hi); y = ReduceMin<axes=[-1]>(s)", ROWS, {"m": kept, "hi": 1e9}, scale=3)
case("softmax_of_1minusmask", "im = Sub(one, mf); ad = Mul(im, big); s = Add(x, ad); y = Softmax<axis=-1>(s)", ROWS, {"mf": 1.0 * kept, "one": 1, "big": -10000.}, scale=3)
TRIANGLE = np.triu(np.full((8, 8), -np.inf, np.float32), 1)
case("causal_attention", "q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); kt = Transpose<perm=[0, 2, 1]>(k); s0 = MatMul(q, kt); s1 = Mul(s0, sc); s2 = Add(s1, tri); p = Softmax<axis=-1>(s2); y = MatMul(p, v)", ROWS, {"wq": weights(16, 16)*3, "wk": weights(16, 16)*3, "wv": weights(16, 16), "sc": 0.25, "tri": TRIANGLE}, scale=1)
# Values that span decades.

case("decade_log", "c = Clip(x, lo); y = Log(c)", ROWS, {"lo": 1e-5}, draw=decades)
case("decade_db", "c = Clip(x, lo); l = Log(c); y = Mul(l, k)", ROWS, {"lo": 1e-5, "k": 10/np.log(10)}, draw=decades)
case("decade_sqrt", "y = Sqrt(x)", ROWS, draw=decades)
case("decade_rsqrt", "a = Add(x, e); s = Sqrt(a); y = Reciprocal(s)", ROWS, {"e": 1e-3}, draw=decades)
case("decade_recip", "a = Add(x, e); y = Reciprocal(a)", ROWS, {"e": 1e-2}, draw=decades)
case("decade_pow", "y = Pow(x, h)", ROWS, {"h": 0.3}, draw=decades)
mel = np.abs(RNG.standard_normal((16, 6)))
case("melspec", "p = Mul(x, x); m = MatMul(p, mel); a = Add(m, e); y = Log(a)", ROWS, {"mel": mel, "e": 1e-6}, draw=uneven_rows(-3, 0))
case("mel_db_max", "p = Mul(x, x); m = MatMul(p, mel); a = Max(m, e); l = Log(a); d = Mul(l, k); mx = ReduceMax<keepdims=1>(d); fl = Sub(mx, top); y = Max(d, fl)", ROWS, {"mel": mel, "e": 1e-10, "k": 10/np.log(10), "top": 80.}, draw=uneven_rows(-3, 0))
case("div_by_var", "m = ReduceMean<axes=[-1]>(x); d = Sub(x, m); q = Mul(d, d); v = ReduceMean<axes=[-1]>(q); ve = Add(v, e); y = Div(d, ve)", ROWS, {"e": 1e-3}, scale=2)
case("cosine_sim", "nx = ReduceL2<axes=[-1], keepdims=1>(x); u = Div(x, nx); y = MatMul(u, wt)", ROWS, {"wt": weights(16, 5)*2}, draw=uneven_rows(-2, 1))
# Others.
case("mixed_concat", "s = Sigmoid(x); b = Mul(x, k); y = Concat<axis=1>(b, s)", ROWS, {"k": 100.}, scale=2)
case("tiny", "y = Mul(x, k)", ROWS, {"k": 2}, scale=1e-10)
case("tanh_small", "t = Tanh(x); y = MatMul(t, wt)", ROWS, {"wt": weights(16, 5)}, scale=0.01)
case("erf_small", "y = Erf(x)", ROWS, scale=0.01)
case("sigmoid_centered", "s = Sigmoid(x); y = Sub(s, h)", ROWS, {"h": 0.5}, scale=0.02)
case("residual_self", "s = Sigmoid(x); y = Add(x, s)", ROWS, scale=2)
case("x_minus_relu", "s = Relu(x); y = Sub(x, s)", ROWS, scale=2)
case("std_dev", "m = ReduceMean<axes=[-1]>(x); d = Sub(x, m); q = Mul(d, d); v = ReduceMean<axes=[-1]>(q); y = Sqrt(v)", ROWS, scale=2)
case("softmax_times_v", "p = Softmax<axis=-1>(x); y = MatMul(p, v)", ROWS, {"v": weights(16, 5)}, scale=2)


class Samples(quantized.CalibrationDataReader):
    def __init__(self, samples):
        self.rest = iter([{"x": x} for x in samples])

    def get_next(self):
        return next(self.rest, None)


def sqnr(want, got, mask):
    want, got = np.asarray(want, np.float64).ravel(), np.asarray(got, np.float64).ravel()
    kept = np.isfinite(want) & (True if mask is None else want > mask)
    noise = ((want - got)[kept] ** 2).sum()
    # What is 0 everywhere has no decibels.
    return 200.0 if noise < 1e-8 * kept.sum() else 10 * np.log10(max((want[kept] ** 2).sum(), 1e-300) / noise)


def measure(qcc, case, mode, folder, beside):
    """qcc's result in decibels, or what it refused with; what it said; ONNX Runtime's static int8 in decibels, if that is asked for."""
    path, rng = os.path.join(folder, "m.onnx"), np.random.default_rng(3)
    onnx.save(case.model(), path)
    samples = [case.sample(rng, mode == "free") for _ in range(SAMPLES)]
    x = case.sample(rng, mode == "free")
    files = {name: os.path.join(folder, name + ".npy") for name in ("samples", "x", "y")}
    np.save(files["samples"], np.concatenate(samples))
    np.save(files["x"], x)
    want = quantized.session(path).run(None, {"x": x})[0]
    calibrate = ["--calibrate", files["samples"]]
    flags = {"static": calibrate, "free": [], "dynamic": ["--mode", "int8_dynamic"], "all16": [*calibrate, "--precision", "all=16"]}[mode]
    done = subprocess.run([qcc, "run", path, "--input", files["x"], "--output", files["y"], *flags], capture_output=True, text=True)
    said = " ".join(done.stderr.split())
    if done.returncode != 0:
        is_refusal = done.returncode == 1 and "help:" in said and "this is a bug" not in said
        return ("refused: " if is_refusal else "failed: ") + said[:200], said, None
    theirs = None
    if beside:
        try:
            quantize_static(path, os.path.join(folder, "q.onnx"), Samples(samples), quant_format=QuantFormat.QDQ)
            theirs = sqnr(want, quantized.session(os.path.join(folder, "q.onnx")).run(None, {"x": x})[0], case.mask)
        except Exception:
            pass
    return sqnr(want, np.load(files["y"]), case.mask), said, theirs


def random_case(seed):
    """Three to eight operators, each on one of the last three values."""
    r = np.random.default_rng(seed)
    rows = r.random() < 0.5
    nodes, constants, values = [], {}, ["x"]

    def put(op, *inputs, attrs=""):
        names = []
        for v in inputs:
            if not isinstance(v, str):
                constants[f"c{len(constants)}"] = v
                v = f"c{len(constants) - 1}"
            names.append(v)
        nodes.append(f"v{len(nodes) + 1} = {op}{attrs}({', '.join(names)})")
        return f"v{len(nodes)}"

    def unary(x):
        name = ["Relu", "Sigmoid", "Tanh", "Softplus", "Elu", "LeakyRelu", "HardSwish", "HardSigmoid", "Abs", "Neg", "Erf", "Exp", "Selu", "Softsign", "Sin", "Cos", "Mish", "Gelu"][int(r.integers(18))]
        if name == "Exp":
            return put("Exp", put("Clip", x, -4.0, 2.0))
        if name == "Gelu":
            return put("Mul", put("Mul", x, put("Add", put("Erf", put("Div", x, 2**0.5)), 1.0)), 0.5)
        return put("Mul", x, put("Tanh", put("Softplus", x))) if name == "Mish" else put(name, x)

    def layer(x):
        if rows:
            return put("Add", put("MatMul", x, r.standard_normal((16, 16)) / 4), r.standard_normal(16) * 0.3)
        return put("Conv", x, r.standard_normal((6, 6, 3, 3)) / np.sqrt(54), r.standard_normal(6) * 0.3, attrs="<pads=[1, 1, 1, 1]>")

    def norm(x):
        if rows:
            return put("LayerNormalization", x, 1 + 0.2 * r.standard_normal(16), 0.2 * r.standard_normal(16), attrs="<axis=-1>")
        return put("BatchNormalization", x, 1 + 0.2 * r.standard_normal(6), 0.2 * r.standard_normal(6), 0.1 * r.standard_normal(6), 0.5 + r.random(6))

    def gate(x):
        mean = put("ReduceMean", x, attrs="<axes=[-1], keepdims=1>" if rows else "<axes=[2, 3], keepdims=1>")
        return put(["Mul", "Sub", "Add"][int(r.integers(3))], x, mean if r.random() < 0.5 else put("Sigmoid", mean))

    binary = lambda x: put(["Add", "Sub", "Mul", "Max", "Min"][int(r.integers(5))], x, values[int(r.integers(len(values)))])
    softmax = lambda x: put("Softmax", x, attrs="<axis=-1>" if rows else "<axis=1>")
    pool = lambda x: put("Clip", x, -1.5, 2.5) if rows else put("MaxPool", x, attrs="<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>")
    factor, term = lambda x: put("Mul", x, float(r.uniform(0.1, 8))), lambda x: put("Add", x, float(r.uniform(-4, 4)))
    kinds = [layer, unary, binary, softmax, norm, gate, factor, term, pool]
    shares = [0.22, 0.23, 0.15, 0.08, 0.08, 0.06, 0.06, 0.05, 0.07]
    for _ in range(int(r.integers(3, 9))):
        x = values[int(r.integers(max(0, len(values) - 3), len(values)))]
        values.append(kinds[int(r.choice(len(kinds), p=shares))](x))
    last = put("Concat", values[-1], values[-2], attrs="<axis=1>") if r.random() < 0.3 else values[-1]
    return Case("; ".join([*nodes, f"y = Identity({last})"]), ROWS if rows else [1, 6, 8, 8], constants)


def is_wrong(name, mode, db, said, theirs, is_random):
    if mode == "static":
        return db < 20 and (not is_random or (theirs is not None and theirs >= 25)) and "warning" not in said
    if mode == "all16":
        return db < (30 if is_random else 20 if name.startswith("decade_") else 40)
    return db < (20 if mode == "free" else 10) and not said


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--qcc", default="target/debug/qcc")
    arguments.add_argument("--mode", default="static,free,dynamic,all16")
    arguments.add_argument("--every", type=int, default=1)
    arguments.add_argument("--random", type=int, default=0)
    arguments.add_argument("--seed", type=int, default=1000)
    arguments.add_argument("cases", nargs="*")
    args = arguments.parse_args()
    chosen = [(name, CASES[name]) for name in args.cases or list(CASES)[:: args.every]]
    drawn = [(f"random {s}", random_case(s)) for s in range(args.seed, args.seed + args.random)]
    failed = False
    for mode in args.mode.split(","):
        wrong = refused = 0
        for name, case in chosen + drawn:
            is_random = name.startswith("random ")
            with tempfile.TemporaryDirectory() as folder:
                found, said, theirs = measure(args.qcc, case, mode, folder, beside=mode == "static" and is_random)
            bad = found.startswith("failed") if isinstance(found, str) else is_wrong(name, mode, found, said, theirs, is_random)
            wrong, refused = wrong + bad, refused + (isinstance(found, str) and not bad)
            if bad or args.cases:
                print(f"{mode} {name}: {found if isinstance(found, str) else f'{found:.1f} dB'}" + (f", ONNX Runtime {theirs:.1f} dB" if theirs is not None else ""), "" if not is_random else case.nodes)
        print(f"{mode}: {len(chosen + drawn)} models, {refused} refused, {wrong} wrong", flush=True)
        failed = failed or wrong > 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
