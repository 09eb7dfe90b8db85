//! `model.h`: the C view of one compiled model.
//!
//! The structures mirror `qcc_runtime::abi`; a test compiles the header and compares sizes and offsets with them. Headers of
//! several models can be included together.

use qcc_runtime::abi::{ABI_VERSION, MAX_RANK, NAME_BYTES, VERSION_BYTES, code, symbol};
use qcc_runtime::info::SCALE_SUFFIX;
use qcc_runtime::{DType, ModelInfo, TensorInfo, cpu};
use std::fmt::Write;

/// A model's name as a C identifier, without a prefix: every other character becomes `_`.
///
/// `resnet50-v1.5` gives `resnet50_v1_5`, and with it `qcc_resnet50_v1_5_run`.
pub fn identifier(name: &str) -> String {
    let c = |ch: char| if ch.is_ascii_alphanumeric() { ch } else { '_' };
    if name.is_empty() { "unnamed".to_owned() } else { name.chars().map(c).collect() }
}

/// Types of the header whose names a model's own function may have.
const TYPES: [&str; 2] = ["qcc_model_info", "qcc_tensor_info"];

/// The text of `model.h`. Functions are named after [`identifier`] of `info.name`.
pub fn model_header(info: &ModelInfo) -> String {
    let name = identifier(&info.name);
    let guard = name.to_ascii_uppercase();
    let mut h = String::new();
    put(
        &mut h,
        format_args!(
            "/* {}: a neural network in integer code, compiled by qcc {}.",
            comment(&info.name),
            comment(&info.compiler)
        ),
    );
    put(&mut h, format_args!(" *\n * CPU features: {}. Multiply-accumulates: {}.", info.cpu_features, info.macs));
    for (what, list) in [("in", &info.inputs), ("out", &info.outputs)] {
        list.iter().enumerate().for_each(|(i, t)| put(&mut h, format_args!(" * {what}[{i}]: {}", describe(t))));
    }
    put(&mut h, format_args!(" */\n#ifndef QCC_MODEL_{guard}_H\n#define QCC_MODEL_{guard}_H\n"));
    h.push_str("#include <stddef.h>\n#include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n");
    common(&mut h);
    model_part(&mut h, info, &name, &guard);
    put(&mut h, format_args!("#ifdef __cplusplus\n}}\n#endif\n\n#endif /* QCC_MODEL_{guard}_H */"));
    h
}

fn put(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{line}");
}

/// Text that cannot end a comment or a line.
fn comment(text: &str) -> String {
    text.replace(char::is_control, " ").replace("*/", "* /").replace("/*", "/ *")
}

fn describe(tensor: &TensorInfo) -> String {
    let dims: Vec<String> = tensor.dims.iter().map(usize::to_string).collect();
    let meaning = match tensor.quant {
        Some(q) => {
            let (multiplier, shift) = q.ratio();
            let (scale, zero) = (q.scale, q.zero_point);
            format!("; real = {scale:?} * (stored - {zero}), the scale being {multiplier} / 2^{shift}")
        }
        None if tensor.name.ends_with(SCALE_SUFFIX) => {
            "; mantissa and exponent: its tensor times mantissa * 2^exponent".into()
        }
        None => String::new(),
    };
    format!("\"{}\", {} [{}]{meaning}", comment(&tensor.name), tensor.dtype, dims.join(", "))
}

/// Structures and constants that all models share.
fn common(h: &mut String) {
    put(h, format_args!("#ifndef QCC_ABI_VERSION\n#define QCC_ABI_VERSION {ABI_VERSION}\n"));
    h.push_str("/* Element types. */\n");
    for dtype in DType::ALL {
        put(h, format_args!("#define QCC_{} {}", dtype.name().to_ascii_uppercase(), dtype as u32));
    }
    h.push_str("\n/* What the functions return. */\n");
    for (name, value, meaning) in [
        ("OK", code::OK, "the outputs are written"),
        ("ERR_NULL", code::ERR_NULL, "a pointer is null"),
        ("ERR_CPU", code::ERR_CPU, "the CPU lacks a feature in cpu_features"),
        ("ERR_ALIGN", code::ERR_ALIGN, "the scratch is not aligned to scratch_align"),
        ("ERR_POOL", code::ERR_POOL, "the pool has no parallel_for or no threads"),
    ] {
        put(h, format_args!("#define QCC_{name} ({value}) /* {meaning} */"));
    }
    h.push_str("\n/* Bits of cpu_features. */\n");
    for (feature, name, _) in cpu::FEATURES {
        let name = identifier(name).to_ascii_uppercase();
        put(h, format_args!("#define QCC_CPU_{name} (UINT64_C(1) << {})", feature.bits().trailing_zeros()));
    }
    let text = STRUCTURES.replace("NAME_BYTES", &NAME_BYTES.to_string()).replace("MAX_RANK", &MAX_RANK.to_string());
    h.push_str(&text.replace("VERSION_BYTES", &VERSION_BYTES.to_string()));
}

const STRUCTURES: &str = r#"
/* One input or output. */
typedef struct qcc_tensor_info {
    char name[NAME_BYTES]; /* NUL-terminated UTF-8 */
    uint32_t dtype;
    uint32_t rank;
    int64_t dims[MAX_RANK]; /* those beyond rank are 1 */
    float scale; /* real = scale * (stored - zero_point); 0 where the tensor is not quantized */
    int32_t zero_point;
    uint32_t scale_multiplier; /* the scale without a float: exactly scale_multiplier / 2^scale_shift */
    int32_t scale_shift;
} qcc_tensor_info;

/* A model. n_inputs + n_outputs tensors follow, to be reached by qcc_tensor(). */
typedef struct qcc_model_info {
    uint32_t abi_version;
    uint32_t header_bytes; /* offset of the first tensor */
    uint32_t tensor_bytes; /* distance between tensors */
    uint32_t n_inputs;
    uint32_t n_outputs;
    uint32_t has_float_edge; /* 1 if run_f32 exists */
    uint64_t scratch_bytes; /* memory that a call needs; its content does not matter */
    uint64_t scratch_align;
    uint64_t cpu_features;
    uint64_t macs; /* multiply-accumulates of one call */
    uint8_t model_hash[32]; /* of the source model and the options */
    char compiler[VERSION_BYTES];
    char name[NAME_BYTES];
} qcc_model_info;

/* Tensor number i: the inputs first, then the outputs. */
static inline const qcc_tensor_info *qcc_tensor(const qcc_model_info *info, uint32_t i)
{
    return (const qcc_tensor_info *)(const void *)((const char *)info + info->header_bytes + (size_t)i * info->tensor_bytes);
}

/* Threads lent to a call. parallel_for calls task(arg, begin, end) for ranges that cover 0..n in any order and on any
 * threads, and returns when all are done. The results do not depend on the split. */
typedef struct qcc_pool {
    void *ctx;
    uint32_t threads; /* the caller included */
    uint32_t reserved; /* 0 */
    void (*parallel_for)(void *ctx, void (*task)(void *arg, size_t begin, size_t end), void *arg, size_t n);
} qcc_pool;

#endif /* QCC_ABI_VERSION */

"#;

/// Macros and functions of this model.
fn model_part(h: &mut String, info: &ModelInfo, name: &str, guard: &str) {
    let floats = [symbol::RUN_F32, symbol::RUN_F32_MT].into_iter().filter(|_| info.has_float_interface);
    put(h, format_args!("#define QCC_{guard}_SCRATCH_BYTES UINT64_C({})", info.scratch_bytes));
    put(h, format_args!("#define QCC_{guard}_SCRATCH_ALIGN {}", info.scratch_align));
    for (what, list) in [("IN", &info.inputs), ("OUT", &info.outputs)] {
        for (i, tensor) in list.iter().enumerate() {
            put(h, format_args!("#define QCC_{guard}_{what}{i}_ELEMENTS {}", tensor.elements()));
            put(h, format_args!("#define QCC_{guard}_{what}{i}_BYTES {}", tensor.bytes()));
        }
    }
    let all: Vec<&str> = [symbol::INFO, symbol::RUN, symbol::RUN_MT].into_iter().chain(floats).collect();
    put(
        h,
        format_args!(
            "\n/* Every model has these functions under names without its own too, for hosts that load models by their path:\n \
             * {} by dlsym(), of the types below. */",
            all.join(", ")
        ),
    );
    put(h, format_args!("/* Description of the model; valid while it is loaded. */"));
    if TYPES.contains(&format!("qcc_{name}_info").as_str()) {
        put(
            h,
            format_args!(
                "/* `qcc_{name}_info` is a type above: the function with this symbol has another name in C. */"
            ),
        );
        let symbol = format!("__asm__(\"qcc_{name}_info\")");
        put(h, format_args!("const qcc_model_info *qcc_{name}_description(void) {symbol};\n"));
    } else {
        put(h, format_args!("const qcc_model_info *qcc_{name}_info(void);\n"));
    }
    h.push_str(
        "/* Integers in, integers out: in[i] and out[i] point to dense row-major tensors, aligned to their element size, that do\n \
         * not overlap. Buffers of exactly their sizes are enough: nothing behind them is read or written. Any number of threads\n \
         * may run the model at once, each with a scratch of its own. */\n",
    );
    put(h, format_args!("int qcc_{name}_run(const void *const *in, void *const *out, void *scratch);\n"));
    h.push_str(
        "/* The same over the host's threads; a null pool means one thread. Same bits for any number of threads. */\n",
    );
    let mt = "void *scratch, const qcc_pool *pool";
    put(h, format_args!("int qcc_{name}_run_mt(const void *const *in, void *const *out, {mt});\n"));
    if info.has_float_interface {
        h.push_str("/* The same with every tensor as float, quantized on entry and dequantized on return. */\n");
        put(h, format_args!("int qcc_{name}_run_f32(const float *const *in, float *const *out, void *scratch);"));
        put(h, format_args!("int qcc_{name}_run_f32_mt(const float *const *in, float *const *out, {mt});\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_runtime::abi::{QccModelInfo, QccPool, QccTensorInfo};
    use qcc_runtime::{CpuFeatures, Quant};
    use std::io::Write as _;
    use std::mem::{offset_of, size_of};
    use std::process::Command;

    fn sample() -> ModelInfo {
        let tensor = |name: &str, dtype, quant| TensorInfo { name: name.into(), dtype, dims: vec![1, 3], quant };
        ModelInfo {
            name: "tiny-net.v1".into(),
            compiler: "qcc 0.1.0".into(),
            model_hash: [0; 32],
            inputs: vec![tensor("image */ evil", DType::U8, Some(Quant { scale: 0.25, zero_point: 7 }))],
            outputs: vec![tensor("class", DType::I64, None)],
            scratch_bytes: 64,
            scratch_align: 64,
            cpu_features: CpuFeatures::AVX2,
            macs: 12,
            has_float_interface: true,
        }
    }

    #[test]
    fn the_header_says_what_the_tensors_mean() {
        let text = model_header(&sample());
        for line in [
            " * in[0]: \"image * / evil\", u8 [1, 3]; real = 0.25 * (stored - 7), the scale being 1 / 2^2",
            " * out[0]: \"class\", i64 [1, 3]",
            "#define QCC_TINY_NET_V1_OUT0_BYTES 24",
            "int qcc_tiny_net_v1_run_f32(const float *const *in, float *const *out, void *scratch);",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let integer = model_header(&ModelInfo { has_float_interface: false, ..sample() });
        assert!(!integer.contains("_run_f32("));
    }

    /// A C compiler sees the layouts that `qcc_runtime::abi` declares.
    #[test]
    fn c_compilers_agree_on_the_layouts() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.h"), model_header(&sample())).unwrap();
        // Names whose function would be one of the types.
        for name in ["model", "tensor"] {
            let text = model_header(&ModelInfo { name: name.to_string(), ..sample() });
            std::fs::write(folder.path().join(format!("{name}_.h")), text).unwrap();
        }
        let checks = [
            ("sizeof(qcc_tensor_info)", size_of::<QccTensorInfo>()),
            ("sizeof(qcc_model_info)", size_of::<QccModelInfo>()),
            ("sizeof(qcc_pool)", size_of::<QccPool>()),
            ("offsetof(qcc_tensor_info, dims)", offset_of!(QccTensorInfo, dims)),
            ("offsetof(qcc_tensor_info, scale_shift)", offset_of!(QccTensorInfo, scale_shift)),
            ("offsetof(qcc_model_info, scratch_bytes)", offset_of!(QccModelInfo, scratch_bytes)),
            ("offsetof(qcc_model_info, name)", offset_of!(QccModelInfo, name)),
            ("offsetof(qcc_pool, parallel_for)", offset_of!(QccPool, parallel_for)),
        ];
        let mut source =
            String::from("#include \"model.h\"\n#include \"model.h\"\n#include \"model_.h\"\n#include \"tensor_.h\"\n");
        for (i, (expression, value)) in checks.iter().enumerate() {
            put(&mut source, format_args!("typedef char check{i}[({expression}) == {value} ? 1 : -1];"));
        }
        source.push_str("const void *use(void) { return qcc_tensor(qcc_tiny_net_v1_info(), 0); }\n");
        source.push_str("const void *use_model(void) { return qcc_tensor(qcc_model_description(), 0); }\n");
        source.push_str("const void *use_tensor(void) { return qcc_tensor(qcc_tensor_description(), 0); }\n");
        for (compiler, file, standard) in [("gcc", "t.c", "-std=c99"), ("g++", "t.cc", "-std=c++11")] {
            std::fs::write(folder.path().join(file), &source).unwrap();
            let flags = [standard, "-Wall", "-Wextra", "-pedantic", "-Werror", "-c", "-o", "t.o", file];
            match Command::new(compiler).args(flags).current_dir(folder.path()).output() {
                Ok(run) => assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr)),
                // Written past the harness, which shows nothing of a test that passes.
                Err(error) => drop(writeln!(std::io::stderr(), "skipped: no {compiler}: {error}")),
            }
        }
    }
}
