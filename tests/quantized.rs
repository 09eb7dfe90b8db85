//! Quantized models and exports against ONNX Runtime, by `tests/conformance/quantized.py`, `exports.py`, `few_bits.py` and `agreement.py`: needs Python with `onnx` and
//! `onnxruntime`.

mod optional;

use optional::python;

fn main() -> std::process::ExitCode {
    optional::main(&[
        ("agrees_with_onnx_runtime", || python("conformance/quantized.py", &["--inputs", "2"])),
        // What is done on machines without VNNI, where ONNX Runtime saturates sums.
        ("agrees_where_sums_saturate", || python("conformance/quantized.py", &["--inputs", "1", "--saturated"])),
        ("exports_agree_on_equal_operands", || python("conformance/agreement.py", &["--samples", "1"])),
        ("few_bits_go_in_and_out", || python("conformance/few_bits.py", &[])),
        ("operators_are_exported", || python("conformance/exports.py", &[])),
    ])
}
