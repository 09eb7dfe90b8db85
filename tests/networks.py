#!/usr/bin/env python3
"""Exports torchvision's networks and a BERT encoder in every way that exporters offer, and checks that qcc compiles them
fully to integers.

usage: networks.py [--qcc PATH] [--nets NAME,..] [--size PIXELS] [--opsets 11,13,17,18] [--quick] [--ort]

For each net: opset x exporter (legacy, dynamo) x batch normalization (folded, kept) x batch (static, dynamic). Every file is
compiled, `qcc check` must find no float instruction outside the float interface, and one file a net is calibrated on 8 normal
samples and compared with float on 4 others. With `--ort`, ONNX Runtime's static int8 (QDQ, U8S8, per channel, the same samples) is
measured beside it, and qcc may be 0.5 dB below it at most. Weights are random, seeded; files go to a temporary folder.

Skips visibly, with exit code 0, where Python lacks torch, torchvision or onnx. Exit code 3 if a check fails.
"""
import argparse, json, logging, os, subprocess, sys, tempfile, warnings

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
try:
    import numpy as np
    import onnx
    import torch
    from torch import nn
    import torchvision.models as tv
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(0)

SEED = 20261122


class Bert(nn.Module):
    """Encoder layers as in BERT-base: 12 heads, erf-GELU, normalization behind."""

    def __init__(self, layers=2, width=768, heads=12, inner=3072):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, inner, 0.0, "gelu", 1e-12, True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for p in self.encoder.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)

    def forward(self, x):
        return self.encoder(x)


class Masked(Bert):
    """The same with words and positions in front, of which a mask switches some off, as libraries write it."""

    def __init__(self, words=1000, length=64, width=128):
        super().__init__(2, width, 4, 256)
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.norm, self.heads = nn.LayerNorm(width), 4
        self.register_buffer("positions", torch.arange(length)[None])

    def forward(self, ids, mask):
        x = self.norm(self.words(ids) + self.places(self.positions))
        allowed = mask.bool()[:, None, None, :]
        off = torch.where(allowed, 0.0, torch.finfo(x.dtype).min)
        for layer in self.encoder.layers:
            attention = layer.self_attn
            q, k, v = nn.functional.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
            q, k, v = (t.reshape(*t.shape[:2], self.heads, -1).transpose(1, 2) for t in (q, k, v))
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + off
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
            x = layer.norm1(x + attention.out_proj(mixed))
            x = layer.norm2(x + layer.linear2(nn.functional.gelu(layer.linear1(x), approximate="tanh")))
        return x


def image(make):
    return lambda size: (make(), {"input": (1, 3, size, size)})


NETS = {
    "resnet18": image(lambda: tv.resnet18(weights=None)),
    "resnet34": image(lambda: tv.resnet34(weights=None)),
    "resnet50": image(lambda: tv.resnet50(weights=None)),
    "resnet152": image(lambda: tv.resnet152(weights=None)),
    "inception_v3": lambda size: (tv.inception_v3(weights=None, aux_logits=True, init_weights=False), {"input": (1, 3, max(size, 75), max(size, 75))}),
    "densenet161": image(lambda: tv.densenet161(weights=None)),
    "vgg16_bn": image(lambda: tv.vgg16_bn(weights=None)),
    "mobilenet_v2": image(lambda: tv.mobilenet_v2(weights=None)),
    "mobilenet_v3_small": image(lambda: tv.mobilenet_v3_small(weights=None)),
    "mobilenet_v3_large": image(lambda: tv.mobilenet_v3_large(weights=None)),
    "squeezenet1_1": image(lambda: tv.squeezenet1_1(weights=None)),
    "efficientnet_b0": image(lambda: tv.efficientnet_b0(weights=None)),
    "shufflenet_v2_x1_0": image(lambda: tv.shufflenet_v2_x1_0(weights=None)),
    "vit_b_16": lambda size: (tv.VisionTransformer(size // 16 * 16, 16, 12, 12, 768, 3072), {"input": (1, 3, size // 16 * 16, size // 16 * 16)}),
    "bert": lambda size: (Bert(), {"input": (1, 128, 768)}),
    "bert_masked": lambda size: (Masked(), {"ids": (1, 64), "mask": (1, 64)}),
}
QUICK = ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x1_0", "bert_masked"]


def build(name, size):
    torch.manual_seed(SEED)
    net, shapes = NETS[name](size)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out" if m.groups == 1 else "fan_in", nonlinearity="relu")
    for m in norms:
        nn.init.uniform_(m.weight, 0.5, 1.5)
        nn.init.normal_(m.bias, 0, 0.2)
        m.momentum = None
        m.reset_running_stats()
    net.eval()
    if norms:  # running statistics of normal data
        for m in norms:
            m.train()
        with torch.no_grad():
            net(torch.randn((4,) + shapes["input"][1:]))
        net.eval()
    if name == "vit_b_16":  # torchvision begins with a head of zeros
        nn.init.normal_(net.heads.head.weight, std=0.02)
    return net, shapes


def export(net, shapes, path, opset, dynamo, keep, dynamic):
    args = tuple(torch.from_numpy(x) for x in samples(shapes, 1, 0).values())
    options = dict(opset_version=opset, input_names=list(shapes), output_names=["output"], dynamo=dynamo)
    if dynamo:
        options["verbose"] = False
        if dynamic:
            options["dynamic_shapes"] = tuple({0: torch.export.Dim("batch")} for _ in shapes)
        if keep:
            options["optimize"] = False
    else:
        if dynamic:
            options["dynamic_axes"] = {name: {0: "batch"} for name in [*shapes, "output"]}
        if keep:
            options.update(training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)
    with open(os.devnull, "w") as null:  # exporters print their progress
        saved, sys.stdout = sys.stdout, null
        try:
            torch.onnx.export(net, args, path, **options)
        finally:
            sys.stdout = saved


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [l for l in done.stderr.splitlines() if l.startswith("error")]
    return done.returncode, done.stdout, lines[0] if lines else done.stderr.strip()[-200:]


def samples(shapes, n, seed):
    """Arrays by the names of inputs: words, a mask of which the end is 0, or normal numbers."""
    r = np.random.default_rng(seed)

    def one(name, shape):
        if name == "ids":
            return r.integers(0, 1000, shape)
        if name == "mask":
            return (np.arange(shape[1]) < r.integers(shape[1] // 4, shape[1] + 1)).astype(np.int64)[None]
        return r.standard_normal(shape, dtype=np.float32)

    return {name: np.concatenate([one(name, shape) for _ in range(n)]) for name, shape in shapes.items()}


def split(arrays):
    """One sample after the other."""
    return [{name: x[i : i + 1] for name, x in arrays.items()} for i in range(len(next(iter(arrays.values()))))]


def sqnr(reference, result):
    noise = np.sum((reference - result).astype(np.float64) ** 2)
    return 10 * np.log10(np.sum(reference.astype(np.float64) ** 2) / max(noise, 1e-30))


def accuracy(qcc, path, shapes, folder, with_ort):
    """SQNR of qcc, and of ONNX Runtime's static int8."""
    calibration, held_out = samples(shapes, 8, 1), samples(shapes, 4, 77)
    files = [os.path.join(folder, n) for n in ("calibration.npz", "held_out.npz")]
    np.savez(files[0], **calibration)
    np.savez(files[1], **held_out)
    code, out, fault = run([qcc, "compare", path, "--calibrate", files[0], "--data", files[1], "--layers", "0", "--json"])
    if code:
        raise RuntimeError(fault)
    ours = json.loads(out)["sqnr_db"]
    if not with_ort:
        return ours, None
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.all = iter(split(calibration))

        def get_next(self):
            return next(self.all, None)

    prepared, quantized = os.path.join(folder, "prepared.onnx"), os.path.join(folder, "quantized.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, quantized, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=False,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    def results(file):
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, x)[0] for x in split(held_out)])
    return ours, sqnr(results(path), results(quantized))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--qcc", default=os.environ.get("QCC", os.path.join(root, "target/debug/qcc")))
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--opsets", default="11,13,17,18")
    parser.add_argument("--quick", action="store_true", help="four small nets on small images, one opset of each exporter")
    parser.add_argument("--ort", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.nets, args.size = ",".join(QUICK), 64
    faults = 0
    for name in args.nets.split(","):
        net, shapes = build(name, args.size)
        compared = False
        for opset in [17, 18] if args.quick else [int(o) for o in args.opsets.split(",")]:
            for dynamo in (False, True):
                if dynamo and opset < 18:
                    continue  # this exporter writes operator set 18 and converts, or fails to
                for keep in (False, True):
                    for dynamic in (False, True):
                        what = f"{name} opset {opset} {'dynamo' if dynamo else 'legacy'} {'kept' if keep else 'folded'} {'dynamic' if dynamic else 'static'}"
                        with tempfile.TemporaryDirectory() as folder:
                            path, compiled = os.path.join(folder, "model.onnx"), os.path.join(folder, "model.so")
                            try:
                                export(net, shapes, path, opset, dynamo, keep, dynamic)
                            except Exception as e:  # PyTorch cannot say every net in every operator set
                                print(f"{what}: not exported: {type(e).__name__}", flush=True)
                                continue
                            code, _, fault = run([args.qcc, path, "-o", compiled])
                            if code == 0:
                                code, _, fault = run([args.qcc, "check", compiled])
                            text = "integer only" if code == 0 else f"FAILED: {fault}"
                            faults += code != 0
                            if code == 0 and not compared and not keep and not dynamic:
                                compared = True
                                ours, theirs = accuracy(args.qcc, path, shapes, folder, args.ort)
                                text += f", SQNR {ours:.2f} dB"
                                if theirs is not None:
                                    low = ours < theirs - 0.5
                                    faults += low
                                    text += f", ONNX Runtime {theirs:.2f} dB{' BELOW' if low else ''}"
                            print(f"{what}: {text}", flush=True)
    print(f"{faults} faults")
    return 3 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
