#!/usr/bin/env python3
"""Calibration by Dask on processes of this machine gives the table of one run, byte for byte."""
import argparse
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import dask.distributed  # noqa: F401
except ImportError as e:
    print(f"skipped: no {e.name}")
    sys.exit(0)

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
MODEL = os.path.join(ROOT, "examples/models/resnet_cifar10.onnx")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--qcc", required=True)
    qcc = os.path.abspath(parser.parse_args().qcc)
    with tempfile.TemporaryDirectory() as work:
        at = lambda name: os.path.join(work, name)
        np.save(at("x.npy"), np.random.default_rng(1).standard_normal((11, 3, 32, 32), dtype=np.float32))
        by_dask = [sys.executable, os.path.join(ROOT, "examples/calibrate_dask.py"), MODEL, "--qcc", qcc]
        subprocess.run([*by_dask, "--data", at("x.npy"), "--shards", "3", "-o", at("shards.json")], check=True)
        subprocess.run([qcc, "calibrate", MODEL, "--data", at("x.npy"), "-o", at("whole.json")], check=True, capture_output=True)
        shards, whole = (open(at(name), "rb").read() for name in ("shards.json", "whole.json"))
        assert shards == whole, "the tables differ"
        assert sorted(os.listdir(work)) == ["shards.json", "whole.json", "x.npy"], os.listdir(work)


if __name__ == "__main__":
    main()
