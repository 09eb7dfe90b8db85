#!/usr/bin/env python3
"""Tries the wheel that is installed in this Python, as a new user does: wheel.py MODEL.onnx PICTURE NAMES

Arrays of numpy go in and come out, and a picture is classified: by the module where Pillow can read it, and by the command.
"""
import os
import subprocess
import sys
import sysconfig
import time
import warnings

import numpy as np
import qcc

model, picture, names = sys.argv[1:]
assert os.path.dirname(qcc.command()) == sysconfig.get_path("scripts"), qcc.command()
assert qcc.__file__.startswith(sysconfig.get_path("purelib")), qcc.__file__

# Classes that are far apart stay what they are in integers, and so does a batch.
samples = np.random.default_rng(1).normal(size=(8, 3, 32, 32)).astype(np.float32)
compiled = qcc.compile(model, output="wheel.so", calibrate=samples)
scores = compiled.run(samples)
assert scores.shape == (8, 10) and scores.dtype == np.float32, (scores.shape, scores.dtype)
assert np.array_equal(scores[3:4], compiled.run(samples[3:4]))
assert np.array_equal(scores, qcc.load("wheel.so").run(samples))
tensor = compiled.inputs[0]
stored = np.clip(np.rint(samples / np.float32(tensor.scale)) + tensor.zero_point, np.iinfo(tensor.dtype).min, np.iinfo(tensor.dtype).max)
integers, output = compiled.run_int(stored), compiled.outputs[0]
step = np.abs((integers.astype(np.float32) - output.zero_point) * np.float32(output.scale) - scores).max()
assert step <= 1e-4 * np.abs(scores).max(), step
# What the command warns of is not lost.
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    qcc.compile(model, export_for="avx2")
assert any("--export-for" in str(w.message) for w in caught), caught
try:
    compiled.run(samples[:, :, :5])
except qcc.Error as error:
    print("refused:", error)
else:
    sys.exit("an array of another shape is accepted")

start = time.monotonic()
subprocess.run([qcc.command(), model, "-o", "net.so", "--preset", "cifar10", "--resize", "32x32"], check=True, stdout=subprocess.DEVNULL)
said = subprocess.run([qcc.command(), "run", "net.so", "--input", picture, "--top", "1", "--labels", names], check=True, stdout=subprocess.PIPE, text=True).stdout
assert "ship" in said, said
print(f"a picture by the command: {said.split()[-1]}, {time.monotonic() - start:.1f} s")

try:
    from PIL import Image
except ImportError:
    print("skipped: no Pillow, no picture by the module")
    sys.exit()
start = time.monotonic()
net = qcc.compile(model)
x = np.asarray(Image.open(picture).resize((32, 32)), np.float32) / 255
x = ((x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)[None]
name = open(names).read().split()[net.run(x).argmax()]
assert name == "ship", name
print(f"a picture by the module: {name}, {time.monotonic() - start:.1f} s")
