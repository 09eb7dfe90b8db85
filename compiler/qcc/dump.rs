//! A folder with the model after every stage, for reading and for resuming.
//!
//! ```text
//! DIR/NN-<pass>.qir    the graph, constants in data/
//! DIR/data/<hash>.bin  a constant; equal ones share a file, also between graphs
//! DIR/summary.txt      one line a stage: edits, operations, time, remarks; with samples also the signal-to-noise ratio of the
//!                      outputs against the model as it was read, and against the stage before
//! DIR/plan.txt         the steps of the program, and which buffer takes which memory when
//! ```

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qcc_ir::Graph;
use qcc_ir::print::{INLINE, Large, Options as PrintOptions, print_with};

use crate::{Effect, Error, Event, files};

/// A line of the summary, and the graph that goes with it.
struct Stage<'a> {
    file: &'a str,
    text: &'a str,
    graph: &'a Graph,
    edits: usize,
    time: Duration,
    remarks: &'a [String],
    effect: Option<&'a Effect>,
}

/// Signal-to-noise ratio in a table.
fn decibels(ratio: Option<f64>) -> String {
    ratio.map_or("same".to_string(), |r| format!("{r:.1}"))
}

/// Writes a dump while a model is compiled.
pub struct Dump {
    folder: PathBuf,
    summary: String,
    stages: usize,
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
        Ok(Dump { folder: folder.into(), summary, stages: 0, nodes: 0, written: HashSet::new(), fault: None })
    }

    /// Takes a stage down.
    pub fn observe(&mut self, event: &Event) {
        let stage = match event {
            Event::Imported { graph, time } => {
                Stage { file: "import", text: "import", graph, edits: 0, time: *time, remarks: &[], effect: None }
            }
            Event::Pass { step, effect } => Stage {
                file: step.info.name,
                text: &step.text,
                graph: step.graph,
                edits: step.labels.len(),
                time: step.time,
                remarks: step.remarks,
                effect: effect.as_ref(),
            },
        };
        if let Err(e) = self.stage(&stage) {
            self.fault.get_or_insert(e);
        }
    }

    fn stage(&mut self, stage: &Stage) -> Result<(), Error> {
        let path = self.folder.join(format!("{:02}-{}.qir", self.stages, stage.file));
        let (folder, written) = (&self.folder, &mut self.written);
        let mut side = |name: &str, bytes: &[u8]| {
            if written.insert(name.to_string()) {
                files::write(&folder.join("data").join(name), bytes).map_err(std::io::Error::other)?;
            }
            Ok(())
        };
        let text_of_graph = print_with(stage.graph, PrintOptions { inline: INLINE, large: Large::File(&mut side) })
            .map_err(|e| Error::file(&path, "write the constants", e))?;
        files::write(&path, text_of_graph.as_bytes())?;
        let nodes = stage.graph.node_count();
        let change = match nodes as i64 - self.nodes as i64 {
            0 => String::new(),
            _ if self.stages == 0 => String::new(),
            change => format!("({change:+})"),
        };
        let ms = stage.time.as_secs_f64() * 1e3;
        let [model, previous] = match stage.effect {
            Some(effect) => [effect.against_model, effect.against_previous].map(decibels),
            None => [String::new(), String::new()],
        };
        let row = format!(
            "{:>3}  {:<28} {:>6} {nodes:>6} {ms:>9.1} {model:>9} {previous:>9}  {change}",
            self.stages, stage.text, stage.edits
        );
        self.summary.push_str(row.trim_end());
        self.summary.push('\n');
        for remark in stage.remarks {
            // Writing to a string cannot fail.
            let _ = writeln!(self.summary, "       {remark}");
        }
        self.nodes = nodes;
        self.stages += 1;
        Ok(())
    }

    /// Writes the memory plan: `plan.txt`.
    pub fn plan(&self, compiled: &crate::Compiled) -> Result<(), Error> {
        let plan = qcc_codegen::program::plan(compiled.graph(), compiled.codegen_options())?;
        files::write(&self.folder.join("plan.txt"), plan.to_string().as_bytes())
    }

    /// Writes the summary; reports the first fault of any stage.
    pub fn finish(self) -> Result<(), Error> {
        match self.fault {
            Some(fault) => Err(fault),
            None => files::write(&self.folder.join("summary.txt"), self.summary.as_bytes()),
        }
    }
}
