#!/usr/bin/env python3
"""Prints one hash a row of what models compile to, so that a change that must not change results can be shown not to.

usage: compiled_bytes.py --qcc PATH [--models DIR_OR_FILE ..] [--quick] [--against FILE] [--jobs N]

A row is `MODEL MODE TARGET HASH`. Modes: free (no data), calibrated (8 seeded normal samples), dynamic (`int8_dynamic`), int16
(calibrated with `all=16`). Hashed is the relocatable object, which is what `model.so` is linked from: every function and every table with
its relocations, in order. Names are left out, and so is the manifest, which tells how the model was made and which no code reads. A model
that a mode refuses has `refused` in place of the hash. With `--against` rows of an earlier output are compared: exit code 1 if any differs.
`--quick`: small models and the native target only. Models without `--models`: examples, tests/fixtures, and ../shared/data/models if present.
"""
import argparse, concurrent.futures, glob, hashlib, os, random, re, struct, subprocess, sys, tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGETS = ["x86-64-v2", "x86-64-v3", "x86-64-v4-vnni", "aarch64"]
SAMPLES = 8
QUICK_BYTES = 400_000


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--qcc", default=os.path.join(ROOT, "target/release/qcc"))
    p.add_argument("--models", nargs="*", default=[])
    p.add_argument("--quick", action="store_true")
    p.add_argument("--against")
    p.add_argument("--jobs", type=int, default=2)
    return p.parse_args()


def models(a):
    found = []
    for path in a.models or [ROOT + "/examples/models", ROOT + "/tests/fixtures", ROOT + "/../shared/data/models"]:
        found += [path] if os.path.isfile(path) else sorted(glob.glob(os.path.join(path, "*.onnx")))
    return [m for m in found if not a.quick or os.path.getsize(m) < QUICK_BYTES]


def object_hash(data):
    """Hash of the functions and tables of an ELF64 relocatable object, and of its relocations."""
    shoff, = struct.unpack_from("<Q", data, 40)
    shentsize, shnum = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, shoff + i * shentsize) for i in range(shnum)]
    symbols, names = [], b""
    for _, kind, _, _, offset, size, link, _, _, entry in sections:
        if kind == 2:  # symbols
            names = data[sections[link][4] : sections[link][4] + sections[link][5]]
            symbols = [struct.unpack_from("<IBBHQQ", data, offset + i * entry) for i in range(size // entry)]
    name = lambda s: names[s[0] : names.index(b"\0", s[0])].decode()
    is_piece = lambda i, s: s[1] & 15 in (1, 2) and 0 < s[3] < shnum and not name(s).endswith("manifest")
    pieces = sorted((s[3], s[4], s[5], i) for i, s in enumerate(symbols) if is_piece(i, s))
    number = {piece[3]: n for n, piece in enumerate(pieces)}
    h = hashlib.sha256()
    for section, at, size, _ in pieces:
        start = sections[section][4] + at
        h.update(struct.pack("<Q", size) + (data[start : start + size] if sections[section][1] != 8 else b""))
    for _, kind, _, _, offset, size, _, _, _, entry in sections:
        if kind == 4:  # relocations with addends
            for i in range(size // entry):
                at, info, addend = struct.unpack_from("<QQq", data, offset + i * entry)
                target = number.get(info >> 32, name(symbols[info >> 32]))
                if target != "manifest":
                    h.update(repr((at, info & 0xFFFFFFFF, target, addend)).encode())
    return h.hexdigest()[:16]


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=1800)


def inputs(qcc, model, folder):
    """Name, extents and element type of each input, from the graph as text; `None` if the model is refused."""
    text = os.path.join(folder, "model.qir")
    if run([qcc, "opt", model, "--passes", "fold-constants", "-o", text]).returncode:
        return None
    with open(text) as f:
        graph = next(line for line in f if line.startswith("graph "))
    found = re.findall(r"%(\"[^\"]*\"|[^\s:,()\"]+): tensor<((?:\d+x)*)(\w+)>", graph.split(") -> (")[0])
    return [(name.strip('"'), [int(d) for d in dims.split("x") if d], kind) for name, dims, kind in found]


def array(path, rng, dims, kind):
    """Writes a .npy file: normal numbers for reals, 0 and 1 for integers."""
    count = 1
    for d in dims:
        count *= d
    code, descr = {"f32": ("f", "<f4"), "i64": ("q", "<i8"), "i32": ("i", "<i4"), "bool": ("?", "|b1"), "u8": ("B", "|u1"), "i8": ("b", "|i1")}[kind]
    number = (lambda: rng.gauss(0, 1)) if kind == "f32" else (lambda: rng.randrange(2))
    header = repr({"descr": descr, "fortran_order": False, "shape": tuple(dims)})
    header += " " * (-(len(header) + 11) % 64) + "\n"
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        f.write(struct.pack(f"<{count}{code}", *(number() for _ in range(count))))


def samples(tensors, folder):
    """A folder of samples: one file each, or for several inputs a folder each."""
    rng, top = random.Random(7), os.path.join(folder, "samples")
    for name, dims, kind in tensors:
        place = top if len(tensors) == 1 else os.path.join(top, name.lstrip("/"))
        os.makedirs(place, exist_ok=True)
        for i in range(SAMPLES):
            array(os.path.join(place, f"{i}.npy"), rng, dims, kind)
    return top


def rows(qcc, model, quick):
    """The rows of one model."""
    name, found = os.path.basename(model), []
    with tempfile.TemporaryDirectory() as folder:
        tensors = inputs(qcc, model, folder)
        data = ["--calibrate", samples(tensors, folder)] if tensors and all(t[1] != [] for t in tensors) else None
        modes = {"free": [], "calibrated": data, "dynamic": ["--mode", "int8_dynamic"], "int16": data and data + ["--precision", "all=16"]}
        for mode, flags in modes.items():
            if flags is None:
                continue
            integer = os.path.join(folder, mode + ".qir")
            whole = run([qcc, model, "-o", integer, "--emit", "qir"] + flags)
            for target in ["native"] if quick else ["native"] + TARGETS:
                out = os.path.join(folder, "m.o")
                done = whole.returncode or run([qcc, integer, "-o", out, "--target", target]).returncode
                found.append((name, mode, target, "refused" if done else object_hash(open(out, "rb").read())))
                if whole.returncode:
                    break
    return found


def main():
    a = arguments()
    table = {}
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        for found in pool.map(lambda m: rows(a.qcc, m, a.quick), models(a)):
            for row in found:
                table[row[:3]] = row[3]
                print(*row, flush=True)
    if not a.against:
        return 0
    with open(a.against) as f:
        before = {tuple(line.split()[:3]): line.split()[3] for line in f if line.strip()}
    differing = [row for row, h in table.items() if row in before and before[row] != h]
    for row in differing:
        print("DIFFERS", *row, before[row], table[row])
    print(f"{len(differing)} of {sum(row in before for row in table)} rows differ, {sum(row not in before for row in table)} are new")
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
