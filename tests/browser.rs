//! The explorer's page in a browser, as its users work: clicks, keys, a search, links from a node of the model to its machine code.
//! Needs Chromium; `QCC_BROWSER` names another one.

mod optional;

use std::path::Path;
use std::process::Command;

use optional::Missing;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/resnet_cifar10.onnx");

/// Names under which systems have a browser of this kind.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// What the browser does with the page, as scripts in it: what listens for faults goes in front.
const LISTEN: &str = include_str!("browser/listen.js");
const STEPS: &str = include_str!("browser/steps.js");

fn main() -> std::process::ExitCode {
    optional::main(&[("the_page_works", the_page_works), ("a_page_without_code_works", a_page_without_code_works)])
}

/// The first browser that starts.
fn browser() -> Result<String, Missing> {
    let named = std::env::var("QCC_BROWSER").ok();
    let starts = |name: &String| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    let mut names = named.clone().into_iter().chain(BROWSERS.map(str::to_string));
    match names.find(starts) {
        Some(name) => Ok(name),
        None => Err(Missing("no Chromium (QCC_BROWSER names one)".to_string())),
    }
}

fn qcc(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_qcc")).args(arguments).output().expect("the command starts");
    assert!(output.status.success(), "qcc {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Opens a page, runs the steps in it and returns what they found: a line each.
fn visit(browser: &str, page: &Path) -> String {
    let text = std::fs::read_to_string(page).expect("the page is there");
    let scripted = text.replacen("<head>", &format!("<head><script>{LISTEN}</script>"), 1).replacen(
        "</body>",
        &format!("<script>{STEPS}</script></body>"),
        1,
    );
    let place = page.with_extension("test.html");
    std::fs::write(&place, scripted).expect("temporary file");
    let folder = tempfile::tempdir().expect("temporary folder");
    let profile = format!("--user-data-dir={}", folder.path().display());
    let flags =
        ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,800", "--virtual-time-budget=60000"];
    let output = Command::new(browser)
        .args(flags)
        .args([profile.as_str(), "--dump-dom"])
        .arg(format!("file://{}", place.display()))
        .output()
        .expect("the browser starts");
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = dom.split("<pre id=\"found-by-test\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    found.unwrap_or_else(|| panic!("no results: {}", String::from_utf8_lossy(&output.stderr))).to_string()
}

fn the_page_works() -> Result<(), Missing> {
    let browser = browser()?;
    let folder = tempfile::tempdir().expect("temporary folder");
    let page = folder.path().join("page.html");
    qcc(&["explore", EXAMPLE, "-o", &page.display().to_string()]);
    let found = visit(&browser, &page);
    println!("{found}");
    let value = |name: &str| {
        let line = found.lines().find_map(|l| l.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("nothing is said of {name}:\n{found}")).to_string()
    };
    assert_eq!(value("faults"), "none");
    assert_eq!(value("clicked"), value("inspected"));
    assert_eq!(value("passes stepped"), "17 16 15 16");
    assert_eq!(value("searched"), "layers.layers.1.conv1.Conv_output_0");
    assert_eq!(value("at import"), "/layers/layers.1/conv1/Conv");
    assert_eq!(value("does its work"), "layers.layers.1.Relu_output_0");
    assert!(value("symbol").starts_with("step_0"), "{found}");
    assert!(value("instructions").parse::<usize>().is_ok_and(|n| n > 20), "{found}");
    let multiplier: i64 = value("multiplier").parse().expect("a number");
    let other: i64 = value("multiplier of channel 3").parse().expect("a number");
    // The greatest of a layer has 31 bits: docs/math.md.
    assert!(multiplier > 1 << 16 && multiplier < 1 << 31 && other != multiplier, "{found}");
    assert_eq!(value("changed lines stand beside each other"), "yes");
    assert_eq!(value("escaped"), "nothing selected");
    assert!(value("layers").parse::<usize>().is_ok_and(|n| n > 8), "{found}");
    assert!(value("buffers").parse::<usize>().is_ok_and(|n| n > 4), "{found}");
    assert_eq!(value("themes differ"), "yes");
    Ok(())
}

/// The page of a pipeline that ends before integers, of a model whose names would be markup.
fn a_page_without_code_works() -> Result<(), Missing> {
    let browser = browser()?;
    let folder = tempfile::tempdir().expect("temporary folder");
    let model = folder.path().join("m.qir");
    let text = "graph @m(%\"<img src=x onerror=fault()>\": tensor<1x4xf32>) -> (tensor<1x4xf32>) {\n  %\"</script><b>\" = nn.relu(%\"<img \
                src=x onerror=fault()>\") : tensor<1x4xf32>\n  return %\"</script><b>\"\n}\n";
    std::fs::write(&model, text).expect("temporary file");
    let page = folder.path().join("page.html");
    qcc(&["explore", &model.display().to_string(), "--passes=canonicalize", "-o", &page.display().to_string()]);
    let found = visit(&browser, &page);
    assert!(
        found.contains("faults: none")
            && found.contains("clicked: </script><b>".replace('<', "&lt;").replace('>', "&gt;").as_str()),
        "{found}"
    );
    Ok(())
}
