//! Checks that need Python and its packages: the conformance scores, small models that quantization gets wrong, and the networks of
//! torchvision.

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
        // A part of them; `neighbours.py` alone runs all.
        ("neighbours", || python("conformance/neighbours.py", &["--every", "4", "--random", "6"])),
        ("calibration_by_dask", || python("calibrate_dask.py", &[])),
        ("networks", || python("networks.py", &["--quick"])),
    ])
}
