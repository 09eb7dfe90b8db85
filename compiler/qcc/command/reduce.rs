//! `qcc reduce`: the smallest model with which a command still fails.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use qcc::ir::Graph;
use qcc::ir::diag::Code;
use qcc::ir::print::{INLINE, Large, Options as PrintOptions, print_with};
use qcc::reduce::{Size, reduce};
use qcc::{Error, Source, check_places};

use super::flags::{ShapeFlags, usage};
use super::terminal;

/// What stands for the model in the command.
const MODEL: &str = "{}";

/// How often it is looked whether the command has ended.
const POLL: Duration = Duration::from_millis(2);

/// Find the smallest model with which a command still fails.
#[derive(Args)]
#[command(after_help = "The command fails if it ends as it does with MODEL itself, and not with 0.
Example: qcc reduce big.onnx -o small.qir --stderr 'does not fit' -- qcc {} --target x86-64-v4 -o /tmp/x.so")]
pub struct Reduce {
    /// Model with which the command fails: .qir, or .onnx
    model: PathBuf,
    /// File to write instead of stdout: .qir
    #[arg(short, long, value_name = "OUT.qir")]
    output: Option<PathBuf>,
    /// Exit code that counts as the failure [default: that with MODEL itself]; 128 + N where signal N ended the command
    #[arg(long, value_name = "CODE")]
    exit: Option<i32>,
    /// Text that the command must write to stderr
    #[arg(long, value_name = "TEXT")]
    stderr: Option<String>,
    /// Seconds after which the command is ended, and did not fail; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    #[command(flatten)]
    shapes: ShapeFlags,
    /// Command that fails, {} in the place of the model
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Reduce {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        if !self.command.iter().any(|word| word.contains(MODEL)) {
            return Err(usage("no word of the command is or contains `{}`").help("qcc reduce m.qir -- qcc {} -o x.so"));
        }
        if self.output.as_deref().and_then(Path::extension).is_some_and(|e| e != "qir") {
            return Err(usage("what is written is text: the output file is a .qir"));
        }
        let written: Vec<(&str, &Path)> = self.output.iter().map(|path| ("--output", path.as_path())).collect();
        check_places(&[("the model", self.model.as_path())], &written)?;
        let mut options = qcc::Options::default();
        self.shapes.apply(&mut options.shapes)?;
        let graph = Source::from(self.model.as_path()).load(&options)?;
        let mut trial = Trial::new(self)?;
        let first = trial.run(&graph)?;
        let wanted = self.exit.or(first.code).filter(|&code| code != 0 || self.exit.is_some());
        let Some(wanted) = wanted.filter(|_| first.fails(self.exit, self.stderr.as_deref())) else {
            return Err(self.no_failure(&first));
        };
        terminal::note(&format!("reduce: {}", Size::of(&graph)));
        let mut holds = |candidate: &Graph| Ok(trial.run(candidate)?.fails(Some(wanted), self.stderr.as_deref()));
        let mut tell = |size: &Size, runs: usize| terminal::note(&format!("reduce: {size} after {runs} runs"));
        let small = reduce(graph, &mut holds, &mut tell)?;
        let text = qcc::ir::print(&small);
        match &self.output {
            Some(path) => qcc::write_file(path, text.as_bytes()),
            None => terminal::result(&text),
        }
    }

    fn no_failure(&self, found: &Ending) -> Error {
        let ended = match found.code {
            Some(code) => format!("it ended with {code}"),
            None => format!("it did not end within {} seconds", self.timeout),
        };
        let error =
            Error::new(Code::FLAGS, format!("the command does not fail with {}: {ended}", self.model.display()));
        if self.stderr.is_some() && found.code.is_some_and(|code| Some(code) == self.exit || code != 0) {
            return error.help("its stderr does not have the text of --stderr");
        }
        match self.model.extension().is_some_and(|e| e == "qir") {
            true => error.help("--exit says which exit code counts as a failure"),
            false => error
                .help("it is run with the model as .qir: if it fails with the original only, the import is at fault"),
        }
    }
}

/// How a command ended.
struct Ending {
    /// `None` if it was ended.
    code: Option<i32>,
    stderr: String,
}

impl Ending {
    /// Whether that is the failure.
    fn fails(&self, exit: Option<i32>, stderr: Option<&str>) -> bool {
        let ends = self.code.is_some_and(|code| exit.map_or(code != 0, |exit| exit == code));
        ends && stderr.is_none_or(|text| self.stderr.contains(text))
    }
}

/// Runs the command with models in a folder of its own.
struct Trial<'a> {
    reduce: &'a Reduce,
    folder: tempfile::TempDir,
    /// Constants that are in the folder.
    written: HashSet<String>,
}

impl<'a> Trial<'a> {
    fn new(reduce: &'a Reduce) -> Result<Trial<'a>, Error> {
        let folder = tempfile::tempdir().map_err(|e| Error::file(&std::env::temp_dir(), "make a folder", e))?;
        Ok(Trial { reduce, folder, written: HashSet::new() })
    }

    fn run(&mut self, graph: &Graph) -> Result<Ending, Error> {
        let (model, log) = (self.folder.path().join("model.qir"), self.folder.path().join("stderr"));
        let fail = |e: std::io::Error| Error::file(&model, "write a candidate", e);
        let (folder, written) = (self.folder.path(), &mut self.written);
        let mut side = |name: &str, bytes: &[u8]| match written.insert(name.to_string()) {
            true => std::fs::write(folder.join(name), bytes),
            false => Ok(()),
        };
        let text = print_with(graph, PrintOptions { inline: INLINE, large: Large::File(&mut side) }).map_err(fail)?;
        std::fs::write(&model, text).map_err(fail)?;
        let path = model.display().to_string();
        let words: Vec<String> = self.reduce.command.iter().map(|word| word.replace(MODEL, &path)).collect();
        let errors = File::create(&log).map_err(fail)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let status = self.wait(&mut command, &words[0])?;
        let stderr = std::fs::read(&log).map_err(fail)?;
        Ok(Ending { code: status.map(exit_code), stderr: String::from_utf8_lossy(&stderr).into_owned() })
    }

    /// How the command ends, unless it takes too long.
    fn wait(&self, command: &mut Command, name: &str) -> Result<Option<ExitStatus>, Error> {
        let fail = |e: std::io::Error| Error::new(Code::FLAGS, format!("cannot run `{name}`: {e}"));
        let mut child = command.spawn().map_err(fail)?;
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().map_err(fail)? {
                return Ok(Some(status));
            }
            if self.reduce.timeout > 0 && start.elapsed().as_secs() >= self.reduce.timeout {
                child.kill().and_then(|()| child.wait()).map_err(fail)?;
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The exit code, as shells tell it.
fn exit_code(status: ExitStatus) -> i32 {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt as _;
        status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }
    #[cfg(not(unix))]
    {
        status.code().unwrap_or(-1)
    }
}
