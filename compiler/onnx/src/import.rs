//! The driver: inputs, initializers and nodes of a model in order, each through its row of [`table`].
//!
//! A node that cannot be imported does not end the import: its results count as failed, what depends on them is skipped,
//! and every node that is at fault itself is reported.

mod affine;
mod attention;
mod attributes;
mod block_scales;
mod blocks;
mod boolean;
mod branch;
mod cast;
mod compare;
mod constants;
mod contrib;
mod contrib_attention;
mod conv;
mod conv_transpose;
mod decompose;
mod einsum;
mod elementwise;
mod fold;
mod gemm;
mod layout;
mod names;
mod numbers;
mod one_hot;
mod order;
mod pool;
mod qoperator;
mod quantize;
mod reduce;
mod remarks;
mod resize;
mod rnn;
mod rotary;
mod scatter;
mod select;
mod sequence;
mod shape_ops;
mod site;
mod slice;
pub(crate) mod table;
mod whole_inputs;
mod window;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use onnx_protobuf::{GraphProto, NodeProto, TensorProto};
use qcc_ir::diag::Code;
use qcc_ir::{Attrs, Budget, Builder, Def, Diag, Diags, Graph, Opcode, Origin, ValueId, attr};

use crate::element::DataType;
use crate::external::Folder;
use crate::fault::{Fault, Outcome};
use crate::functions;
use crate::model::{Model, domain};
use crate::options::{self, ImportOptions};
use crate::structure::{Structure, analyze, location, node_name};
use crate::tensor;
use names::Names;
pub(crate) use names::spelled as value_name;
use remarks::Remarks;
use site::{MOST_OPERANDS, Site};
pub use table::{Importable, importable};

/// A graph, and what there is to say about the model that it was made of.
#[derive(Debug)]
pub struct Imported {
    /// The graph.
    pub graph: Graph,
    /// Each is a sentence without a full stop.
    pub remarks: Vec<String>,
    /// Names of the model's own values, as graphs spell them; others are made here.
    pub names: HashSet<String>,
    /// What the model may ask of later stages, by the length of its files.
    pub budget: Budget,
}

/// A model as a graph of `nn.*`, `tensor.*` and `quant.*`.
pub(crate) fn import(mut model: Model, folder: &Folder, options: &ImportOptions) -> Result<Imported, Diags> {
    options.bind(&mut model.graph).map_err(Fault::into_diag)?;
    options.end(&mut model.graph);
    let nodes = functions::inline(&mut model, &options.budget).map_err(Fault::into_diag)?;
    let structure = analyze(&model.graph, &nodes, model.opset)?;
    let mut graph = Graph::new(names::graph(&model.graph.name));
    let driver = Driver {
        model: &model,
        structure: &structure,
        builder: Builder::new(&mut graph),
        names: Names::new(&model.graph),
        values: HashMap::new(),
        sequences: HashMap::new(),
        types: HashMap::new(),
        folder,
        budget: options.budget,
        faults: Diags::default(),
        remarks: Remarks::default(),
    };
    let names = own_names(&model.graph, &nodes);
    let remarks = driver.run(&nodes, options)?;
    Ok(Imported { graph, remarks, names, budget: options.budget })
}

/// How graphs spell the names of a model's values.
fn own_names(graph: &GraphProto, nodes: &[NodeProto]) -> HashSet<String> {
    let interface = graph.input.iter().chain(&graph.output).map(|v| v.name.clone());
    let results = nodes.iter().flat_map(|n| &n.output).chain(graph.initializer.iter().map(|t| &t.name));
    interface.chain(results.filter(|name| !name.is_empty()).map(|name| value_name(name))).collect()
}

fn sequence_fault(what: &str) -> Fault {
    Fault::unsupported(format!("{what} is a sequence")).help("take tensors out of it in the model")
}

struct Driver<'a, 'g> {
    model: &'a Model,
    structure: &'a Structure<'a>,
    builder: Builder<'g>,
    names: Names<'a>,
    /// Values by their ONNX names; `None` where the producer failed.
    values: HashMap<&'a str, Option<ValueId>>,
    /// Sequences by their ONNX names.
    sequences: HashMap<&'a str, Vec<ValueId>>,
    /// Types that constants have in the model.
    types: HashMap<ValueId, DataType>,
    folder: &'a Folder,
    budget: Budget,
    faults: Diags,
    remarks: Remarks,
}

impl<'a> Driver<'a, '_> {
    fn run(mut self, nodes: &'a [NodeProto], options: &ImportOptions) -> Result<Vec<String>, Diags> {
        self.inputs(options);
        self.initializers()?;
        for &i in &self.structure.order {
            self.node(&nodes[i]);
            self.within_budget(&nodes[i])?;
        }
        let outputs = self.outputs();
        self.propose_outputs(nodes);
        self.faults.into_result()?;
        self.builder.set_outputs(outputs);
        self.builder.remove_dead();
        whole_inputs::make_real(&mut self.builder);
        Ok(self.remarks.sentences())
    }

    /// Where nothing but unsupported operators is wrong, the values in front of them can become the outputs.
    fn propose_outputs(&mut self, nodes: &[NodeProto]) {
        let only_unsupported = self.faults.0.iter().all(|d| d.code == Code::UNSUPPORTED && d.place.node.is_some());
        if self.faults.0.is_empty() || !only_unsupported {
            return;
        }
        let computed = |name: &str| {
            let v = self.values.get(name).copied().flatten()?;
            let is_node = matches!(self.builder.graph().def(v), Def::Node(..)) && self.builder.graph().ty(v).is_float();
            is_node.then_some(name.to_string())
        };
        let failed = |node: &NodeProto| {
            node.output.iter().any(|o| !o.is_empty() && self.values.get(o.as_str()).is_none_or(Option::is_none))
        };
        let before = self.structure.order.iter().map(|&i| &nodes[i]).filter(|node| failed(node));
        let before = before.flat_map(|node| node.input.iter());
        let own = self.model.graph.output.iter().map(|o| &o.name);
        let mut names: Vec<String> = before.chain(own).filter_map(|name| computed(name)).collect();
        let mut seen = HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        if let (Some(last), 1..=8) = (self.faults.0.last_mut(), names.len()) {
            let proposal = format!("what comes before it can be compiled: --outputs {}", names.join(","));
            last.help = Some(match last.help.take() {
                Some(help) => format!("{help}; {proposal}"),
                None => proposal,
            });
        }
    }

    fn inputs(&mut self, options: &ImportOptions) {
        let graph = &self.model.graph;
        let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
        let inputs: Vec<_> = graph.input.iter().filter(|i| !constants.contains(i.name.as_str())).collect();
        for fault in options.unused(&inputs) {
            self.faults.push(fault.into_diag());
        }
        let whole = options.outputs.is_empty();
        let options = options.with_batch(&inputs);
        for input in inputs.into_iter().filter(|i| whole || self.structure.used.contains(i.name.as_str())) {
            let value = match options.input_type(input) {
                Ok(ty) => Some(self.builder.add_input(&input.name, ty)),
                Err(fault) => {
                    self.faults.push(fault.into_diag());
                    None
                }
            };
            self.values.insert(&input.name, value);
        }
    }

    fn initializers(&mut self) -> Result<(), Diags> {
        let used = self.model.graph.initializer.iter().filter(|t| self.structure.used.contains(t.name.as_str()));
        // Several may lie in one part of an external file.
        for proto in used {
            self.add_initializer(proto);
            let bytes = self.builder.graph().constant_bytes();
            self.budget.check_memory(&format!("the initializers up to `{}`", proto.name), bytes)?;
        }
        Ok(())
    }

    /// Refuses to go on when a node has made more constants than fit, or time is over.
    fn within_budget(&self, node: &NodeProto) -> Result<(), Diag> {
        let bytes = self.builder.graph().constant_bytes();
        let memory = self.budget.check_memory("the model's constants", bytes);
        // Every node has a result.
        let nodes = self.budget.check_nodes(self.builder.graph().size() / 2 / functions::NODES);
        let at = |diag: Diag| diag.at(location(node, self.opset_of(node).unwrap_or(0)));
        memory.and(nodes).and(self.budget.check_time()).map_err(at)
    }

    fn add_initializer(&mut self, proto: &'a TensorProto) {
        let value = match self.initializer(proto) {
            Ok(value) => Some(value),
            Err(fault) => {
                let context = format!("initializer `{}`", proto.name);
                self.faults.push(fault.context(context).into_diag());
                None
            }
        };
        self.values.insert(&proto.name, value);
    }

    fn initializer(&mut self, proto: &TensorProto) -> Outcome<ValueId> {
        let constant = tensor::read(proto, self.folder)?;
        let name = self.names.value(&proto.name);
        let v = self.builder.add_typed_const(&name, constant.tensor, constant.data_type.elem());
        self.types.insert(v, constant.data_type);
        Ok(v)
    }

    fn node(&mut self, node: &'a NodeProto) {
        let opset = self.opset_of(node);
        let rule = table::find(node, opset).and_then(|rule| self.check_sequences(node, rule));
        let gives_sequence = matches!(rule, Ok(table::Rule::Sequence(_)));
        let outcome = match rule {
            Err(fault) => Some(Err(fault)),
            Ok(table::Rule::Branch) => {
                self.operands(node).map(|operands| self.branch(node, operands.first().copied().flatten()))
            }
            Ok(rule) => self.operands(node).map(|operands| {
                let results = self.apply(node, rule, opset.unwrap_or(0), operands)?;
                Ok(results.into_iter().map(Some).collect())
            }),
        };
        let results = match outcome {
            Some(Ok(results)) => results,
            Some(Err(mut fault)) => {
                let shapes = self.shapes(node);
                if !shapes.is_empty() && node.input.len() <= 16 {
                    fault.message = format!("{} (operands {shapes})", fault.message);
                }
                self.faults.push(fault.at(location(node, opset.unwrap_or(0))));
                Vec::new()
            }
            None => Vec::new(),
        };
        if let (true, Some(name)) = (gives_sequence, node.output.first().filter(|name| !name.is_empty())) {
            // One that failed is in neither map, so that what reads it is skipped; none is empty.
            let elements: Vec<ValueId> = results.into_iter().flatten().collect();
            if !elements.is_empty() {
                self.sequences.insert(name, elements);
            }
            return;
        }
        let mut results = results.into_iter();
        for name in &node.output {
            let value = results.next().flatten();
            if !name.is_empty() {
                self.values.insert(name, value);
            }
        }
    }

    /// Version of the operator set that a node belongs to, if the model names one.
    fn opset_of(&self, node: &NodeProto) -> Option<i64> {
        let own = domain(&node.domain);
        self.model.domains.iter().find(|(d, _)| d == own).map(|(_, version)| *version)
    }

    /// Sequences are read only by what knows them.
    fn check_sequences(&self, node: &NodeProto, rule: table::Rule) -> Outcome<table::Rule> {
        let sequence = node.input.iter().find(|name| self.sequences.contains_key(name.as_str()));
        match (rule, sequence) {
            // If an operand failed, that has been reported.
            (table::Rule::OfSequence(_), None) if self.operands(node).is_some() => {
                Err(Fault::shape("no operand is a sequence"))
            }
            (table::Rule::OfSequence(_), Some(_)) | (_, None) => Ok(rule),
            (_, Some(name)) => Err(sequence_fault(&format!("operand `{name}`"))),
        }
    }

    /// The operands, `None` for those that are absent; `None` in all if the producer of one failed.
    fn operands(&self, node: &NodeProto) -> Option<Vec<Option<ValueId>>> {
        let mut operands = Vec::with_capacity(node.input.len());
        for name in &node.input {
            match (name.as_str(), self.sequences.get(name.as_str())) {
                ("", _) => operands.push(None),
                (_, Some(elements)) => operands.extend(elements.iter().copied().map(Some)),
                (name, None) => operands.push(Some(self.values.get(name).copied().flatten()?)),
            }
        }
        Some(operands)
    }

    fn apply(
        &mut self,
        node: &'a NodeProto,
        rule: table::Rule,
        opset: i64,
        operands: Vec<Option<ValueId>>,
    ) -> Outcome<Vec<ValueId>> {
        if operands.len() > MOST_OPERANDS {
            return Err(Fault::unsupported(format!("a node with {} operands", operands.len())));
        }
        let first = node.output.first().map_or("", String::as_str);
        let origin = Origin { name: node_name(node).to_string(), op: node.op_type.clone(), opset };
        let base = self.names.value(if first.is_empty() { node_name(node) } else { first });
        let mut site = Site::new(&mut self.builder, node, Arc::new(origin), base, operands, &mut self.types);
        let results = rule.apply(&mut site)?;
        let (created, remarks) = site.finish()?;
        for (node, what) in remarks {
            self.remarks.of_node(node, what);
        }
        let unexpected = node.output.iter().skip(results.len()).find(|o| self.structure.used.contains(o.as_str()));
        if let Some(name) = unexpected {
            return Err(Fault::unsupported(format!("result `{name}` of {} is not supported", node.op_type)));
        }
        for (&v, name) in results.iter().zip(&node.output) {
            // A result that existed before keeps the name that it has; so does one that is named already.
            if !name.is_empty() && created.contains(&v) && results.iter().filter(|&&r| r == v).count() == 1 {
                let name = self.names.value(name);
                if let Some(inner) =
                    self.builder.graph().find(&name).filter(|other| *other != v && created.contains(other))
                {
                    self.builder.rename(inner, &format!("{name}.inner"));
                }
                self.builder.rename(v, &name);
            }
        }
        Ok(results)
    }

    /// Shapes of a node's operands as far as they are known.
    fn shapes(&self, node: &NodeProto) -> String {
        let shape = |name: &String| match self.values.get(name.as_str()) {
            Some(Some(v)) => format!("{:?}", self.builder.graph().ty(*v).dims),
            _ => {
                let declared = self.model.graph.value_info.iter().find(|i| i.name == *name);
                declared.and_then(options::declared).unwrap_or_else(|| "[?]".into())
            }
        };
        let shapes: Vec<_> = node.input.iter().filter(|n| !n.is_empty()).map(shape).collect();
        shapes.join(", ")
    }

    /// The graph's outputs, under their own names.
    fn outputs(&mut self) -> Vec<ValueId> {
        let mut outputs = Vec::new();
        for output in &self.model.graph.output {
            if self.sequences.contains_key(output.name.as_str()) {
                self.faults.push(sequence_fault(&format!("output `{}`", output.name)).into_diag());
                continue;
            }
            let Some(mut v) = self.values.get(output.name.as_str()).copied().flatten() else { continue };
            let dims = self.builder.graph().ty(v).dims.clone();
            match options::check_output(output, &dims) {
                Err(fault) => {
                    self.faults.push(fault.into_diag());
                    continue;
                }
                Ok(Some(remark)) => self.remarks.of_model(remark),
                Ok(None) => {}
            }
            if self.builder.graph().name_of(v) != output.name {
                if self.builder.graph().inputs().contains(&v) || outputs.contains(&v) {
                    // One value under two names of the interface: a second value carries the second name.
                    let shape: Vec<i64> = dims.iter().filter_map(|&d| i64::try_from(d).ok()).collect();
                    let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, shape);
                    let ty = self.builder.graph().ty(v).clone();
                    v = self.builder.add(Opcode::Reshape, &[v], attrs, &output.name, ty, None);
                } else {
                    self.builder.rename(v, &output.name);
                }
            }
            outputs.push(v);
        }
        outputs
    }
}
