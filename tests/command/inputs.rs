//! What `qcc run` takes: numbers as the model's file declares them, images, and names that exist.

use std::path::Path;

use qcc::data::array::to_npy;
use qcc::ir::{Data, Tensor};
use tempfile::TempDir;

use crate::models::{field, model, number};
use crate::{EXAMPLE, done, example, qcc, refused, stderr};

fn write(folder: &Path, name: &str, dims: &[usize], data: Data) {
    std::fs::write(folder.join(name), to_npy(&Tensor { dims: dims.to_vec(), data })).unwrap();
}

/// A model that takes and gives codes of 8 bits: `DequantizeLinear`, `Relu`, `QuantizeLinear`. `ty` is the type in ONNX, 2 for
/// uint8 and 3 for int8; the scale is 0.5, and `zero` the zero point.
fn codes(ty: u64, zero: u8) -> Vec<u8> {
    let value = |name: &str| {
        let dims = [field(1, &number(1, 1)), field(1, &number(1, 4))].concat();
        let tensor = [number(1, ty), field(2, &dims)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    };
    let constant = |name: &str, ty: u64, raw: &[u8]| [number(2, ty), field(8, name.as_bytes()), field(9, raw)].concat();
    let node = |op: &str, inputs: &[&str], output: &str| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|i| field(1, i.as_bytes())).collect();
        field(1, &[inputs, field(2, output.as_bytes()), field(4, op.as_bytes())].concat())
    };
    let graph = [
        node("DequantizeLinear", &["x", "s", "z"], "f"),
        node("Relu", &["f"], "r"),
        node("QuantizeLinear", &["r", "s", "z"], "y"),
        field(2, b"g"),
        field(5, &constant("s", 1, &0.5f32.to_le_bytes())),
        field(5, &constant("z", ty, &[zero])),
        field(11, &value("x")),
        field(12, &value("y")),
    ]
    .concat();
    [number(1, 8), field(8, &number(2, 17)), field(7, &graph)].concat()
}

#[test]
fn integers_of_the_file_are_codes_whatever_io_says() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("u8.onnx"), codes(2, 100)).unwrap();
    std::fs::write(folder.join("i8.onnx"), codes(3, 3)).unwrap();
    for name in ["u8", "i8"] {
        done(folder, &[&format!("{name}.onnx"), "-o", &format!("{name}.so")]);
        done(folder, &[&format!("{name}.onnx"), "-o", &format!("{name}.int.so"), "--io", "int"]);
    }
    write(folder, "u8.npy", &[1, 4], Data::U8(vec![0, 99, 101, 255]));
    write(folder, "i8.npy", &[1, 4], Data::I8(vec![-128, 2, 4, 127]));
    write(folder, "f32.npy", &[1, 4], Data::F32(vec![0.0, 1.0, 2.0, 3.0]));
    write(folder, "wide.npy", &[1, 4], Data::I64(vec![0, 99, 101, 256]));
    let expected = [("u8", "y [1, 4] u8: [100, 100, 101, 255]\n"), ("i8", "y [1, 4] i8: [3, 3, 4, 127]\n")];
    for (name, expected) in expected {
        let array = format!("{name}.npy");
        for file in [format!("{name}.onnx"), format!("{name}.so")] {
            for more in [&[][..], &["--io", "int"], &["--threads", "2"]] {
                let call = [&["run", &file, "--input", &array], more].concat();
                assert_eq!(done(folder, &call), expected, "{call:?}");
            }
        }
        let file = format!("{name}.onnx");
        for how in ["--interp", "--float"] {
            assert_eq!(done(folder, &["run", &file, "--input", &array, how]), expected, "{name} {how}");
        }
        assert_eq!(done(folder, &["run", &format!("{name}.int.so"), "--input", &array]), expected);
        // C programs take and give the same codes.
        let header = std::fs::read_to_string(folder.join(format!("{name}.h"))).unwrap();
        let zero = if name == "u8" { 100 } else { 3 };
        for tensor in ["in[0]: \"x\"", "out[0]: \"y\""] {
            let line = format!("{tensor}, {name} [1, 4]; real = 0.5 * (stored - {zero})");
            assert!(header.contains(&line), "{line}\n{header}");
        }
        // What the model computes is what the float model computes, in real numbers.
        let compared = done(folder, &["compare", &file, "--data", &array, "--metric", "sqnr"]);
        assert!(compared.contains("exact"), "{compared}");
        let calibrate = ["calibrate", &file, "--data", &array, "-o", "out.json"];
        refused(folder, &calibrate, 1, "no values whose range is to be found");
    }
    for (model, array, text) in [
        ("u8.onnx", "f32.npy", "real numbers (float32) where u8 is wanted"),
        ("u8.so", "f32.npy", "real numbers (float32) where u8 is wanted"),
        ("u8.onnx", "wide.npy", "256 is no u8"),
        ("u8.onnx", "i8.npy", "-128 is no u8"),
        ("i8.so", "u8.npy", "255 is no i8"),
    ] {
        for io in ["int", "float"] {
            refused(folder, &["run", model, "--input", array, "--io", io], 1, text);
        }
    }
    refused(folder, &["compare", "u8.onnx", "--data", "f32.npy"], 1, "where u8 is wanted");
}

#[test]
fn stored_integers_are_no_real_numbers() {
    let folder = example();
    // The example takes real numbers; x.npy holds some.
    refused(folder.path(), &["run", "example.so", "--input", "x.npy", "--io", "int"], 1, "where u8 is wanted");
    let count = 3 * 32 * 32;
    write(folder.path(), "wide.npy", &[1, 3, 32, 32], Data::I64(vec![-1; count]));
    refused(folder.path(), &["run", "example.so", "--input", "wide.npy", "--io", "int"], 1, "-1 is no u8");
}

#[test]
fn names_that_do_not_exist_are_reported_before_anything_is_compiled() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("relu.onnx"), model(&[("Relu", "x", "y")], &[1, 4])).unwrap();
    write(folder.path(), "x.npy", &[1, 4], Data::F32(vec![1.0; 4]));
    let run = ["run", "relu.onnx", "--input", "x.npy"];
    // The pipeline would be refused if anything were compiled.
    for (more, text) in [
        (&["--output", "z=out.npy"][..], "names are y"),
        (&["--output", "out1.npy", "--output", "out2.npy"], "names are y"),
        (&["--output", "y=out1.npy", "--output", "y=out2.npy"], "twice for `y`"),
        (&["--input", "w=x.npy"], "names are x"),
    ] {
        refused(folder.path(), &[&run[..], more, &["--passes", "no-such-pass"]].concat(), 2, text);
    }
    done(folder.path(), &[&run[..], &["--output", "y=y.npy"]].concat());
    refused(folder.path(), &["relu.onnx", "-o", "out.so", "--outputs", "z"], 1, "nothing defines output `z`");
}

#[test]
fn arrays_of_whole_inputs_are_samples() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    std::fs::write(at.join("m.onnx"), model(&[("Sigmoid", "x", "y")], &[4, 6])).unwrap();
    let numbers = |n: usize| Data::F32((0..n * 24).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect());
    write(at, "x.npy", &[5, 4, 6], numbers(5));
    let said = stderr(&qcc(at, &["m.onnx", "-o", "m.so", "--calibrate", "x.npy"]));
    assert!(said.contains("calibrated with 5 samples"), "{said}");
    std::fs::create_dir(at.join("folder")).unwrap();
    for i in 0..3 {
        write(at, &format!("folder/{i}.npy"), &[4, 6], numbers(1));
    }
    let said = stderr(&qcc(at, &["m.onnx", "-o", "m.so", "--calibrate", "folder"]));
    assert!(said.contains("calibrated with 3 samples"), "{said}");
    assert!(
        done(at, &["compare", "m.onnx", "--data", "x.npy", "--calibrate", "x.npy"]).contains("samples             5")
    );
    assert!(done(at, &["run", "m.so", "--input", "x.npy"]).starts_with("y [20, 6] f32"));
}

#[test]
fn images_become_inputs_as_the_model_records() {
    let folder = example();
    let at = folder.path();
    let picture = |name: &str, seed: u32| {
        let pixel = |x: u32, y: u32| [(x * seed) as u8, (y * 7) as u8, 99];
        let pixels: Vec<u8> = (0..36).flat_map(|y| (0..40).flat_map(move |x| pixel(x, y))).collect();
        super::calibration::png(&at.join(name), 36, 40, &pixels);
    };
    picture("cat.png", 3);
    refused(at, &["run", "example.so", "--input", "cat.png"], 2, "nothing says how they become inputs");
    done(at, &[EXAMPLE, "-o", "images.so", "--preset", "cifar10", "--resize", "32x32"]);
    let run = done(at, &["run", "images.so", "--input", "cat.png"]);
    let flags = ["--preset", "cifar10", "--resize", "32x32"];
    assert_eq!(run, done(at, &[&["run", EXAMPLE, "--input", "cat.png"], &flags[..]].concat()));
    assert_ne!(run, done(at, &["run", "images.so", "--input", "cat.png", "--scale", "128"]), "flags come first");
    let names: String = (0..10).map(|i| format!("class number {i}\n")).collect();
    std::fs::write(at.join("names.txt"), names).unwrap();
    let top = done(at, &["run", "images.so", "--input", "cat.png", "--top", "3", "--labels", "names.txt"]);
    assert_eq!(top.lines().filter(|l| l.contains("class number ")).count(), 3, "{top}");
    let scores: Vec<f64> = top.lines().map(|l| l.split_whitespace().nth(2).unwrap().parse().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{top}");
    std::fs::create_dir(at.join("images")).unwrap();
    (0..3).for_each(|i| picture(&format!("images/{i}.png"), i));
    let many = done(at, &["run", "images.so", "--input", "images", "--top", "1"]);
    assert_eq!(many.lines().filter(|l| l.starts_with("sample ")).count(), 3, "{many}");
    std::fs::write(at.join("few.txt"), "a\nb\n").unwrap();
    refused(at, &["run", "images.so", "--input", "cat.png", "--labels", "few.txt"], 2, "2 names for 10 classes");
}

/// What a host feeds back has one scale: known by the names, or named.
#[test]
fn states_have_one_scale() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    let text = "graph @cell(%x: tensor<1x4xf32>, %h0: tensor<1x4xf32>, %m: tensor<1x4xf32>) -> (tensor<1x4xf32>, tensor<1x4xf32>) {
  %s = nn.add(%x, %h0) : tensor<1x4xf32>
  %hn = nn.tanh(%s) : tensor<1x4xf32>
  %k = nn.sub(%m, %hn) : tensor<1x4xf32>
  return %hn, %k
}
";
    std::fs::write(at.join("cell.qir"), text).unwrap();
    let ranges = ["--input-range", "x=-1:1", "--input-range", "h0=-1:1", "--input-range", "m=-8:8"];
    let scale = |name: &str| {
        let described = done(at, &["inspect", "cell.so"]);
        let line = described.lines().find(|l| l.contains(&format!("`{name}` "))).unwrap_or_default().to_string();
        (line.contains(" i16 "), line.rsplit_once("], ").map(|(_, scale)| scale.to_string()))
    };
    done(at, &[&["cell.qir", "-o", "cell.so"], &ranges[..]].concat());
    assert!(scale("h0") == scale("hn") && scale("h0").0, "{:?} {:?}", scale("h0"), scale("hn"));
    assert_ne!(scale("m"), scale("k"));
    done(at, &[&["cell.qir", "-o", "cell.so", "--state", "m=k", "--precision", "all=8"], &ranges[..]].concat());
    assert!(scale("m") == scale("k") && !scale("m").0, "{:?} {:?}", scale("m"), scale("k"));
    refused(at, &["cell.qir", "-o", "out.so", "--state", "m=x"], 2, "outputs are hn, k");
    refused(at, &["cell.qir", "-o", "out.so", "--state", "m"], 2, "expected INPUT=OUTPUT");
}

/// Of more than a few samples some are held out, and judge the result.
#[test]
fn samples_are_held_out() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    std::fs::write(at.join("m.onnx"), model(&[("Sigmoid", "x", "y")], &[1, 6])).unwrap();
    let numbers = |n: usize| Data::F32((0..n * 6).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect());
    for (count, used, judged) in
        [(40, 40, "40 samples that it was calibrated"), (96, 90, "6 samples that it was not calibrated")]
    {
        write(at, "x.npy", &[count, 6], numbers(count));
        let said = stderr(&qcc(at, &["m.onnx", "-o", "m.so", "--calibrate", "x.npy"]));
        assert!(said.contains(&format!("calibrated with {used} samples")) && said.contains(judged), "{said}");
    }
    let said = stderr(&qcc(at, &["m.onnx", "-o", "m.so", "--calibrate", "x.npy", "--samples", "96"]));
    assert!(said.contains("calibrated with 96 samples"), "{said}");
}
