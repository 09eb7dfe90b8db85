#!/usr/bin/env python3
"""Trains a network with its integer arithmetic, on any number of processes and GPUs; written by `qcc finetune --emit-trainer`.

    pip install torch onnx
    python train.py --data x.npy -o trained.onnx
    torchrun --nproc-per-node 4 train.py --data x.npy --labels y.npy -o trained.onnx
    qcc trained.onnx -o model.so

The forward pass is the integer network: sums of products are exact (in double precision, and rounded), everything behind them is computed in int64 tensors by the equations of
qcc's `docs/math.md`, so that its codes are those of the compiled model, bit for bit. Backwards each operator has the derivative of its formula without the rounding (the straight-through
estimator, Bengio et al. 2013, section 4). Weights and biases are trained; scales stay as they were calibrated. Each eighth sample is held out, 1024 at most; the best parameters on
these are what is written, and the start if none are better.

Samples are arrays, one behind the other along the first axis, as the network's input has them; they are read as they are needed. Other sources: replace `Samples`.
"""
import argparse
import json
import math
import os

import numpy as np
import onnx
import torch
import torch.distributed as dist
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
BITS = 6  # fraction bits of (3)
GREATEST_BIAS = float(1 << 30)


class Samples:
    """Inputs, and classes if there are any."""

    def __init__(self, data, labels):
        self.inputs = np.load(data, mmap_mode="r")
        if not isinstance(self.inputs, np.ndarray):
            self.inputs = self.inputs[self.inputs.files[0]]
        self.labels = None if labels is None else np.load(labels).reshape(-1)

    def __len__(self):
        return len(self.inputs)

    def batch(self, numbers):
        x = torch.from_numpy(np.array(self.inputs[numbers], dtype=np.float32))
        y = None if self.labels is None else torch.from_numpy(self.labels[numbers].astype(np.int64))
        return x, y


# --------------------------------------------------------------------------- operators of both networks


def window(x, attrs, value=0.0):
    top, left, bottom, right = attrs["pads"]
    return F.pad(x, (left, right, top, bottom), value=value) if any(attrs["pads"]) else x


def channels_last(f):
    """An operator on [N, C, H, W] for [N, H, W, C]."""
    return lambda x, *more: f(x.permute(0, 3, 1, 2), *more).permute(0, 2, 3, 1)


def slices(x, attrs):
    kept = [slice(None)] + [slice(a, b, c) for a, b, c in list(zip(attrs["starts"], attrs["ends"], attrs["steps"]))[1:]]
    return x[tuple(kept)]


def pad(x, attrs):
    n = len(attrs["pads"]) // 2
    pairs = [(attrs["pads"][d], attrs["pads"][d + n]) for d in range(n)]
    return F.pad(x, [p for pair in reversed(pairs) for p in pair], value=attrs["value"])


MOVES = {
    "tensor.reshape": lambda x, dims, attrs: x.reshape(-1, *dims[1:]),
    "tensor.transpose": lambda x, dims, attrs: x.permute(attrs["perm"]),
    "tensor.slice": lambda x, dims, attrs: slices(x, attrs),
    "tensor.pad": lambda x, dims, attrs: pad(x, attrs),
}


def greatest(x, attrs):
    x = window(x, attrs, -math.inf)
    return F.max_pool2d(x, attrs["kernel"], attrs["strides"], 0, attrs["dilations"])


def sums(x, attrs):
    """Sums over windows of [N, C, H, W]."""
    channels, (kh, kw) = x.shape[1], attrs["kernel"]
    ones = x.new_ones(channels, 1, kh, kw)
    return F.conv2d(window(x, attrs), ones, None, attrs["strides"], 0, attrs["dilations"], channels)


# --------------------------------------------------------------------------- the float network that teaches


def average(x, attrs):
    counts = x if attrs["count_include_pad"] else torch.ones_like(x[:1])
    if attrs["count_include_pad"]:
        return sums(x, attrs) / (attrs["kernel"][0] * attrs["kernel"][1])
    return sums(x, attrs) / sums(counts, attrs)


def normalized(x, scale, bias, mean, var, attrs):
    shape = [1, -1] + [1] * (x.dim() - 2)
    factor = scale / torch.sqrt(var + attrs["epsilon"])
    return x * factor.reshape(shape) + (bias - mean * factor).reshape(shape)


def convolved(x, w, bias, attrs):
    return F.conv2d(window(x, attrs), w, bias, attrs["strides"], 0, attrs["dilations"], attrs["groups"])


FLOAT = {
    "nn.conv2d": lambda o, a: convolved(o[0], o[1], o[2] if len(o) > 2 else None, a),
    "nn.linear": lambda o, a: F.linear(o[0], o[1], o[2] if len(o) > 2 else None),
    "nn.batch_norm": lambda o, a: normalized(*o, a),
    "nn.relu": lambda o, a: torch.relu(o[0]),
    "nn.clip": lambda o, a: torch.clamp(o[0], a["min"], a["max"]),
    "nn.sigmoid": lambda o, a: torch.sigmoid(o[0]),
    "nn.hard_swish": lambda o, a: o[0] * torch.clamp(o[0] / 6 + 0.5, 0, 1),
    "nn.add": lambda o, a: o[0] + o[1],
    "nn.sub": lambda o, a: o[0] - o[1],
    "nn.mul": lambda o, a: o[0] * o[1],
    "nn.max_pool": lambda o, a: greatest(o[0], a),
    "nn.average_pool": lambda o, a: average(o[0], a),
    "nn.reduce_mean": lambda o, a: o[0].mean(a["axes"], keepdim=a["keepdims"]),
}

# --------------------------------------------------------------------------- integers


class Straight(torch.autograd.Function):
    """Codes with the derivative of the real numbers that were rounded, 0 where these were cut off."""

    @staticmethod
    def forward(ctx, real, codes, inside):
        ctx.save_for_backward(inside)
        return codes.to(real.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None


def cut(u, shift, real, attrs):
    """Equation (4)."""
    codes = u >> shift
    inside = (codes >= attrs["lo"]) & (codes <= attrs["hi"])
    return Straight.apply(real, codes.clamp(attrs["lo"], attrs["hi"]), inside)


def int16(x):
    return x.clamp(-(1 << 15), (1 << 15) - 1)


def requantized(acc, mult, attrs, residual=None):
    """Equations (1) to (4); `acc` are integers in double precision."""
    exact = acc.detach().round().to(torch.int64)
    shifted = (exact << attrs["shl"]).clamp(-(1 << 31), (1 << 31) - 1)
    u = int16((shifted * mult) >> 32)
    real = acc * (mult.double() * 2.0 ** (attrs["shl"] - 38))
    if residual is not None:
        u = int16(u + ((residual.detach().to(torch.int64) * attrs["residual_mult"]) >> 8))
        real = real + residual.double() * (attrs["residual_mult"] / (1 << 14))
    return cut(int16(u + attrs["offset"]), BITS, real.float(), attrs)


def affine(terms, offset, attrs):
    """Equation (5): codes by their multipliers."""
    u = sum(x.detach().to(torch.int64) * m for x, m in terms) + offset
    real = sum(x * (m.float() if torch.is_tensor(m) else float(m)) for x, m in terms) * 2.0 ** -attrs["shift"]
    return cut(u, attrs["shift"], real, attrs)


def qconv2d(o, a, zero):
    x = channels_last(lambda x: convolved(x.double() - a["pad_value"], o[1], None, a))(o[0])
    return requantized(x + o[2], o[3], a, o[4] if len(o) > 4 else None)


def qlinear(o, a, zero):
    return requantized(F.linear(o[0].double() - zero, o[1], o[2]), o[3], a, o[4] if len(o) > 4 else None)


def mean(o, a, zero):
    acc = (o[0].double() - a["zero"]).sum(a["axes"], keepdim=a["keepdims"])
    return requantized(acc, torch.tensor(a["mult"], device=acc.device), a)


def average_pool(o, a, zero):
    acc = channels_last(lambda x: sums(x.double() - a["zero"], a))(o[0])
    mult = o[1] if o[1].numel() == 1 else o[1].reshape(1, acc.shape[1], acc.shape[2], 1)
    return requantized(acc, mult, a)


def product(o, a, zero):
    real = (o[0].double() - a["zeros"][0]) * (o[1].double() - a["zeros"][1])
    return requantized(real, torch.tensor(a["mult"], device=real.device), a)


def table(o, a, zero):
    """The derivative is that of the line between both ends of an interval, the longer the fewer results the table has."""
    values = o[1].double()
    steps = int((values[1:] != values[:-1]).sum())
    reach = 1 if steps == 0 else min(max(512 // (steps + 1), 1), 48)
    q = torch.arange(256, device=values.device)
    first, last = (q - reach).clamp(min=0), (q + reach).clamp(max=255)
    slopes = ((values[last] - values[first]) / (last - first)).float()
    at = o[0].detach().long()
    return Straight.apply(o[0] * 1.0, values[at].float(), slopes[at])


def clamped(o, a, zero):
    inside = (o[0] >= a["lo"]) & (o[0] <= a["hi"])
    return Straight.apply(o[0] * 1.0, o[0].detach().clamp(a["lo"], a["hi"]), inside)


INTEGER = {
    "int.qconv2d": qconv2d,
    "int.qlinear": qlinear,
    "int.add": lambda o, a, zero: affine([(o[0], a["mults"][0]), (o[1], a["mults"][1])], a["offset"], a),
    "int.mul": product,
    "int.rescale": lambda o, a, zero: affine([(o[0], a["mult"])], a["offset"], a),
    "int.scale_channels": lambda o, a, zero: affine([(o[0], o[1])], o[2], a),
    "int.lut": table,
    "int.clamp": clamped,
    "int.max_pool": lambda o, a, zero: channels_last(lambda x: greatest(x, a))(o[0]),
    "int.average_pool": average_pool,
    "int.mean": mean,
}


class Layer(torch.nn.Module):
    """Real numbers of a layer's weights and bias, in units of their own, and the integers that follow from them."""

    def __init__(self, row, arrays, in_units):
        super().__init__()
        self.row = row
        for name in ["weights", "bias", "scales", "bias_steps", "units"]:
            self.register_buffer("at_" + name, arrays[row[name]].float())
        self.order = arrays[row["order"]].long()
        self.weight_unit = self.at_units[:, None] if in_units else 1.0
        self.bias_unit = row["bias_unit"] if in_units else 1.0
        self.weights = torch.nn.Parameter(torch.zeros_like(self.at_weights).reshape(len(self.at_units), -1))
        self.bias = torch.nn.Parameter(torch.zeros_like(self.at_bias))

    def real(self):
        shape = self.weights.shape
        return self.at_weights.reshape(shape) + self.weight_unit * self.weights, self.at_bias + self.bias_unit * self.bias

    def integers(self):
        """Equation (6) of weights, or the nearest level, and the bias in units of the sums: as numbers with derivatives."""
        row, (w, b) = self.row, self.real()
        ratio = w / self.at_scales[:, None]
        if row["levels"] is None:
            codes = ratio.detach().round().clamp(row["min"], row["max"])
        else:
            wanted = w.detach().double() / self.at_scales[:, None].double()
            levels = sorted(row["levels"], key=lambda level: -abs(level))
            codes, best = torch.full_like(wanted, levels[0]), (wanted - levels[0]).abs()
            for level in levels[1:]:
                distance = (wanted - level).abs()
                codes, best = torch.where(distance < best, level, codes), torch.minimum(best, distance)
        inside = (ratio >= row["min"] - 0.5) & (ratio <= row["max"] + 0.5)
        of_bias = (b.double() / self.at_bias_steps.double()).clamp(-GREATEST_BIAS, GREATEST_BIAS)
        bias = torch.sign(of_bias.detach()) * torch.floor(of_bias.detach().abs() + 0.5)
        return Straight.apply(ratio.double(), codes, inside), Straight.apply(of_bias, bias, torch.ones_like(bias, dtype=torch.bool))

    def operands(self, dims):
        """Both in the order of the integer operator."""
        weights, bias = self.integers()
        return weights.reshape(-1)[self.order.to(weights.device)].reshape(dims), bias


class Network(torch.nn.Module):
    """The integer network, of which one call gives all outputs as codes."""

    def __init__(self, text, arrays):
        super().__init__()
        self.student, self.text = text["student"], text
        self.layers = torch.nn.ModuleList(Layer(row, arrays, text["recipe"]["optimizer"] == "adam") for row in text["layers"])
        used = {ref["constant"] for step in self.student["steps"] for ref in step["operands"] if isinstance(ref, dict)}
        for number in used:
            self.register_buffer(f"constant_{number}", arrays[number].clone(), persistent=False)

    def step_operands(self, step, values):
        found = []
        for position, ref in enumerate(step["operands"]):
            if not isinstance(ref, dict):
                found.append(values[ref])
            elif ref["layer"] is not None and position == 1:
                tensor = getattr(self, f"constant_{ref['constant']}")
                weights, bias = self.layers[ref["layer"]].operands(list(tensor.shape))
                found += [weights.permute(0, 3, 1, 2) if weights.dim() == 4 else weights, bias]
            elif position == 2 and isinstance(step["operands"][1], dict) and step["operands"][1]["layer"] is not None:
                continue
            else:
                tensor = getattr(self, f"constant_{ref['constant']}")
                found.append(tensor.float() if tensor.dtype == torch.uint8 and step["op"] != "int.lut" else tensor.long())
        return found

    def forward(self, *inputs):
        values = {}
        for x, row in zip(inputs, self.student["inputs"]):
            if row["quantized"] is None:
                values[row["name"]] = x.float()
            else:
                scale, zero, least, most = row["quantized"]
                values[row["name"]] = ((x / np.float32(scale).item()).round() + zero).clamp(least, most)
        for step in self.student["steps"]:
            values[step["result"]] = self.step(step, values)
        return [values[row["value"]] for row in self.text["outputs"]]

    def step(self, step, values):
        operands, attrs = self.step_operands(step, values), step["attrs"]
        if step["op"] == "tensor.concat":
            return torch.cat(operands, attrs["axis"])
        if step["op"] in MOVES:
            return MOVES[step["op"]](operands[0], step["dims"], attrs)
        return INTEGER[step["op"]](operands, attrs, step["zero"])


class Teacher:
    """The float network."""

    def __init__(self, text, arrays, device):
        self.teacher = text["teacher"]
        used = {ref["constant"] for step in self.teacher["steps"] for ref in step["operands"] if isinstance(ref, dict)}
        self.arrays = {number: arrays[number].to(device) for number in used}

    @torch.no_grad()
    def __call__(self, *inputs):
        values = {row["name"]: x for x, row in zip(inputs, self.teacher["inputs"])}
        for step in self.teacher["steps"]:
            operands = [self.arrays[r["constant"]] if isinstance(r, dict) else values[r] for r in step["operands"]]
            attrs = step["attrs"]
            if step["op"] == "tensor.concat":
                result = torch.cat(operands, attrs["axis"])
            elif step["op"] in MOVES:
                result = MOVES[step["op"]](operands[0], step["dims"], attrs)
            else:
                result = FLOAT[step["op"]](operands, attrs)
            values[step["result"]] = result
        return [values[row["name"]] for row in self.teacher["outputs"]]


# --------------------------------------------------------------------------- training


def read(folder):
    """What the folder describes, and its arrays."""
    with open(os.path.join(folder, "network.json")) as file:
        text = json.load(file)
    blob = np.fromfile(os.path.join(folder, "constants.bin"), dtype=np.uint8)
    arrays = []
    for row in text["constants"]:
        kind, count = np.dtype(row["type"]), math.prod(row["dims"])
        part = blob[row["offset"] : row["offset"] + count * kind.itemsize].view(kind).reshape(row["dims"])
        arrays.append(torch.from_numpy(part.astype(np.int64) if kind == np.uint32 else part.copy()))
    return text, arrays


def real(output, codes):
    return ((codes - output["zero"]) * output["scale"]).reshape(len(codes), -1)


def score(text, outputs, targets, labels):
    """Sum of the losses of samples, and how many agree and are right."""
    recipe, loss, agreeing, right = text["recipe"], 0.0, 0, 0
    for output, codes, target in zip(text["outputs"], outputs, targets):
        z, t = real(output, codes), target.reshape(len(codes), -1)
        if output["classes"] is None:
            power = t.square().sum(1).clamp(min=torch.finfo(t.dtype).tiny)
            loss = loss + ((z - t).square().sum(1) / power).sum()
            continue
        heat = recipe["temperature"]
        p, q = F.log_softmax(t / heat, 1), F.log_softmax(z / heat, 1)
        loss = loss + recipe["teacher"] * heat * heat * (p.exp() * (p - q)).sum()
        agreeing += int((z.argmax(1) == t.argmax(1)).sum())
        if labels is not None:
            loss = loss + recipe["labels"] * F.cross_entropy(z, labels, reduction="sum")
            right += int((z.argmax(1) == labels).sum())
    return loss, agreeing, right


def changed(x, channels_last, recipe, generator):
    """Images moved by up to an eighth of their extents, the edge repeated, and every second one mirrored."""
    if channels_last is None or x.dim() != 4 or not (recipe["flip"] or recipe["shift"]):
        return x
    planar = x.permute(0, 3, 1, 2) if channels_last else x
    height, width = planar.shape[2:]
    rows, columns = torch.arange(height), torch.arange(width)
    images = []
    for image in planar:
        mirrored = recipe["flip"] and bool(torch.randint(2, (1,), generator=generator))
        by = [0, 0]
        if recipe["shift"]:
            by = [int(torch.randint(-(n // 8), n // 8 + 1, (1,), generator=generator)) for n in (height, width)]
        across = columns.flip(0) if mirrored else columns
        image = image[:, (rows - by[0]).clamp(0, height - 1)]
        images.append(image[:, :, (across - by[1]).clamp(0, width - 1)])
    planar = torch.stack(images)
    return planar.permute(0, 2, 3, 1) if channels_last else planar


def evaluate(network, teacher, samples, numbers, batch, text, device):
    """Mean loss, agreement and share of right ones, over the samples of all processes."""
    rank, world = place()
    sums_ = torch.zeros(4, dtype=torch.float64)
    with torch.no_grad():
        own = numbers[rank::world]
        for first in range(0, len(own), batch):
            x, y = samples.batch(own[first : first + batch])
            x, y = x.to(device), None if y is None else y.to(device)
            loss, agreeing, right = score(text, network(x), teacher(x), y)
            sums_ += torch.tensor([float(loss), agreeing, right, len(x)], dtype=torch.float64)
    if world > 1:
        dist.all_reduce(sums_)
    loss, agreeing, right, count = sums_.tolist()
    return loss / count, agreeing / count, right / count


def place():
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def words(result, labelled):
    loss, agreement, accuracy = result
    return f"loss {loss:.5f}, agreement {100 * agreement:.2f} %" + (f", top-1 {100 * accuracy:.2f} %" if labelled else "")


def train(args, text, network, teacher, samples, device):
    """Trains, and leaves the best parameters in the network."""
    recipe, (rank, world) = text["recipe"], place()
    say = print if rank == 0 else (lambda *_: None)
    every = max(8, math.ceil(len(samples) / 1024))
    everything = np.arange(len(samples))
    held, learned = everything[everything % every == every - 1], everything[everything % every != every - 1]
    wrapped = torch.nn.parallel.DistributedDataParallel(network, find_unused_parameters=True) if world > 1 else network
    if recipe["optimizer"] == "adam":
        optimizer = torch.optim.Adam(network.parameters(), recipe["rate"])
    else:
        optimizer = torch.optim.SGD(network.parameters(), recipe["rate"], momentum=0.9)
    epochs, batch = args.epochs or recipe["epochs"], args.batch or recipe["batch"]
    steps = math.ceil(len(learned) / batch)
    labelled = samples.labels is not None
    start = best = evaluate(network, teacher, samples, held, batch, text, device)
    kept = {k: v.clone() for k, v in network.state_dict().items()}
    say(f"held out, {len(held)} samples, before: {words(start, labelled)}")
    for epoch in range(epochs):
        order = np.random.default_rng([recipe["seed"], epoch]).permutation(learned)
        generator = torch.Generator().manual_seed(recipe["seed"] * 1_000_003 + epoch * 1009 + rank)
        for step in range(steps):
            done = epoch * steps + step
            for group in optimizer.param_groups:
                group["lr"] = recipe["rate"] * 0.5 * (1 + math.cos(math.pi * done / (epochs * steps)))
            whole = order[step * batch : (step + 1) * batch]
            own = whole[rank::world]
            optimizer.zero_grad(set_to_none=False)
            if len(own) == 0:  # All processes take part in each step.
                own = whole[:1]
            x, y = samples.batch(own)
            x = changed(x, text["images"][0], recipe, generator).to(device)
            loss, *_ = score(text, wrapped(x), teacher(x), None if y is None else y.to(device))
            # Gradients are averaged over processes.
            (loss * world / len(whole)).backward()
            optimizer.step()
        result = evaluate(network, teacher, samples, held, batch, text, device)
        counts = 2 if labelled else 1
        better = result[0] < best[0] and result[counts] >= max(best[counts], start[counts])
        if better:
            best, kept = result, {k: v.clone() for k, v in network.state_dict().items()}
        say(f"epoch {epoch + 1}: {words(result, labelled)}" + ("; best so far" if better else ""))
    network.load_state_dict(kept)
    if best is start:
        say("nothing that training found is better on what is held out: the model stays as it was")
    say(f"written: {words(best, labelled)}")


def unpacked(tensor):
    """Codes of a tensor of bytes or of halves of bytes."""
    raw = np.frombuffer(tensor.raw_data, dtype=np.int8)
    if tensor.data_type == onnx.TensorProto.INT4:
        raw = np.stack([(raw << 4).astype(np.int8) >> 4, raw >> 4], 1).reshape(-1)[: math.prod(tensor.dims)]
    return torch.from_numpy(raw.astype(np.float32))


def go_on(network, path):
    """Takes weights and biases of a model that was written before."""
    tensors = {t.name: t for t in onnx.load(path).graph.initializer}
    for layer in network.layers:
        row, stored = layer.row, tensors[layer.row["name"]]
        if stored.data_type == onnx.TensorProto.FLOAT:
            w = torch.from_numpy(np.frombuffer(stored.raw_data, dtype="<f4").copy())
        else:
            w = (unpacked(stored).reshape(layer.weights.shape) * layer.at_scales[:, None].cpu()).reshape(-1)
        layer.at_weights.copy_(w.reshape(layer.at_weights.shape))
        if row["bias_name"] in tensors:
            codes = np.frombuffer(tensors[row["bias_name"]].raw_data, dtype="<i4").astype(np.float64)
            layer.at_bias.copy_(torch.from_numpy(codes).to(layer.at_bias.device) * layer.at_bias_steps.double())


def write(network, folder, path):
    """The model with explicit casts, with other weights and biases."""
    model = onnx.load(os.path.join(folder, "model.onnx"))
    tensors = {t.name: t for t in model.graph.initializer}
    for layer in network.layers:
        row = layer.row
        with torch.no_grad():
            w, _ = layer.real()
            codes, bias = layer.integers()
        scale = layer.at_scales[:, None]
        stored = tensors[row["name"]]
        if stored.data_type == onnx.TensorProto.FLOAT:
            # What QuantizeLinear rounds to another code is the real number of the code.
            same = (w / scale).round() == codes
            stored.raw_data = torch.where(same, w, codes.float() * scale).cpu().numpy().astype("<f4").tobytes()
        else:
            flat = codes.cpu().numpy().astype(np.int8).reshape(-1)
            if stored.data_type == onnx.TensorProto.INT4:
                flat = np.append(flat, np.int8(0))[: (len(flat) + 1) // 2 * 2].reshape(-1, 2).astype(np.uint8)
                flat = flat[:, 0] & 15 | flat[:, 1] << 4
            stored.raw_data = flat.tobytes()
        if row["bias_name"] in tensors:
            tensors[row["bias_name"]].raw_data = bias.cpu().numpy().astype("<i4").tobytes()
    onnx.save(model, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="samples: .npy, or .npz of one array")
    parser.add_argument("--labels", help="their classes: .npy")
    parser.add_argument("--epochs", type=int, help="[default: as the recipe says]")
    parser.add_argument("--batch", type=int, help="samples of a step, over all processes [default: as the recipe says]")
    parser.add_argument("--start", metavar="FILE.onnx", help="begin with what an earlier training wrote")
    parser.add_argument("--codes", metavar="FILE.npz", help="write the codes of all outputs for the samples, and do nothing else")
    parser.add_argument("-o", "--output", default="trained.onnx", help="[default: trained.onnx]")
    args = parser.parse_args()
    text, arrays = read(HERE)
    if len(text["student"]["inputs"]) != 1:
        parser.error("the network has several inputs: give `Samples` what they are, and `network` and `teacher` all of them")
    device = torch.device("cpu")
    if "WORLD_SIZE" in os.environ:
        on_gpus = torch.cuda.is_available()
        dist.init_process_group("nccl" if on_gpus else "gloo")
        if on_gpus:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
    elif torch.cuda.is_available():
        device = torch.device("cuda")
    network = Network(text, arrays).to(device)
    if args.start:
        go_on(network, args.start)
    samples = Samples(args.data, args.labels)
    if args.codes:
        with torch.no_grad():
            x, _ = samples.batch(np.arange(len(samples)))
            outputs = network(x.to(device))
        names = [row["value"] for row in text["outputs"]]
        np.savez(args.codes, **{name: codes.cpu().numpy().astype(np.int64) for name, codes in zip(names, outputs)})
        return
    train(args, text, network, Teacher(text, arrays, device), samples, device)
    if place()[0] == 0:
        write(network, HERE, args.output)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
