//! Where each operator of a model went: from the node of the ONNX file to the addresses of its code.

use object::read::elf::ElfFile64;
use object::{Endianness, Object as _, ObjectSymbol as _, SymbolKind};
use qcc_ir::diag::Code;
use qcc_ir::{Def, Graph, print};
use qcc_runtime::manifest::Step;
use serde_json::{Value, json};

use crate::{Compiled, Error};

/// Addresses of functions by name, in the order of addresses.
type Functions = Vec<(String, u64, u64)>;

impl Compiled {
    /// The trace of a shared object that was made of this model, as JSON: an entry for each step in the order in which they run, and the
    /// functions that steps share.
    pub fn trace(&self, image: &[u8]) -> Result<String, Error> {
        let bug = |e: &dyn std::fmt::Display| Error::new(Code::CODEGEN, format!("the trace cannot be made: {e}"));
        let elf = ElfFile64::<Endianness>::parse(image).map_err(|e| bug(&e))?;
        let mut functions: Functions = elf
            .symbols()
            .filter(|s| s.kind() == SymbolKind::Text && s.is_definition())
            .map(|s| (s.name().unwrap_or_default().to_string(), s.address(), s.size()))
            .collect();
        functions.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        let manifest = qcc_codegen::check::manifest(image).map_err(|e| bug(&e))?.ok_or_else(|| bug(&"no manifest"))?;
        let steps: Vec<Value> =
            manifest.steps.iter().map(|step| self.step(step, &functions)).collect::<Result<_, Error>>()?;
        let is_step = |name: &str| manifest.steps.iter().any(|s| s.symbol == name);
        let shared: Vec<Value> = functions.iter().filter(|f| !is_step(&f.0)).map(place).collect();
        let all = json!({ "model": self.graph().name, "source": manifest.source, "steps": steps, "shared_functions": shared });
        let text = serde_json::to_string_pretty(&all).map_err(|e| bug(&e))?;
        Ok(text + "\n")
    }

    fn step(&self, step: &Step, functions: &Functions) -> Result<Value, Error> {
        let Some(function) = functions.iter().find(|f| f.0 == step.symbol) else {
            return Err(Error::new(
                Code::CODEGEN,
                format!("the step `{}` has no function `{}`", step.name, step.symbol),
            ));
        };
        let mut entry = place(function);
        entry["value"] = json!(step.name);
        entry["kernel"] = json!(step.kernel);
        if let Some((operation, origins)) = operation(self.graph(), &step.name) {
            entry["operator"] = json!(operation);
            entry["onnx"] = json!(origins);
        }
        Ok(entry)
    }
}

fn place((name, start, bytes): &(String, u64, u64)) -> Value {
    json!({ "symbol": name, "start": format!("{start:#x}"), "end": format!("{:#x}", start + bytes) })
}

/// The operation of the integer graph that computes a value, and the ONNX node that it comes from. Steps that prepare a value, such as the
/// filling of its halo, are named after it with a suffix.
fn operation(graph: &Graph, name: &str) -> Option<(String, Option<Value>)> {
    let mut name = name;
    let v = loop {
        match graph.find(name) {
            Some(v) => break v,
            None => name = name.rsplit_once('.')?.0,
        }
    };
    let Def::Node(n, ..) = graph.def(v) else { return None };
    let origin = graph.node(n).origin.as_ref();
    let onnx = origin.map(|o| json!({ "node": o.name, "operator": o.op, "opset": o.opset }));
    Some((print::node_text(graph, n), onnx))
}
