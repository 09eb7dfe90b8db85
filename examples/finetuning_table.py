#!/usr/bin/env python3
"""Methods x precisions x networks: top-1 of fine-tuned integer models beside that of the float ones.

    pip install numpy
    python examples/finetuning_table.py resnet20.onnx resnet44.onnx --calibrate calib.npz --samples 512 \\
        --data train.npy --labels train_labels.npy --test test.npz --test-labels test_labels.npy \\
        --rows none:8/8 faq:8/8 none:4/8 faq:4/8 none:4/4 faq:4/4 apprentice:4/8 -o table.md

A row is RECIPE:WEIGHTS/ACTIVATIONS, as `qcc finetune --recipe`, `--weights` and `--activations` take them; `none` compiles without training. Flags behind `--` go to every
training, as `-- --epochs 2 --augment flip,shift`; `apprentice` takes `--teacher` from there, or the last of the networks. Both models run on the same test samples, so that
they are a pair: the interval of the difference of their shares has 95 % (of `n` differences -1, 0 or 1: mean +- 1.96 s / sqrt(n)).
Compiled models and logs stay in --work; what is there already is not made again. The table is Markdown, and begins with the command that made it.
"""
import argparse
import os
import re
import shlex
import subprocess
import sys
import time

import numpy as np


def qcc(arguments, log=None):
    """Runs qcc; ends the script with its message if it fails."""
    done = subprocess.run(arguments, capture_output=True, text=True)
    if log:
        with open(log, "w") as file:
            file.write(f"$ {shlex.join(arguments)}\n{done.stderr}")
    if done.returncode:
        sys.exit(f"{shlex.join(arguments)}\n{done.stderr}")
    return done.stderr


def array(path):
    """The one array of a file."""
    data = np.load(path)
    return data if isinstance(data, np.ndarray) else data[data.files[0]]


def right(command, model, test, labels, work, flags=()):
    """Which test samples a model puts into their class."""
    scores = os.path.join(work, "scores.npy")
    qcc([command, "run", model, *flags, "--input", test, "--output", scores])
    return array(scores).reshape(len(labels), -1).argmax(1) == labels


def build(args, network, recipe, weights, activations):
    """The compiled model of a row, and the CPU seconds that it took if it was made now."""
    name = f"{os.path.splitext(os.path.basename(network))[0]}_{recipe}_{weights}_{activations}"
    output = os.path.join(args.work, name + ".so")
    if os.path.exists(output):
        return output, None
    common = [network, "--calibrate", args.calibrate, "--weights", weights, "--activations", activations, "-o", output]
    if args.samples:
        common += ["--samples", str(args.samples)]
    if recipe == "none":
        command = [args.qcc, *common]
    else:
        command = [args.qcc, "finetune", *common, "--data", args.data, "--recipe", recipe, *args.flags]
        if args.labels:
            command += ["--labels", args.labels]
        if recipe == "apprentice" and "--teacher" not in args.flags:
            command += ["--teacher", args.networks[-1]]
    before = os.times()
    qcc(command, os.path.join(args.work, name + ".log"))
    after = os.times()
    return output, after.children_user + after.children_system - before.children_user - before.children_system


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="float models: .onnx")
    parser.add_argument("--calibrate", required=True, help="samples to calibrate with")
    parser.add_argument("--samples", type=int, help="so many of them at most")
    parser.add_argument("--data", help="samples to learn from")
    parser.add_argument("--labels", help="their classes")
    parser.add_argument("--test", required=True, help="inputs that no training saw: .npy, or .npz of one input")
    parser.add_argument("--test-labels", required=True, help="their classes")
    parser.add_argument("--rows", nargs="+", required=True, metavar="RECIPE:W/A")
    parser.add_argument("--qcc", default="qcc", help="the command")
    parser.add_argument("--work", default="finetuning", help="folder of compiled models and logs")
    parser.add_argument("-o", "--output", help="file to write [default: standard output]")
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    args.flags = flags
    rows = [re.fullmatch(r"(\w+):(\w+)/(\w+)", row) or parser.error(f"--rows: `{row}` is no RECIPE:W/A") for row in args.rows]
    args.rows = [row.groups() for row in rows]
    if not args.data and any(recipe != "none" for recipe, _, _ in args.rows):
        parser.error("--data: there is nothing to learn from")
    return args


def main():
    args = arguments()
    os.makedirs(args.work, exist_ok=True)
    labels = array(args.test_labels).reshape(-1)
    if args.test.endswith(".npz"):
        plain = os.path.join(args.work, "test.npy")
        np.save(plain, array(args.test))
        args.test = plain
    lines = [f"`{shlex.join(['python', *sys.argv])}`, {len(labels)} test samples:", ""]
    lines += ["| network | recipe | weights / values | top-1, % | float, % | difference, points (95 %) | CPU time, s |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for network in args.networks:
        float_right = right(args.qcc, network, args.test, labels, args.work, ["--float"])
        for recipe, weights, activations in args.rows:
            model, seconds = build(args, network, recipe, weights, activations)
            own = right(args.qcc, model, args.test, labels, args.work)
            pair = 100.0 * (own.astype(float) - float_right)
            half = 1.96 * pair.std(ddof=1) / len(pair) ** 0.5
            name = os.path.splitext(os.path.basename(network))[0]
            taken = "" if seconds is None else f"{seconds:.0f}"
            lines.append(
                f"| {name} | {recipe} | {weights} / {activations} | {100 * own.mean():.2f} | {100 * float_right.mean():.2f} "
                f"| {pair.mean():+.2f} ({pair.mean() - half:+.2f} to {pair.mean() + half:+.2f}) | {taken} |"
            )
            print(f"{time.strftime('%H:%M:%S')} {lines[-1]}", file=sys.stderr)
    text = "\n".join(lines) + "\n"
    if args.output:
        with open(args.output, "w") as file:
            file.write(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
