//! Which products store their weights as codes of 4 bits. That follows from the weights and from the target, never from the machine that compiles.

use qcc_ir::ops::{Class, IntOp};
use qcc_ir::{Graph, NodeId, attr};

use super::units::{CACHED_WEIGHTS, UNITS, units_of_blocks};
use crate::Options;
use crate::kernel::decode::PAIRS;
use crate::kernel::microkernel::MAX_CHANNELS;
use crate::kernel::microkernel::codes::CodeTable;
use crate::machine::VectorShape;
use crate::plan::{ALIGN, Decoding, Storages};
use crate::program::tuning::{Choice, Outer, Storage};

/// Least weights for codes: fewer are not worth a step that decodes them.
const LEAST_WEIGHTS: usize = 4096;

/// Rows from which on codes are decoded into memory: fewer are one or two tiles, which read every weight about once.
const SCRATCH_ROWS: usize = 8;

/// Bytes of the slots of units that are several for a block.
const SLOTS: usize = 5 << 19;

/// Bytes that the last round of decoding may write beyond a block.
const ROUND: usize = 2 * PAIRS * ALIGN;

/// Channels of the widest vector, of which packed weights are whole ones.
const LANES: usize = 16;

/// How the products of a graph store their weights.
pub fn storages(graph: &Graph, options: &Options) -> Storages {
    let shape = options.target.backend().shape();
    let decoding = |node: NodeId| {
        let name = graph.name_of(graph.result(node));
        let choice = options.tuning.get(name).copied().unwrap_or_default();
        Some((node, Constant::of(graph, node)?.decoding(choice, shape)?))
    };
    graph.order().into_iter().filter_map(decoding).collect()
}

/// Whether a product's weights can be codes.
pub fn can_be_codes(graph: &Graph, node: NodeId) -> bool {
    Constant::of(graph, node).is_some_and(|constant| constant.has_tables())
}

/// The weights of a product.
struct Constant<'g> {
    weights: &'g [i8],
    groups: usize,
    /// Output channels of a group.
    outputs: usize,
    /// Weights of a channel: kernel positions, and inputs of each.
    taps: [usize; 2],
    images: usize,
    /// Rows that meet all weights, of an image.
    rows: usize,
}

impl<'g> Constant<'g> {
    fn of(graph: &'g Graph, node: NodeId) -> Option<Constant<'g>> {
        let Class::Int(op) = graph.op(node).info().class else { return None };
        let is_conv = match op {
            IntOp::Conv2d | IntOp::QConv2d => true,
            IntOp::Linear | IntOp::QLinear => false,
            _ => return None,
        };
        let constant = *graph.operands(node).get(1)?;
        let weights = graph.constant(constant)?.as_i8()?;
        let dims = &graph.ty(constant).dims;
        let (&channels, &inputs) = (dims.first()?, dims.last()?);
        let groups = if is_conv { graph.node(node).attrs.get(attr::GROUPS) as usize } else { 1 };
        if weights.is_empty() || groups > 1 && groups == channels && inputs == 1 {
            return None;
        }
        let result = &graph.ty(graph.result(node)).dims;
        let images = if is_conv { result[0] } else { 1 };
        let rows = result.iter().product::<usize>() / channels / images.max(1);
        let taps = [weights.len() / channels / inputs, inputs];
        Some(Constant { weights, groups, outputs: channels / groups, taps, images, rows })
    }

    /// Whether the weights of every block of channels are few enough values.
    fn has_tables(&self) -> bool {
        let channel = self.taps[0] * self.taps[1];
        let padded = !self.taps[1].is_multiple_of(4);
        let mut groups = self.weights.chunks(self.outputs * channel);
        groups.all(|group| {
            let mut blocks = group.chunks(MAX_CHANNELS * channel);
            blocks.all(|block| CodeTable::of(block, padded).is_some())
        })
    }

    fn decoding(&self, choice: Choice, shape: &VectorShape) -> Option<Decoding> {
        let wanted = match choice.storage {
            Some(Storage::Bytes) => false,
            Some(Storage::Codes) => true,
            None => self.weights.len() >= LEAST_WEIGHTS,
        };
        if !wanted || !self.has_tables() {
            return None;
        }
        Some(if self.rows < SCRATCH_ROWS { Decoding::Inside } else { Decoding::Scratch(self.scratch(choice, shape)) })
    }

    /// Most bytes of decoded weights that are in memory at once, whatever the register tiles: all of them, or where each block is decoded by
    /// the unit that multiplies with it, a block for each unit.
    fn scratch(&self, choice: Choice, shape: &VectorShape) -> usize {
        let block = |channels: usize| {
            let weights = channels.next_multiple_of(LANES) * self.taps[0] * self.taps[1].next_multiple_of(4);
            (weights * shape.weight_bytes).next_multiple_of(ALIGN) + ROUND
        };
        let (full, rest) = (self.outputs / MAX_CHANNELS, self.outputs % MAX_CHANNELS);
        let all = self.groups * (full * block(MAX_CHANNELS) + if rest > 0 { block(rest) } else { 0 });
        let (blocks, slot) = (full + usize::from(rest > 0), block(self.outputs.min(MAX_CHANNELS)));
        let may_pass_once = self.groups == 1 && self.images == 1;
        let passes_once = self.weights.len() > CACHED_WEIGHTS && choice.outer != Some(Outer::Chunks);
        match (may_pass_once, passes_once) {
            (true, true) if blocks >= UNITS => units_of_blocks(blocks) * slot,
            // Units beyond the blocks are wanted, but not at any price.
            (true, true) => (blocks * slot).max((blocks * UNITS.div_ceil(blocks) * slot).min(SLOTS)),
            (true, false) => all.max(blocks * slot),
            (false, _) => all,
        }
    }
}

#[cfg(test)]
mod tests {
    use qcc_ir::parse::{no_files, parse};

    use super::*;
    use crate::Target;
    use crate::program::plan;
    use crate::target::Level;

    fn options(tuning: &[(&str, Storage)]) -> Options {
        let choice = |&(name, storage): &(&str, Storage)| {
            (name.to_string(), Choice { storage: Some(storage), ..Choice::default() })
        };
        let tuning = tuning.iter().map(choice).collect();
        Options { tuning, ..Options::new(Target::of(Level::X86V4Vnni), "net") }
    }

    /// Products of so many rows, 64 inputs and `columns` outputs, whose weights go round `values`, as the plan says them.
    fn planned(rows: usize, columns: usize, values: &[i8], tuning: &[(&str, Storage)]) -> String {
        let weights: Vec<String> = (0..64 * columns).map(|i| values[i % values.len()].to_string()).collect();
        let ones = |value: usize| vec![value.to_string(); columns].join(", ");
        let text = format!(
            "graph @g(%x: tensor<{rows}x64xu8>) -> (tensor<{rows}x{columns}xu8>) {{
  const @w : tensor<{columns}x64xi8> = dense<[{}]>
  const @b : tensor<{columns}xi32> = dense<[{}]>
  const @m : tensor<{columns}xi32> = dense<[{}]>
  %y = int.qlinear(%x, @w, @b, @m) : tensor<{rows}x{columns}xu8>
  return %y
}}
",
            weights.join(", "),
            ones(1),
            ones(1 << 20)
        );
        let graph = parse(&text, &no_files).expect("a graph");
        plan(&graph, &options(tuning)).expect("a plan").to_string()
    }

    #[test]
    fn the_plan_says_how_weights_are_stored() {
        let linear: Vec<i8> = (-8..8).collect();
        let many: Vec<i8> = (-8..9).collect();
        let inside = "  %y  (weights: codes of 4 bits, decoded where they are multiplied)\n";
        let scratch = "  %y  (weights: codes of 4 bits, decoded into scratch)\n";
        let check = |text: String, expected: &str| assert!(text.contains(expected), "{expected}: {text}");
        check(planned(7, 64, &linear, &[]), inside);
        check(planned(8, 64, &linear, &[]), scratch);
        check(planned(8, 64, &linear, &[]), "%y.scratch");
        check(planned(8, 64, &[-128, 5, 127], &[]), scratch);
        // Too many values, or too few weights; a tuning decides otherwise where it can be.
        check(planned(8, 64, &many, &[]), "  %y\n");
        check(planned(8, 64, &many, &[("y", Storage::Codes)]), "  %y\n");
        check(planned(8, 63, &linear, &[]), "  %y\n");
        check(planned(8, 63, &linear, &[("y", Storage::Codes)]), scratch);
        check(planned(8, 64, &linear, &[("y", Storage::Bytes)]), "  %y\n");
    }
}
