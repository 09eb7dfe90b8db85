//! Quantized models against ONNX Runtime, by `tests/conformance/quantized.py`: needs Python with `onnx` and `onnxruntime`.

mod optional;

use optional::python;

fn main() -> std::process::ExitCode {
    optional::main(&[("agrees_with_onnx_runtime", || python("conformance/quantized.py", &["--inputs", "2"]))])
}
