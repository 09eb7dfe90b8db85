#!/usr/bin/env python3
"""A table of networks by bits of weights and activations: accuracy, agreement with float, size and time.

usage: accuracy_table.py [--qcc PATH] [--nets NAME,..] [--settings 8/8,6/8,..] [--seconds S] [--json FILE]
       accuracy_table.py [..] --model MODEL.onnx -- FLAGS

Without `--model`: the networks and images of ../shared/data, four of them, 512 or 200 calibration images, all test images. With it: any
model, and behind `--` the flags that `qcc compare` needs for it (`--calibrate`, `--data`, `--labels`, how images are read).

A setting is weights/activations, each as `--weights` and `--activations` take them; `float` is the network on real numbers. Columns:

  top-1       share of the samples whose label comes first, where there are labels
  agreement   share of the samples whose first class is that of the float network
  SQNR        decibels of the output
  size        bytes of model.so, and their share of those at 8/8
  time        median of one inference, one thread; and how many times as fast as 8/8. The settings of a network are timed in turns, and
              times are comparable within a row's network only

The table is Markdown on stdout, progress goes to stderr. Skips visibly, with exit code 0, without ../shared or without the packages numpy
and pillow, which it reads CIFAR's images with.
"""
import argparse, json, os, subprocess, sys, tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.path.join(os.path.dirname(ROOT), "shared", "data")
SETTINGS = "8/8,6/8,4/8,3/8,4/4,pot4/8,table4/8,inq5/8"
CIFAR, IMAGENET = ["cifar10_resnet20", "cifar10_resnet44"], ["mobilenet_v1_0.75_224", "efficientnet_lite0"]


def skip(why):
    print(f"skipped: {why}")
    sys.exit(0)


def cifar(folder):
    """Flags for the CIFAR-10 networks; their images are rows of a picture, which are made a tensor here."""
    try:
        import numpy as np
        from PIL import Image
    except ImportError as e:
        skip(e)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    paths = {}
    for part in ["calib512", "test10k"]:
        pixels = np.asarray(Image.open(os.path.join(DATA, "cifar10", part + ".png"))).reshape(-1, 32, 32, 3)
        images = (pixels.astype(np.float32) / 255 - mean) / std
        labels = np.load(os.path.join(DATA, "cifar10", part + "_labels.npz"))
        paths[part] = os.path.join(folder, part + ".npz")
        np.savez(paths[part], input=np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        paths[part + ".y"] = os.path.join(folder, part + "_labels.npy")
        np.save(paths[part + ".y"], labels[labels.files[0]].astype(np.int64))
    calibration = ["--calibrate", paths["calib512"], "--samples", "512"]
    return calibration, ["--data", paths["test10k"], "--labels", paths["test10k.y"]]


def imagenet():
    images = os.path.join(DATA, "imagenet")
    reading = ["--crop", "224", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    return ["--calibrate", f"{images}/calib.txt", "--samples", "200", *reading], ["--data", f"{images}/val.txt"]


def split(flags):
    """Flags of a user's model: those that compiling takes, and those of `qcc compare` alone."""
    compiling, comparing = [], []
    names = ("--data", "--labels", "--label-offset")
    at = 0
    while at < len(flags):
        own = flags[at].split("=")[0] in names
        end = at + 1
        while end < len(flags) and not flags[end].startswith("--"):
            end += 1
        (comparing if own else compiling).extend(flags[at:end])
        at = end
    return compiling, comparing


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)} exits with {done.returncode}:\n{done.stderr}")
    return done.stdout


def bits(setting):
    weights, activations = setting.split("/")
    return ["--weights", weights] + (["--activations", activations] if activations != "8" else [])


def measure(qcc, model, calibration, data, settings, seconds, folder):
    rows = {}
    for setting in settings:
        print(f"{os.path.basename(model)}: {setting}", file=sys.stderr)
        flags = [*calibration, *bits(setting)]
        row = json.loads(run([qcc, "compare", model, *flags, *data, "--layers", "0", "--json"]))
        out = os.path.join(folder, setting.replace("/", "_") + ".so")
        run([qcc, model, *flags, "-o", out])
        row.update(size=os.path.getsize(out), file=out, ms=[])
        rows[setting] = row
    for _ in range(3):
        for row in rows.values():
            timed = json.loads(run([qcc, "bench", row["file"], "--threads", "1", "--seconds", str(seconds), "--json"]))
            row["ms"].append(timed["median_ms"])
    for row in rows.values():
        row["ms"] = sorted(row["ms"])[1]
        os.remove(row.pop("file"))
    return rows


def percent(share):
    return "-" if share is None else f"{100 * share:.2f} %"


def table(net, rows):
    lines = []
    first = next(iter(rows.values()))
    base = rows.get("8/8", first)
    lines.append(f"| {net} | float | {percent(first['float_top1'])} | 100 % | | | |")
    for setting, r in rows.items():
        size = f"{r['size']:,} ({r['size'] / base['size']:.2f})".replace(",", " ")
        time = f"{r['ms']:.2f} ms ({base['ms'] / r['ms']:.2f}x)"
        top1, agreement = percent(r["int_top1"]), percent(r["agreement"])
        lines.append(f"| {net} | {setting} | {top1} | {agreement} | {r['sqnr_db']:.1f} dB | {size} | {time} |")
    return lines


def main():
    own = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qcc", default=os.path.join(ROOT, "target", "release", "qcc"))
    parser.add_argument("--nets", default=",".join(CIFAR + IMAGENET))
    parser.add_argument("--settings", default=SETTINGS)
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, three times a setting")
    parser.add_argument("--model")
    parser.add_argument("--json", help="file for all figures")
    args = parser.parse_args(sys.argv[1:own])
    settings = args.settings.split(",")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.model:
            nets = {args.model: split(sys.argv[own + 1 :])}
        else:
            if not os.path.isdir(DATA):
                skip("no ../shared")
            names = args.nets.split(",")
            unknown = [n for n in names if n not in CIFAR + IMAGENET]
            if unknown:
                sys.exit(f"error: no network {unknown[0]}: they are {', '.join(CIFAR + IMAGENET)}; --model takes any file")
            inputs = cifar(folder) if set(names) & set(CIFAR) else None
            nets = {f"{DATA}/models/{n}.onnx": inputs if n in CIFAR else imagenet() for n in names}
        print("| network | weights/activations | top-1 | agreement | SQNR | size in bytes | time |\n|---|---|---|---|---|---|---|")
        for model, (calibration, data) in nets.items():
            name = os.path.basename(model).removesuffix(".onnx")
            figures[name] = measure(args.qcc, model, calibration, data, settings, args.seconds, folder)
            print("\n".join(table(name, figures[name])), flush=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(figures, f, indent=1)


main()
