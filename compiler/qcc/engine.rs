//! One way to run an integer model, whichever form it has.

use qcc_interp::Evaluator;
use qcc_ir::diag::Code;
use qcc_ir::{Graph, Tensor};
use qcc_runtime::{Model, Pool, RunError, Session};

use crate::edge::{Boundary, taken, view};
use crate::{Compiled, Error};

/// Whether a model is given, and gives, real numbers or what stands for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// Real numbers.
    #[default]
    Float,
    /// Stored integers.
    Int,
}

/// A model that can run.
pub struct Engine {
    form: Form,
    names: Vec<(String, Vec<usize>)>,
    outputs: Vec<(String, Vec<usize>)>,
    boundary: (Vec<Boundary>, Vec<Boundary>),
    pool: Option<Pool>,
}

enum Form {
    Code(Box<Model>),
    Interpreter(Box<Evaluator>),
}

/// Memory for runs of an [`Engine`] one after another.
pub struct Runner<'e> {
    engine: &'e Engine,
    session: Option<Session<'e>>,
}

impl Engine {
    /// A model in machine code.
    pub fn of_model(model: Model) -> Engine {
        let list = |infos: &[qcc_runtime::TensorInfo]| infos.iter().map(|i| (i.name.clone(), i.dims.clone())).collect();
        let of = |infos: &[qcc_runtime::TensorInfo]| infos.iter().map(Boundary::of_info).collect();
        Engine {
            names: list(model.inputs()),
            outputs: list(model.outputs()),
            boundary: (of(model.inputs()), of(model.outputs())),
            form: Form::Code(Box::new(model)),
            pool: None,
        }
    }

    /// The reference interpreter of an integer graph.
    pub fn of_graph(graph: &Graph) -> Engine {
        let list = |ids: &[qcc_ir::ValueId]| {
            ids.iter().map(|&v| (graph.name_of(v).to_string(), graph.ty(v).dims.clone())).collect()
        };
        let of = |ids: &[qcc_ir::ValueId]| ids.iter().map(|&v| Boundary::of_type(graph.ty(v))).collect();
        Engine {
            names: list(graph.inputs()),
            outputs: list(graph.outputs()),
            boundary: (of(graph.inputs()), of(graph.outputs())),
            form: Form::Interpreter(Box::new(Evaluator::new(graph))),
            pool: None,
        }
    }

    /// A compiled model in the memory of this process.
    pub fn jit(compiled: &Compiled) -> Result<Engine, Error> {
        Ok(Engine::of_model(compiled.jit()?))
    }

    /// Runs on this many threads, 0 for one a core. The results are the same.
    pub fn with_threads(mut self, threads: usize) -> Result<Engine, Error> {
        if threads != 1 {
            let fail = |e| Error::new(Code::TARGET, format!("cannot start threads: {e}"));
            self.pool = Some(Pool::new(threads).map_err(fail)?);
        }
        Ok(self)
    }

    /// Names and shapes of the inputs.
    pub fn inputs(&self) -> &[(String, Vec<usize>)] {
        &self.names
    }

    /// Names and shapes of the outputs.
    pub fn outputs(&self) -> &[(String, Vec<usize>)] {
        &self.outputs
    }

    /// Element type in which input `i` is taken.
    pub fn input_elem(&self, i: usize, io: Io) -> qcc_ir::Elem {
        match self.boundary.0.get(i) {
            Some(b) if io == Io::Int || b.quant.is_none() => b.elem.clone(),
            _ => qcc_ir::Elem::F32,
        }
    }

    /// The model, unless it is interpreted.
    pub fn model(&self) -> Option<&Model> {
        match &self.form {
            Form::Code(model) => Some(model),
            Form::Interpreter(_) => None,
        }
    }

    /// Memory for runs.
    pub fn runner(&self) -> Runner<'_> {
        let session = self.model().map(|model| match &self.pool {
            Some(pool) => model.session().with_pool(pool),
            None => model.session(),
        });
        Runner { engine: self, session }
    }
}

impl Runner<'_> {
    /// Runs once.
    pub fn run(&mut self, inputs: &[Tensor], io: Io) -> Result<Vec<Tensor>, Error> {
        let (ins, outs) = &self.engine.boundary;
        let fail = |e: RunError| Error::new(Code::DATA, e.to_string());
        let outputs = match (&self.engine.form, &mut self.session) {
            (Form::Code(model), Some(session)) if io == Io::Float && model.has_float_edge() => {
                let views: Vec<_> = inputs.iter().map(|t| view(t, &t.dims)).collect();
                return Ok(session.run_f32(&views).map_err(fail)?.iter().map(taken).collect());
            }
            (form, session) => {
                let stored: Vec<Tensor> = ins.iter().zip(inputs).map(|(b, t)| b.store(t)).collect();
                match (form, session) {
                    (Form::Code(_), Some(session)) => {
                        let views: Vec<_> = stored.iter().map(|t| view(t, &t.dims)).collect();
                        session.run(&views).map_err(fail)?.iter().map(taken).collect()
                    }
                    (Form::Interpreter(evaluator), _) => evaluator.run(&stored)?,
                    (Form::Code(_), None) => Vec::new(),
                }
            }
        };
        Ok(match io {
            Io::Int => outputs,
            Io::Float => outs.iter().zip(&outputs).map(|(b, t)| b.real(t)).collect(),
        })
    }
}
