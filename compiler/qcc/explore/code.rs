//! What became of a model in machine code: steps, the memory of values, and the functions as text.

use std::collections::BTreeMap;

use qcc_codegen::plan::{Plan, Storage};
use qcc_codegen::program::{TaskInfo, plan};
use qcc_ir::diag::Code as DiagCode;
use serde::Serialize;

use crate::bench::TaskProfile;
use crate::{Compiled, Error};

/// The program of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Program {
    /// CPU that it is for.
    pub target: String,
    /// What runs, in order.
    pub tasks: Vec<Task>,
    /// The memory of a call.
    pub arena: Arena,
    /// The text of every function, by its symbol: an instruction a line behind its distance from the start.
    pub functions: BTreeMap<String, String>,
}

/// One task of a program.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Task {
    /// Value that it computes.
    pub value: String,
    /// Symbol of its function.
    pub symbol: String,
    /// Kernel with its parameters.
    pub kernel: String,
    /// Functions that it calls.
    pub calls: Vec<String>,
    /// Multiply-accumulates.
    pub macs: u64,
    /// The multiplications that it does for them.
    pub products: u64,
    /// Bytes of activations read, each once.
    pub input_bytes: u64,
    /// Bytes written.
    pub output_bytes: u64,
    /// Bytes of constants read, as they are stored.
    pub weight_bytes: u64,
    /// Bits of a stored weight, of a product; else 0.
    pub weight_bits: usize,
    /// Steps whose products it sums in 16 bits; 0 where sums have 32.
    pub i16_steps: u32,
    /// How long it takes and what bounds it, if that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// How long a task takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Median time in milliseconds.
    pub ms: f64,
    /// Its rate as a share of the measured limit of its kind of sums.
    pub peak_fraction: f64,
    /// What bounds it.
    pub bound: &'static str,
    /// The least time by that bound, as a share of the time taken.
    pub bound_fraction: f64,
}

/// The memory of a call.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Arena {
    /// Bytes in all.
    pub bytes: usize,
    /// Bytes of all buffers together, as if none shared memory.
    pub unshared_bytes: usize,
    /// Most bytes that are alive at one step.
    pub peak_bytes: usize,
    /// Values that the steps compute, in order.
    pub steps: Vec<String>,
    /// The buffers, by the first step that touches them.
    pub buffers: Vec<ArenaBuffer>,
}

/// A stretch of the arena.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArenaBuffer {
    /// Name of the value it was made for.
    pub name: String,
    /// Where it begins.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
    /// First and last step that touch it.
    pub life: (usize, usize),
}

impl Program {
    /// The program of a compiled model, made for the target of its options.
    pub fn of(compiled: &Compiled) -> Result<Program, Error> {
        let plan = plan(compiled.graph(), compiled.codegen_options())?;
        let object = compiled.object()?;
        let listing = qcc_codegen::check::listing(&object.link("model.so")?)
            .map_err(|e| Error::new(DiagCode::CODEGEN, e.to_string()))?;
        let (functions, calls) = functions(&listing);
        let called = |symbol: &String| calls.get(symbol).cloned().unwrap_or_default();
        let tasks = object.tasks.iter().map(|task| task_of(task, called(&task.symbol))).collect();
        let target = compiled.codegen_options().target.name().to_string();
        Ok(Program { target, tasks, arena: arena(&plan), functions })
    }

    /// Adds times, which are those of the tasks in their order.
    pub fn measured(&mut self, profiles: &[TaskProfile]) {
        for (task, p) in self.tasks.iter_mut().zip(profiles) {
            task.measured = Some(Measured {
                ms: p.ms,
                peak_fraction: p.peak_fraction,
                bound: p.bound,
                bound_fraction: p.bound_fraction,
            });
        }
    }
}

fn task_of(task: &TaskInfo, calls: Vec<String>) -> Task {
    Task {
        value: task.name.clone(),
        symbol: task.symbol.clone(),
        kernel: task.kernel.clone(),
        calls,
        macs: task.macs,
        products: task.products,
        input_bytes: task.input_bytes,
        output_bytes: task.output_bytes,
        weight_bytes: task.weight_bytes,
        weight_bits: task.weight_bits,
        i16_steps: task.i16_steps,
        measured: None,
    }
}

fn arena(plan: &Plan) -> Arena {
    let mut buffers: Vec<ArenaBuffer> = plan
        .arena_buffers()
        .map(|b| {
            let offset = if let Storage::Arena(offset) = b.storage { offset } else { 0 };
            ArenaBuffer { name: b.name.clone(), offset, bytes: b.bytes, life: b.life }
        })
        .collect();
    buffers.sort_by_key(|b| (b.life, b.offset));
    Arena {
        bytes: plan.arena_bytes,
        unshared_bytes: plan.unshared_bytes(),
        peak_bytes: plan.peak_bytes(),
        steps: plan.steps.iter().map(|s| s.name.clone()).collect(),
        buffers,
    }
}

/// Name, address and instructions of a function: `00001000 <name>:`, then a line for each.
fn head(block: &str) -> Option<(&str, u64, &str)> {
    let (first, instructions) = block.split_once('\n')?;
    let (address, name) = first.split_once(" <")?;
    Some((name.strip_suffix(">:")?, u64::from_str_radix(address, 16).ok()?, instructions))
}

/// Text and called functions of each function of a listing.
fn functions(listing: &str) -> (BTreeMap<String, String>, BTreeMap<String, Vec<String>>) {
    let blocks: Vec<(&str, u64, &str)> = listing.split("\n\n").filter_map(head).collect();
    let starts: BTreeMap<u64, &str> = blocks.iter().map(|&(name, start, _)| (start, name)).collect();
    let (mut texts, mut calls) = (BTreeMap::new(), BTreeMap::new());
    for (name, start, instructions) in blocks {
        let mut text = String::with_capacity(instructions.len());
        let mut called: Vec<String> = Vec::new();
        for (address, instruction) in instructions.lines().filter_map(|l| l.trim_start().split_once(":  ")) {
            let distance = u64::from_str_radix(address, 16).unwrap_or(start).saturating_sub(start);
            let target = instruction.strip_prefix("call 0x").and_then(|t| u64::from_str_radix(t, 16).ok());
            let target = target.and_then(|t| starts.get(&t));
            match target {
                Some(target) => text.push_str(&format!("{distance:x} call {target}\n")),
                None => text.push_str(&format!("{distance:x} {instruction}\n")),
            }
            if let Some(target) = target.filter(|t| !called.iter().any(|c| c == *t)) {
                called.push((*target).to_string());
            }
        }
        texts.insert(name.to_string(), text);
        calls.insert(name.to_string(), called);
    }
    (texts, calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_by_name() {
        let listing = "0000000000001000 <kernel>:\n      1000:  ret\n\n0000000000001010 <step>:\n      1010:  push %rbp\n      1011:  call \
                       0x0000000000001000\n      1016:  call 0x0000000000009000\n\n";
        let (texts, calls) = functions(listing);
        assert_eq!(texts["step"], "0 push %rbp\n1 call kernel\n6 call 0x0000000000009000\n");
        assert_eq!(texts["kernel"], "0 ret\n");
        assert_eq!((calls["step"].as_slice(), calls["kernel"].len()), (["kernel".to_string()].as_slice(), 0));
    }
}
