//! Checks that need Python and its packages: the conformance scores and the networks of torchvision.

mod optional;

use optional::python;

fn main() -> std::process::ExitCode {
    optional::main(&[
        ("conformance", || {
            python("conformance/conformance.py", &["--score", "A", "--failures", "--require", "A=220,AB=95"])
        }),
        ("quantization_is_exact", || {
            python("conformance/conformance.py", &["--score", "B", "--failures", "--require", "B=30"])
        }),
        ("networks", || python("networks.py", &["--quick"])),
    ])
}
