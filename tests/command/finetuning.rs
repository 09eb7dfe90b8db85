//! Training from the command line.

use qcc::data::array::to_npy;
use tempfile::TempDir;

use crate::{EXAMPLE, done, qcc, refused, samples, stderr};

#[test]
fn every_recipe_trains_what_it_is_for() {
    let folder = TempDir::new().unwrap();
    for (name, count) in [("x.npy", 40), ("few.npy", 4)] {
        std::fs::write(folder.path().join(name), to_npy(&samples(count))).unwrap();
    }
    let all = |data: &'static str, more: &[&'static str]| {
        [&["finetune", EXAMPLE, "-o", "out.so", "--calibrate", data, "--batch", "16"], more].concat()
    };
    let with = |more: &[&'static str]| all("x.npy", more);
    refused(folder.path(), &with(&["--recipe", "tuned"]), 2, "is none of distill, faq, apprentice, inq, uniq, qil");
    refused(folder.path(), &with(&["--recipe", "apprentice"]), 2, "another network teaches, and there is none");
    refused(folder.path(), &with(&["--recipe", "qil"]), 2, "fewer than 8 bits that are linear");
    refused(folder.path(), &with(&["--recipe", "uniq"]), 2, "fewer than 8 bits, for which they could have noise");
    refused(folder.path(), &with(&["--recipe", "inq", "--weights", "4"]), 2, "add --weights inq5");
    refused(folder.path(), &with(&["--loss", "none"]), 2, "scores, distance");
    refused(folder.path(), &all("few.npy", &[]), 1, "give at least 8");

    let recipes: [&[&str]; 6] = [
        &["--recipe", "distill", "--weights", "4", "--activations", "4", "--loss", "distance", "--epochs", "1"],
        &["--recipe", "faq", "--epochs", "1", "--optimizer", "sgd", "--rate", "0.0001"],
        &["--recipe", "apprentice", "--teacher", EXAMPLE, "--weights", "5", "--epochs", "1"],
        &["--recipe", "inq", "--weights", "inq5", "--epochs", "4"],
        &["--recipe", "uniq", "--weights", "table4"],
        &["--recipe", "qil", "--weights", "3", "--epochs", "2"],
    ];
    for recipe in recipes {
        let output = qcc(folder.path(), &[&with(&[])[..], recipe].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{recipe:?}: {said}");
        // Each is evaluated on what is held out: 5 of 40.
        assert!(said.contains("held out, 5 samples, before: loss"), "{recipe:?}: {said}");
        assert_eq!(said.contains("as the scores of classes"), !recipe.contains(&"distance"), "{recipe:?}: {said}");
        done(folder.path(), &["check", "out.so"]);
        std::fs::remove_file(folder.path().join("out.so")).unwrap();
    }
}
