"""Compile neural networks to integer-only machine code, and run them on numpy arrays.

    import qcc
    model = qcc.compile("model.onnx", calibrate=samples)    # the command qcc, then qcc.load
    y = model.run(x)

`compile` runs the command that is installed with this module; `load` needs nothing but a compiled model and this file.
"""

import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
import warnings

import numpy as np

__all__ = ["compile", "load", "Model", "Tensor", "Error", "command"]

# Bits of the ABI: runtime/src/abi.rs.
_ABI = 1
_DTYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 4: np.int16, 5: np.int32, 6: np.int64}
_CODES = {-1: "a pointer is null", -2: "this CPU lacks a feature that the model was compiled for", -3: "the scratch is not aligned", -4: "the pool has no threads"}
_SEAL = struct.Struct("<8sIIQ32s")


class Error(Exception):
    """What qcc says is wrong, with what to do about it."""


class _TensorInfo(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char * 64), ("dtype", ctypes.c_uint32), ("rank", ctypes.c_uint32), ("dims", ctypes.c_int64 * 8), ("scale", ctypes.c_float),
                ("zero_point", ctypes.c_int32), ("scale_multiplier", ctypes.c_uint32), ("scale_shift", ctypes.c_int32)]


class _ModelInfo(ctypes.Structure):
    _fields_ = [("abi_version", ctypes.c_uint32), ("header_bytes", ctypes.c_uint32), ("tensor_bytes", ctypes.c_uint32), ("n_inputs", ctypes.c_uint32),
                ("n_outputs", ctypes.c_uint32), ("has_float_edge", ctypes.c_uint32), ("scratch_bytes", ctypes.c_uint64), ("scratch_align", ctypes.c_uint64),
                ("cpu_features", ctypes.c_uint64), ("macs", ctypes.c_uint64), ("model_hash", ctypes.c_uint8 * 32), ("compiler", ctypes.c_char * 32), ("name", ctypes.c_char * 64)]


class Tensor:
    """An input or output: `name`, `shape`, the integers' `dtype`, and `scale` and `zero_point`: real = scale * (stored - zero_point)."""

    def __init__(self, info):
        self.name = info.name.decode()
        self.shape = tuple(info.dims[: info.rank])
        self.dtype = np.dtype(_DTYPES[info.dtype])
        self.scale = info.scale or None
        self.zero_point = info.zero_point if self.scale else None

    def __repr__(self):
        quantized = f", real = {self.scale:.8g} * (stored - {self.zero_point})" if self.scale else ""
        return f"{self.name}: {self.dtype} {list(self.shape)}{quantized}"


class Model:
    """A compiled model. `inputs` and `outputs` say what goes in and comes out; any number of threads may call `run` at once."""

    def __init__(self, path):
        path = os.path.abspath(os.fspath(path))
        _check_seal(path)
        self.path = path
        self._library = ctypes.CDLL(path)
        describe = self._library.qcc_model_info
        describe.restype, describe.argtypes = ctypes.c_void_p, []
        address = describe()
        info = _ModelInfo.from_address(address)
        if info.abi_version != _ABI:
            raise Error(f"{path} has ABI {info.abi_version}, and this module knows {_ABI}")
        tensor = lambda i: Tensor(_TensorInfo.from_address(address + info.header_bytes + i * info.tensor_bytes))
        self.inputs = [tensor(i) for i in range(info.n_inputs)]
        self.outputs = [tensor(info.n_inputs + i) for i in range(info.n_outputs)]
        self.name, self.macs = info.name.decode(), info.macs
        self._scratch = (info.scratch_bytes, info.scratch_align)
        self._run = self._entry("qcc_model_run")
        self._run_f32 = self._entry("qcc_model_run_f32") if info.has_float_edge else None

    def _entry(self, name):
        function = getattr(self._library, name)
        function.restype, function.argtypes = ctypes.c_int, [ctypes.c_void_p] * 3
        return function

    def run(self, *inputs, **named):
        """Results for real numbers: an array for one output, else a tuple. Inputs in order or by name; a batch along the first axis
        where the model takes one sample. A model without a float interface takes and gives integers."""
        if self._run_f32 is None:
            return self._call(self._run, inputs, named, None)
        return self._call(self._run_f32, inputs, named, np.float32)

    def run_int(self, *inputs, **named):
        """The same on the integers that are stored."""
        return self._call(self._run, inputs, named, None)

    def _call(self, function, inputs, named, dtype):
        arrays = self._arrays(inputs, named, dtype)
        batch = self._batch(arrays)
        outputs = [np.empty(o.shape if batch is None else (batch, *o.shape), dtype or o.dtype) for o in self.outputs]
        if batch is None:
            self._once(function, arrays, outputs)
        else:
            for i in range(batch):
                self._once(function, [a[i] for a in arrays], [o[i] for o in outputs])
            # An extent of 1 for the sample, and the batch in front of it, are one axis.
            outputs = [o.reshape(batch, *t.shape[1:]) if t.shape[:1] == (1,) else o for o, t in zip(outputs, self.outputs)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _arrays(self, inputs, named, dtype):
        given = dict(zip((t.name for t in self.inputs), inputs))
        unknown = set(named) - {t.name for t in self.inputs}
        if unknown or len(inputs) > len(self.inputs) or set(given) & set(named):
            raise Error(f"inputs are {', '.join(t.name for t in self.inputs)}; given were {len(inputs)} in order and {sorted(named)}")
        given.update(named)
        missing = [t.name for t in self.inputs if t.name not in given]
        if missing:
            raise Error(f"the inputs {', '.join(missing)} are not given")
        arrays = []
        for t in self.inputs:
            array = np.asarray(given[t.name])
            wanted = np.dtype(dtype or t.dtype)
            if dtype is None and array.dtype != wanted and not np.array_equal(array, array.astype(wanted)):
                raise Error(f"input {t.name} takes {wanted}, and {array.dtype} has values beyond it")
            arrays.append(np.ascontiguousarray(array, wanted))
        return arrays

    def _batch(self, arrays):
        """None where arrays are whole inputs, else the samples along their first axis."""
        if all(a.shape == t.shape for a, t in zip(arrays, self.inputs)):
            return None
        for a, t in zip(arrays, self.inputs):
            per_sample = t.shape[1:] if t.shape[:1] == (1,) else t.shape
            if a.shape[1:] != per_sample:
                raise Error(f"input {t.name} has the shape {list(t.shape)}, or that of samples {[-1, *per_sample]}; given was {list(a.shape)}")
        counts = {len(a) for a in arrays}
        if len(counts) != 1:
            raise Error(f"the inputs have different numbers of samples: {sorted(counts)}")
        return counts.pop()

    def _once(self, function, inputs, outputs):
        size, align = self._scratch
        scratch = ctypes.create_string_buffer(size + align)
        start = -(-ctypes.addressof(scratch) // align) * align
        pointers = lambda arrays: (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))
        code = function(ctypes.cast(pointers(inputs), ctypes.c_void_p), ctypes.cast(pointers(outputs), ctypes.c_void_p), start)
        if code:
            raise Error(f"{self.path}: {_CODES.get(code, f'code {code}')}")

    def __repr__(self):
        return f"<qcc model {self.name}: {self.inputs} -> {self.outputs}>"


def load(path):
    """A model that qcc compiled into a shared object."""
    return Model(path)


def compile(model, output=None, calibrate=None, **flags):
    """Compiles an ONNX file and loads the result.

    `calibrate`: an array of samples, a dictionary of arrays by input, or a path. `output`: where the shared object goes; without, it
    lasts as long as the process. Other flags are those of the command, with underscores: `weights=4, max_drop=1, target="native"`;
    `True` stands for a flag without a value, a list for one that is repeated. What the command warns of is a Python warning.
    """
    folder = tempfile.mkdtemp(prefix="qcc-")
    try:
        place = os.fspath(output) if output is not None else os.path.join(folder, "model.so")
        arguments = [os.fspath(model), "-o", place]
        if calibrate is not None:
            arguments += ["--calibrate", _samples(calibrate, folder)]
        for name, value in flags.items():
            flag = "--" + name.replace("_", "-")
            for one in value if isinstance(value, (list, tuple)) else [value]:
                if one is True:
                    arguments.append(flag)
                elif one is not False and one is not None:
                    arguments.append(f"{flag}={os.fspath(one) if isinstance(one, os.PathLike) else one}")
        done = subprocess.run([command(), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise Error(done.stderr.strip() or f"qcc ended with code {done.returncode}")
        for line in done.stderr.splitlines():
            if line.startswith("warning: "):
                warnings.warn(line.removeprefix("warning: "), stacklevel=2)
        return Model(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def command():
    """Path of the command qcc: `QCC`, else the one that was installed with this module, else the first in PATH."""
    name = "qcc.exe" if os.name == "nt" else "qcc"
    places = [os.environ.get("QCC"), os.path.join(sysconfig.get_path("scripts"), name), os.path.join(sysconfig.get_path("scripts", f"{os.name}_user"), name), shutil.which(name)]
    for place in places:
        if place and os.path.isfile(place):
            return place
    raise Error("the command qcc is not installed: cargo install --path . in a clone, or QCC=PATH-OF-qcc")


def _samples(calibrate, folder):
    if isinstance(calibrate, (str, os.PathLike)):
        return os.fspath(calibrate)
    if isinstance(calibrate, dict):
        path = os.path.join(folder, "samples.npz")
        np.savez(path, **calibrate)
    else:
        path = os.path.join(folder, "samples.npy")
        np.save(path, np.asarray(calibrate))
    return path


def _check_seal(path):
    """Refuses what is damaged, cut short or foreign before any of it is loaded."""
    with open(path, "rb") as file:
        content = file.read()
    if len(content) < _SEAL.size or not content.startswith(b"\x7fELF"):
        raise Error(f"{path} is no model that qcc compiled")
    magic, abi, machine, length, digest = _SEAL.unpack(content[-_SEAL.size:])
    body = memoryview(content)[: -_SEAL.size]
    if magic != b"QCCSEAL1":
        raise Error(f"{path} ends without the seal of a model compiled by qcc: it is cut short, or comes from elsewhere")
    if length != len(body) or hashlib.sha256(body).digest() != digest:
        raise Error(f"{path} is not what was written: the file is damaged")
    if abi != _ABI or machine != struct.unpack_from("<H", content, 18)[0]:
        raise Error(f"{path} is for another ABI or machine")
    if sys.byteorder != "little":
        raise Error("models are for little-endian machines")
