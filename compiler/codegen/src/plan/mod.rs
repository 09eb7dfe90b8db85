//! Where every value of an integer graph lives, and the steps that compute it.
//!
//! ```text
//! graph --halo requests--> places (buffer + strides) --lifetimes--> arena offsets --> steps
//! ```
//! - A *buffer* is a stretch of memory: in the arena, a caller's input or output, or a constant.
//! - A *place* is where a value lies in a buffer: an offset and a stride for each dimension, in bytes.
//! - Values that a window slides over lie inside a *halo* that holds the padding value, so that no kernel tests borders. The
//!   producer writes straight into the interior; only where that is impossible (a caller's buffer, two different padding
//!   values) is a padded copy made.
//! - A reshape is no step: its result is another place in the same buffer.
//! - Nor is a concatenation whose operands are computed in their parts of its buffer.

mod arena;
mod concat;
mod halo;
mod place;
mod scratch;
mod text;

use std::collections::HashMap;

use qcc_ir::ops::{Class, IntOp, Move};
use qcc_ir::{Diag, Diags, Graph, NodeId, Type, ValueId, attr, diag::Code};

pub use concat::windows as concat_windows;
pub use halo::{Halo, window_of as halo_window};
pub use place::{Place, element_bytes};

/// Bytes that may be read, never written, past the end of a place in the arena: kernels load four bytes at a time.
pub const SLACK: usize = 64;

/// Alignment of buffers, in bytes: one AVX-512 register and one cache line.
pub const ALIGN: usize = 64;

/// Names a buffer of one plan.
pub type BufferId = usize;

/// What memory a buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// At this offset of the arena.
    Arena(usize),
    /// The caller's input with this number.
    Input(usize),
    /// The caller's output with this number.
    Output(usize),
    /// The contents of a constant of the graph.
    Const(ValueId),
}

/// A stretch of memory.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// Where.
    pub storage: Storage,
    /// Length.
    pub bytes: usize,
    /// First and last step that touch it.
    pub life: (usize, usize),
    /// Name of the value it was made for.
    pub name: String,
}

/// One unit of work between two barriers.
#[derive(Debug, Clone)]
pub struct Step {
    /// Name of the value it computes.
    pub name: String,
    /// What it does.
    pub kind: StepKind,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum StepKind {
    /// Computes a node. Operands that are windowed over are given as the places that have the halo.
    Node {
        /// The node.
        node: NodeId,
        /// Places of its operands; constants too.
        operands: Vec<Place>,
        /// Place of its result.
        result: Place,
    },
    /// Fills the halo around a place.
    Fill {
        /// The interior.
        place: Place,
        /// Its extent on each side.
        halo: Halo,
    },
    /// Copies between two places of the same shape.
    Copy {
        /// Source.
        from: Place,
        /// Destination.
        to: Place,
    },
}

/// The finished plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All buffers.
    pub buffers: Vec<Buffer>,
    /// All steps, in order.
    pub steps: Vec<Step>,
    /// Size of the arena in bytes, slack included.
    pub arena_bytes: usize,
    /// Offsets in their buffers, behind accumulators whose extrema are wanted, of room for those of parts of them:
    /// [`PART_EXTREMA`] bytes for each row and each block of channels.
    pub part_extrema: HashMap<BufferId, usize>,
    /// Memory that a node's step needs for itself.
    pub scratch: HashMap<NodeId, BufferId>,
}

/// Bytes of the extrema of one part of a product: least and greatest of up to [`PART_CHANNELS`] channels.
pub const PART_EXTREMA: usize = 2 * 4 * PART_CHANNELS;

/// Channels of one part of a product.
pub const PART_CHANNELS: usize = crate::kernel::conv::MAX_CHANNELS;

/// Plans a graph that [`qcc_ir::verify::check_level`] accepts as integer-only.
pub fn plan(graph: &Graph) -> Result<Plan, Diags> {
    let mut planner = Planner {
        graph,
        buffers: Vec::new(),
        places: HashMap::new(),
        halos: HashMap::new(),
        parts: HashMap::new(),
        wholes: HashMap::new(),
        part_extrema: HashMap::new(),
        scratch: HashMap::new(),
        steps: Vec::new(),
    };
    let requests = halo::requests(graph).map_err(Diags::from)?;
    planner.parts = concat::parts(graph, &requests, |v| planner.output_for(v).is_some());
    planner.place_sources();
    for node in graph.order() {
        planner.node(node, &requests)?;
    }
    planner.copy_remaining_outputs();
    planner.finish()
}

struct Planner<'g> {
    graph: &'g Graph,
    buffers: Vec<Buffer>,
    places: HashMap<ValueId, Place>,
    halos: HashMap<BufferId, Halo>,
    /// Values that lie in another's buffer.
    parts: HashMap<ValueId, concat::Part>,
    /// Places of those others that have one already.
    wholes: HashMap<ValueId, Place>,
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

    fn arena_place(&mut self, name: &str, ty: &Type, halo: Halo) -> Place {
        let (place, bytes) = Place::with_halo(0, ty, &halo);
        let buffer = self.buffer(name, Storage::Arena(0), bytes);
        self.halos.insert(buffer, halo);
        Place { buffer, ..place }
    }

    fn place_sources(&mut self) {
        let inputs = self.graph.inputs().iter().enumerate().map(|(i, &v)| (v, Storage::Input(i)));
        let constants = self.graph.constants().map(|(v, _)| (v, Storage::Const(v)));
        for (v, storage) in inputs.chain(constants).collect::<Vec<_>>() {
            let (place, bytes) = Place::with_halo(0, self.graph.ty(v), &Halo::NONE);
            let buffer = self.buffer(self.graph.name_of(v), storage, bytes);
            self.places.insert(v, Place { buffer, ..place });
        }
    }

    /// The output whose memory a value can be computed in: the value itself is the output, or reshapes of it that are its
    /// only uses lead there.
    fn output_for(&self, v: ValueId) -> Option<usize> {
        if let Some(i) = self.graph.outputs().iter().position(|&o| o == v) {
            return Some(i);
        }
        let user = self.graph.only_user(v)?;
        matches!(self.graph.op(user).info().class, Class::Move(Move::Reshape))
            .then(|| self.output_for(self.graph.result(user)))
            .flatten()
    }

    fn node(&mut self, node: NodeId, requests: &halo::Requests) -> Result<(), Diags> {
        let graph = self.graph;
        let result = graph.result(node);
        let name = graph.name_of(result).to_string();
        let operands = graph.operands(node);
        if let Class::Move(Move::Reshape) = graph.op(node).info().class {
            let source = self.places[&operands[0]].clone();
            let place = match source.reshaped(graph.ty(result)) {
                Some(place) => place,
                None => {
                    let ty = graph.ty(operands[0]).clone();
                    let copy = self.arena_place(&name, &ty, Halo::NONE);
                    self.push(name, StepKind::Copy { from: source, to: copy.clone() });
                    copy.reshaped(graph.ty(result))
                        .ok_or_else(|| Diag::new(Code::CODEGEN, "a dense place cannot be reshaped"))?
                }
            };
            self.places.insert(result, place);
            return Ok(());
        }
        let mut places: Vec<Place> = operands.iter().map(|v| self.places[v].clone()).collect();
        if let Some(need) = requests.by_node.get(&node) {
            places[0] = self.padded(operands[0], &places[0], need);
        }
        let place = match self.output_for(result) {
            Some(i) if !self.buffers.iter().any(|b| b.storage == Storage::Output(i)) => {
                let (place, bytes) = Place::with_halo(0, graph.ty(result), &Halo::NONE);
                let buffer = self.buffer(&name, Storage::Output(i), bytes);
                Place { buffer, ..place }
            }
            _ => self.place_of(result, requests),
        };
        if self.is_in_place(node, &places, &place) {
            self.places.insert(result, place);
            return Ok(());
        }
        if let Some(bytes) = scratch::bytes(graph, node) {
            let buffer = self.buffer(&format!("{name}.scratch"), Storage::Arena(0), bytes);
            self.scratch.insert(node, buffer);
        }
        self.push(name, StepKind::Node { node, operands: places, result: place.clone() });
        self.places.insert(result, place);
        Ok(())
    }

    /// A place in the arena: a part of another value, or a buffer with the halo that is asked for.
    fn place_of(&mut self, v: ValueId, requests: &halo::Requests) -> Place {
        let ty = self.graph.ty(v).clone();
        if let Some(part) = self.parts.get(&v).cloned() {
            let whole = self.place_of(part.of, requests);
            return whole.window(&part.start, &vec![1; ty.dims.len()], &ty.dims);
        }
        if let Some(place) = self.wholes.get(&v) {
            return place.clone();
        }
        let halo = requests.by_value.get(&v).copied().unwrap_or(Halo::NONE);
        let name = self.graph.name_of(v).to_string();
        let place = self.arena_place(&name, &ty, halo);
        if let Some(bytes) = self.part_extrema_bytes(v) {
            let buffer = &mut self.buffers[place.buffer];
            let offset = buffer.bytes.next_multiple_of(ALIGN);
            buffer.bytes = offset + bytes;
            self.part_extrema.insert(place.buffer, offset);
        }
        if halo.extent() > 0 {
            self.push(format!("{name}.halo"), StepKind::Fill { place: place.clone(), halo });
        }
        self.wholes.insert(v, place.clone());
        place
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
    fn is_in_place(&self, node: NodeId, operands: &[Place], result: &Place) -> bool {
        let info = self.graph.op(node).info();
        let Class::Move(Move::Concat) = info.class else { return false };
        let axis = self.graph.node(node).attrs.get(attr::AXIS) as usize;
        concat::windows(result, axis, operands).iter().zip(operands).all(|(window, operand)| window == operand)
    }

    /// The place of `v`, or a copy of it, that has at least the halo that is needed.
    fn padded(&mut self, v: ValueId, place: &Place, need: &Halo) -> Place {
        let has = self.halos.get(&place.buffer).copied().unwrap_or(Halo::NONE);
        let slack_is_ours = matches!(self.buffers[place.buffer].storage, Storage::Arena(_));
        if has.covers(need) && slack_is_ours {
            return place.clone();
        }
        let name = format!("{}.padded", self.graph.name_of(v));
        let ty = self.graph.ty(v).clone();
        let copy = self.arena_place(&name, &ty, *need);
        if need.extent() > 0 {
            self.push(format!("{name}.halo"), StepKind::Fill { place: copy.clone(), halo: *need });
        }
        self.push(name, StepKind::Copy { from: place.clone(), to: copy.clone() });
        copy
    }

    /// Outputs that are inputs, constants, repeated, or also needed elsewhere in another form.
    fn copy_remaining_outputs(&mut self) {
        for (i, &v) in self.graph.outputs().iter().enumerate() {
            let from = self.places[&v].clone();
            if self.buffers[from.buffer].storage != Storage::Output(i) {
                let (place, bytes) = Place::with_halo(0, self.graph.ty(v), &Halo::NONE);
                let name = self.graph.name_of(v).to_string();
                let buffer = self.buffer(&name, Storage::Output(i), bytes);
                self.push(name, StepKind::Copy { from, to: Place { buffer, ..place } });
            }
        }
    }

    fn push(&mut self, name: String, kind: StepKind) {
        let now = self.steps.len();
        let mut touch = |p: &Place| self.buffers[p.buffer].life.1 = now;
        match &kind {
            StepKind::Node { operands, result, .. } => operands.iter().chain([result]).for_each(&mut touch),
            StepKind::Fill { place, .. } => touch(place),
            StepKind::Copy { from, to } => [from, to].into_iter().for_each(&mut touch),
        }
        self.steps.push(Step { name, kind });
    }

    fn finish(mut self) -> Result<Plan, Diags> {
        let arena_bytes = arena::assign(&mut self.buffers);
        let Planner { buffers, steps, part_extrema, scratch, .. } = self;
        Ok(Plan { buffers, steps, arena_bytes, part_extrema, scratch })
    }
}

/// True for integer operators that slide a window over their first operand.
pub fn is_windowed(op: IntOp) -> bool {
    match op {
        IntOp::Conv2d | IntOp::QConv2d | IntOp::MaxPool | IntOp::AveragePool => true,
        IntOp::Linear
        | IntOp::Requant
        | IntOp::QLinear
        | IntOp::Add
        | IntOp::Mul
        | IntOp::Rescale
        | IntOp::ScaleChannels
        | IntOp::Lut
        | IntOp::Clamp
        | IntOp::Mean
        | IntOp::MatMul
        | IntOp::QMatMul
        | IntOp::Lut2
        | IntOp::LayerNorm
        | IntOp::Softmax
        | IntOp::Extrema
        | IntOp::DynamicScale
        | IntOp::DynamicRequant
        | IntOp::AlignScales
        | IntOp::DynamicAdd
        | IntOp::Byte
        | IntOp::Combine
        | IntOp::WideMul
        | IntOp::CommonScale
        | IntOp::DynamicRescale
        | IntOp::ProductScale
        | IntOp::DynamicMul
        | IntOp::DynamicNorm
        | IntOp::DynamicTable
        | IntOp::DynamicLut
        | IntOp::ExpTable => false,
    }
}
