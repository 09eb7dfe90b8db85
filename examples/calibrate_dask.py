#!/usr/bin/env python3
"""Calibrate on several processes or machines by Dask: each task finds the ranges of its shard, and the tables merge into that of one run, byte for byte.

    pip install dask distributed
    python examples/calibrate_dask.py resnet20.onnx --data calib.npz --shards 4 -o ranges.json
    python examples/calibrate_dask.py resnet20.onnx --data images/ --scheduler tcp://host:8786 -o ranges.json -- --preset imagenet

With `--scheduler` the workers are those of a running cluster, which see the model, the samples and the folder of --output under the same paths; without, processes of this machine. Flags behind
`--` go to `qcc calibrate`.
"""
import argparse
import os
import subprocess
import sys

from dask.distributed import Client


def shard(command, i, count, output):
    """Ranges of every `count`-th sample; runs on a worker."""
    part = f"{output}.{i}"
    done = subprocess.run([*command, "--shard", f"{i}/{count}", "-o", part], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return part


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--scheduler", help="address of a running cluster")
    parser.add_argument("--qcc", default="qcc", help="the command")
    parser.add_argument("-o", "--output", required=True)
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    paths = [os.path.abspath(p) for p in (args.model, args.data, args.output)]
    command = [args.qcc, "calibrate", paths[0], "--data", paths[1], "--threads", "1", *flags]
    here = {} if args.scheduler else {"n_workers": min(args.shards, os.cpu_count()), "threads_per_worker": 1}
    with Client(args.scheduler, dashboard_address=None, **here) as client:
        tasks = [client.submit(shard, command, i + 1, args.shards, paths[2], pure=False) for i in range(args.shards)]
        parts = client.gather(tasks)
    subprocess.run([args.qcc, "ranges", "merge", *parts, "-o", paths[2]], check=True)
    for part in parts:
        os.remove(part)


if __name__ == "__main__":
    main()
