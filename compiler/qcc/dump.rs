//! A folder with the model after every stage, for reading and for resuming.
//!
//! ```text
//! DIR/index.html       all of it in one page, with values, memory and machine code: see [`crate::explore`]
//! DIR/NN-<pass>.qir    the graph, constants in data/
//! DIR/NN-<pass>.diff   what the pass changed in the text, as `diff -u` writes it; absent where that is nothing
//! DIR/data/<hash>.bin  a constant; equal ones share a file, also between graphs
//! DIR/summary.txt      one line a stage: edits, operations, time, remarks; with samples also the signal-to-noise ratio of the
//!                      outputs against the model as it was read, and against the stage before
//! DIR/plan.txt         the steps of the program, and which buffer takes which memory when
//! ```

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::explore::{Explorer, page};
use crate::record::difference::unified;
use crate::record::{Recording, text_of};
use crate::{Error, Event, files};

/// Signal-to-noise ratio in a table.
fn decibels(ratio: Option<f64>) -> String {
    ratio.map_or("same".to_string(), |r| format!("{r:.1}"))
}

/// Writes a dump while a model is compiled.
pub struct Dump {
    folder: PathBuf,
    recording: Recording,
    summary: String,
    nodes: usize,
    written: HashSet<String>,
    fault: Option<Error>,
}

impl Dump {
    /// Makes the folder.
    pub fn new(folder: &Path) -> Result<Dump, Error> {
        std::fs::create_dir_all(folder.join("data")).map_err(|e| Error::file(folder, "make the folder", e))?;
        let summary = format!(
            "{:>3}  {:<28} {:>6} {:>6} {:>9} {:>9} {:>9}  remarks\n",
            "#", "pass", "edits", "ops", "ms", "model dB", "step dB"
        );
        let recording = Recording::default();
        Ok(Dump { folder: folder.into(), recording, summary, nodes: 0, written: HashSet::new(), fault: None })
    }

    /// Takes a stage down.
    pub fn observe(&mut self, event: &Event) {
        if let Err(e) = self.stage(event) {
            self.fault.get_or_insert(e);
        }
    }

    fn stage(&mut self, event: &Event) -> Result<(), Error> {
        let (graph, name) = match event {
            Event::Imported { graph, .. } => (*graph, "import"),
            Event::Pass { step, .. } => (step.graph, step.info.name),
        };
        let number = self.recording.stages.len();
        let path = self.folder.join(format!("{number:02}-{name}.qir"));
        let (folder, written) = (&self.folder, &mut self.written);
        let mut side = |name: &str, bytes: &[u8]| {
            if written.insert(name.to_string()) {
                files::write(&folder.join("data").join(name), bytes).map_err(std::io::Error::other)?;
            }
            Ok(())
        };
        let text = text_of(graph, &mut side).map_err(|e| Error::file(&path, "write the constants", e))?;
        files::write(&path, text.as_bytes())?;
        self.recording.observe_text(event, &text);
        self.write_difference(number)?;
        self.summarize(number);
        Ok(())
    }

    /// Writes what the last pass changed.
    fn write_difference(&self, number: usize) -> Result<(), Error> {
        let Some([before, after]) = self.recording.stages.last_chunk() else { return Ok(()) };
        let names = (format!("{:02}-{}.qir", number - 1, before.pass), format!("{number:02}-{}.qir", after.pass));
        let text = unified((&names.0, &names.1), &before.lines, &after.lines);
        let path = self.folder.join(format!("{number:02}-{}.diff", after.pass));
        if !text.is_empty() {
            return files::write(&path, text.as_bytes());
        }
        // One of an earlier run would be believed.
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file(&path, "remove the file", e)),
            _ => Ok(()),
        }
    }

    /// Adds the last stage to the summary.
    fn summarize(&mut self, number: usize) {
        let Some(stage) = self.recording.stages.last() else { return };
        let nodes = stage.operations.len();
        let change = match nodes as i64 - self.nodes as i64 {
            0 => String::new(),
            _ if number == 0 => String::new(),
            change => format!("({change:+})"),
        };
        let ms = stage.time.as_secs_f64() * 1e3;
        let [model, previous] = match stage.effect {
            Some(effect) => [effect.against_model, effect.against_previous].map(decibels),
            None => [String::new(), String::new()],
        };
        let row = format!(
            "{number:>3}  {:<28} {:>6} {nodes:>6} {ms:>9.1} {model:>9} {previous:>9}  {change}",
            stage.title,
            stage.edits.len()
        );
        self.summary.push_str(row.trim_end());
        self.summary.push('\n');
        for remark in &stage.remarks {
            // Writing to a string cannot fail.
            let _ = writeln!(self.summary, "       {remark}");
        }
        self.nodes = nodes;
    }

    /// Writes the memory plan: `plan.txt`.
    pub fn plan(&self, compiled: &crate::Compiled) -> Result<(), Error> {
        let plan = qcc_codegen::program::plan(compiled.graph(), compiled.codegen_options())?;
        files::write(&self.folder.join("plan.txt"), plan.to_string().as_bytes())
    }

    /// Writes the summary, and the page with what `complete` adds to it; reports the first fault of any stage.
    pub fn finish(self, file: &str, complete: impl FnOnce(&mut Explorer)) -> Result<(), Error> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        files::write(&self.folder.join("summary.txt"), self.summary.as_bytes())?;
        let mut explorer = Explorer::new(file, self.recording);
        complete(&mut explorer);
        files::write(&self.folder.join("index.html"), page(&explorer).as_bytes())
    }
}
