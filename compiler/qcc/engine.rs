//! One way to run an integer model, whichever form it has.

use qcc_interp::Evaluator;
use qcc_ir::diag::Code;
use qcc_ir::{Graph, Tensor};
use qcc_runtime::abi::NAME_BYTES;
use qcc_runtime::manifest::Declared;
use qcc_runtime::{Model, Pool, RunError, Session};

use crate::float_interface::{Boundary, dynamic_scales, taken, view};
use crate::{Compiled, Error, Source};

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
    /// For each real input and output, where its run-time scale is.
    scales: (Vec<Option<usize>>, Vec<Option<usize>>),
    /// How the model's file declares the inputs and outputs that hold integers there.
    declared: (Vec<Option<Boundary>>, Vec<Option<Boundary>>),
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

/// Whether a name is that of the source model: a compiled model cuts long ones.
fn same_name(whole: &str, name: &str) -> bool {
    whole == name || name.len() >= NAME_BYTES - 4 && whole.starts_with(name)
}

impl Engine {
    /// A model in machine code.
    pub fn of_model(model: Model) -> Engine {
        let list = |infos: &[qcc_runtime::TensorInfo]| infos.iter().map(|i| (i.name.clone(), i.dims.clone())).collect();
        let of = |infos: &[qcc_runtime::TensorInfo]| infos.iter().map(Boundary::of_info).collect();
        let (names, outputs) = (list(model.inputs()), list(model.outputs()));
        let boundary = (of(model.inputs()), of(model.outputs()));
        let none = (Vec::new(), Vec::new());
        let lists = model.manifest().map_or(none, |m| (m.integer_inputs.clone(), m.integer_outputs.clone()));
        Engine::new(Form::Code(Box::new(model)), names, outputs, boundary).declared(&lists.0, &lists.1)
    }

    /// The reference interpreter of an integer graph.
    pub fn of_graph(graph: &Graph) -> Engine {
        let list = |ids: &[qcc_ir::ValueId]| {
            ids.iter().map(|&v| (graph.name_of(v).to_string(), graph.ty(v).dims.clone())).collect()
        };
        let of = |ids: &[qcc_ir::ValueId]| ids.iter().map(|&v| Boundary::of_type(graph.ty(v))).collect();
        let boundary = (of(graph.inputs()), of(graph.outputs()));
        let form = Form::Interpreter(Box::new(Evaluator::new(graph)));
        Engine::new(form, list(graph.inputs()), list(graph.outputs()), boundary)
    }

    fn new(
        form: Form,
        names: Vec<(String, Vec<usize>)>,
        outputs: Vec<(String, Vec<usize>)>,
        boundary: (Vec<Boundary>, Vec<Boundary>),
    ) -> Engine {
        let scales = (dynamic_scales(&names, &boundary.0), dynamic_scales(&outputs, &boundary.1));
        let declared = (vec![None; names.len()], vec![None; outputs.len()]);
        Engine { form, names, outputs, boundary, scales, declared, pool: None }
    }

    fn declared(mut self, inputs: &[Declared], outputs: &[Declared]) -> Engine {
        let find = |list: &[Declared], names: &[(String, Vec<usize>)]| -> Vec<Option<Boundary>> {
            let one = |(name, dims): &(String, Vec<usize>)| {
                list.iter().find(|d| same_name(&d.name, name)).and_then(|d| Boundary::declared(dims, d))
            };
            names.iter().map(one).collect()
        };
        self.declared = (find(inputs, &self.names), find(outputs, &self.outputs));
        self
    }

    /// Takes and gives in [`Runner::run_as_declared`] what the model that was read from `source` declares, as compiled models do by
    /// what they record.
    pub fn of_source(self, source: &Source, graph: &Graph) -> Engine {
        let list = |values| source.declared_integers(graph, values);
        self.declared(&list(graph.inputs()), &list(graph.outputs()))
    }

    /// A compiled model in the memory of this process.
    pub fn jit(compiled: &Compiled) -> Result<Engine, Error> {
        Ok(Engine::of_model(compiled.jit()?))
    }

    /// The fastest form that runs here: machine code, or the interpreter for a model that is compiled for another CPU. They give
    /// the same bits.
    pub fn measuring(compiled: &Compiled) -> Result<Engine, Error> {
        let runs_here = compiled.codegen_options().target.runs_here();
        if runs_here { Engine::jit(compiled) } else { Ok(Engine::of_graph(compiled.graph())) }
    }

    /// Runs on this many threads, 0 for one a core. The results are the same.
    pub fn with_threads(mut self, threads: usize) -> Result<Engine, Error> {
        if threads != 1 {
            let fail = |e| Error::new(Code::TARGET, format!("cannot start threads: {e}"));
            self.pool = Some(Pool::new(threads).map_err(fail)?);
        }
        Ok(self)
    }

    /// Names and shapes of the inputs: stored integers have dynamic scales beside them, real numbers have not.
    pub fn inputs(&self, io: Io) -> &[(String, Vec<usize>)] {
        if io == Io::Int { &self.names } else { &self.names[..self.scales.0.len()] }
    }

    /// Names and shapes of the outputs, likewise.
    pub fn outputs(&self, io: Io) -> &[(String, Vec<usize>)] {
        if io == Io::Int { &self.outputs } else { &self.outputs[..self.scales.1.len()] }
    }

    /// Element type in which input `i` is taken.
    pub fn input_elem(&self, i: usize, io: Io) -> qcc_ir::Elem {
        match self.boundary.0.get(i) {
            Some(b) if io == Io::Int || b.quant.is_none() => b.elem.clone(),
            _ => qcc_ir::Elem::F32,
        }
    }

    /// The element type of input `i` where the model's file declares integers.
    pub fn declared_input(&self, i: usize) -> Option<&qcc_ir::Elem> {
        self.declared.0.get(i).and_then(Option::as_ref).map(|b| &b.elem)
    }

    /// Whether the integers of input `i` stand for real numbers.
    pub fn is_quantized(&self, i: usize) -> bool {
        self.boundary.0.get(i).is_some_and(|b| b.quant.is_some())
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
    /// Runs once, on what the model's file declares: its integers are taken and given as they are there, everything else as `io`
    /// says.
    pub fn run_as_declared(&mut self, inputs: &[Tensor], io: Io) -> Result<Vec<Tensor>, Error> {
        let engine = self.engine;
        let (ins, outs) = &engine.boundary;
        let inputs: Vec<Tensor> = inputs
            .iter()
            .enumerate()
            .map(|(i, tensor)| match (engine.declared.0.get(i), ins.get(i)) {
                (Some(Some(declared)), Some(stored)) => {
                    let meaning = declared.meaning(tensor, stored);
                    if io == Io::Int { stored.store(&meaning) } else { meaning }
                }
                _ => tensor.clone(),
            })
            .collect();
        let outputs = self.run(&inputs, io)?.into_iter().enumerate();
        let given = |(i, tensor): (usize, Tensor)| match (engine.declared.1.get(i), outs.get(i)) {
            (Some(Some(declared)), Some(stored)) => {
                declared.store(&if io == Io::Int { stored.real(&tensor) } else { tensor })
            }
            _ => tensor,
        };
        Ok(outputs.map(given).collect())
    }

    /// Runs once.
    pub fn run(&mut self, inputs: &[Tensor], io: Io) -> Result<Vec<Tensor>, Error> {
        let (ins, outs) = &self.engine.boundary;
        let fail = |e: RunError| Error::new(Code::DATA, e.to_string());
        let outputs = match (&self.engine.form, &mut self.session) {
            (Form::Code(model), Some(session)) if io == Io::Float && model.has_float_interface() => {
                let views: Vec<_> = inputs.iter().map(|t| view(t, &t.dims)).collect();
                return Ok(session.run_f32(&views).map_err(fail)?.iter().map(taken).collect());
            }
            (form, session) => {
                let stored = match io {
                    Io::Int => ins.iter().zip(inputs).map(|(b, t)| b.store(t)).collect(),
                    Io::Float => Boundary::store_all(ins, &self.engine.scales.0, inputs),
                };
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
            Io::Float => Boundary::real_all(outs, &self.engine.scales.1, &outputs),
        })
    }
}
