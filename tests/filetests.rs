//! Tests that are texts: every `tests/filetests/**/*.qir` is a valid text whose comments say what must hold of it.
//!
//! | comment | meaning |
//! |---|---|
//! | `//@ roundtrip` | the text is its own printed form, comments aside |
//! | `//@ verify` | the parser or the verifier finds exactly the faults that `//~` names |
//! | `//@ verify level=int` | the same, also of what belongs to that level: `float`, `quant` or `int` |
//! | `//~ error[Q0011]: text` | a fault on this line (one without a line: on the line of `graph`) |
//! | `//@ passes="fold-bn, .."` | the pipeline gives the text of the `//=` lines: the graph and its remarks, or faults |
//! | `//@ sample (dense<[1, 2]>)` | inputs to calibrate with, before `passes`; one line a sample |
//! | `//@ precision y=16,y.weights=16` | formats by name, before `passes` |
//! | `//@ weights 4`, `//@ activations 4` | formats of all else, before `passes` |
//! | `//@ run (dense<[1, 2]>) == dense<[3]>` | evaluation of the resulting graph, the same bits on every engine |
//! | `//@ run before (..) == ..` | evaluation of the graph as written, before any passes |
//! | `//@ run (..) == .. within 1e-6` | the same up to an absolute difference; floats only |
//!
//! Whatever is parsed must also read back from its printed form. `QCC_BLESS=1` rewrites `//=` and `//~` in place; what
//! `run` expects is derived by hand and never rewritten. `QCC_FILETEST=part-of-path` selects files.

#[path = "filetests/harness/case.rs"]
mod case;
#[path = "filetests/harness/diff.rs"]
mod diff;
#[path = "filetests/harness/run.rs"]
mod run;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use case::{Case, Directive};
use qcc_codegen::Target;
use qcc_ir::parse::{no_files, parse as read, parse_located};
use qcc_ir::{Diag, Diags, Dialect, Graph, Level, Opcode, Tensor, print};
use qcc_passes::quant::precision;
use qcc_passes::{Context, Overall, Pipeline, Precision, Precisions, Samples};

macro_rules! folders {
    ($($folder:ident),*) => {
        const FOLDERS: &[&str] = &["ops", $(stringify!($folder)),*];
        $(#[test] fn $folder() { check_folder(stringify!($folder)); })*
    };
}

folders!(parse, verify, passes, regress);

/// Every operator of integer graphs ran on every target of this machine in every mode: tests of `ops` see to it.
#[test]
fn ops() {
    check_folder("ops");
    if std::env::var_os("QCC_FILETEST").is_some() {
        return;
    }
    let (executed, mut empty) = (run::executed(), Vec::new());
    println!("runs of each operator, by target: {}", run::MODES.join(" / "));
    for info in qcc_ir::ops::OPS.iter().filter(|i| matches!(i.dialect(), Dialect::Int | Dialect::Tensor)) {
        let mut line = format!("{:<24}", info.name);
        for target in Target::all_runnable().into_iter().filter(|_| info.op != Opcode::MaxPoolIndex) {
            let counts = executed.get(&(info.name, target.to_string())).copied().unwrap_or_default();
            line += &format!(" {target}: {} / {} / {}", counts[0], counts[1], counts[2]);
            empty.extend(counts.contains(&0).then(|| format!("{} on {target}: {counts:?}", info.name)));
        }
        println!("{line}");
    }
    assert!(empty.is_empty(), "not executed:\n{}", empty.join("\n"));
}

fn folder_path(folder: &str) -> PathBuf {
    root().join("tests/filetests").join(folder)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files with this ending below a folder, sorted.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|e| e.path()) {
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn check_folder(folder: &str) {
    let bless = std::env::var_os("QCC_BLESS").is_some_and(|v| v != "0");
    let selected = std::env::var("QCC_FILETEST").unwrap_or_default();
    let mut failures = Vec::new();
    let paths = files(&folder_path(folder), "qir");
    let total = paths.len();
    assert!(total > 0, "tests/filetests/{folder} has no tests");
    for path in paths {
        let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        if !name.contains(&selected) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        match check_text(&text) {
            Ok(blessed) if blessed == text => {}
            Ok(blessed) if bless => {
                std::fs::write(&path, blessed).unwrap_or_else(|e| panic!("{name}: {e}"));
                println!("blessed {name}");
            }
            Ok(blessed) => failures.push((name, diff::lines(&text, &blessed))),
            Err(message) => failures.push((name, message)),
        }
    }
    report(total, failures, &format!("cargo test --test filetests {folder}"));
}

/// Panics with all failures, and how to run each again.
fn report(total: usize, failures: Vec<(String, String)>, command: &str) {
    if failures.is_empty() {
        return;
    }
    let mut text = format!("{} of {total} failed\n", failures.len());
    for (name, message) in &failures {
        text += &format!("\n--- {name}\n{}\nagain: QCC_FILETEST={name} {command}\n", message.trim_end());
    }
    text += "\nQCC_BLESS=1 accepts what was found";
    panic!("{text}");
}

/// Runs one test; the text with expectations as they were found, or what cannot be a matter of expectation.
fn check_text(text: &str) -> Result<String, String> {
    let mut case = Case::new(text)?;
    let mut result: Option<Graph> = None;
    let mut samples: Vec<Vec<Tensor>> = Vec::new();
    let mut precision = Precisions::new();
    let mut overall = Overall::default();
    for directive in case.directives.clone() {
        match directive {
            Directive::Roundtrip => {
                let graph = checked(text)?;
                let (printed, source) = (print(&graph), case::without_comments(text));
                if printed != source {
                    return Err(format!("printed otherwise\n{}", diff::lines(&source, &printed)));
                }
            }
            Directive::Verify(level) => {
                let faults = faults(text, level);
                case.set_faults(&faults);
            }
            Directive::Passes(pipeline) => {
                let mut graph = checked(text)?;
                let found = match run_passes(&pipeline, &mut graph, samples.clone(), (precision.clone(), overall)) {
                    Ok(remarks) => print(&graph) + &remarks,
                    Err(faults) => format!("{faults}\n"),
                };
                case.set_expected(&found);
                result = Some(graph);
            }
            Directive::Sample(inputs) => {
                let graph = checked(text)?;
                let types: Vec<_> = graph.inputs().iter().map(|&v| graph.ty(v).clone()).collect();
                samples.push(run::tensors(&inputs, &types)?);
            }
            Directive::Precision(text) => precision::parse(&text, &mut precision)?,
            Directive::Weights(text) => overall.weights = Some(format_named(&text)?),
            Directive::Activations(text) => overall.activations = Some(format_named(&text)?),
            Directive::Run(line) => {
                let source;
                let graph = match &result {
                    Some(graph) if !line.before => graph,
                    _ => {
                        source = checked(text)?;
                        &source
                    }
                };
                run::check(graph, &line)?;
            }
        }
    }
    Ok(case.text())
}

fn format_named(text: &str) -> Result<Precision, String> {
    Precision::named(text).ok_or_else(|| format!("`{text}` is no format"))
}

/// A graph that parses, verifies, and reads back from its printed form.
fn checked(text: &str) -> Result<Graph, String> {
    let located = parse_located(text, &no_files).map_err(|e| e.to_string())?;
    located.verify().map_err(|e| e.to_string())?;
    let printed = print(&located.graph);
    let back = read(&printed, &no_files).map_err(|e| format!("the printed form does not parse: {e}\n{printed}"))?;
    if back != located.graph || print(&back) != printed {
        return Err(format!("the printed form reads back as another graph\n{}", diff::lines(&printed, &print(&back))));
    }
    Ok(located.graph)
}

fn faults(text: &str, level: Option<Level>) -> Vec<Diag> {
    let located = match parse_located(text, &no_files) {
        Ok(located) => located,
        Err(Diags(faults)) => return faults,
    };
    let level = level.map_or(Ok(()), |l| located.check_level(l));
    [located.verify(), level].into_iter().filter_map(Result::err).flat_map(|d| d.0).collect()
}

/// Runs a pipeline; its remarks as comment lines.
fn run_passes(
    pipeline: &str,
    graph: &mut Graph,
    samples: Vec<Vec<Tensor>>,
    (precision, overall): (Precisions, Overall),
) -> Result<String, Diags> {
    let samples: Option<Arc<dyn Samples>> = if samples.is_empty() { None } else { Some(Arc::new(samples)) };
    let mut cx = Context { samples, precision, overall, ..Context::default() };
    let mut remarks = String::new();
    let mut observe = |step: &qcc_passes::Step| {
        for remark in step.remarks {
            remarks += &format!("// {}: {remark}\n", step.info.name);
        }
        Ok(())
    };
    Pipeline::parse(pipeline)?.run_observed(graph, &mut cx, usize::MAX, &mut observe)?;
    Ok(remarks)
}

/// No file is left out because its folder is not listed above.
#[test]
fn every_folder_is_tested() {
    for path in files(&root().join("tests/filetests"), "qir") {
        let inside = FOLDERS.iter().any(|f| path.starts_with(folder_path(f)));
        assert!(inside, "{} is in no folder that is tested", path.display());
    }
}

/// The tidy law of operators: one row, one file that evaluates it, or a folder of such.
#[test]
fn every_operator_is_evaluated() {
    let lacks = |name: &&str| {
        let one = folder_path("ops").join(format!("{name}.qir"));
        let several = if one.exists() { vec![one] } else { files(&folder_path("ops").join(name), "qir") };
        let text: String = several.iter().map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect();
        !(text.contains(&format!("= {name}(")) && text.contains("//@ run ("))
    };
    let missing: Vec<_> = qcc_ir::ops::OPS.iter().map(|i| i.name).filter(lacks).collect();
    assert!(missing.is_empty(), "tests/filetests/ops/<operator>.qir with a `//@ run (..)` is missing for {missing:?}");
}

/// Blocks marked `qir` in the documentation are valid texts in their printed form.
#[test]
fn documentation() {
    let mut failures = Vec::new();
    let mut total = 0;
    for path in files(&root().join("docs"), "md") {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for block in text.split("\n```qir\n").skip(1) {
            total += 1;
            let block = block.split("\n```").next().unwrap_or_default();
            if let Err(message) = check_text(&format!("//@ roundtrip\n{block}\n")) {
                failures.push((path.display().to_string(), format!("{block}\n{message}")));
            }
        }
    }
    report(total, failures, "cargo test --test filetests documentation");
}

/// The levels by their names in `//@ verify level=`.
fn level(name: &str) -> Option<Level> {
    match name {
        "float" => Some(Level::Float),
        "quant" => Some(Level::Quant),
        "int" => Some(Level::Int),
        _ => None,
    }
}
