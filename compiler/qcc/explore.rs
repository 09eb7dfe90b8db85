//! One page that shows what became of a model: every pass with what it changed, the graph, each value with its numbers, its memory
//! and its machine code. It needs no server and no network.
//!
//! [`Explorer`] gathers what the page shows; `page` has the page itself, whose parts are files of `explore/page`.

mod code;
mod page;
mod values;

pub use code::{Arena, ArenaBuffer, Measured, Program, Task};
pub use page::page;
pub use values::{Histogram, Values};

use qcc_ir::{Level, check_level};

use crate::bench::TaskProfile;
use crate::compare::{LayerReport, layers};
use crate::data::Dataset;
use crate::record::Recording;
use crate::{Compiled, Error};

/// What there is to see of a model.
#[derive(Debug, Clone)]
pub struct Explorer {
    /// File that the model is from.
    pub file: String,
    /// The passes.
    pub recording: Recording,
    /// The values of the integer graph; empty unless the passes came to one.
    pub values: Values,
    /// Its program, if there is one.
    pub program: Option<Program>,
}

impl Explorer {
    /// The passes of a compilation, also of one that failed.
    pub fn new(file: impl Into<String>, recording: Recording) -> Explorer {
        Explorer { file: file.into(), recording, values: Values::default(), program: None }
    }

    /// Adds what follows from the compiled model alone. Of a pipeline that ends before integers, that is nothing.
    pub fn compiled(&mut self, compiled: &Compiled) -> Result<(), Error> {
        if check_level(compiled.graph(), Level::Int).is_ok() {
            self.values = values::without_samples(compiled.graph());
            self.program = Some(Program::of(compiled)?);
        }
        Ok(())
    }

    /// Adds what the first `calls` calls over `data` show; `named` says which samples they are. `judge` may add to the reports on
    /// layers what they do to the output.
    pub fn samples(
        &mut self,
        compiled: &Compiled,
        (data, named): (&Dataset, &str),
        calls: usize,
        judge: &mut dyn FnMut(Vec<LayerReport>) -> Result<Vec<LayerReport>, Error>,
    ) -> Result<(), Error> {
        if self.program.is_some() {
            let layers = judge(layers(compiled, data, calls)?)?;
            self.values.observe(compiled, data, calls, layers)?;
            self.values.samples = named.to_string();
        }
        Ok(())
    }

    /// Adds times of the tasks.
    pub fn measured(&mut self, profiles: &[TaskProfile]) {
        if let Some(program) = &mut self.program {
            program.measured(profiles);
        }
    }
}
