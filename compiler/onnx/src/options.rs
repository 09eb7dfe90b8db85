//! What a caller says about a model: extents that the model leaves open, and where it is to end.

use std::collections::HashMap;

use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::{GraphProto, ValueInfoProto, type_proto};
use qcc_ir::diag::Code;
use qcc_ir::{Budget, Type};

use crate::element::DataType;
use crate::fault::{Fault, Outcome};
use crate::import::value_name;

/// Most elements of a value. A model that means what it says has none of 2^31, and no machine the memory for several.
pub(crate) const MOST_ELEMENTS: usize = 1 << 31;

/// Most dimensions of inputs and outputs: the interface of compiled models has no more.
pub(crate) const MOST_DIMENSIONS: usize = 8;

/// Extents that the model leaves open, and where it ends. An open first dimension of an input, the batch, is 1 unless something is said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImportOptions {
    /// Whole shapes of inputs, by name.
    pub shapes: HashMap<String, Vec<usize>>,
    /// Extents of symbolic dimensions, by symbol.
    pub dims: HashMap<String, usize>,
    /// Inputs that are always the same, by name: one number for all elements, or one for each.
    pub binds: HashMap<String, Vec<f64>>,
    /// Values that become the outputs, in this order; the model's own where there are none.
    pub outputs: Vec<String>,
    /// What the model may ask of the compiler, here and in all later stages.
    pub budget: Budget,
}

impl ImportOptions {
    /// Adds a shape spelled `input=1x3x224x224`, as the flag `--shape` takes it.
    pub fn shape_flag(&mut self, text: &str) -> Result<(), String> {
        let expected = || format!("expected NAME=1x3x224x224, found {text:?}");
        // Names of inputs may contain `=`; a shape does not.
        let (name, shape) = text.rsplit_once('=').ok_or_else(expected)?;
        let dims: Option<Vec<usize>> = match shape {
            "" => Some(Vec::new()),
            _ => shape.split('x').map(|d| d.parse().ok().filter(|&d| d > 0)).collect(),
        };
        self.shapes.insert(name.to_string(), dims.ok_or_else(expected)?);
        Ok(())
    }

    /// Adds an extent spelled `batch=1`, as the flag `--dim` takes it.
    pub fn dim_flag(&mut self, text: &str) -> Result<(), String> {
        let expected = || format!("expected SYMBOL=NUMBER, found {text:?}");
        let (symbol, extent) = text.rsplit_once('=').ok_or_else(expected)?;
        let extent = extent.parse().ok().filter(|&d| d > 0).ok_or_else(expected)?;
        self.dims.insert(symbol.to_string(), extent);
        Ok(())
    }

    /// Makes the values that are named the outputs of a graph. What only its own outputs needed is then left out, with the inputs that
    /// were for it alone.
    pub(crate) fn end(&self, graph: &mut GraphProto) {
        if self.outputs.is_empty() {
            return;
        }
        let named = |name: &String| graph.output.iter().find(|o| o.name == *name).cloned();
        let unnamed = |name: &String| ValueInfoProto { name: spelled(graph, name), ..ValueInfoProto::new() };
        graph.output = self.outputs.iter().map(|name| named(name).unwrap_or_else(|| unnamed(name))).collect();
    }

    /// Faults of options that name nothing in the model.
    pub(crate) fn unused(&self, inputs: &[&ValueInfoProto]) -> Vec<Fault> {
        let mut faults = Vec::new();
        let names: Vec<_> = inputs.iter().map(|i| i.name.as_str()).collect();
        let mut shapes: Vec<_> = self.shapes.keys().filter(|n| !names.contains(&n.as_str())).collect();
        shapes.sort();
        for name in shapes {
            let fault = Fault::new(Code::DYNAMIC_SHAPE, format!("a shape is given for `{name}`, which is no input"));
            faults.push(fault.help(format!("inputs are {}", names.join(", "))));
        }
        let symbols: Vec<_> = inputs.iter().flat_map(|i| extents(i).unwrap_or_default()).collect();
        let known = |s: &str| symbols.iter().any(|e| matches!(e, Extent::Symbol(known) if known == s));
        let mut dims: Vec<_> = self.dims.keys().filter(|s| !known(s)).collect();
        dims.sort();
        for symbol in dims {
            let message = format!("an extent is given for `{symbol}`, which is no dimension of an input");
            faults.push(Fault::new(Code::DYNAMIC_SHAPE, message));
        }
        faults
    }

    /// The same, with 1 for every symbol of a batch: one that is the first dimension of an input.
    pub(crate) fn with_batch(&self, inputs: &[&ValueInfoProto]) -> ImportOptions {
        let mut options = self.clone();
        for input in inputs {
            if let Some(Extent::Symbol(batch)) = extents(input).and_then(|e| e.into_iter().next()) {
                options.dims.entry(batch).or_insert(1);
            }
        }
        options
    }

    /// The type of an input.
    pub(crate) fn input_type(&self, input: &ValueInfoProto) -> Outcome<Type> {
        let name = &input.name;
        let Some(type_proto::Value::TensorType(tensor)) = input.type_.as_ref().and_then(|t| t.value.as_ref()) else {
            return Err(Fault::unsupported(format!("input `{name}` is not a tensor")));
        };
        let data_type = DataType::from_onnx(tensor.elem_type).map_err(|f| f.context(format_args!("input `{name}`")))?;
        if !data_type.is_interface() {
            return Err(Fault::unsupported(format!("input `{name}` has an unsupported element type, {data_type:?}")));
        }
        let dims = self.input_dims(name, extents(input))?;
        if dims.contains(&0) {
            return Err(Fault::shape(format!("input `{name}` of shape {dims:?} is empty")));
        }
        let ty = Type { dims, elem: data_type.elem() };
        if ty.checked_elements().is_none_or(|n| n >= MOST_ELEMENTS) {
            return Err(Fault::shape(format!("input `{name}` of shape {:?} is too large", ty.dims)));
        }
        if ty.rank() > MOST_DIMENSIONS {
            let fault = Fault::unsupported(format!("input `{name}` has {} dimensions", ty.rank()));
            return Err(fault.help(format!("inputs and outputs have at most {MOST_DIMENSIONS}")));
        }
        Ok(ty)
    }

    fn input_dims(&self, name: &str, declared: Option<Vec<Extent>>) -> Outcome<Vec<usize>> {
        if let Some(dims) = self.shapes.get(name) {
            let fits = |declared: &[Extent]| {
                declared.len() == dims.len()
                    && declared.iter().zip(dims).all(|(d, &n)| match d {
                        Extent::Known(known) => *known == n,
                        Extent::Symbol(_) | Extent::Open => true,
                    })
            };
            return match declared {
                Some(declared) if !fits(&declared) => {
                    let declared: Vec<_> = declared.iter().map(ToString::to_string).collect();
                    let declared = declared.join("x");
                    Err(Fault::shape(format!("shape {dims:?} is given for input `{name}`, which is {declared}")))
                }
                _ => Ok(dims.clone()),
            };
        }
        let Some(declared) = declared else {
            let fault = Fault::new(Code::DYNAMIC_SHAPE, format!("the shape of input `{name}` is not known"));
            return Err(fault.help(format!("give it: --shape {name}=1x3x224x224")));
        };
        let resolve = |(i, extent): (usize, &Extent)| match extent {
            Extent::Known(n) => Some(*n),
            Extent::Symbol(s) if self.dims.contains_key(s) => Some(self.dims[s]),
            Extent::Symbol(_) | Extent::Open if i == 0 => Some(1),
            Extent::Symbol(_) | Extent::Open => None,
        };
        let dims: Vec<Option<usize>> = declared.iter().enumerate().map(resolve).collect();
        let known: Option<Vec<usize>> = dims.iter().copied().collect();
        known.ok_or_else(|| open(name, &declared, &dims))
    }
}

/// The fault of leaving dimensions of an input open, with the flags that close them.
fn open(name: &str, declared: &[Extent], dims: &[Option<usize>]) -> Fault {
    let spelled: Vec<_> = dims.iter().map(|d| d.map_or_else(|| "NUMBER".into(), |n| n.to_string())).collect();
    let shape = format!("--shape {name}={}", spelled.join("x"));
    let (mut what, mut flags) = (Vec::new(), Vec::new());
    for (i, extent) in declared.iter().enumerate().filter(|(i, _)| dims[*i].is_none()) {
        match extent {
            // Exporters write `?` for all dimensions that they do not know, which are not the same then.
            Extent::Symbol(s) if s != "?" => {
                what.push(format!("`{s}`, dimension {i}"));
                flags.push(Some(format!("--dim {s}=NUMBER")));
            }
            Extent::Symbol(_) | Extent::Open | Extent::Known(_) => {
                what.push(format!("dimension {i}"));
                flags.push(None);
            }
        }
    }
    let verb = if what.len() == 1 { "is" } else { "are" };
    // Two dimensions may be of one symbol.
    let by_symbol: Option<Vec<String>> = flags.into_iter().collect();
    let by_symbol = by_symbol.map(|mut flags| {
        let mut seen = std::collections::HashSet::new();
        flags.retain(|flag| seen.insert(flag.clone()));
        flags.join(" ")
    });
    let help = by_symbol.map_or_else(|| shape.clone(), |flags| format!("{flags}, or {shape}"));
    let them = if what.len() == 1 { "it" } else { "them" };
    let message = format!("{} of input `{name}` {verb} not known at compile time", what.join(", and "));
    Fault::new(Code::DYNAMIC_SHAPE, message).help(format!("give {them}: {help}"))
}

/// A name as the model has it: where it has none so, the one of a node's result that graphs spell so.
fn spelled(graph: &GraphProto, name: &str) -> String {
    let results = || graph.node.iter().flat_map(|n| &n.output).filter(|r| !r.is_empty());
    if results().any(|r| r == name) || graph.input.iter().any(|i| i.name == name) {
        return name.to_string();
    }
    results().find(|r| value_name(r) == name).map_or(name, String::as_str).to_string()
}

/// A dimension as declared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Extent {
    Known(usize),
    Symbol(String),
    Open,
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Extent::Known(n) => n.fmt(f),
            Extent::Symbol(s) => f.write_str(s),
            Extent::Open => f.write_str("?"),
        }
    }
}

/// The declared dimensions; `None` if the rank is not declared.
pub(crate) fn extents(value: &ValueInfoProto) -> Option<Vec<Extent>> {
    let Some(type_proto::Value::TensorType(tensor)) = value.type_.as_ref()?.value.as_ref() else { return None };
    let shape = tensor.shape.as_ref()?;
    let extent = |value: &Option<dimension::Value>| match value {
        Some(dimension::Value::DimValue(n)) => usize::try_from(*n).map_or(Extent::Open, Extent::Known),
        Some(dimension::Value::DimParam(s)) if !s.is_empty() => Extent::Symbol(s.clone()),
        Some(dimension::Value::DimParam(_)) | None => Extent::Open,
        Some(_) => Extent::Open,
    };
    Some(shape.dim.iter().map(|d| extent(&d.value)).collect())
}

/// Compares the declared shape of an output with the one that was found; what is left open or symbolic fits anything. A declaration is
/// a hint: where it is wrong, that is a remark.
pub(crate) fn check_output(output: &ValueInfoProto, found: &[usize]) -> Outcome<Option<String>> {
    if found.len() > MOST_DIMENSIONS {
        let fault = Fault::unsupported(format!("output `{}` has {} dimensions", output.name, found.len()));
        return Err(fault.help(format!("inputs and outputs have at most {MOST_DIMENSIONS}")));
    }
    let Some(declared) = extents(output) else { return Ok(None) };
    let fits = declared.len() == found.len()
        && declared.iter().zip(found).all(|(d, &n)| match d {
            // Exporters write 0 for a dimension that they do not know.
            Extent::Known(known) => *known == n || *known == 0,
            Extent::Symbol(_) | Extent::Open => true,
        });
    if fits {
        return Ok(None);
    }
    let declared: Vec<_> = declared.iter().map(ToString::to_string).collect();
    Ok(Some(format!("output `{}` is declared as {} and is {found:?}", output.name, declared.join("x"))))
}

/// A declared shape as text, for values that were not reached.
pub(crate) fn declared(value: &ValueInfoProto) -> Option<String> {
    let spelled: Vec<_> = extents(value)?.iter().map(ToString::to_string).collect();
    Some(format!("[{}]", spelled.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        let mut options = ImportOptions::default();
        options.shape_flag("input:0=1x3x224x224").unwrap();
        options.shape_flag("scalar=").unwrap();
        options.dim_flag("batch=4").unwrap();
        assert_eq!(options.shapes["input:0"], [1, 3, 224, 224]);
        assert_eq!(options.shapes["scalar"], [0usize; 0]);
        assert_eq!(options.dims["batch"], 4);
        for bad in ["x", "x=1x", "x=1x0", "x=1x-1", "x=99999999999999999999999"] {
            assert!(options.shape_flag(bad).is_err(), "{bad}");
        }
        for bad in ["n", "n=", "n=0", "n=x"] {
            assert!(options.dim_flag(bad).is_err(), "{bad}");
        }
    }
}
