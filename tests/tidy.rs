//! The laws of the tree: what the compiler cannot check and reviewers forget.
//!
//! | test | law |
//! |---|---|
//! | `crates` | the crates and their edges are those of the table in `ARCHITECTURE.md`, without a cycle |
//! | `top_level` | nothing stands at the top but what belongs there |
//! | `sources` | nothing left undone, `unsafe` only where it is allowed |
//! | `sizes` | no file above 600 lines but tables, no function above 80, no struct that is only called `Layer` |
//! | `circles` | no files of a crate import each other in a circle; `tidy/circles.rs` says what counts |
//! | `references` | the pages that are made from tables say what the tables say |
//! | `filetests` | every operator has a test of its own, every pass a folder, and there are no others |
//! | `setup` | `README.md` has two set-up commands, and CI runs those |
//! | `links` | relative links and paths in pages lead somewhere |
//! | `knobs` | every environment variable that is read is explained in `docs/debugging.md` |
//!
//! `QCC_BLESS=1` rewrites the pages of `references`.

#[path = "tidy/circles.rs"]
mod circles;
#[path = "filetests/harness/diff.rs"]
mod diff;
#[path = "tidy/references.rs"]
mod references;
#[path = "tidy/rust.rs"]
mod rust;
#[path = "tidy/semantics.rs"]
mod semantics;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Most lines of a source file.
const LINES: usize = 600;

/// Files that are one table, a row an operator, and may be longer.
const TABLES: &[&str] = &["compiler/ir/src/ops.rs"];

/// Most lines of a function.
const FUNCTION: usize = 80;

/// What may stand at the top, beside files that start with a dot.
const TOP: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "compiler",
    "deny.toml",
    "docs",
    "examples",
    "passes",
    "runtime",
    "rustfmt.toml",
    "tests",
];

/// Where `unsafe` is allowed, beside folders of tests: the C ABI, code that has just been made, and the matrix product.
const UNSAFE: &[&str] = &["runtime/", "compiler/codegen/src/emit/", "compiler/interp/src/float/matrix.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Paths of all files below a folder with one of these endings, relative to the root, sorted.
fn files(folder: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if endings.iter().any(|e| name.ends_with(e)) {
                let relative = path.strip_prefix(root()).unwrap_or(&path);
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Crates by name: folder, and the crates of this workspace that it depends on.
type Crates = BTreeMap<String, (String, BTreeSet<String>)>;

fn declared_crates() -> Crates {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let arguments = ["metadata", "--no-deps", "--format-version", "1"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().expect("cargo metadata runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let package = |package: &Value| {
        let folder = Path::new(package["manifest_path"].as_str()?).parent()?.strip_prefix(root()).ok()?;
        let edges =
            list(&package["dependencies"]).iter().filter(|d| !d["path"].is_null()).map(|d| text(&d["name"])).collect();
        // The root package keeps its sources in a room like the others.
        let folder = if folder == Path::new("") { Path::new("compiler/qcc") } else { folder };
        Some((text(&package["name"]), (folder.to_string_lossy().into_owned(), edges)))
    };
    list(&metadata["packages"]).iter().filter_map(package).collect()
}

/// Rows `| crate | folder | purpose | depends on |` whose first cell is a crate's name in backticks.
fn documented_crates() -> Crates {
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_string).collect::<Vec<_>>();
    let text = read("ARCHITECTURE.md");
    let rows = text.lines().filter(|l| l.starts_with("| `qcc"));
    rows.filter_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [name, folder, _, edges] = cells.as_slice() else { return None };
        let first = |cell| quoted(cell).into_iter().next();
        Some((first(name)?, (first(folder)?, quoted(edges).into_iter().collect())))
    })
    .collect()
}

#[test]
fn crates() {
    let (declared, documented) = (declared_crates(), documented_crates());
    let mut faults = Vec::new();
    for name in declared.keys().chain(documented.keys()).collect::<BTreeSet<_>>() {
        if declared.get(name) != documented.get(name) {
            faults.push(format!(
                "{name}: ARCHITECTURE.md says {:?}, Cargo.toml says {:?}",
                documented.get(name),
                declared.get(name)
            ));
        }
    }
    // Whatever depends only on what was taken out can be taken out; a cycle never can.
    let mut left = declared;
    while let Some(name) =
        left.iter().find(|(_, (_, edges))| !edges.iter().any(|e| left.contains_key(e))).map(|(n, _)| n.clone())
    {
        left.remove(&name);
    }
    if !left.is_empty() {
        faults.push(format!("crates that depend on each other: {:?}", left.keys()));
    }
    report(&faults);
}

#[test]
fn top_level() {
    let names = entries(root()).into_iter().map(|p| p.file_name().unwrap_or_default().to_string_lossy().into_owned());
    // `target` is Cargo's and ignored by git.
    let strange = names.filter(|n| !n.starts_with('.') && n != "target" && !TOP.contains(&n.as_str()));
    report(&strange.map(|n| format!("{n} does not belong at the top level")).collect::<Vec<_>>());
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|w| w == word)
}

#[test]
fn sources() {
    // Put together, so that this file does not name them.
    let undone = [["TO", "DO"].concat(), ["FIX", "ME"].concat()];
    let macros = [["to", "do"].concat(), ["unimple", "mented"].concat(), ["db", "g"].concat()].map(|m| m + "!");
    let mut faults = Vec::new();
    for folder in ["compiler", "passes", "runtime", "tests", "examples"] {
        for path in files(folder, &[".rs", ".py", ".c", ".h"]) {
            let text = read(&path);
            let is_test = path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
            let may_be_unsafe = is_test || UNSAFE.iter().any(|u| path.starts_with(u));
            let code = rust::code(&text);
            for (i, (line, code)) in text.lines().zip(code.lines()).enumerate() {
                let number = i + 1;
                if let Some(word) = undone.iter().find(|w| has_word(line, w)) {
                    faults.push(format!("{path}:{number}: {word}: do it, or open an issue"));
                }
                if !path.ends_with(".rs") {
                    continue;
                }
                if let Some(name) = macros.iter().find(|m| code.contains(m.as_str())) {
                    faults.push(format!("{path}:{number}: `{name}` is left"));
                }
                if !may_be_unsafe && has_word(code, "unsafe") {
                    faults.push(format!("{path}:{number}: `unsafe` is not allowed here"));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn sizes() {
    let mut faults = Vec::new();
    for folder in ["compiler", "passes", "runtime", "tests", "examples"] {
        for path in files(folder, &[".rs", ".py", ".c", ".h"]) {
            let text = read(&path);
            let total = text.lines().count();
            if total > LINES && !TABLES.contains(&path.as_str()) {
                faults.push(format!("{path}: {total} lines; at most {LINES}: split it by concept"));
            }
            if !path.ends_with(".rs") {
                continue;
            }
            let code = rust::code(&text);
            for (name, line, length) in rust::functions(&code) {
                if length > FUNCTION {
                    faults.push(format!("{path}:{line}: `{name}` has {length} lines; at most {FUNCTION}"));
                }
            }
            let tokens = rust::tokens(&code);
            let named = tokens.windows(2).filter(|t| t[0].0 == "struct" && t[1].0 == "Layer");
            faults.extend(named.map(|t| format!("{path}:{}: a struct `Layer`: of what?", t[1].1)));
        }
    }
    report(&faults);
}

#[test]
fn circles() {
    let mut faults = Vec::new();
    for (_, (folder, _)) in declared_crates() {
        let roots = ["src/lib.rs", "lib.rs", "main.rs"].map(|r| format!("{folder}/{r}"));
        for root_file in roots.iter().filter(|r| root().join(r).exists()) {
            let arrows = circles::arrows(root_file, &|p| std::fs::read_to_string(root().join(p)).ok());
            for circle in circles::circles(&arrows) {
                faults.push(format!("{root_file}: {} files import each other in a circle:", circle.len()));
                for file in &circle {
                    let within: Vec<&String> = arrows[file].iter().filter(|t| circle.contains(t)).collect();
                    faults.push(format!("    {file} -> {within:?}"));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn references() {
    let bless = std::env::var_os("QCC_BLESS").is_some_and(|v| v != "0");
    let mut faults = Vec::new();
    for (path, text) in references::pages(&|p| read(p), &|p| root().join(p).is_file()) {
        let present = std::fs::read_to_string(root().join(path)).unwrap_or_default();
        if bless && present != text {
            std::fs::write(root().join(path), &text).unwrap_or_else(|e| panic!("{path}: {e}"));
        } else if present != text {
            let diff = diff::lines(&present, &text);
            faults.push(format!("{path} is stale: QCC_BLESS=1 cargo test --test tidy references\n{diff}"));
        }
    }
    report(&faults);
}

#[test]
fn filetests() {
    let stem =
        |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().trim_end_matches(".qir").to_string();
    let present = |folder: &str| -> BTreeSet<String> {
        let folder = root().join("tests/filetests").join(folder);
        let holds_tests =
            |p: &PathBuf| p.is_file() || entries(p).iter().any(|f| f.extension().is_some_and(|e| e == "qir"));
        entries(&folder).iter().filter(|p| holds_tests(p)).map(|p| stem(p)).collect()
    };
    let operators: BTreeSet<String> = qcc_ir::ops::OPS.iter().map(|o| o.name.to_string()).collect();
    // Tests of how passes are strung together have a folder among them.
    let names = qcc_passes::PASSES.iter().map(|p| p.name).chain(["pipeline"]);
    let passes: BTreeSet<String> = names.map(str::to_string).collect();
    let mut faults = Vec::new();
    for (folder, ending, known) in [("ops", ".qir", operators), ("passes", "/*.qir", passes)] {
        let present = present(folder);
        faults.extend(known.difference(&present).map(|n| format!("tests/filetests/{folder}/{n}{ending} is missing")));
        faults.extend(present.difference(&known).map(|n| format!("tests/filetests/{folder}/{n} tests nothing known")));
    }
    report(&faults);
}

#[test]
fn setup() {
    let block = |text: &str, info: &str| -> Vec<String> {
        let fence = format!("\n```{info}\n");
        let mut blocks = text.split(&fence).skip(1);
        let lines = blocks.next().and_then(|b| b.split("\n```").next()).unwrap_or_default();
        assert!(blocks.next().is_none(), "README.md has two blocks `{info}`");
        lines.lines().map(str::to_string).collect()
    };
    let commands = block(&read("README.md"), "sh setup");
    assert_eq!(commands.len(), 2, "one command runs the main job, one the tests: {commands:?}");
    assert_eq!(commands[1], "cargo test");
    // CI takes the commands out of the block rather than repeating them.
    let ci = read(".ci/run");
    assert!(ci.contains("/^```sh setup$/") && ci.contains("-c \"$command\""), ".ci/run does not run README.md's block");
    // Plain `cargo test` means all crates only if the root lists them.
    let manifest = read("Cargo.toml");
    let list = |key: &str| -> BTreeSet<String> {
        let line = manifest.lines().find(|l| l.starts_with(&format!("{key} = "))).unwrap_or_default();
        line.split('"').skip(1).step_by(2).map(str::to_string).collect()
    };
    let mut members = list("members");
    members.insert(".".to_string());
    assert_eq!(list("default-members"), members);
}

#[test]
fn links() {
    let mut faults = Vec::new();
    for page in files("", &[".md"]) {
        let text = read(&page);
        let folder = Path::new(&page).parent().unwrap_or(Path::new(""));
        let mut in_code = false;
        for (i, line) in text.lines().enumerate() {
            in_code ^= line.starts_with("```");
            if in_code {
                continue;
            }
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = target.split('#').next().unwrap_or_default();
                let elsewhere = target.contains("://") || file.is_empty();
                if !elsewhere && !root().join(folder).join(file).exists() {
                    faults.push(format!("{page}:{}: the link {target} leads nowhere", i + 1));
                }
            }
            for path in line.split('`').skip(1).step_by(2).filter(|p| is_path(p)) {
                if !root().join(path).exists() {
                    faults.push(format!("{page}:{}: there is no {path}", i + 1));
                }
            }
        }
    }
    report(&faults);
}

/// True for what is written as a path from the root, without placeholders.
fn is_path(text: &str) -> bool {
    let rooms = ["compiler/", "passes/", "runtime/", "tests/", "examples/", "docs/", ".ci/"];
    rooms.iter().any(|r| text.starts_with(r)) && text.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c))
}

#[test]
fn knobs() {
    let page = read("docs/debugging.md");
    let mut faults = Vec::new();
    for folder in ["compiler", "passes", "runtime", "tests", "examples"] {
        for path in files(folder, &[".rs"]) {
            let text = read(&path);
            for part in text.split("env::var").skip(1) {
                let name = part.split('"').nth(1).unwrap_or_default();
                if name.starts_with("QCC_") && !page.contains(&format!("`{name}`")) {
                    faults.push(format!("{path} reads {name}, which docs/debugging.md does not explain"));
                }
            }
        }
    }
    report(&faults);
}
