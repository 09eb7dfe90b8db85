#!/usr/bin/env python3
"""The speed table of a 5x5 convolution: int8_static and int8_dynamic of qcc against float32 of a peer.

    pip install onnx onnxruntime openvino
    python examples/bench_conv5.py --svg conv5.svg                      # all sizes and channels: some minutes
    python examples/bench_conv5.py --sizes 416x240 --channels 64x64     # one of them

Prints a Markdown table and draws the ratios. Sizes are those of video, channels are inputs x outputs, the weights are
random. Columns:

    float32        the faster of ONNX Runtime and OpenVINO
    static         qcc, ranges known beforehand; takes and gives floats
    core           the same model without its float interface: takes and gives 8-bit integers
    dynamic        qcc --mode int8_dynamic: ranges found in the run itself; takes and gives floats

How time is taken: see bench_peers.py. Models that would need more than --memory together run one after another.
"""
import argparse
import os
import sys

import bench_peers

SIZES = ["416x240", "832x480", "1280x720", "1920x1080", "2560x1600"]
CHANNELS = ["64x64", "3x64", "16x16"]
MODES = [("static", "qcc"), ("core", "qcc-int"), ("dynamic", "qcc-dyn")]
PEERS = ["ort-f32", "ov-f32"]
COLOURS = {"static": "#2b6cb0", "core": "#90cdf4", "dynamic": "#dd6b20"}


def model(channels, size, folder):
    """An ONNX file with the convolution; made if it is missing."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    inputs, outputs = (int(c) for c in channels.split("x"))
    width, height = (int(s) for s in size.split("x"))
    path = os.path.join(folder, f"conv5_{channels}_{size}.onnx")
    if not os.path.exists(path):
        rng = np.random.default_rng(3)
        weights = (rng.standard_normal((outputs, inputs, 5, 5)) / np.sqrt(25 * inputs)).astype(np.float32)
        bias = (0.1 * rng.standard_normal(outputs)).astype(np.float32)
        x = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, inputs, height, width])
        y = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, outputs, height, width])
        node = helper.make_node("Conv", ["input", "w", "b"], ["output"], kernel_shape=[5, 5], pads=[2, 2, 2, 2])
        constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")]
        graph = helper.make_graph([node], "conv5", [x], [y], constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(proto)
        onnx.save(proto, path)
    return path


def bytes_needed(channels, size):
    """A bound on the memory of one engine: floats in and out, and as much again for itself."""
    width, height = (int(s) for s in size.split("x"))
    return 2 * 4 * width * height * sum(int(c) for c in channels.split("x"))


def measure(channels, size, threads, engines, args):
    source = model(channels, size, args.cache)
    if bytes_needed(channels, size) * len(engines) <= args.memory * 1e9:
        return bench_peers.race(source, threads, engines, args)
    results = {}
    for engine in engines:
        results.update(bench_peers.race(source, threads, [engine], args))
    return results


def table(rows, threads):
    heads = ["channels", "size", "float32 ms"]
    for mode, _ in MODES:
        heads += [f"{mode} ms", "times faster"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for channels, size, results in rows:
        peer, name = bench_peers.best(results, PEERS)
        cells = [channels, size, f"{bench_peers.figure(peer)} ({name})" if peer else "-"]
        for _, engine in MODES:
            own = results.get(engine, {}).get("median_ms")
            cells += [bench_peers.figure(own), f"{peer / own:.2f}" if own and peer else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    return f"{threads} thread{'s' if threads > 1 else ''}, medians in milliseconds\n\n" + "\n".join(lines)


def svg(rows, threads):
    """Bars: how many times as fast as float32 each mode is."""
    groups = []
    for channels, size, results in rows:
        peer, _ = bench_peers.best(results, PEERS)
        ratios = [(mode, peer / results[e]["median_ms"]) for mode, e in MODES if peer and e in results]
        if ratios:
            groups.append((f"{channels} {size}", ratios))
    left, bar, gap, scale = 150, 14, 12, 90
    top = max([r for _, ratios in groups for _, r in ratios] + [1.0])
    height = 60 + sum(len(ratios) * bar + gap for _, ratios in groups)
    width = left + int(top * scale) + 70
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11">']
    out.append(f'<text x="8" y="16" font-size="13">5x5 convolution: times as fast as float32, {threads} thread(s)</text>')
    for i, (mode, colour) in enumerate(COLOURS.items()):
        out.append(f'<rect x="{8 + 80 * i}" y="24" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{22 + 80 * i}" y="33">{mode}</text>')
    y = 46
    for name, ratios in groups:
        out.append(f'<text x="8" y="{y + len(ratios) * bar // 2 + 4}">{name}</text>')
        for mode, ratio in ratios:
            out.append(f'<rect x="{left}" y="{y}" width="{ratio * scale:.1f}" height="{bar - 2}" fill="{COLOURS[mode]}"/>')
            out.append(f'<text x="{left + ratio * scale + 4:.1f}" y="{y + bar - 4}">{ratio:.2f}</text>')
            y += bar
        y += gap
    one = left + scale
    out.append(f'<line x1="{one}" y1="42" x2="{one}" y2="{height - 10}" stroke="#555" stroke-dasharray="3 3"/>')
    return "\n".join(out + ["</svg>", ""])


def parse():
    here = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here.add_argument("--sizes", default=",".join(SIZES), help="[default: %(default)s]")
    here.add_argument("--channels", default=",".join(CHANNELS), help="[default: %(default)s]")
    here.add_argument("--threads", type=int, default=1, help="[default: 1]")
    here.add_argument("--seconds", type=float, default=5.0, help="for each row [default: 5]")
    here.add_argument("--turn", type=float, default=50.0, help="milliseconds of a turn [default: 50]")
    here.add_argument("--memory", type=float, default=8.0, help="10^9 bytes that all engines may take [default: 8]")
    here.add_argument("--qcc", default="qcc", help="the command [default: qcc]")
    here.add_argument("--svg", metavar="FILE", help="draw the ratios")
    here.add_argument("--cache", default=os.path.expanduser("~/.cache/qcc-bench"), help="folder for models")
    args = here.parse_args()
    args.calibrate, args.samples = None, 2
    return args


def main():
    args = parse()
    os.makedirs(args.cache, exist_ok=True)
    engines = [e for _, e in MODES] + bench_peers.installed(PEERS)
    rows = []
    for channels in args.channels.split(","):
        for size in args.sizes.split(","):
            rows.append((channels, size, measure(channels, size, args.threads, engines, args)))
            print(f"{channels} {size} done", file=sys.stderr)
    print(table(rows, args.threads))
    if args.svg:
        with open(args.svg, "w") as out:
            out.write(svg(rows, args.threads))


if __name__ == "__main__":
    main()
