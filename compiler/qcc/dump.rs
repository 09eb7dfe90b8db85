//! A folder with the model after every stage, for reading and for resuming.
//!
//! ```text
//! DIR/NN-<pass>.qir    the graph, constants in data/
//! DIR/data/<hash>.bin  a constant; equal ones share a file, also between graphs
//! DIR/summary.txt      one line a stage: edits, operations, time, remarks
//! DIR/plan.txt         the steps of the program, and which buffer takes which memory when
//! ```

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qcc_ir::Graph;
use qcc_ir::print::{INLINE, Large, Options as PrintOptions, print_with};

use crate::{Error, Event, files};

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
        let summary = format!("{:>3}  {:<28} {:>6} {:>6} {:>9}  remarks\n", "#", "pass", "edits", "ops", "ms");
        Ok(Dump { folder: folder.into(), summary, stages: 0, nodes: 0, written: HashSet::new(), fault: None })
    }

    /// Takes a stage down.
    pub fn observe(&mut self, event: &Event) {
        let result = match event {
            Event::Imported { graph, time } => self.stage("import", "import", graph, 0, *time, &[]),
            Event::Pass(step) => {
                self.stage(step.info.name, &step.text, step.graph, step.labels.len(), step.time, step.remarks)
            }
        };
        if let Err(e) = result {
            self.fault.get_or_insert(e);
        }
    }

    fn stage(
        &mut self,
        file: &str,
        text: &str,
        graph: &Graph,
        edits: usize,
        time: Duration,
        remarks: &[String],
    ) -> Result<(), Error> {
        let path = self.folder.join(format!("{:02}-{file}.qir", self.stages));
        let (folder, written) = (&self.folder, &mut self.written);
        let mut side = |name: &str, bytes: &[u8]| {
            if written.insert(name.to_string()) {
                std::fs::write(folder.join("data").join(name), bytes)?;
            }
            Ok(())
        };
        let text_of_graph = print_with(graph, PrintOptions { inline: INLINE, large: Large::File(&mut side) })
            .map_err(|e| Error::file(&path, "write the constants", e))?;
        files::write(&path, text_of_graph.as_bytes())?;
        let nodes = graph.node_count();
        let change = match nodes as i64 - self.nodes as i64 {
            0 => String::new(),
            _ if self.stages == 0 => String::new(),
            change => format!("({change:+})"),
        };
        let ms = time.as_secs_f64() * 1e3;
        // Writing to a string cannot fail.
        let _ = write!(self.summary, "{:>3}  {text:<28} {edits:>6} {nodes:>6} {ms:>9.1}  {change}", self.stages);
        self.summary.push('\n');
        for remark in remarks {
            let _ = writeln!(self.summary, "       {remark}");
        }
        self.nodes = nodes;
        self.stages += 1;
        Ok(())
    }

    /// Writes the memory plan: `plan.txt`.
    pub fn plan(&self, compiled: &crate::Compiled) -> Result<(), Error> {
        let plan = qcc_codegen::plan::plan(compiled.graph())?;
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
