//! Inputs that are always the same: they become initializers, and constants of the network.

use onnx_protobuf::{GraphProto, TensorProto, ValueInfoProto, type_proto};
use qcc_ir::diag::Code;

use crate::element::DataType;
use crate::fault::{Fault, Outcome};
use crate::options::{Extent, ImportOptions, extents};
use crate::rounding::{nearest, towards_zero};

impl ImportOptions {
    /// Adds the value of an input spelled `sr=16000`, as the flag `--bind` takes it.
    pub fn bind_flag(&mut self, text: &str) -> Result<(), String> {
        let expected = || format!("expected INPUT=NUMBER[,NUMBER..], found {text:?}");
        let (name, numbers) = text.rsplit_once('=').ok_or_else(expected)?;
        let number = |s: &str| s.trim().parse::<f64>().ok().filter(|x| x.is_finite());
        let numbers: Option<Vec<f64>> = numbers.split(',').map(number).collect();
        self.binds.insert(name.to_string(), numbers.ok_or_else(expected)?);
        Ok(())
    }

    /// Makes initializers of the inputs that are bound.
    pub(crate) fn bind(&self, graph: &mut GraphProto) -> Outcome<()> {
        let mut names: Vec<&String> = self.binds.keys().collect();
        names.sort();
        for name in names {
            let constant = |i: &ValueInfoProto| graph.initializer.iter().any(|t| t.name == i.name);
            let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(|i| !constant(i)).collect();
            let Some(input) = inputs.iter().find(|i| i.name == *name) else {
                let known: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
                let fault = Fault::new(Code::FLAGS, format!("a value is given for `{name}`, which is no input"));
                return Err(fault.help(format!("inputs are {}", known.join(", "))));
            };
            let tensor = self.constant(input, &self.binds[name])?;
            graph.input.retain(|i| i.name != *name);
            graph.initializer.push(tensor);
        }
        Ok(())
    }

    fn constant(&self, input: &ValueInfoProto, numbers: &[f64]) -> Outcome<TensorProto> {
        let name = &input.name;
        let Some(type_proto::Value::TensorType(ty)) = input.type_.as_ref().and_then(|t| t.value.as_ref()) else {
            return Err(Fault::unsupported(format!("input `{name}` is not a tensor")));
        };
        let data_type = DataType::from_onnx(ty.elem_type).map_err(|f| f.context(format_args!("input `{name}`")))?;
        let extent = |extent: &Extent| match extent {
            Extent::Known(n) => *n,
            Extent::Symbol(s) => self.dims.get(s).copied().unwrap_or(1),
            Extent::Open => 1,
        };
        let declared = || extents(input).map(|all| all.iter().map(extent).collect());
        let dims: Vec<usize> = self.shapes.get(name).cloned().or_else(declared).unwrap_or_default();
        let elements = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
        if numbers.len() != 1 && numbers.len() != elements || elements > MOST_BOUND {
            let message = format!("{} numbers are given for input `{name}` of shape {dims:?}", numbers.len());
            return Err(Fault::new(Code::FLAGS, message).help("give one number for all elements, or one for each"));
        }
        let values = (0..elements).map(|i| numbers[if numbers.len() == 1 { 0 } else { i }]);
        let mut raw_data = Vec::new();
        for x in values {
            let bytes = encode(data_type, x).ok_or_else(|| {
                Fault::new(
                    Code::FLAGS,
                    format!("{x} is given for input `{name}`, which does not hold it: {data_type:?}"),
                )
            })?;
            raw_data.extend(bytes);
        }
        let dims = dims.iter().filter_map(|&d| i64::try_from(d).ok()).collect();
        Ok(TensorProto { name: name.clone(), data_type: ty.elem_type, dims, raw_data, ..TensorProto::new() })
    }
}

/// Most elements of an input that is bound.
const MOST_BOUND: usize = 1 << 24;

/// A number as an element of a tensor; `None` if the type does not hold it.
fn encode(data_type: DataType, x: f64) -> Option<Vec<u8>> {
    let whole = |min: f64, max: f64| (x.fract() == 0.0 && (min..=max).contains(&x)).then_some(towards_zero(x));
    let int = |bytes: usize, min: f64, max: f64| Some(whole(min, max)?.to_le_bytes()[..bytes].to_vec());
    // Beyond 2^53 not every integer is a number as it is read here.
    let exact = 9_007_199_254_740_992.0;
    match data_type {
        DataType::F32 => Some(nearest(x).to_le_bytes().to_vec()),
        DataType::F64 => Some(x.to_le_bytes().to_vec()),
        DataType::Bool => int(1, 0.0, 1.0),
        DataType::U8 => int(1, 0.0, 255.0),
        DataType::I8 => int(1, -128.0, 127.0),
        DataType::U16 => int(2, 0.0, 65535.0),
        DataType::I16 => int(2, -32768.0, 32767.0),
        DataType::I32 => int(4, f64::from(i32::MIN), f64::from(i32::MAX)),
        DataType::U32 => int(4, 0.0, f64::from(u32::MAX)),
        DataType::I64 => int(8, -exact, exact),
        DataType::U64 => int(8, 0.0, exact),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_encoded() {
        let mut options = ImportOptions::default();
        options.bind_flag("sr=16000").unwrap();
        options.bind_flag("a=b=1,-2.5").unwrap();
        assert_eq!((&options.binds["sr"][..], &options.binds["a=b"][..]), (&[16000.0][..], &[1.0, -2.5][..]));
        for bad in ["sr", "sr=", "sr=x", "sr=1,", "sr=inf"] {
            assert!(options.bind_flag(bad).is_err(), "{bad}");
        }
        assert_eq!(encode(DataType::I64, 16000.0), Some(16000i64.to_le_bytes().to_vec()));
        assert_eq!(encode(DataType::I8, -1.0), Some(vec![255]));
        assert_eq!((encode(DataType::U8, 256.0), encode(DataType::I32, 0.5)), (None, None));
    }
}
