//! Bits that are taken away within a limit.

use qcc::data::array::to_npy;
use tempfile::TempDir;

use crate::{EXAMPLE, done, qcc, refused, samples, stderr};

/// What a search says, and the flags that it prints: they make the same model.
fn lowered(folder: &TempDir, build: &[&str], more: &[&str]) -> (String, Option<String>) {
    let output = qcc(folder.path(), &[build, more].concat());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let found = std::fs::read(folder.path().join("out.so")).unwrap();
    let flags = said.lines().find_map(|l| l.split_once("without a search: ")).map(|(_, flags)| flags.to_string());
    if let Some(flags) = &flags {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        done(folder.path(), &[build, &flags].concat());
        assert!(std::fs::read(folder.path().join("out.so")).unwrap() == found, "{flags:?}");
    }
    (said, flags)
}

#[test]
fn bits_are_taken_away_within_a_limit() {
    let folder = TempDir::new().unwrap();
    for (name, count) in [("x.npy", 48), ("few.npy", 4)] {
        std::fs::write(folder.path().join(name), to_npy(&samples(count))).unwrap();
    }
    let build = [EXAMPLE, "-o", "out.so", "--calibrate", "x.npy", "--quality", "off", "--target", "v3"];
    let with = |more: &[&'static str]| [&build[..], more].concat();
    refused(folder.path(), &with(&["--lower", "speed"]), 2, "--max-drop");
    refused(folder.path(), &with(&["--lower", "memory", "--max-drop", "1"]), 2, "none of speed, size");
    refused(folder.path(), &with(&["--samples", "48", "--lower", "size", "--max-drop", "1"]), 2, "that is too few");
    let metric = ["--metric", "sqnr", "--max-drop"];
    refused(
        folder.path(),
        &[&with(&["--lower", "size"])[..], &metric, &["90"]].concat(),
        2,
        "beyond the limit already",
    );

    // What is asked for is kept on samples that did not choose; a narrower limit takes away less.
    let bits = |flags: Option<&str>| flags.map_or(0, |flags| flags.matches(".weights=").count());
    let search = |limit: f64| {
        let limit = limit.to_string();
        let (said, flags) = lowered(&folder, &build, &[&["--lower", "size"], &metric[..], &[&limit]].concat());
        let figures = said.lines().find_map(|l| l.split_once("did not choose: ")).expect("a figure").1;
        let [reached, usual] = [0, 5].map(|i| figures.split_whitespace().nth(i).and_then(|x| x.parse::<f64>().ok()));
        (reached.expect("decibels"), usual.expect("decibels"), flags)
    };
    let (reached, usual, wide) = search(10.0);
    assert!(reached >= 10.0 && bits(wide.as_deref()) > 1, "{reached}: {wide:?}");
    assert!(wide.as_ref().is_some_and(|flags| flags.contains("--samples 36 ") && !flags.contains("=i6")), "{wide:?}");
    let limit = (usual + reached) / 2.0;
    let (reached, _, narrow) = search(limit);
    assert!(reached >= limit && bits(narrow.as_deref()) < bits(wide.as_deref()), "{limit}, {reached}: {narrow:?}");
    // For speed there are formats between; on a target whose sums have 32 bits in any case there is nothing to gain.
    let (said, flags) = lowered(&folder, &build, &["--lower", "speed", "--max-drop", "6", "--data", "x.npy"]);
    let flags = flags.unwrap_or_else(|| panic!("{said}"));
    assert!(said.contains("expected loss: ") && flags.starts_with("--precision "), "{said}");
    let vnni = [EXAMPLE, "-o", "out.so", "--calibrate", "x.npy", "--quality", "off", "--target", "v4-vnni"];
    let (said, flags) = lowered(&folder, &vnni, &["--lower", "speed", "--max-drop", "6"]);
    assert!(flags.is_none() && said.contains("nothing is gained on this target"), "{said}");
}
