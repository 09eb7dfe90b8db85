//! Certificates of compiled files.

use qcc::runtime::{Manifest, Seal};
use serde_json::Value;

use super::{done, example, qcc, stderr, stdout};

#[test]
fn a_file_proves_its_claims() {
    let folder = example();
    let said = done(folder.path(), &["check", "example.so"]);
    for claim in ["buffers apart from each other", "fit 32 bits", "within the domain of their equations"] {
        assert!(said.contains(claim), "{said}");
    }
    let json: Value = serde_json::from_str(&done(folder.path(), &["check", "example.so", "--json"])).expect("JSON");
    let claims = &json["claims"];
    assert_eq!((&claims["hold"], &json["self_contained"]), (&true.into(), &true.into()));
    let layers = claims["layers"].as_array().expect("a list");
    assert!(layers.len() > 10, "{claims}");
    for layer in layers {
        let margin = |key: &str| layer[key].as_u64().unwrap_or_else(|| panic!("{key}: {layer}"));
        assert!(margin("margin_bits") >= margin("margin_bits_of_any_weights"), "{layer}");
    }
}

/// A manifest that claims what cannot be, in a file that is sealed again.
#[test]
fn false_claims_are_refuted() {
    let folder = example();
    let good = std::fs::read(folder.path().join("example.so")).expect("it was written");
    let manifest = qcc::codegen::check::manifest(&good).expect("reads").expect("there is one");
    let section = manifest.to_section();
    let at = good.windows(section.len()).position(|w| w == section).expect("it lies in the file");
    type Change = (&'static str, fn(&mut Manifest));
    let changes: [Change; 3] = [
        ("share memory", |m| {
            let (offset, first, last) = (m.buffers[0].offset, m.buffers[0].first, m.buffers[0].last);
            let next =
                m.buffers.iter_mut().skip(1).find(|b| b.first <= last && first <= b.last).expect("alive together");
            next.offset = offset;
        }),
        ("more than 32 bits", |m| m.accumulators[0].high = 1 << 31),
        ("out of their ranges", |m| m.requantizations[0].greatest = 300),
    ];
    for (fault, change) in changes {
        let mut claimed = manifest.clone();
        change(&mut claimed);
        // Greater numbers take more room: the pipeline, of which nothing is claimed, gives it.
        claimed.pipeline.clear();
        let claimed = claimed.to_section();
        assert!(claimed.len() <= section.len());
        let mut file = good[..good.len() - 56].to_vec();
        file[at..at + claimed.len()].copy_from_slice(&claimed);
        Seal::append(&mut file);
        std::fs::write(folder.path().join("false.so"), file).expect("temporary file");
        let output = qcc(folder.path(), &["check", "false.so"]);
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        assert!(stdout(&output).contains("refuted: ") && stdout(&output).contains(fault), "{}", stdout(&output));
    }
}
