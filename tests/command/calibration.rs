//! Samples in all their forms, shards, and tables of ranges.

use super::*;
use crate::models::{field, model, number};

/// Six samples of four numbers.
fn rows() -> Vec<f32> {
    (0..24u8).map(|i| (f32::from(i) * 1.7).sin() * f32::from(i)).collect()
}

#[test]
fn shards_merge_into_one_run() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let relu = model(&[("Neg", "x", "n"), ("Relu", "n", "y")], &[1, 4]);
    std::fs::write(at("m.onnx"), relu).unwrap();
    std::fs::write(at("other.onnx"), model(&[("Abs", "x", "n"), ("Relu", "n", "y")], &[1, 4])).unwrap();
    std::fs::write(at("x.npy"), to_npy(&Tensor::f32(&[6, 4], rows()))).unwrap();
    for method in ["minmax", "percentile", "mse", "kl", "auto"] {
        let calibrate = |model: &str, out: &str, more: &[&str]| {
            let flags = ["calibrate", model, "--data", "x.npy", "--method", method, "-o", out];
            done(folder.path(), &[&flags[..], more].concat());
        };
        calibrate("m.onnx", "whole.json", &[]);
        for i in ["1", "2", "3"] {
            calibrate("m.onnx", &format!("{i}.json"), &["--shard", &format!("{i}/3")]);
        }
        calibrate("other.onnx", "other.json", &["--shard", "3/3"]);
        let whole = std::fs::read_to_string(at("whole.json")).unwrap();
        for order in [["1.json", "2.json", "3.json"], ["3.json", "1.json", "2.json"]] {
            done(folder.path(), &[&["ranges", "merge", "-o", "merged.json"], &order[..]].concat());
            assert_eq!(std::fs::read_to_string(at("merged.json")).unwrap(), whole, "{method}");
        }
    }
    let calibrate = |data: &str, shard: &str, out: &str, more: &[&str]| {
        let flags = ["calibrate", "m.onnx", "--data", data, "--shard", shard, "-o", out];
        done(folder.path(), &[&flags[..], more].concat());
    };
    let numbers: Vec<f32> = (0..36u8).map(f32::from).collect();
    std::fs::write(at("more.npy"), to_npy(&Tensor::f32(&[9, 4], numbers))).unwrap();
    calibrate("more.npy", "1/3", "again.json", &["--method", "auto"]);
    calibrate("more.npy", "3/3", "more.json", &["--method", "auto"]);
    calibrate("x.npy", "2/2", "half.json", &["--method", "auto"]);
    calibrate("x.npy", "3/3", "mse.json", &["--method", "mse"]);
    calibrate("x.npy", "3/3", "scaled.json", &["--method", "auto", "--preset", "unit"]);
    let merge = |tables: &[&str], text: &str| {
        refused(folder.path(), &[&["ranges", "merge", "-o", "out.json"], tables].concat(), 1, text);
    };
    merge(&["1.json", "2.json"], "shard 3/3 is missing");
    merge(&["1.json", "2.json", "1.json"], "`1.json` and `1.json` are the same");
    merge(&["1.json", "2.json", "again.json"], "`1.json` and `again.json` are both shard 1/3");
    merge(&["1.json", "2.json", "3.json", "whole.json"], "beside shards of one");
    merge(&["1.json", "half.json"], "`half.json` is shard 2/2 and `1.json` is shard 1/3");
    merge(&["1.json", "2.json", "more.json"], "shard 1/3 has 2 of 7 samples, and 3 are its share");
    merge(&["whole.json", "whole.json"], "are the same");
    merge(&["1.json", "2.json", "other.json"], "`1.json` and `other.json` are not of the same model");
    merge(&["1.json", "2.json", "mse.json"], "choose ranges by auto and by mse");
    merge(&["1.json", "2.json", "scaled.json"], "--preset unit");
    let third = std::fs::read_to_string(at("3.json")).unwrap();
    let damaged = |from: &str, to: &str| {
        let (ranges, seen) = third.split_at(third.find("\"observations\"").unwrap());
        format!("{ranges}{}", seen.replacen(from, to, 1))
    };
    for (text, message) in [
        (third[..third.len() / 2].to_string(), "damaged.json"),
        (String::new(), "damaged.json"),
        (damaged("\"counts\": \"", "\"counts\": \"no "), "are damaged"),
        (damaged("\"samples\": ", "\"samples\": 1"), "are damaged"),
        (damaged("\"exponent\": ", "\"exponent\": 1, \"more\": "), "unknown field `more`"),
        (damaged("\"version\": 1", "\"version\": 9"), "version 9"),
        (third.replacen("\"observations\"", "\"observation\"", 1), "unknown field `observation`"),
        (third.replacen("\"max\": ", "\"max\": 9", 1), "does not follow from what was observed"),
        (r#"{"values": {}}"#.to_string(), "no observations to merge"),
    ] {
        std::fs::write(at("damaged.json"), text).unwrap();
        merge(&["1.json", "2.json", "damaged.json"], message);
    }
    merge(&["1.json", "absent.json"], "absent.json");
    // The ranges of another method, from what was seen.
    done(folder.path(), &["ranges", "merge", "whole.json", "--method", "mse", "-o", "merged.json"]);
    done(folder.path(), &["calibrate", "m.onnx", "--data", "x.npy", "--method", "mse", "-o", "whole.json"]);
    assert!(std::fs::read(at("merged.json")).unwrap() == std::fs::read(at("whole.json")).unwrap());
}

/// A layer, so that there are weights to be corrected, as text.
const LAYER: &str = "graph @layer(%x: tensor<1x4xf32>) -> (tensor<1x3xf32>) {
  const @w : tensor<3x4xf32> = dense<[1.0, 0.5, -0.3, 0.2, 0.1, 0.9, -0.7, 0.4, 0.33, -0.25, 0.11, 0.6]>
  %a = nn.linear(%x, @w) : tensor<1x3xf32>
  %b = nn.relu(%a) : tensor<1x3xf32>
  return %b
}
";

#[test]
fn other_spellings_of_a_pass_and_its_flag_are_understood() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("m.qir"), LAYER).unwrap();
    let with_flag = |flag: &str| done(folder.path(), &["m.qir", "--emit", "qir", flag, "off"]);
    assert_eq!(with_flag("--draw-samples"), with_flag("--synthesize-samples"));
    let with_pass =
        |pass: &str| done(folder.path(), &["opt", "m.qir", "--passes", &format!("{pass}, propagate-ranges")]);
    assert_eq!(with_pass("draw-samples"), with_pass("synthesize-samples"));
}

#[test]
fn ranges_are_read_edited_and_given_back() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("m.qir"), LAYER).unwrap();
    std::fs::write(at("x.npy"), to_npy(&Tensor::f32(&[6, 4], rows()))).unwrap();
    done(folder.path(), &["calibrate", "m.qir", "--data", "x.npy", "-o", "r.json"]);
    // The name of the file is in it.
    ["whole", "parts", "ranges"].iter().for_each(|name| std::fs::create_dir(at(name)).unwrap());
    done(folder.path(), &["m.qir", "-o", "whole/m.so", "--calibrate", "x.npy"]);
    done(folder.path(), &["m.qir", "-o", "parts/m.so", "--calibrate", "x.npy", "--ranges", "r.json"]);
    assert!(std::fs::read(at("whole/m.so")).unwrap() == std::fs::read(at("parts/m.so")).unwrap());
    // Without samples nothing corrects weights, and that is said.
    let output = qcc(folder.path(), &["m.qir", "-o", "ranges/m.so", "--ranges", "r.json", "--remarks"]);
    assert!(stderr(&output).contains("give samples too"), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing rounded: there are no samples"), "{}", stderr(&output));
    let rounded = ["--calibrate", "x.npy", "--ranges", "r.json", "--round-weights", "off", "--correct-bias", "off"];
    let integers = |more: &[&str]| done(folder.path(), &[&["m.qir", "--emit", "qir"], more].concat());
    assert_eq!(integers(&["--ranges", "r.json"]), integers(&rounded));

    let whole = std::fs::read_to_string(at("r.json")).unwrap();
    let edit = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut table = serde_json::from_str(&whole).unwrap();
        change(&mut table);
        std::fs::write(at("e.json"), table.to_string()).unwrap();
    };
    edit(&|t| t["values"]["b"]["max"] = 2.55.into());
    assert!(integers(&["--ranges", "e.json"]).contains("u8:f32, 0.01>"), "{}", integers(&["--ranges", "e.json"]));
    // A row left out is derived.
    edit(&|t| drop(t["values"].as_object_mut().unwrap().remove("b")));
    let output = qcc(folder.path(), &["m.qir", "-o", "e.qir", "--ranges", "e.json"]);
    assert!(stderr(&output).contains("1 ranges derived"), "{}", stderr(&output));

    let wrong = |text: &str| refused(folder.path(), &["m.qir", "-o", "out.so", "--ranges", "e.json"], 1, text);
    edit(&|t| t["values"]["bb"] = t["values"]["b"].clone());
    wrong("a row `bb`, which is no value of the model");
    edit(&|t| t["values"]["b"]["min"] = 1e9.into());
    wrong("the range of `b` needs finite ends in order");
    edit(&|t| t["values"]["b"]["max"] = 1e300.into());
    wrong("the range of `b` needs finite ends in order");
    edit(&|t| t["values"]["b"]["maximum"] = 1.into());
    wrong("unknown field `maximum`");
    edit(&|t| t["values"]["b"]["max"] = serde_json::Value::Null);
    wrong("e.json:1");
    for text in [whole.replacen("\"max\": ", "\"max\": NaN, \"m\": ", 1), whole[..100].to_string(), String::new()] {
        std::fs::write(at("e.json"), text).unwrap();
        wrong("the range table cannot be read");
    }
    refused(folder.path(), &["m.qir", "-o", "out.so", "--ranges", "absent.json"], 1, "absent.json");

    let calibrate = |more: &[&str], text: &str| {
        refused(folder.path(), &[&["calibrate", "m.qir", "-o", "out.json"], more].concat(), 2, text);
    };
    calibrate(&[], "there are no samples");
    calibrate(&["--data", "x.npy", "--calibrate", "x.npy"], "cannot be used with '--calibrate");
    calibrate(&["--data", "x.npy", "--ranges", "r.json"], "exclude each other");
    calibrate(&["--data", "x.npy", "--equalize", "on"], "--save-ranges");
    calibrate(&["--data", "x.npy", "--mode", "int8_dynamic"], "nothing to calibrate");
}

/// Writes a `.npz` archive.
fn archive(path: &Path, method: zip::CompressionMethod, arrays: &[(&str, &Tensor)]) {
    let mut writer = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, tensor) in arrays {
        writer.start_file(format!("{name}.npy"), options).unwrap();
        std::io::Write::write_all(&mut writer, &to_npy(tensor)).unwrap();
    }
    writer.finish().unwrap();
}

/// Adds two inputs.
const TWO: &str = "graph @two(%x: tensor<1x4xf32>, %y: tensor<1x4xf32>) -> (tensor<1x4xf32>) {
  %a = nn.add(%x, %y) : tensor<1x4xf32>
  return %a
}
";

/// Writes the two models, and the same samples in every form that arrays have.
fn samples_in_every_form(folder: &Path) {
    let at = |name: &str| folder.join(name);
    let array = |name: &str, tensor: &Tensor| std::fs::write(at(name), to_npy(tensor)).unwrap();
    std::fs::write(at("one.qir"), LAYER).unwrap();
    std::fs::write(at("two.qir"), TWO).unwrap();
    let (x, y) = (Tensor::f32(&[6, 4], rows()), Tensor::f32(&[6, 4], rows().into_iter().rev().collect()));
    array("x.npy", &x);
    array("axis.npy", &Tensor::f32(&[6, 1, 4], rows()));
    archive(&at("stored.npz"), zip::CompressionMethod::Stored, &[("x", &x), ("y", &Tensor::f32(&[6], vec![0.0; 6]))]);
    archive(&at("packed.npz"), zip::CompressionMethod::Deflated, &[("anything", &x)]);
    archive(&at("two.npz"), zip::CompressionMethod::Deflated, &[("y", &y), ("x", &x)]);
    ["files", "inputs", "inputs/x", "inputs/y"].iter().for_each(|name| std::fs::create_dir(at(name)).unwrap());
    let mut list = "# samples\n\n".to_string();
    for (i, (row, other)) in rows().chunks(4).zip(y.as_f32().unwrap().chunks(4)).enumerate() {
        // Some have a batch axis, some have none.
        let dims: &[usize] = if i % 2 == 0 { &[4] } else { &[1, 4] };
        array(&format!("files/{i}.npy"), &Tensor::f32(dims, row.to_vec()));
        array(&format!("inputs/x/{i}.npy"), &Tensor::f32(&[4], row.to_vec()));
        array(&format!("inputs/y/{i}.npy"), &Tensor::f32(&[4], other.to_vec()));
        list += &format!("files/{i}.npy {i}\n");
    }
    std::fs::write(at("list.txt"), list).unwrap();
}

#[test]
fn arrays_in_every_form_are_the_same_samples() {
    let folder = TempDir::new().unwrap();
    samples_in_every_form(folder.path());
    let table = |model: &str, data: &str| {
        done(folder.path(), &["calibrate", model, "--data", data, "-o", "r.json"]);
        std::fs::read_to_string(folder.path().join("r.json")).unwrap()
    };
    let expected = table("one.qir", "x.npy");
    for data in ["axis.npy", "stored.npz", "packed.npz", "files", "list.txt"] {
        assert_eq!(table("one.qir", data), expected, "{data}");
    }
    assert_eq!(table("two.qir", "two.npz"), table("two.qir", "inputs"));
}

#[test]
fn arrays_that_are_no_samples_are_refused() {
    let folder = TempDir::new().unwrap();
    samples_in_every_form(folder.path());
    let at = |name: &str| folder.path().join(name);
    let array = |name: &str, tensor: &Tensor| std::fs::write(at(name), to_npy(tensor)).unwrap();
    let x = Tensor::f32(&[6, 4], rows());
    let bad = |model: &str, data: &str, text: &str| {
        refused(folder.path(), &["calibrate", model, "--data", data, "-o", "out.json"], 1, text);
        refused(folder.path(), &[model, "--calibrate", data, "-o", "out.so"], 1, text);
    };
    let bytes = std::fs::read(at("x.npy")).unwrap();
    std::fs::write(at("short.npy"), &bytes[..bytes.len() - 3]).unwrap();
    bad("one.qir", "short.npy", "truncated");
    std::fs::write(at("header.npy"), &bytes[..9]).unwrap();
    bad("one.qir", "header.npy", "truncated");
    let complex: Vec<u8> = [&bytes[..], &bytes].concat();
    let descr = complex.windows(3).position(|w| w == b"<f4").unwrap();
    std::fs::write(at("complex.npy"), [&complex[..descr], b"<c8", &complex[descr + 3..]].concat()).unwrap();
    bad("one.qir", "complex.npy", "store it as float32");
    let mut damaged = std::fs::read(at("stored.npz")).unwrap();
    damaged[200] ^= 1;
    std::fs::write(at("damaged.npz"), damaged).unwrap();
    bad("one.qir", "damaged.npz", "checksum");
    array("wide.npy", &Tensor::f32(&[6, 5], vec![0.0; 30]));
    bad("one.qir", "wide.npy", "does not hold samples of shape [4]");
    array("none.npy", &Tensor::f32(&[0, 4], Vec::new()));
    bad("one.qir", "none.npy", "there are no samples");
    let mut strange = rows();
    strange[13] = f32::NAN;
    array("nan.npy", &Tensor::f32(&[6, 4], strange.clone()));
    bad("one.qir", "nan.npy", "sample 3 of input `x` is not finite: NaN");
    // It matters also where samples only correct weights.
    done(folder.path(), &["calibrate", "one.qir", "--data", "x.npy", "-o", "r.json"]);
    let corrected = ["one.qir", "--calibrate", "nan.npy", "--ranges", "r.json", "-o", "out.so"];
    refused(folder.path(), &corrected, 1, "sample 3 of input `x` is not finite");
    archive(&at("half.npz"), zip::CompressionMethod::Stored, &[("x", &x)]);
    bad("two.qir", "half.npz", "the archive has no array `y`; it has `x`");
    archive(
        &at("uneven.npz"),
        zip::CompressionMethod::Stored,
        &[("x", &x), ("y", &Tensor::f32(&[1, 4], vec![0.0; 4]))],
    );
    bad("two.qir", "uneven.npz", "6 for `x`, 1 for `y`");
    bad("two.qir", "x.npy", "2 inputs and 1 arrays");
    bad("two.qir", "list.txt", "samples for one input");
    bad("two.qir", "files", "a folder for each: x, y");
    array("files/3.npy", &Tensor::f32(&[5], vec![0.0; 5]));
    bad("one.qir", "files", "3.npy");
    std::fs::create_dir(at("empty")).unwrap();
    bad("one.qir", "empty", "the folder itself has no");
    bad("one.qir", "absent", "no such file");
    std::fs::write(at("list.txt"), "\n").unwrap();
    bad("one.qir", "list.txt", "there are no samples");
    std::fs::write(at("list.txt"), "files/0.npy\nfiles/9.npy\n").unwrap();
    bad("one.qir", "list.txt", "list.txt:2");
}

/// Writes an image of 8-bit RGB pixels.
pub fn png(path: &Path, height: u32, width: u32, pixels: &[u8]) {
    let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().and_then(|mut w| w.write_image_data(pixels)).unwrap();
}

#[test]
fn images_are_told_how_they_become_inputs() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let relu = "graph @m(%x: tensor<1x3x4x4xf32>) -> (tensor<1x3x4x4xf32>) {
  %a = nn.relu(%x) : tensor<1x3x4x4xf32>
  return %a
}
";
    std::fs::write(at("m.qir"), relu).unwrap();
    ["images", "large", "broken"].iter().for_each(|name| std::fs::create_dir(at(name)).unwrap());
    let picture = |height: usize, width: usize, seed: usize| -> Vec<u8> {
        let pixel = |i: usize| [40 * (i % width), 50 * (i / width), 60 * seed].map(|c| c as u8);
        (0..height * width).flat_map(pixel).collect()
    };
    let (mut rows, mut strip) = (Vec::new(), Vec::new());
    for i in 0..3 {
        let image = picture(4, 4, i);
        png(&at(&format!("images/{i}.png")), 4, 4, &image);
        png(&at(&format!("large/{i}.png")), 8, 10, &picture(8, 10, i));
        // Blue first, from -1 to 1.
        for c in [2, 1, 0] {
            rows.extend(image.iter().skip(c).step_by(3).map(|&p| (f32::from(p) / 127.5 - 1.0) / 0.5));
        }
        strip.extend(image);
    }
    std::fs::write(at("x.npy"), to_npy(&Tensor::f32(&[3, 3, 4, 4], rows))).unwrap();
    png(&at("strip.png"), 3, 16, &strip);
    std::fs::write(at("list.txt"), "images/0.png 5\nimages/1.png 6\nimages/2.png 7\n").unwrap();
    let flags = ["--scale", "127.5", "--mean", "1", "--std", "0.5", "--layout", "nchw", "--channel-order", "bgr"];
    let values = |data: &str, more: &[&str]| {
        done(folder.path(), &[&["calibrate", "m.qir", "--data", data, "-o", "r.json"], more].concat());
        let table: serde_json::Value = serde_json::from_slice(&std::fs::read(at("r.json")).unwrap()).unwrap();
        table["values"].clone()
    };
    let expected = values("x.npy", &[]);
    for data in ["images", "list.txt", "strip.png"] {
        assert_eq!(values(data, &flags), expected, "{data}");
    }
    let build = |more: &[&str]| {
        done(folder.path(), &[&["m.qir", "-o", "m.so", "--calibrate"], more].concat());
        let described = done(folder.path(), &["inspect", "m.so"]);
        described.lines().find_map(|l| l.strip_prefix("images")).map_or(String::new(), |l| l.trim().to_string())
    };
    let images = build(&[&["large", "--resize", "6x8", "--crop", "4"][..], &flags].concat());
    assert_eq!(images, "`x`: 6 x 8, crop 4 x 4, 1/127.5, mean [1.0], std [0.5], NCHW, BGR");
    let mean = "mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225], NCHW, RGB";
    assert_eq!(build(&["images", "--preset", "cifar10"]), format!("`x`: as they are, 1/255, {mean} (cifar10)"));
    let images = build(&["large", "--preset", "imagenet", "--crop", "4x4"]);
    assert_eq!(images, format!("`x`: shorter side at most 256, crop 4 x 4, 1/255, {mean} (imagenet)"));

    let bad = |data: &str, more: &[&str], code: i32, text: &str| {
        refused(folder.path(), &[&["calibrate", "m.qir", "--data", data, "-o", "out.json"], more].concat(), code, text);
    };
    bad("images", &[], 2, "nothing says how they become inputs");
    refused(folder.path(), &["compare", "m.qir", "--data", "images"], 2, "nothing says how they become inputs");
    bad("large", &["--preset", "unit"], 1, "8 pixels high and 10 wide after preprocessing");
    bad("images", &["--preset", "unit", "--crop", "9"], 1, "4 pixels high and 4 wide after preprocessing");
    bad("images", &["--preset", "unit", "--layout", "nhwc"], 1, "is no image in the layout nhwc");
    bad("images", &["--preset", "unit", "--mean", "1,2"], 2, "one number, or three");
    let whole = std::fs::read(at("images/1.png")).unwrap();
    std::fs::write(at("broken/0.png"), &whole[..whole.len() / 2]).unwrap();
    bad("broken", &["--preset", "unit"], 1, "broken/0.png");
}

#[test]
fn test_data_of_onnx_calibrates() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("m.onnx"), model(&[("Neg", "x", "n"), ("Relu", "n", "y")], &[1, 4])).unwrap();
    std::fs::write(at("x.npy"), to_npy(&Tensor::f32(&[6, 4], rows()))).unwrap();
    let tensor = |dims: &[u64], kind: u64, raw: &[u8]| {
        let dims: Vec<u8> = dims.iter().flat_map(|&d| number(1, d)).collect();
        [dims, number(2, kind), field(9, raw)].concat()
    };
    let set = |folder: &str, i: usize, bytes: &[u8]| {
        let set = at(folder).join(format!("test_data_set_{i}"));
        std::fs::create_dir_all(&set).unwrap();
        std::fs::write(set.join("input_0.pb"), bytes).unwrap();
    };
    for (i, row) in rows().chunks(4).enumerate() {
        let raw: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
        set("sets", i, &tensor(&[1, 4], 1, &raw));
    }
    done(folder.path(), &["calibrate", "m.onnx", "--data", "x.npy", "-o", "a.json"]);
    done(folder.path(), &["calibrate", "m.onnx", "--data", "sets", "-o", "b.json"]);
    assert_eq!(std::fs::read_to_string(at("a.json")).unwrap(), std::fs::read_to_string(at("b.json")).unwrap());
    done(folder.path(), &["m.onnx", "-o", "a.qir", "--calibrate", "x.npy"]);
    done(folder.path(), &["m.onnx", "-o", "b.qir", "--calibrate", "sets"]);
    assert_eq!(std::fs::read(at("a.qir")).unwrap(), std::fs::read(at("b.qir")).unwrap());
    std::fs::create_dir(at("empty")).unwrap();
    set("shape", 0, &tensor(&[1, 4], 1, &[0; 16]));
    set("shape", 1, &tensor(&[1, 5], 1, &[0; 20]));
    set("dtype", 0, &tensor(&[1, 4], 6, &[0; 16]));
    set("short", 0, &tensor(&[1, 4], 1, &[0; 12]));
    set("noise", 0, &[0xff; 9]);
    set("nan", 0, &tensor(&[1, 4], 1, &[0xff; 16]));
    std::fs::create_dir_all(at("missing/test_data_set_0")).unwrap();
    let bad = [
        ("empty", "test_data_set_0"),
        ("shape", "does not hold samples of shape"),
        ("dtype", "a tensor of integers"),
        ("short", "input_0.pb"),
        ("noise", "not a whole ONNX tensor"),
        ("nan", "sample 0 of input `x` is not finite"),
        ("missing", "there is no such file"),
    ];
    for (data, text) in bad {
        refused(folder.path(), &["calibrate", "m.onnx", "--data", data, "-o", "out.json"], 1, text);
    }
    refused(
        folder.path(),
        &["calibrate", "m.onnx", "--data", "sets", "--shard", "8/9", "-o", "out.json"],
        1,
        "shard 8/9 of 6 samples has none",
    );
    refused(folder.path(), &["calibrate", "m.onnx", "--data", "sets", "--shard", "4/3", "-o", "out.json"], 2, "i/n");
}
