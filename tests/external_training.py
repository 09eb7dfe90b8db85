#!/usr/bin/env python3
"""What `qcc finetune --emit-trainer` writes: its forward pass has the codes of the compiled model, two processes make the steps of one, and qcc
compiles what comes back."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import onnx  # noqa: F401
    import torch  # noqa: F401
except ImportError as e:
    print(f"skipped: no {e.name}")
    sys.exit(0)

HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLE = os.path.join(HERE, "../examples/models/resnet_cifar10.onnx")
SHARED = os.path.join(HERE, "../../shared/data/models")
# Networks, with what they have that others lack; the first pair of precisions of the example is trained too.
NETWORKS = [
    (EXAMPLE, (3, 32, 32), [("4", "8"), ("8", "8"), ("inq4", "4")]),
    (os.path.join(SHARED, "mobilenet_v1_0.75_224.onnx"), (3, 224, 224), [("4", "8")]),
]
COUNT = 8


def run(*arguments, environment=None):
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{arguments}: {done.stdout}{done.stderr}")
    return done.stdout


def codes_of(folder, work, data, *more):
    """Codes of the first output, and what they stand for."""
    run(sys.executable, os.path.join(folder, "train.py"), "--data", data, "--codes", os.path.join(work, "codes.npz"), *more)
    with open(os.path.join(folder, "network.json")) as file:
        row = json.load(file)["outputs"][0]
    codes = np.load(os.path.join(work, "codes.npz"))[row["value"]]
    return ((codes - row["zero"]).astype(np.float32) * np.float32(row["scale"])).reshape(len(codes), -1)


def outputs(qcc, work, model, data):
    path = os.path.join(work, "y.npy")
    run(qcc, "run", model, "--input", data, "--output", path)
    return np.load(path).reshape(COUNT, -1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--qcc", required=True)
    qcc = parser.parse_args().qcc
    for network, dims, precisions in NETWORKS:
        name = os.path.basename(network)
        if not os.path.exists(network):
            print(f"{name}: not here")
            continue
        for weights, activations in precisions:
            with tempfile.TemporaryDirectory() as work:
                check(qcc, work, network, dims, weights, activations)
            print(f"{name}: {weights}/{activations}")


def check(qcc, work, network, dims, weights, activations):
    what = f"{os.path.basename(network)} {weights}/{activations}"
    at = lambda file: os.path.join(work, file)
    random = np.random.default_rng(1)
    # Images with some order in them.
    x = random.standard_normal((COUNT, *dims), dtype=np.float32)
    np.save(at("x.npy"), np.cumsum(x, -1, dtype=np.float32) / np.float32(dims[-1] ** 0.5))
    common = [qcc, "finetune", network, "--calibrate", at("x.npy"), "--weights", weights, "--activations", activations]
    common += ["--round-weights", "off", "--epochs", "1", "--batch", "4"]
    run(*common, "--rate", "0.01", "--emit-trainer", at("trainer"))
    run(*common, "--rate", "0", "--scale-rate", "0", "-o", at("start.so"))
    scores = codes_of(at("trainer"), work, at("x.npy"))
    before = outputs(qcc, work, at("start.so"), at("x.npy"))
    if scores.shape == before.shape and not np.isclose(before.sum(1), 1.0, atol=0.05).all():
        assert (scores == before).all(), f"{what}: {(scores != before).sum()} of {before.size} outputs differ"
    else:
        # The model ends with a softmax.
        assert (scores.argmax(1) == before.argmax(1)).mean() >= 0.9, what
    if (network, weights) != (EXAMPLE, "4"):
        return
    program = at("trainer/train.py")
    lines = [run(sys.executable, program, "--data", at("x.npy"), "-o", at("one.onnx"))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    lines.append(run(*torchrun, program, "--data", at("x.npy"), "-o", at("two.onnx")))
    # Gradients of two processes are added in another order than those of one: their losses agree to some digits.
    before, after = [[line.split("loss ")[1].split(",")[0] for line in text.splitlines() if "loss" in line] for text in lines]
    assert len(before) == 3 and np.allclose(np.float64(before), np.float64(after), rtol=0.05), lines
    trained = codes_of(at("trainer"), work, at("x.npy"), "--start", at("two.onnx"))
    run(qcc, at("two.onnx"), "-o", at("two.so"))
    compiled = outputs(qcc, work, at("two.so"), at("x.npy"))
    noise = 10 * np.log10((trained**2).sum() / ((trained - compiled) ** 2).sum())
    assert noise > 15, f"{what}: {noise:.1f} dB between what was trained and what was compiled"


main()
