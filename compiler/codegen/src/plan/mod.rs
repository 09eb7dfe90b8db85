//! Where every value of an integer graph lives, and the steps that compute it.
//!
//! ```text
//! graph --halo requests--> views (buffer + strides) --lifetimes--> arena offsets --> steps
//! ```
//! - A *buffer* is a stretch of memory: in the arena, a caller's input or output, or a constant.
//! - A *view* is where a value lies in a buffer: an offset and a stride for each dimension, in bytes.
//! - Values that a window slides over lie inside a *halo* that holds the padding value, so that no kernel tests borders. The
//!   producer writes straight into the interior; only where that is impossible (a caller's buffer, two different padding
//!   values) is a padded copy made.
//! - A reshape is no step: its result is another view of the same buffer.
//! - Nor is a concatenation whose operands are computed in their parts of its buffer.

mod arena;
mod buffer;
mod concat;
mod halo;
mod scratch;
mod steps;
mod storage;
mod text;
mod view;

use std::collections::HashMap;

use qcc_ir::ops::{Class, IntOp, Move};
use qcc_ir::{Diag, Diags, Graph, NodeId, Type, ValueId, attr, diag::Code};

pub use buffer::{ALIGN, Buffer, BufferId, SLACK, Storage};
pub use concat::windows as concat_windows;
pub use halo::{Halo, window_of as halo_window};
pub use steps::{PART_CHANNELS, PART_EXTREMA, Plan, Step, StepKind};
pub use storage::{Decoding, Storages};
pub use view::{BufferView, element_bytes};

/// Plans a graph that [`qcc_ir::verify::check_level`] accepts as integer-only, whose products store weights so.
pub fn plan(graph: &Graph, storages: &Storages) -> Result<Plan, Diags> {
    let mut planner = Planner {
        graph,
        storages,
        buffers: Vec::new(),
        views: HashMap::new(),
        halos: HashMap::new(),
        parts: HashMap::new(),
        wholes: HashMap::new(),
        part_extrema: HashMap::new(),
        scratch: HashMap::new(),
        steps: Vec::new(),
    };
    let requests = halo::requests(graph).map_err(Diags::from)?;
    planner.parts = concat::parts(graph, &requests, |v| planner.output_for(v).is_some());
    planner.view_sources();
    for node in graph.order() {
        planner.node(node, &requests)?;
    }
    planner.copy_remaining_outputs();
    planner.finish()
}

struct Planner<'g> {
    graph: &'g Graph,
    storages: &'g Storages,
    buffers: Vec<Buffer>,
    views: HashMap<ValueId, BufferView>,
    halos: HashMap<BufferId, Halo>,
    /// Values that lie in another's buffer.
    parts: HashMap<ValueId, concat::Part>,
    /// Views of those others that have one already.
    wholes: HashMap<ValueId, BufferView>,
    part_extrema: HashMap<BufferId, usize>,
    scratch: HashMap<NodeId, BufferId>,
    steps: Vec<Step>,
}

impl Planner<'_> {
    fn buffer(&mut self, name: &str, storage: Storage, bytes: usize) -> BufferId {
        let now = self.steps.len();
        self.buffers.push(Buffer { storage, bytes, life: (now, now), name: name.to_string() });
        self.buffers.len() - 1
    }

    fn arena_view(&mut self, name: &str, ty: &Type, halo: Halo) -> BufferView {
        let (view, bytes) = BufferView::with_halo(0, ty, &halo);
        let buffer = self.buffer(name, Storage::Arena(0), bytes);
        self.halos.insert(buffer, halo);
        BufferView { buffer, ..view }
    }

    fn view_sources(&mut self) {
        let inputs = self.graph.inputs().iter().enumerate().map(|(i, &v)| (v, Storage::Input(i)));
        let constants = self.graph.constants().map(|(v, _)| (v, Storage::Const(v)));
        for (v, storage) in inputs.chain(constants).collect::<Vec<_>>() {
            let (view, bytes) = BufferView::with_halo(0, self.graph.ty(v), &Halo::NONE);
            let buffer = self.buffer(self.graph.name_of(v), storage, bytes);
            self.views.insert(v, BufferView { buffer, ..view });
        }
    }

    /// The output whose memory a value can be computed in: the value itself is the output, or reshapes of it that are its
    /// only uses lead there.
    fn output_for(&self, v: ValueId) -> Option<usize> {
        let mut v = v;
        loop {
            if let Some(i) = self.graph.outputs().iter().position(|&o| o == v) {
                return Some(i);
            }
            let user = self.graph.only_user(v)?;
            let Class::Move(Move::Reshape) = self.graph.op(user).info().class else { return None };
            v = self.graph.result(user);
        }
    }

    fn node(&mut self, node: NodeId, requests: &halo::Requests) -> Result<(), Diags> {
        let graph = self.graph;
        let result = graph.result(node);
        let name = graph.name_of(result).to_string();
        let operands = graph.operands(node);
        if let Class::Move(Move::Reshape) = graph.op(node).info().class {
            let source = self.views[&operands[0]].clone();
            let view = match source.reshaped(graph.ty(result)) {
                Some(view) => view,
                None => {
                    let ty = graph.ty(operands[0]).clone();
                    let copy = self.arena_view(&name, &ty, Halo::NONE);
                    self.push(name, StepKind::Copy { from: source, to: copy.clone() });
                    copy.reshaped(graph.ty(result))
                        .ok_or_else(|| Diag::new(Code::CODEGEN, "a dense view cannot be reshaped"))?
                }
            };
            self.views.insert(result, view);
            return Ok(());
        }
        let mut views: Vec<BufferView> = operands.iter().map(|v| self.views[v].clone()).collect();
        if let Some(need) = requests.by_node.get(&node) {
            views[0] = self.padded(operands[0], &views[0], need);
        }
        let view = match self.output_for(result) {
            Some(i) if !self.buffers.iter().any(|b| b.storage == Storage::Output(i)) => {
                let (view, bytes) = BufferView::with_halo(0, graph.ty(result), &Halo::NONE);
                let buffer = self.buffer(&name, Storage::Output(i), bytes);
                BufferView { buffer, ..view }
            }
            _ => self.view_of(result, requests),
        };
        if self.is_in_place(node, &views, &view) {
            self.views.insert(result, view);
            return Ok(());
        }
        let decoded = match self.storages.get(&node) {
            Some(&(Decoding::Scratch(bytes) | Decoding::Transformed { bytes, .. } | Decoding::Widened { bytes })) => {
                Some(bytes)
            }
            _ => None,
        };
        if let Some(bytes) = decoded.or_else(|| scratch::bytes(graph, node)) {
            let buffer = self.buffer(&format!("{name}.scratch"), Storage::Arena(0), bytes);
            self.scratch.insert(node, buffer);
        }
        self.push(name, StepKind::Node { node, operands: views, result: view.clone() });
        self.views.insert(result, view);
        Ok(())
    }

    /// A view of the arena: a part of another value, or a buffer with the halo that is asked for.
    fn view_of(&mut self, v: ValueId, requests: &halo::Requests) -> BufferView {
        let (mut of, mut windows) = (v, Vec::new());
        while let Some(part) = self.parts.get(&of) {
            windows.push((part.start.clone(), self.graph.ty(of).dims.clone()));
            of = part.of;
        }
        let whole = self.whole_view(of, requests);
        windows.iter().rev().fold(whole, |view, (start, dims)| view.window(start, &vec![1; dims.len()], dims))
    }

    /// The view of a value that is no part of another.
    fn whole_view(&mut self, v: ValueId, requests: &halo::Requests) -> BufferView {
        let ty = self.graph.ty(v).clone();
        if let Some(view) = self.wholes.get(&v) {
            return view.clone();
        }
        let halo = requests.by_value.get(&v).copied().unwrap_or(Halo::NONE);
        let name = self.graph.name_of(v).to_string();
        let view = self.arena_view(&name, &ty, halo);
        if let Some(bytes) = self.part_extrema_bytes(v) {
            let buffer = &mut self.buffers[view.buffer];
            let offset = buffer.bytes.next_multiple_of(ALIGN);
            buffer.bytes = offset + bytes;
            self.part_extrema.insert(view.buffer, offset);
        }
        if halo.extent() > 0 {
            self.push(format!("{name}.halo"), StepKind::Fill { view: view.clone(), halo });
        }
        self.wholes.insert(v, view.clone());
        view
    }

    /// Room for the extrema of parts of a product, if they are wanted for the whole product at once.
    fn part_extrema_bytes(&self, v: ValueId) -> Option<usize> {
        let graph = self.graph;
        let node = graph.producer(v)?;
        let attrs = &graph.node(node).attrs;
        let dense = match graph.op(node).info().class {
            Class::Int(IntOp::Conv2d) => attrs.get(attr::GROUPS) == 1,
            class => matches!(class, Class::Int(IntOp::Linear)),
        };
        let measures = |user: NodeId| {
            let dims = &graph.ty(graph.result(user)).dims;
            matches!(graph.op(user).info().class, Class::Int(IntOp::Extrema)) && dims.first() == Some(&1)
        };
        let (&channels, outer) = graph.ty(v).dims.split_last()?;
        let wanted = dense && graph.uses(v).iter().any(|&(user, _)| measures(user));
        let rows = if outer.len() == 3 { outer[0] * outer[1] } else { 1 };
        wanted.then(|| rows * channels.div_ceil(PART_CHANNELS) * PART_EXTREMA)
    }

    /// True for a concatenation whose operands lie in their parts of its result.
    fn is_in_place(&self, node: NodeId, operands: &[BufferView], result: &BufferView) -> bool {
        let info = self.graph.op(node).info();
        let Class::Move(Move::Concat) = info.class else { return false };
        let axis = self.graph.node(node).attrs.get(attr::AXIS) as usize;
        concat::windows(result, axis, operands).iter().zip(operands).all(|(window, operand)| window == operand)
    }

    /// The view of `v`, or a copy of it, that has at least the halo that is needed.
    fn padded(&mut self, v: ValueId, view: &BufferView, need: &Halo) -> BufferView {
        let has = self.halos.get(&view.buffer).copied().unwrap_or(Halo::NONE);
        let slack_is_ours = matches!(self.buffers[view.buffer].storage, Storage::Arena(_));
        if has.covers(need) && slack_is_ours {
            return view.clone();
        }
        let name = format!("{}.padded", self.graph.name_of(v));
        let ty = self.graph.ty(v).clone();
        let copy = self.arena_view(&name, &ty, *need);
        if need.extent() > 0 {
            self.push(format!("{name}.halo"), StepKind::Fill { view: copy.clone(), halo: *need });
        }
        self.push(name, StepKind::Copy { from: view.clone(), to: copy.clone() });
        copy
    }

    /// Outputs that are inputs, constants, repeated, or also needed elsewhere in another form.
    fn copy_remaining_outputs(&mut self) {
        for (i, &v) in self.graph.outputs().iter().enumerate() {
            let from = self.views[&v].clone();
            if self.buffers[from.buffer].storage != Storage::Output(i) {
                let (view, bytes) = BufferView::with_halo(0, self.graph.ty(v), &Halo::NONE);
                let name = self.graph.name_of(v).to_string();
                let buffer = self.buffer(&name, Storage::Output(i), bytes);
                self.push(name, StepKind::Copy { from, to: BufferView { buffer, ..view } });
            }
        }
    }

    fn push(&mut self, name: String, kind: StepKind) {
        let now = self.steps.len();
        let mut touch = |p: &BufferView| self.buffers[p.buffer].life.1 = now;
        match &kind {
            StepKind::Node { operands, result, .. } => operands.iter().chain([result]).for_each(&mut touch),
            StepKind::Fill { view, .. } => touch(view),
            StepKind::Copy { from, to } => [from, to].into_iter().for_each(&mut touch),
        }
        self.steps.push(Step { name, kind });
    }

    fn finish(mut self) -> Result<Plan, Diags> {
        let arena_bytes = arena::assign(&mut self.buffers);
        let Planner { buffers, steps, part_extrema, scratch, storages, .. } = self;
        Ok(Plan { buffers, steps, arena_bytes, part_extrema, scratch, storages: storages.clone() })
    }
}
