#!/usr/bin/env python3
"""Race qcc against ONNX Runtime and OpenVINO on the same networks, in turns.

    pip install onnx onnxruntime openvino nncf
    python examples/bench_peers.py resnet18.onnx resnet50.onnx --threads 1,2

Every engine runs in a process of its own, so that load time and peak memory are its own. The processes take
turns of some tens of milliseconds, round by round, so that a change of the clock frequency or a neighbour falls on all
alike; the first run of a turn only warms the caches and is not counted (runs of half a second have no need of it). The figure is the median over all turns.
All engines take and give real numbers (float32): quantizing inputs is part of the work.

Engines:
    qcc        the model compiled by `qcc`, through `qcc bench --turns --io float`
    qcc-int    the same model, integers in and out
    qcc-dyn    the same with `--mode int8_dynamic`
    ort-int8   ONNX Runtime, quantize_static: QDQ, U8 activations, S8 weights per channel, minmax
    ov-int8    OpenVINO, nncf.quantize with its defaults, the rest in f32
    ort-f32    ONNX Runtime
    ov-f32     OpenVINO with INFERENCE_PRECISION_HINT=f32 (its default may be bf16)
    ncnn-int8  ncnn on NAME_int8.param of the folder --ncnn, as its benchmark has them, with empty weights: speed only
    ncnn-f32   ncnn on NAME.param
Peers' quantized models are made on the first run and kept in --cache. An engine that is not installed, or fails on a
network, is left out and named on stderr.

Weights need not be trained and inputs are random where --data gives none. Beside its speed every engine's outputs are compared with those of float32 on
this CPU, by the signal-to-noise ratio in decibels, and with --labels by top-1: an engine may be fast because its sums saturate. --svg draws one picture of both.
"""
import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = {"ort-int8": "onnxruntime", "ov-int8": "openvino", "ort-f32": "onnxruntime", "ov-f32": "openvino",
         "ncnn-int8": "ncnn", "ncnn-f32": "ncnn"}
# Milliseconds of a run from which on the state of the caches before it does not matter.
LONG = 500
QCC = {"qcc": [], "qcc-int": [], "qcc-dyn": ["--mode", "int8_dynamic"]}


# ------------------------------------------------------------------------------- peers' models


def samples(shape, count):
    """Standard normal inputs from a fixed seed."""
    import numpy as np

    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape, dtype=np.float32) for _ in range(count)]


def input_of(path):
    """Name and shape of a model's input."""
    import onnx

    value = onnx.load(path, load_external_data=False).graph.input[0]
    return value.name, [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]


def quantize_ort(source, target, count):
    import logging
    import tempfile

    import onnxruntime.quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.disable(logging.INFO)
    name, shape = input_of(source)

    class Reader(q.CalibrationDataReader):
        rest = iter([{name: x} for x in samples(shape, count)])

        def get_next(self):
            return next(self.rest, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = os.path.join(folder, "prepared.onnx")
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        q.quantize_static(
            prepared, target, Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True, reduce_range=False,
            activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
            calibrate_method=q.CalibrationMethod.MinMax,
        )


def quantize_ov(source, target, count):
    import logging

    import nncf
    import openvino as ov

    nncf.set_log_level(logging.ERROR)
    _, shape = input_of(source)
    model = nncf.quantize(ov.Core().read_model(source), nncf.Dataset(samples(shape, count)), subset_size=count)
    ov.save_model(model, target, compress_to_fp16=False)


def prepared(engine, source, args):
    """The file that an engine runs, made if it is missing."""
    base = os.path.join(args.cache, os.path.splitext(os.path.basename(source))[0])
    if engine in QCC:
        target = f"{base}.{engine.replace('-', '_')}.so"
        ranges = ["--calibrate", args.calibrate] if args.calibrate else []
        command = [args.qcc, source, "-o", target, *QCC[engine], *ranges]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return target
    if engine.startswith("ncnn"):
        target = os.path.join(args.ncnn or "", os.path.basename(base) + ("_int8" if engine == "ncnn-int8" else "") + ".param")
        if not os.path.exists(target):
            raise RuntimeError(f"no {target}")
        return target
    if engine.endswith("f32"):
        return source
    target = base + (".ort.onnx" if engine == "ort-int8" else ".nncf.xml")
    if not os.path.exists(target):
        (quantize_ort if engine == "ort-int8" else quantize_ov)(source, target, args.samples)
    return target


# ------------------------------------------------------------------------- a peer's own process


def vm(key):
    """A line of /proc/self/status in 10^6 bytes."""
    with open("/proc/self/status") as status:
        return next((int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith(key)), None)


def load_ort(path, threads):
    import numpy as np
    import onnxruntime as ort

    base, start = vm("VmHWM"), time.perf_counter()
    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    value, result = session.get_inputs()[0], session.get_outputs()[0]
    shape = [d if isinstance(d, int) else 1 for d in value.shape]
    binding = session.io_binding()
    making = time.perf_counter()
    x = ort.OrtValue.ortvalue_from_numpy(np.random.default_rng(5).standard_normal(shape, dtype=np.float32))
    start += time.perf_counter() - making
    binding.bind_ortvalue_input(value.name, x)
    if all(isinstance(d, int) for d in result.shape):
        binding.bind_ortvalue_output(result.name, ort.OrtValue.ortvalue_from_numpy(np.empty(result.shape, np.float32)))
    else:
        binding.bind_output(result.name)
    return base, start, lambda: session.run_with_iobinding(binding)


def fixed(model):
    """An OpenVINO model that takes one sample."""
    model.reshape({value: [d.get_length() if d.is_static else 1 for d in value.partial_shape] for value in model.inputs})
    return model


def load_ov(path, threads):
    import numpy as np
    import openvino as ov

    base, start = vm("VmHWM"), time.perf_counter()
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1,
              "INFERENCE_PRECISION_HINT": "f32"}
    core = ov.Core()
    compiled = core.compile_model(fixed(core.read_model(path)), "CPU", config)
    request = compiled.create_infer_request()
    making = time.perf_counter()
    x = np.random.default_rng(5).standard_normal(list(compiled.inputs[0].shape), dtype=np.float32)
    start += time.perf_counter() - making
    tensor = ov.Tensor(x, shared_memory=True)
    request.set_input_tensor(tensor)
    return base, start, lambda keep=(x, tensor): request.infer()


def load_ncnn(path, threads):
    import ncnn
    import numpy as np

    base, start = vm("VmHWM"), time.perf_counter()
    net = ncnn.Net()
    net.opt.num_threads = threads
    ncnn.set_omp_num_threads(threads)
    net.load_param(path)
    net.load_model(ncnn.DataReaderFromEmpty())
    making = time.perf_counter()
    with open(path) as file:
        fields = next(line.split() for line in file if line.startswith("Input"))
    # 0=width 1=height 2=channels
    extents = dict(field.split("=") for field in fields if "=" in field)
    shape = [int(extents[key]) for key in ("2", "1", "0") if key in extents]
    x = ncnn.Mat(np.random.default_rng(5).standard_normal(shape, dtype=np.float32))
    start += time.perf_counter() - making
    first, last = net.input_names()[0], net.output_names()[-1]

    def run():
        extractor = net.create_extractor()
        extractor.input(first, x)
        extractor.extract(last)

    return base, start, run


LOADERS = {"ort": load_ort, "ov": load_ov, "ncnn": load_ncnn}


def worker(engine, path, threads):
    """Answers requests on stdin as `qcc bench --turns` does."""
    base, start, run = LOADERS[engine.split("-")[0]](path, threads)
    run()
    print(json.dumps({"load_ms": (time.perf_counter() - start) * 1e3, "base_rss_mb": base}), flush=True)
    times = [0]
    for line in sys.stdin:
        if times[-1] < LONG:
            run()
        turn, times = float(line) / 1e3, []
        begin = time.perf_counter()
        while not times or time.perf_counter() - begin < turn:
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * 1e3)
        print(json.dumps({"times_ms": times}), flush=True)
    print(json.dumps({"peak_rss_mb": vm("VmHWM")}), flush=True)


# ------------------------------------------------------------------------------------- accuracy


def outputs_of(engine, path, data, target):
    """A peer's first output for samples, in a process of its own."""
    import numpy as np

    x = np.load(data)
    if engine.startswith("ort"):
        import onnxruntime as ort

        ort.set_default_logger_severity(3)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        one = lambda sample: session.run(None, {session.get_inputs()[0].name: sample})[0]
    else:
        import openvino as ov

        core = ov.Core()
        compiled = core.compile_model(fixed(core.read_model(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        one = lambda sample: compiled(sample)[0]
    np.save(target, np.concatenate([np.array(one(x[i : i + 1])).reshape(1, -1) for i in range(len(x))]))


def outputs(engine, source, data, args):
    """The first output of an engine for samples; nothing of one without trained weights."""
    import numpy as np

    target = os.path.join(args.cache, "outputs.npy")
    path = prepared(engine, source, args) if engine != "float" else source
    if engine in QCC or engine == "float":
        more = ["--float"] if engine == "float" else []
        command = [args.qcc, "run", path, *more, "--input", data, "--output", target]
    else:
        command = [sys.executable, os.path.abspath(__file__), "--outputs", engine, path, data, target]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    found = np.load(target)
    return found.reshape(len(np.load(data, mmap_mode="r")), -1)


def accuracy(source, engines, args):
    """For each engine the signal-to-noise ratio against float32, and with labels top-1."""
    import numpy as np

    data = args.data
    if not data:
        data = os.path.join(args.cache, "samples.npy")
        np.save(data, np.concatenate(samples(input_of(source)[1], args.samples)))
    labels = np.load(args.labels).reshape(-1) if args.labels else None
    wanted, all_found = outputs("float", source, data, args), {}
    for engine in ["float", *(e for e in engines if not e.startswith("ncnn") and e != "qcc-int")]:
        try:
            y = wanted if engine == "float" else outputs(engine, source, data, args)
        except Exception as error:
            detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            print(f"{os.path.basename(source)}: no outputs of {engine}: {detail[-1] if detail else error!r}", file=sys.stderr)
            continue
        noise, found = float(((y - wanted) ** 2).sum()), {}
        if engine != "float":
            found["sqnr_db"] = 10 * float(np.log10(float((wanted**2).sum()) / max(noise, 1e-30)))
        if labels is not None:
            found["top1"] = 100 * float((y.argmax(1) == labels).mean())
        all_found[engine] = found
    return all_found


def accuracy_table(found, engines):
    """Signal-to-noise ratios, and top-1 where there are labels, of all networks."""
    engines = ["float", *(e for e in engines if not e.startswith("ncnn") and e != "qcc-int")]
    lines = ["| net | " + " | ".join(engines) + " |", "|" + "---|" * (len(engines) + 1)]
    for name, by_engine in found.items():
        cells = []
        for engine in engines:
            own = by_engine.get(engine, {})
            db = f"{own['sqnr_db']:.1f} dB" if "sqnr_db" in own else ""
            right = f"{own['top1']:.2f} %" if "top1" in own else ""
            cells.append(", ".join(filter(None, [db, right])) or "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------- the race


class Racer:
    """One engine with its model in a process of its own."""

    def __init__(self, engine, path, threads, args):
        if engine in QCC:
            command = [args.qcc, "bench", path, "--turns", "--threads", str(threads)]
            command += ["--io", "int" if engine == "qcc-int" else "float"]
        else:
            command = [sys.executable, os.path.abspath(__file__), "--worker", engine, path, str(threads)]
        self.engine, self.times, self.result = engine, [], {}
        self.log = open(os.path.join(args.cache, "worker.log"), "a+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.result.update(self.answer())

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"ended with code {self.process.wait()}, see {self.log.name}")
        return json.loads(line)

    def turn(self, ms):
        print(ms, file=self.process.stdin, flush=True)
        self.times += self.answer()["times_ms"]

    def finish(self):
        self.process.stdin.close()
        self.result.update(self.answer())
        self.process.wait()
        self.result.update(median_ms=statistics.median(self.times), min_ms=min(self.times), runs=len(self.times))
        return self.result


def race(source, threads, engines, args):
    """Results by engine."""
    return race_all([(engine, source) for engine in engines], threads, args)


def race_all(entrants, threads, args):
    """Results by engine of pairs of engine and model."""
    racers = []
    for engine, source in entrants:
        try:
            racers.append(Racer(engine, prepared(engine, source, args), threads, args))
        except Exception as error:
            detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            print(f"{os.path.basename(source)}: {engine} left out: {detail[0] if detail else error!r}", file=sys.stderr)
    rounds = 0
    begin = time.perf_counter()
    while racers and (rounds < 2 or time.perf_counter() - begin < args.seconds):
        # Whoever comes after a neighbour with a hot chip comes after another one in the next round.
        for racer in racers[rounds % len(racers):] + racers[:rounds % len(racers)]:
            racer.turn(args.turn)
        rounds += 1
    return {racer.engine: racer.finish() for racer in racers}


# ------------------------------------------------------------------------------------- the table


def best(results, engines, key="median_ms"):
    """The least figure among engines, and whose it is."""
    found = [(results[e][key], e) for e in engines if e in results and results[e].get(key)]
    return min(found) if found else (None, None)


def figure(x):
    return "-" if x is None else f"{x:.3f}" if x < 1 else f"{x:.2f}" if x < 100 else f"{x:.0f}"


def row(name, threads, results, engines):
    own, _ = best(results, [e for e in engines if e == "qcc"])
    peer, peer_name = best(results, [e for e in engines if e in PEERS])
    ratio = peer / own if own and peer else None
    cells = [name, str(threads)] + [figure(results.get(e, {}).get("median_ms")) for e in engines]
    for key in ("load_ms", "peak_rss_mb"):
        cells.append(" / ".join(figure(results.get(e, {}).get(key)) for e in engines if not e.startswith("qcc-")))
    cells.insert(2 + len(engines), f"{ratio:.2f} ({peer_name})" if ratio else "-")
    return ratio, "| " + " | ".join(cells) + " |"


def table(rows, engines):
    shown = " / ".join(e for e in engines if not e.startswith("qcc-"))
    heads = ["net", "threads"] + [f"{e} ms" for e in engines]
    heads += ["best peer / qcc", f"load ms: {shown}", f"peak MB: {shown}"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    by_threads = {}
    for name, threads, results in rows:
        ratio, line = row(name, threads, results, engines)
        lines.append(line)
        if ratio:
            by_threads.setdefault(threads, []).append(ratio)
    lines.append("")
    for threads, ratios in sorted(by_threads.items()):
        mean = statistics.geometric_mean(ratios)
        lines.append(f"Geometric mean of best peer / qcc over {len(ratios)} networks, {threads} threads: {mean:.3f}")
    return "\n".join(lines)


COLORS = ["#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#999999", "#f0e442", "#000000"]


def picture(rows, found, engines):
    """Bars of time by that of qcc, with decibels beside them, as SVG."""
    from html import escape

    bar, left, width = 14, 170, 520
    parts, y = [], 30
    for name, threads, results in rows:
        own = results.get("qcc", {}).get("median_ms")
        times = {e: results[e]["median_ms"] / own for e in engines if own and results.get(e, {}).get("median_ms")}
        if not times:
            continue
        parts.append(f'<text x="10" y="{y + bar}" font-weight="bold">{escape(name)}, {threads} threads</text>')
        y += bar + 8
        longest = max(times.values())
        for engine, time_ in times.items():
            length = width * time_ / longest
            db = found.get(name, {}).get(engine, {}).get("sqnr_db")
            text = f"{time_:.2f} ({figure(results[engine]['median_ms'])} ms)" + (f", {db:.1f} dB" if db else "")
            color = COLORS[engines.index(engine) % len(COLORS)]
            parts.append(f'<text x="{left - 8}" y="{y + bar - 3}" text-anchor="end">{escape(engine)}</text>')
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{color}"/>')
            parts.append(f'<text x="{left + length + 6:.1f}" y="{y + bar - 3}">{escape(text)}</text>')
            y += bar
        y += 16
    title = '<text x="10" y="18">Median time by that of qcc, shorter is faster; signal-to-noise ratio against float32</text>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 220}" height="{y}" font-family="sans-serif" font-size="11">'
    return "\n".join([head, f'<rect width="100%" height="100%" fill="#fff"/>', title, *parts, "</svg>"]) + "\n"


def parse():
    here = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here.add_argument("models", nargs="+", metavar="MODEL.onnx")
    here.add_argument("--threads", default="1,2", help="thread counts [default: %(default)s]")
    here.add_argument("--engines", default="qcc,qcc-int,ort-int8,ov-int8,ncnn-int8,ort-f32,ov-f32,ncnn-f32", help="[default: %(default)s]")
    here.add_argument("--seconds", type=float, default=10.0, help="for each network and thread count [default: 10]")
    here.add_argument("--turn", type=float, default=50.0, help="milliseconds of a turn [default: 50]")
    here.add_argument("--qcc", default="qcc", help="the command [default: qcc]")
    here.add_argument("--calibrate", help="samples for qcc; without them it needs none")
    here.add_argument("--samples", type=int, default=8, help="samples for the peers' quantizers [default: 8]")
    here.add_argument("--cache", default=os.path.expanduser("~/.cache/qcc-bench"), help="folder for models")
    here.add_argument("--ncnn", metavar="DIR", help="folder of NAME.param and NAME_int8.param")
    here.add_argument("--data", metavar="X.npy", help="inputs by which accuracy is compared [default: random]")
    here.add_argument("--labels", metavar="Y.npy", help="their classes")
    here.add_argument("--no-accuracy", action="store_true", help="measure speed alone")
    here.add_argument("--svg", metavar="FILE", help="draw speed and accuracy")
    here.add_argument("--json", metavar="FILE", help="append every result as a line of JSON")
    here.add_argument("--prepare", action="store_true", help="only make the quantized models")
    return here.parse_args()


def installed(engines):
    """The engines that can run here; says what the others need."""
    left = []
    for engine in engines:
        needed = [PEERS[engine]] if engine in PEERS else []
        needed += {"ort-int8": ["onnx"], "ov-int8": ["onnx", "nncf"]}.get(engine, [])
        missing = [m for m in needed if importlib.util.find_spec(m) is None]
        if missing:
            print(f"{engine} left out: pip install {' '.join(missing)}", file=sys.stderr)
        else:
            left.append(engine)
    return left


def main():
    if sys.argv[1:2] == ["--worker"]:
        engine, path, threads = sys.argv[2:]
        return worker(engine, path, int(threads))
    if sys.argv[1:2] == ["--outputs"]:
        return outputs_of(*sys.argv[2:])
    args = parse()
    os.makedirs(args.cache, exist_ok=True)
    engines = [e for e in args.engines.split(",") if args.ncnn or not e.startswith("ncnn")]
    unknown = [e for e in engines if e not in PEERS and e not in QCC]
    if unknown:
        sys.exit(f"unknown engine {', '.join(unknown)}: there are {', '.join([*QCC, *PEERS])}")
    engines = installed(engines)
    rows, found = [], {}
    for source in args.models:
        name = os.path.splitext(os.path.basename(source))[0]
        if not args.prepare and not args.no_accuracy:
            found[name] = accuracy(source, engines, args)
        for threads in [int(t) for t in args.threads.split(",")] if not args.prepare else []:
            results = race(source, threads, engines, args)
            rows.append((name, threads, results))
            if args.json:
                with open(args.json, "a") as out:
                    for engine, result in results.items():
                        quality = found.get(name, {}).get(engine, {})
                        print(json.dumps({"net": name, "threads": threads, "engine": engine, **result, **quality}), file=out)
        if args.prepare:
            for engine in engines:
                try:
                    prepared(engine, source, args)
                except Exception as error:
                    print(f"{name}: {engine} cannot be prepared: {error!r}", file=sys.stderr)
    if rows:
        print(table(rows, engines))
    if found:
        print("\nSignal-to-noise ratio against float32 on this CPU" + (", and top-1:" if args.labels else ":"))
        print(accuracy_table(found, engines))
    if args.svg and rows:
        with open(args.svg, "w") as out:
            out.write(picture(rows, found, engines))


if __name__ == "__main__":
    main()
