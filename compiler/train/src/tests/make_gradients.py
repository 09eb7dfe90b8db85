"""Writes network.qir and gradients.txt: a small network on quantized types, and PyTorch's derivatives of a distillation loss by its
weights, biases and the logarithms of its scales, rounding straight through.

    python make_gradients.py          needs torch and numpy

Numbers near a tie would round otherwise in 64ths than in single precision: another seed is taken where there are any.
"""

import pathlib

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
X, HIDDEN, SUM, MEAN, OUT = (1, 2, 5, 5), (1, 4, 5, 5), (1, 4, 5, 5), (1, 4), (1, 3)
SCALES = {"hidden": (0.11, 0, 15), "sum": (0.17, 0, 15), "mean": (0.013, 0, 255), "logits": (0.019, 128, 255)}
INPUT = (0.02, 128)
TEMPERATURE = 2.0


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v):
        return torch.round(v)

    @staticmethod
    def backward(ctx, g):
        return g


def cut(q, lo, hi):
    """What is cut off has no derivative; what is at a bound by itself has one."""
    return torch.where((q >= lo) & (q <= hi), q, torch.clamp(q.detach(), lo, hi))


def fake(x, log_scale, zero, lo, hi, margins):
    s = torch.exp(log_scale)
    v = x / s + zero
    inside = v.detach()[(v.detach() > lo - 0.6) & (v.detach() < hi + 0.6)]
    margins.append(float((inside - torch.floor(inside) - 0.5).abs().min()) if inside.numel() else 1.0)
    q = cut(Straight.apply(v), lo, hi)
    return (q - zero) * s, q


def weights(w, log_scales, margins):
    shape = (-1,) + (1,) * (w.dim() - 1)
    s = torch.exp(log_scales).reshape(shape)
    v = w / s
    margins.append(float((v.detach() - torch.floor(v.detach()) - 0.5).abs().min()))
    return cut(Straight.apply(v), -7, 7) * s


def make(seed):
    rng = np.random.default_rng(seed)
    p, margins = {}, []
    leaf = lambda a: torch.tensor(a, dtype=torch.float64, requires_grad=True)
    shapes = {"w1": (4, 2, 3, 3), "w2": (4, 4, 3, 3), "w3": (3, 4)}
    codes = {}
    for name, shape in shapes.items():
        codes[name] = rng.integers(-7, 8, shape)
        scale = rng.uniform(0.04, 0.07, shape[0]).astype(np.float32)
        p[name + ".scales"] = leaf(np.log(scale.astype(np.float64)))
        # Shadows are beside their integers, some of them cut off.
        moved = codes[name] + rng.uniform(-0.4, 0.4, shape) + np.sign(codes[name]) * (abs(codes[name]) == 7)
        real = moved * scale.reshape((-1,) + (1,) * (len(shape) - 1)).astype(np.float64)
        p[name] = leaf(real)
    inputs = {"w1": INPUT[0], "w2": SCALES["hidden"][0], "w3": SCALES["mean"][0]}
    for name in shapes:
        scale = np.exp(p[name + ".scales"].detach().numpy()) * inputs[name]
        codes[name + ".bias"] = rng.integers(-40, 40, shapes[name][0])
        p[name + ".bias"] = leaf(codes[name + ".bias"] * scale)
    for name, (scale, _, _) in SCALES.items():
        p[name] = leaf(np.log(scale))
    x = rng.integers(0, 256, X)
    real = torch.tensor((x - INPUT[1]) * INPUT[0], dtype=torch.float64)
    w = {n: weights(p[n], p[n + ".scales"], margins) for n in shapes}
    rounded = lambda v, name: fake(v, p[name], SCALES[name][1], 0, SCALES[name][2], margins)
    hidden, _ = rounded(torch.nn.functional.conv2d(real, w["w1"], p["w1.bias"], padding=1), "hidden")
    total, _ = rounded(torch.nn.functional.conv2d(hidden, w["w2"], p["w2.bias"], padding=1) + hidden, "sum")
    mean, _ = rounded(total.mean((2, 3)), "mean")
    logits, q = rounded(mean @ w["w3"].T + p["w3.bias"], "logits")
    target = torch.tensor(rng.normal(0, 1, OUT))
    soft = torch.log_softmax(target / TEMPERATURE, 1)
    own = torch.log_softmax(logits / TEMPERATURE, 1)
    loss = TEMPERATURE**2 * (soft.exp() * (soft - own)).sum()
    loss.backward()
    # Weights are far from ties.
    return min(m for m in margins[3:]), p, codes, x, q, target, loss


def numbers(values, kind=float):
    return "[" + ", ".join(repr(kind(v)) for v in np.asarray(values).reshape(-1)) + "]"


def qir(p, codes):
    f = lambda v: repr(float(np.float32(v)))
    uniform = lambda s, z: f"!quant.uniform<u8:f32, {f(s)}" + (f":{z}>" if z else ">")
    low = lambda s: f"!quant.uniform<u8<0:15>:f32, {f(s)}>"
    ty = lambda dims, elem: "tensor<" + "x".join(map(str, dims)) + "x" + elem + ">"
    lines = []
    inputs = {"w1": INPUT[0], "w2": SCALES["hidden"][0], "w3": SCALES["mean"][0]}
    for name in ("w1", "w2", "w3"):
        scale = np.exp(p[name + ".scales"].detach().numpy())
        axis = lambda s: "{" + ", ".join(f(v) for v in s) + "}"
        w = f"!quant.uniform<i8<-7:7>:f32:0, {axis(scale)}>"
        b = f"!quant.uniform<i32:f32:0, {axis(scale * inputs[name])}>"
        lines.append(f"  const @{name} : {ty(codes[name].shape, w)} = dense<{numbers(codes[name], int)}>")
        lines.append(f"  const @{name}.bias : {ty(codes[name + '.bias'].shape, b)} = dense<{numbers(codes[name + '.bias'], int)}>")
    s = {n: SCALES[n][0] for n in SCALES}
    body = [
        f"  %hidden = nn.conv2d(%x, @w1, @w1.bias) {{pads = [1, 1, 1, 1]}} : {ty(HIDDEN, low(s['hidden']))}",
        f"  %conv = nn.conv2d(%hidden, @w2, @w2.bias) {{pads = [1, 1, 1, 1]}} : {ty(SUM, uniform(0.05, 128))}",
        f"  %sum = nn.add(%conv, %hidden) : {ty(SUM, low(s['sum']))}",
        f"  %mean = nn.reduce_mean(%sum) {{axes = [2, 3], keepdims = false}} : {ty(MEAN, uniform(s['mean'], 0))}",
        f"  %logits = nn.linear(%mean, @w3, @w3.bias) : {ty(OUT, uniform(s['logits'], 128))}",
        "  return %logits",
    ]
    head = f"graph @small(%x: {ty(X, uniform(*INPUT))}) -> ({ty(OUT, uniform(s['logits'], 128))}) {{"
    return "\n".join(["// Made by make_gradients.py.", head, *lines, *body, "}", ""])


best = max((make(seed) for seed in range(300)), key=lambda made: made[0])
margin, p, codes, x, q, target, loss = best
assert margin > 1 / 50, margin
(FOLDER / "network.qir").write_text(qir(p, codes))
rows = [f"x {numbers(x, int)}", f"codes {numbers(q.detach().numpy(), int)}", f"target {numbers(target)}", f"loss [{loss.item()!r}]"]
rows += [f"{n}.shadows {numbers(p[n].detach().numpy())}" for n in ("w1", "w2", "w3")]
rows += [f"{name} {numbers(t.grad.numpy())}" for name, t in p.items()]
(FOLDER / "gradients.txt").write_text("\n".join(rows) + "\n")
print(f"least distance from a tie {margin:.4f}, loss {loss.item():.4f}")
