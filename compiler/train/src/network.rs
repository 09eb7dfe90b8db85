//! The network on quantized types that is trained: float shadows of its weights, its biases, and the scales of weights and values; and the integer graph
//! that they stand for, which the same passes make that compile a model.
//!
//! Values have one scale together where one is the other moved, or its greatest elements, or cut off: their types are the same. The scales of inputs, and of
//! constants that are no parameters, stay.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use qcc_ir::diag::Code;
use qcc_ir::format::Grid;
use qcc_ir::ops::{Contract, Pool, Reduce};
use qcc_ir::{
    Builder, Class, Data, Def, Diag, Diags, Elem, Format, Graph, Int, NodeId, Opcode, Tensor, Uniform, ValueId, format,
};
use qcc_num::convert::nearest_f32;
use qcc_num::random::Random;
use qcc_passes::{Context, GREATEST_BIAS, LEAST_FACTOR, Pipeline, bias_32, bias_64};

use crate::interval::Interval;
use crate::program::{Owners, Program, ScaleTypes};

/// Passes that change nothing and refuse what cannot run: no network of digits goes through them.
const CHECKS: [&str; 2] = ["prove-accumulators", "check-integer-only"];

/// Names of the constants of a layer begin with this one, a number, and a point.
const PREFIX: &str = "qcc.train.";

/// A layer whose parameters are trained.
#[derive(Debug, Clone)]
pub struct TrainedLayer {
    /// How the model calls its weights.
    pub name: String,
    /// Integers that stand for weights.
    pub format: Format,
    /// Weights of an output channel.
    pub depth: usize,
    /// Float shadows, in the order of the quantized network.
    pub shadows: Vec<f32>,
    /// Logarithm of the scale of each output channel.
    pub log_scales: Vec<f32>,
    /// Whether these are learned.
    pub learns_scales: bool,
    /// Bias in real numbers.
    pub bias: Vec<f32>,
    weights: ValueId,
    biases: Option<ValueId>,
    input: ValueId,
    output: ValueId,
    wide: bool,
    /// For each weight of the integer operator the number of that of the quantized network.
    order: Vec<u32>,
    /// Which weights have got their integers for good, where that happens in portions. The others are finer until all have: see [`TrainedLayer::fine`].
    pub(crate) frozen: Vec<bool>,
    /// Where integers follow from shadows by an interval that is learned.
    pub(crate) interval: Option<Interval>,
    /// From which the noise follows that weights which are not frozen have.
    pub(crate) noise: Option<u64>,
}

/// A scale that values share.
#[derive(Debug, Clone)]
pub struct ValueScale {
    /// One of the values.
    pub name: String,
    /// Logarithm of the scale.
    pub log_scale: f32,
    uniform: Uniform,
    values: Vec<ValueId>,
}

impl ValueScale {
    /// The scale as it is now.
    pub fn scale(&self) -> f32 {
        nearest_f32(f64::from(self.log_scale).exp()).max(f32::MIN_POSITIVE)
    }
}

/// The network.
#[derive(Debug, Clone)]
pub struct Network {
    graph: Graph,
    /// The passes that make integers of it.
    lowering: String,
    /// Names that constants had before they got those that tell layers apart.
    names: Vec<(ValueId, String)>,
    /// Layers.
    pub layers: Vec<TrainedLayer>,
    /// Scales of values.
    pub scales: Vec<ValueScale>,
    /// The scale of a value, if that is learned.
    scale_numbers: HashMap<ValueId, usize>,
}

impl TrainedLayer {
    /// Scales of the weights, none below what bias and requantization need.
    pub(crate) fn scales(&self, network: &Network) -> Vec<f32> {
        let (sx, sy) = (f64::from(network.scale_of(self.input)), f64::from(network.scale_of(self.output)));
        let least = if self.wide { 0.0 } else { LEAST_FACTOR * sy / sx };
        let one = |(log, bias): (&f32, &f32)| {
            let of_bias = if self.wide { 0.0 } else { f64::from(bias.abs()) / (sx * GREATEST_BIAS) };
            nearest_f32(f64::from(*log).exp().max(least).max(of_bias)).max(f32::MIN_POSITIVE)
        };
        self.log_scales.iter().zip(&self.bias).map(one).collect()
    }

    /// Integers of all 8 bits for one of the format, as long as some weights are not frozen; else 1.
    fn fine(&self) -> i64 {
        let room = 127 / i64::try_from(self.format.magnitude()).unwrap_or(127).max(1);
        let all = self.frozen.iter().all(|&f| f);
        if all { 1 } else { 1 << room.max(1).ilog2() }
    }

    /// Whether all weights are integers of the format.
    pub(crate) fn is_final(&self) -> bool {
        self.frozen.iter().all(|&f| f)
    }

    /// The format that weights have now.
    pub(crate) fn present_format(&self) -> &Format {
        if self.is_final() { &self.format } else { &format::I8 }
    }

    /// Gives the greatest weights that are not frozen yet their integers for good, until a portion of all has them.
    pub(crate) fn freeze(&mut self, portion: f64, scales: &[f32]) {
        let count = (portion * self.shadows.len() as f64).ceil() as usize;
        let mut order: Vec<usize> = (0..self.shadows.len()).filter(|&i| !self.frozen[i]).collect();
        let done = self.shadows.len() - order.len();
        order.sort_by(|&a, &b| self.shadows[b].abs().total_cmp(&self.shadows[a].abs()).then(a.cmp(&b)));
        for i in order.into_iter().take(count.saturating_sub(done)) {
            self.shadows[i] = self.format.fake(self.shadows[i], scales[i / self.depth], 0);
            self.frozen[i] = true;
        }
    }

    /// Scales of the integers that stand for weights now, and these.
    pub fn rounded(&self, network: &Network) -> (Vec<f32>, Vec<i64>) {
        let (scales, fine) = (self.scales(network), self.fine());
        let noisy = self.noisy(&scales);
        let shadows = noisy.as_ref().unwrap_or(&self.shadows);
        let codes = shadows.iter().enumerate().map(|(i, &w)| {
            let s = scales[i / self.depth];
            match (self.frozen.get(i), &self.interval) {
                (Some(false), _) => format::I8.quantize(w, s / fine as f32, 0),
                (None, Some(interval)) => self.format.quantize(interval.unrounded(w, i / self.depth), 1.0, 0),
                _ => fine * self.format.quantize(w, s, 0),
            }
        });
        let codes = codes.collect();
        (scales.into_iter().map(|s| s / fine as f32).collect(), codes)
    }

    /// Scale of what the layer reads.
    pub(crate) fn input_scale(&self, network: &Network) -> f32 {
        network.scale_of(self.input)
    }

    /// Real extent of what the layer gives: the unit of its biases.
    pub fn output_extent(&self, network: &Network) -> f32 {
        let extent = network.graph.ty(self.output).uniform().map_or(1.0, |u| u.format.extent() as f32);
        network.scale_of(self.output) * extent
    }
}

impl Network {
    /// Reads a graph at the quant level, of which the passes `lowering` make integers. Its layers are those whose weights are bytes, each found
    /// once in the integer graph; others stay as they are.
    pub fn new(graph: &Graph, lowering: &str) -> Result<Network, Diag> {
        let mut left_out = HashSet::new();
        loop {
            let (mut network, nodes) = Network::without(graph, lowering, &left_out)?;
            let lost = network.find_orders().map_err(first)?;
            if lost.is_empty() {
                return Ok(network);
            }
            left_out.extend(lost.into_iter().map(|layer| nodes[layer]));
        }
    }

    /// The network whose layers are not `left_out`, and the nodes of its layers.
    fn without(graph: &Graph, lowering: &str, left_out: &HashSet<NodeId>) -> Result<(Network, Vec<NodeId>), Diag> {
        let mut graph = graph.clone();
        let (mut names, mut layers, mut nodes) = (Vec::new(), Vec::new(), Vec::new());
        for n in graph.order().into_iter().filter(|n| !left_out.contains(n)) {
            if let Some(layer) = layer(&mut graph, n, layers.len(), &mut names) {
                layers.push(layer);
                nodes.push(n);
            }
        }
        if layers.is_empty() {
            let diag = Diag::new(
                Code::UNSUPPORTED,
                "the network has no convolution or linear layer with weights of 8 bits or fewer",
            );
            return Err(diag.help("there is nothing to train"));
        }
        let scales = value_scales(&graph);
        let numbered = scales.iter().enumerate().flat_map(|(i, s)| s.values.iter().map(move |&v| (v, i)));
        let scale_numbers = numbered.collect();
        let lowering = lowering.to_string();
        Ok((Network { graph, lowering, names, layers, scales, scale_numbers }, nodes))
    }

    /// Draws all weights anew, normally distributed, with the root mean square that those of an output channel have. Biases and scales stay: they stand
    /// for a batch normalization that is folded.
    pub fn draw(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        for layer in &mut self.layers {
            for row in layer.shadows.chunks_mut(layer.depth) {
                let rms = (row.iter().map(|w| w * w).sum::<f32>() / row.len() as f32).sqrt();
                row.iter_mut().for_each(|w| *w = rms * random.normal() as f32);
            }
        }
    }

    /// From now on weights that are of a list of levels get these in portions, by [`Network::freeze`]. Says whether there are any.
    pub fn begin_portions(&mut self) -> bool {
        for layer in self.layers.iter_mut().filter(|l| matches!(l.format.grid(), Grid::Levels(_))) {
            layer.frozen = vec![false; layer.shadows.len()];
        }
        self.layers.iter().any(|l| !l.frozen.is_empty())
    }

    /// Gives the greatest weights their levels for good, until a portion of each layer has them.
    pub fn freeze(&mut self, portion: f64) {
        let scales: Vec<Vec<f32>> = self.layers.iter().map(|l| l.scales(self)).collect();
        for (layer, scales) in self.layers.iter_mut().zip(scales).filter(|(l, _)| !l.frozen.is_empty()) {
            layer.freeze(portion, &scales);
        }
    }

    /// Whether all weights have the formats that were asked for.
    pub fn is_final(&self) -> bool {
        self.layers.iter().all(TrainedLayer::is_final)
    }

    /// The scale of a value as it is now.
    fn scale_of(&self, v: ValueId) -> f32 {
        match self.scale_numbers.get(&v) {
            Some(&i) => self.scales[i].scale(),
            None => self.graph.ty(v).uniform().map_or(1.0, |u| u.scale()),
        }
    }

    /// The graph at the quant level with the parameters as they are now, under the names that the model has.
    pub fn quantized(&self) -> Graph {
        let mut graph = self.written().0;
        let mut builder = Builder::new(&mut graph);
        for (v, name) in self.names.iter().rev() {
            builder.rename(*v, name);
        }
        graph
    }

    /// Scales of values into the graph: types of biases and the bounds of weights depend on them.
    fn written(&self) -> (Graph, ScaleTypes) {
        let mut graph = self.graph.clone();
        let mut owners = ScaleTypes::default();
        let mut builder = Builder::new(&mut graph);
        for (i, scale) in self.scales.iter().enumerate() {
            let uniform = Arc::new(Uniform { scales: vec![scale.scale()], ..scale.uniform.clone() });
            owners.insert(uniform.clone(), i);
            scale.values.iter().for_each(|&v| builder.set_elem(v, Elem::Uniform(uniform.clone())));
        }
        for layer in &self.layers {
            let (scales, codes) = layer.rounded(self);
            write_layer(&mut builder, layer, layer.present_format(), scales, codes);
        }
        (graph, owners)
    }

    /// The integer graph with the parameters as they are now.
    pub fn lowered(&self) -> Result<Graph, Diag> {
        lowered(self.written().0, &self.lowering).map_err(first)
    }

    /// The same as a program.
    pub(crate) fn program(&self) -> Result<Program, Diag> {
        let (graph, scales) = self.written();
        let graph = lowered(graph, &self.lowering).map_err(first)?;
        Program::new(&graph, &Owners { layer: &number, scales })
    }

    /// Extents of a layer's weights in the model with explicit casts, and the name of its bias there.
    pub(crate) fn written_as(&self, layer: usize) -> (Vec<usize>, Option<&str>) {
        let own = &self.layers[layer];
        let name = |v: ValueId| self.names.iter().find(|(w, _)| *w == v).map(|(_, name)| name.as_str());
        (self.graph.ty(own.weights).dims.clone(), own.biases.and_then(name))
    }

    /// For each weight of an integer operator the number of that of the quantized network.
    pub(crate) fn order(&self, layer: usize) -> &[u32] {
        &self.layers[layer].order
    }

    /// Finds where lowering puts each weight: it lowers networks whose weights are the digits of their numbers. The layers are returned
    /// whose weights are not there once each, as where those of a layer on numbers of 16 bits are repeated.
    fn find_orders(&mut self) -> Result<Vec<usize>, Diags> {
        const BASE: usize = 255;
        let digits = (1..).find(|&d| self.layers.iter().all(|l| l.shadows.len() < BASE.pow(d))).unwrap_or(1);
        let mut orders: Vec<Vec<u32>> = vec![Vec::new(); self.layers.len()];
        let unproved: Vec<&str> = self.lowering.split(", ").filter(|pass| !CHECKS.contains(pass)).collect();
        for digit in 0..digits {
            let mut graph = self.graph.clone();
            let mut builder = Builder::new(&mut graph);
            let weight = |i: usize| (i / BASE.pow(digit) % BASE) as i64 - 127;
            for layer in &self.layers {
                let scales = layer.scales(self);
                let codes = (0..layer.shadows.len()).map(weight).collect();
                write_layer(&mut builder, layer, &format::I8, scales, codes);
            }
            let lowered = lowered(graph, &unproved.join(", "))?;
            for (v, tensor) in lowered.constants() {
                let (Some(layer), Some(codes)) = (number(lowered.name_of(v)), tensor.as_i8()) else { continue };
                orders[layer].resize(codes.len(), 0);
                let unit = BASE.pow(digit) as u32;
                orders[layer].iter_mut().zip(codes).for_each(|(o, &q)| *o += (i32::from(q) + 127) as u32 * unit);
            }
        }
        let mut lost = Vec::new();
        for (i, (layer, order)) in self.layers.iter_mut().zip(orders).enumerate() {
            let mut seen = vec![false; layer.shadows.len()];
            for &o in &order {
                if let Some(seen) = seen.get_mut(o as usize) {
                    *seen = true;
                }
            }
            if order.len() != layer.shadows.len() || !seen.iter().all(|&s| s) {
                lost.push(i);
            }
            layer.order = order;
        }
        Ok(lost)
    }
}

/// The layer of a constant that is its weights.
pub(crate) fn number(name: &str) -> Option<usize> {
    let (number, rest) = name.strip_prefix(PREFIX)?.split_once('.')?;
    if rest.starts_with("weights") { number.parse().ok() } else { None }
}

/// The first of some faults.
fn first(mut faults: Diags) -> Diag {
    match faults.0.is_empty() {
        true => Diag::new(Code::VERIFY, "a pass failed without a reason"),
        false => faults.0.swap_remove(0),
    }
}

/// The integer graph of one on quantized types.
fn lowered(mut graph: Graph, passes: &str) -> Result<Graph, Diags> {
    Pipeline::parse(passes)?.run(&mut graph, &mut Context::default())?;
    Ok(graph)
}

/// Weights and bias of a layer as constants.
fn write_layer(builder: &mut Builder, layer: &TrainedLayer, format: &Format, scales: Vec<f32>, codes: Vec<i64>) {
    let g = builder.graph();
    let sx = g.ty(layer.input).uniform().map_or(1.0, |u| f64::from(u.scale()));
    let dims = g.ty(layer.weights).dims.clone();
    if let Some(v) = layer.biases {
        let rounded = if g.ty(v).elem.storage() == Some(Int::I64) { bias_64 } else { bias_32 };
        let (tensor, elem) = rounded(&layer.bias, sx, &scales);
        builder.set_elem(v, elem);
        builder.set_contents(v, tensor);
    }
    let tensor = Tensor::new(&dims, Data::integers(format.storage(), codes));
    builder.set_elem(layer.weights, Elem::Uniform(Arc::new(Uniform::per_axis(format.clone(), 0, scales))));
    builder.set_contents(layer.weights, tensor);
}

/// A layer with constants of its own, named after its number; `None` if it has no weights of bytes.
fn layer(graph: &mut Graph, n: NodeId, number: usize, names: &mut Vec<(ValueId, String)>) -> Option<TrainedLayer> {
    if !matches!(graph.op(n).info().class, Class::Contract(Contract::Conv2d | Contract::Linear)) {
        return None;
    }
    let operands = graph.operands(n);
    let (x, w, y) = (operands[0], operands[1], graph.result(n));
    let (tensor, uniform) = (graph.constant(w)?.clone(), graph.ty(w).uniform()?.clone());
    let bytes = tensor.as_i8()?;
    let per_tensor = |v: ValueId| graph.ty(v).uniform().is_some_and(|u| u.axis.is_none());
    let symmetric = uniform.zero_points.iter().all(|&z| z == 0);
    if !symmetric || uniform.axis.is_some_and(|a| a != 0) || !per_tensor(x) || !per_tensor(y) {
        return None;
    }
    let outputs = *tensor.dims.first()?;
    let depth = bytes.len().checked_div(outputs).filter(|&d| d > 0)?;
    let scales: Vec<f32> = (0..outputs).map(|c| uniform.scales[c % uniform.scales.len()]).collect();
    let bias = match operands.get(2) {
        None => vec![0.0; outputs],
        Some(&b) => {
            let (tensor, u) = (graph.constant(b)?, graph.ty(b).uniform()?);
            #[expect(clippy::unnecessary_cast, reason = "one of the kinds of data has 64 bits already")]
            let codes: Vec<i64> = qcc_ir::for_data!(&tensor.data, v => v.iter().map(|&q| q as i64).collect());
            let scale = |c: usize| u.scales[c % u.scales.len()];
            codes.iter().enumerate().map(|(c, &q)| Format::dequantize(q, scale(c), 0)).collect()
        }
    };
    let fits = |v: ValueId| graph.ty(v).uniform().is_some_and(|u| u.format.fits_byte());
    let wide = !fits(x) || !fits(y);
    let shadows = bytes.iter().enumerate().map(|(i, &q)| f32::from(q) * scales[i / depth]).collect();
    let elem = graph.ty(w).elem.clone();
    let (name, bias_name) = (graph.name_of(w).to_string(), operands.get(2).map(|&b| graph.name_of(b).to_string()));
    let mut builder = Builder::new(graph);
    let weights = builder.add_typed_const(&format!("{PREFIX}{number}.weights.q"), tensor, elem);
    builder.set_operand(n, 1, weights);
    names.push((weights, name.clone()));
    // A layer without bias gets one, of zeros.
    let (data, elem) = match operands.get(2) {
        Some(&b) => (builder.graph().constant(b)?.clone(), builder.graph().ty(b).elem.clone()),
        None => {
            let own = if wide { &format::I64 } else { &format::I32 };
            let data = Data::integers(own.storage(), vec![0; outputs]);
            let steps = vec![f32::MIN_POSITIVE; outputs];
            (Arc::new(Tensor::new(&[outputs], data)), Elem::Uniform(Arc::new(Uniform::per_axis(own, 0, steps))))
        }
    };
    let biases = builder.add_typed_const(&format!("{PREFIX}{number}.bias.q"), data, elem);
    match operands.len() {
        2 => builder.set_operands(n, &[x, weights, biases]),
        _ => builder.set_operand(n, 2, biases),
    }
    let bias_name = bias_name.unwrap_or_else(|| format!("{}.bias.q", builder.graph().name_of(y)));
    names.push((biases, bias_name));
    builder.remove_dead();
    Some(TrainedLayer {
        name,
        depth,
        shadows,
        log_scales: scales.iter().map(|s| s.ln()).collect(),
        learns_scales: matches!(uniform.format.grid(), Grid::Linear { .. }),
        format: uniform.format.clone(),
        bias,
        weights,
        biases: Some(biases),
        input: x,
        output: y,
        wide,
        order: Vec::new(),
        frozen: Vec::new(),
        interval: None,
        noise: None,
    })
}

/// Whether the result of a node has the scale of its operand because it is of its integers.
fn keeps_integers(class: Class) -> bool {
    matches!(
        class,
        Class::Move(_) | Class::Pool(Pool::Max) | Class::Unary(_) | Class::Reduce(Reduce::Max | Reduce::Min)
    )
}

/// The scales of values that may change.
fn value_scales(g: &Graph) -> Vec<ValueScale> {
    let values: Vec<ValueId> =
        g.values().filter(|&v| g.ty(v).uniform().is_some_and(|u| u.axis.is_none()) && !is_parameter(g, v)).collect();
    let index: HashMap<ValueId, usize> = values.iter().enumerate().map(|(i, &v)| (v, i)).collect();
    let mut group: Vec<usize> = (0..values.len()).collect();
    let root = |group: &[usize], mut i: usize| {
        while group[i] != i {
            i = group[i];
        }
        i
    };
    for n in g.order() {
        let y = g.result(n);
        for x in
            g.operands(n).into_iter().filter(|&x| keeps_integers(g.op(n).info().class) && g.ty(x).elem == g.ty(y).elem)
        {
            if let (Some(&a), Some(&b)) = (index.get(&x), index.get(&y)) {
                let (a, b) = (root(&group, a), root(&group, b));
                group[a.max(b)] = a.min(b);
            }
        }
    }
    let of_input =
        |v: &ValueId| g.inputs().iter().any(|&x| x == *v || g.is_output(*v) && g.ty(x).elem == g.ty(*v).elem);
    let mut groups: Vec<Vec<ValueId>> = vec![Vec::new(); values.len()];
    values.iter().enumerate().for_each(|(i, &v)| groups[root(&group, i)].push(v));
    let learned = |values: &Vec<ValueId>| {
        !values.is_empty() && !values.iter().any(|v| of_input(v) || matches!(g.def(*v), Def::Const(_)))
    };
    let scale = |values: Vec<ValueId>| {
        let uniform = g.ty(values[0]).uniform().map(|u| u.as_ref().clone())?;
        Some(ValueScale { name: g.name_of(values[0]).to_string(), log_scale: uniform.scale().ln(), uniform, values })
    };
    groups.into_iter().filter(learned).filter_map(scale).collect()
}

/// Whether a value is the weights or the bias of a layer.
fn is_parameter(g: &Graph, v: ValueId) -> bool {
    let reads = |(n, i): (NodeId, usize)| i > 0 && matches!(g.op(n), Opcode::Conv2d | Opcode::Linear);
    g.constant(v).is_some() && (g.uses(v).into_iter().any(reads) || g.ty(v).elem.storage() == Some(Int::I32))
}
