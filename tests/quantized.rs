//! Quantized models against ONNX Runtime, by `tests/conformance/quantized.py`: needs Python with `onnx` and `onnxruntime`,
//! and says so where they are not. `QCC_PYTHON` names the interpreter.

use std::process::Command;

#[test]
fn agrees_with_onnx_runtime() {
    let root = env!("CARGO_MANIFEST_DIR");
    let python = std::env::var("QCC_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let script = format!("{root}/tests/conformance/quantized.py");
    let run = Command::new(&python).args([&script, "--qcc", env!("CARGO_BIN_EXE_qcc"), "--inputs", "2"]).output();
    let Ok(output) = run else {
        eprintln!("skipped: no {python}");
        return;
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprint!("{out}");
    assert!(output.status.success(), "{out}{err}");
}
