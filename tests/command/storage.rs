//! Weights of few values: smaller files, the same bytes, and what tells of it.

use super::{EXAMPLE, done, example};

/// Bytes of read-only data, and bits of the weights of each product with the bytes that they take.
fn described(folder: &std::path::Path, model: &str) -> (u64, Vec<(String, u64, u64)>) {
    let text = done(folder, &["inspect", model]);
    let constants = text.lines().find(|line| line.contains(".rodata")).expect("a section");
    let product = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, bytes, bits, name, "conv", ..] => Some((name.to_string(), bytes.parse().ok()?, bits.parse().ok()?)),
        _ => None,
    };
    let constants = constants.split_whitespace().nth(2).and_then(|bytes| bytes.parse().ok());
    (constants.expect("bytes"), text.lines().filter_map(product).collect())
}

#[test]
fn layers_of_4_bits_take_half_the_bytes_and_give_the_interpreters() {
    let folder = example();
    let at = folder.path();
    let low = ["--precision", "all.weights=i4"];
    done(at, &[&[EXAMPLE, "-o", "low.so"], &low[..]].concat());
    let ((all, layers), (all_low, layers_low)) = (described(at, "example.so"), described(at, "low.so"));
    assert!(all_low * 100 < all * 66, "{all_low} of {all} bytes");
    assert_eq!(layers.len(), layers_low.len());
    let mut halved = 0;
    for ((name, bytes, bits), (_, bytes_low, bits_low)) in layers.iter().zip(&layers_low) {
        assert!(*bits >= 8, "{name}: {bits} bits");
        if *bits_low == 4 {
            halved += 1;
            assert!(bytes_low * 100 <= bytes * 57, "{name}: {bytes_low} of {bytes} bytes");
        }
    }
    assert!(halved >= 3, "{layers_low:?}");
    let run = |model: &str, flags: &[&str]| done(at, &[&["run", model, "--input", "x.npy"], flags].concat());
    let compiled = run("low.so", &[]);
    assert_eq!(run("low.so", &["--threads", "3"]), compiled, "threads");
    for more in [&["--interp"][..], &["--vectors", "128"], &["--vectors", "256"], &["--target", "v2"]] {
        assert_eq!(run(EXAMPLE, &[&low[..], more].concat()), compiled, "{more:?}");
    }

    // Which storage is a choice, as others are, and the plan of the memory names it.
    let choice = r#"{"layers.layers.2.bn2.BatchNormalization_output_0": {"storage": "bytes"}}"#;
    std::fs::write(at.join("c.json"), choice).unwrap();
    done(at, &[&[EXAMPLE, "-o", "bytes.so", "--tuning", "c.json"], &low[..]].concat());
    let (_, chosen) = described(at, "bytes.so");
    let layer = chosen.iter().find(|(name, ..)| name.contains("layers.2.bn2")).expect("the layer");
    assert!(layer.2 >= 8, "{layer:?}");
    assert_eq!(run("bytes.so", &[]), compiled);
    done(at, &[&[EXAMPLE, "-o", "dumped.so", "--dump-dir", "dumps"], &low[..]].concat());
    let plan = std::fs::read_to_string(at.join("dumps/plan.txt")).unwrap();
    assert!(
        plan.contains(
            "layers.layers.2.bn2.BatchNormalization_output_0  (weights: codes of 4 bits, decoded into scratch)"
        ),
        "{plan}"
    );
}
