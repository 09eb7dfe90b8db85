//! What a model may ask of the compiler: memory, nodes, work and time. A file of a hundred bytes can ask for any amount of each.

use std::time::Instant;

use crate::diag::Code;
use crate::ops::{Class, Contract};
use crate::{Diag, Graph, NodeId, ValueId, attr};

/// Least default of [`Budget::memory`].
const LEAST_MEMORY: u64 = 2 << 30;

/// The default of [`Budget::memory`] in lengths of the model's file.
const MEMORY_OF_FILE: u64 = 16;

/// Units of work that an operation on one element counts beside a multiplication of a product.
const ELEMENT: u64 = 8;

/// Limits of a compilation. What would exceed one is refused with the node and the flag that raises it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Bytes of the constants that a model makes, and of all values that are alive at a time when it is evaluated once in float; by
    /// default 16 lengths of the file, and 2 GiB at least. `--max-memory`
    pub memory: Option<u64>,
    /// Nodes of the graph. `--max-nodes`
    pub nodes: usize,
    /// Work of folding one constant: multiplications of products, and 8 for each element of other operations. `--max-work`
    pub work: u64,
    /// When compilation is to end. `--max-time`
    pub deadline: Option<Instant>,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { memory: None, nodes: 1 << 15, work: 20_000_000_000, deadline: None }
    }
}

impl Budget {
    /// The same for a model whose file has this length.
    pub fn for_file(self, bytes: u64) -> Budget {
        Budget { memory: Some(self.memory.unwrap_or(LEAST_MEMORY.max(bytes.saturating_mul(MEMORY_OF_FILE)))), ..self }
    }

    /// Bytes that may be asked for.
    pub fn memory(&self) -> u64 {
        self.memory.unwrap_or(LEAST_MEMORY)
    }

    /// Refuses what asks for so many bytes; `what` is the subject of a sentence.
    pub fn check_memory(&self, what: &str, bytes: u64) -> Result<(), Diag> {
        if bytes <= self.memory() {
            return Ok(());
        }
        let message = format!("{what} would take {}, more than {}", size(bytes), size(self.memory()));
        Err(Diag::new(Code::BUDGET, message).help(format!("if it is meant so: --max-memory {}", flag(bytes))))
    }

    /// Refuses a graph of so many nodes.
    pub fn check_nodes(&self, nodes: usize) -> Result<(), Diag> {
        if nodes <= self.nodes {
            return Ok(());
        }
        let message = format!("the model has {nodes} nodes, more than {}", self.nodes);
        Err(Diag::new(Code::BUDGET, message).help(format!("if it is meant so: --max-nodes {nodes}")))
    }

    /// Refuses to go on after the deadline.
    pub fn check_time(&self) -> Result<(), Diag> {
        match self.deadline {
            Some(deadline) if Instant::now() > deadline => {
                Err(Diag::new(Code::BUDGET, "compilation takes more time than it may").help("give it more: --max-time"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses to evaluate a node that takes too much work or memory.
    pub fn check_node(&self, g: &Graph, n: NodeId) -> Result<(), Diag> {
        let name = g.name_of(g.result(n));
        let check = || {
            self.check_memory(&format!("the constant `{name}`"), bytes(g, g.result(n)))?;
            let work = work(g, n);
            if work <= self.work {
                return Ok(());
            }
            let message = format!("to compute the constant `{name}` takes {work} operations, more than {}", self.work);
            Err(Diag::new(Code::BUDGET, message).help(format!("if it is meant so: --max-work {work}")))
        };
        check().map_err(|diag| diag.at(g.describe(n)))
    }

    /// Refuses a graph that exceeds the limits when it is evaluated once: the node at which it does is named.
    pub fn check_graph(&self, g: &Graph) -> Result<(), Diag> {
        self.check_nodes(g.node_count())?;
        let constants: u64 = g.constants().map(|(v, _)| bytes(g, v)).fold(0, u64::saturating_add);
        self.check_memory("the model's constants", constants)?;
        let order = g.order();
        let mut readers: Vec<(ValueId, usize)> = Vec::new();
        for (at, &n) in order.iter().enumerate() {
            readers.extend(g.operands(n).into_iter().filter(|&v| g.constant(v).is_none()).map(|v| (v, at)));
        }
        readers.sort_unstable();
        // The last reader of each value.
        readers.reverse();
        readers.dedup_by_key(|(v, _)| *v);
        let mut dropped: Vec<Vec<ValueId>> = vec![Vec::new(); order.len()];
        readers.into_iter().filter(|&(v, _)| !g.is_output(v)).for_each(|(v, at)| dropped[at].push(v));
        let mut alive: u64 = g.inputs().iter().map(|&v| bytes(g, v)).fold(0, u64::saturating_add);
        self.check_memory("the model's inputs", alive)?;
        for (&n, dropped) in order.iter().zip(dropped) {
            let y = g.result(n);
            alive = alive.saturating_add(bytes(g, y));
            let what = || format!("what is alive when `{}`, {:?}, is computed", g.name_of(y), g.ty(y).dims);
            if alive > self.memory() {
                return self.check_memory(&what(), alive).map_err(|diag| diag.at(g.describe(n)));
            }
            alive = alive.saturating_sub(dropped.iter().map(|&v| bytes(g, v)).fold(0, u64::saturating_add));
        }
        Ok(())
    }
}

/// Bytes of a value when it is evaluated.
fn bytes(g: &Graph, v: ValueId) -> u64 {
    let ty = g.ty(v);
    let element = ty.elem.storage().map_or(4, |int| u64::from(int.bits() / 8)).max(1);
    (ty.checked_elements().unwrap_or(usize::MAX) as u64).saturating_mul(element)
}

/// Operations that the evaluation of a node takes.
fn work(g: &Graph, n: NodeId) -> u64 {
    let elements = g.ty(g.result(n)).checked_elements().unwrap_or(usize::MAX) as u64;
    let dims = |i: usize| g.operands(n).get(i).map_or(Vec::new(), |&v| g.ty(v).dims.clone());
    let product = |dims: &[usize]| dims.iter().fold(1u64, |all, &d| all.saturating_mul(d as u64));
    let attrs = &g.node(n).attrs;
    let of_one = match g.op(n).info().class {
        Class::Contract(Contract::Conv2d | Contract::Linear) => product(dims(1).get(1..).unwrap_or_default()),
        Class::Contract(Contract::MatMul) => dims(0).last().map_or(1, |&d| d as u64),
        Class::Pool(_) => {
            let window = attrs.get(attr::KERNEL).iter().map(|&d| d.unsigned_abs()).fold(1, u64::saturating_mul);
            window.saturating_mul(ELEMENT)
        }
        Class::Reduce(_) => return product(&dims(0)).max(elements).saturating_mul(ELEMENT),
        _ => ELEMENT,
    };
    elements.saturating_mul(of_one)
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Bytes as the flag takes them: whole megabytes, enough.
fn flag(bytes: u64) -> String {
    format!("{}MB", bytes.div_ceil(1_000_000))
}
