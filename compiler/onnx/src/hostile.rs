//! Models that ask for what cannot be, one fault each: all are answered with one diagnostic, none with a panic, and none takes
//! memory or time for what it only claims to have.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use qcc_ir::attr;
use qcc_ir::diag::Code;

use crate::{ImportOptions, import_bytes};

const FLOAT: i32 = 1;

fn typed(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfoProto {
    let dimension = |&d: &i64| Dimension { value: Some(dimension::Value::DimValue(d)), ..Dimension::new() };
    let shape = TensorShapeProto { dim: dims.iter().map(dimension).collect(), ..TensorShapeProto::new() };
    let tensor = type_proto::Tensor { elem_type, shape: Some(shape).into(), ..type_proto::Tensor::new() };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::new() };
    ValueInfoProto { name: name.into(), type_: Some(ty).into(), ..ValueInfoProto::new() }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    NodeProto { op_type: op.into(), input: names(inputs), output: names(outputs), attribute, ..NodeProto::new() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::INTS.into(),
        ints: values.to_vec(),
        ..AttributeProto::new()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::INT.into(), i: value, ..AttributeProto::new() }
}

fn text(name: &str, value: &str) -> AttributeProto {
    let s = value.as_bytes().to_vec();
    AttributeProto { name: name.into(), type_: AttributeType::STRING.into(), s, ..AttributeProto::new() }
}

fn floats(name: &str, dims: &[i64], value: f32) -> TensorProto {
    let count = usize::try_from(dims.iter().product::<i64>()).unwrap();
    let float_data = vec![value; count];
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: FLOAT, float_data, ..TensorProto::new() }
}

fn longs(name: &str, values: &[i64]) -> TensorProto {
    let dims = vec![i64::try_from(values.len()).unwrap()];
    TensorProto { name: name.into(), dims, data_type: 7, int64_data: values.to_vec(), ..TensorProto::new() }
}

/// A model with input `x` of this shape and output `y`.
fn model(dims: &[i64], nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let output = ValueInfoProto { name: "y".into(), ..ValueInfoProto::new() };
    let graph = GraphProto {
        node: nodes,
        initializer,
        input: vec![typed("x", FLOAT, dims)],
        output: vec![output],
        ..GraphProto::new()
    };
    let opset = OperatorSetIdProto { version: 21, ..OperatorSetIdProto::new() };
    ModelProto { ir_version: 10, opset_import: vec![opset], graph: Some(graph).into(), ..ModelProto::new() }
}

/// One node on `x` and constants.
fn one(dims: &[i64], op: &str, attrs: Vec<AttributeProto>, constants: Vec<TensorProto>) -> ModelProto {
    let names: Vec<&str> = std::iter::once("x").chain(constants.iter().map(|t| t.name.as_str())).collect();
    model(dims, vec![node(op, &names, &["y"], attrs)], constants.clone())
}

fn changed(mut model: ModelProto, change: impl FnOnce(&mut ModelProto)) -> ModelProto {
    change(&mut model);
    model
}

/// The one diagnostic of a model: its code and a part of its message.
fn refused(what: &str, model: &ModelProto, code: Code, part: &str) {
    let bytes = model.write_to_bytes().unwrap();
    let diags = match import_bytes(&bytes, None, &ImportOptions::default()) {
        Ok(graph) => panic!("{what} is taken: {} nodes", graph.node_count()),
        Err(diags) => diags,
    };
    assert_eq!(diags.0.len(), 1, "{what}: {diags}");
    assert_eq!(diags.0[0].code, code, "{what}: {diags}");
    assert!(diags.to_string().contains(part), "{what}: {diags}");
}

fn relu(dims: &[i64]) -> ModelProto {
    one(dims, "Relu", vec![], vec![])
}

#[test]
fn shapes_that_nobody_has() {
    refused("a long dimension", &relu(&[1, 1 << 62]), Code::BAD_SHAPE, "is too large");
    refused("a product beyond 64 bits", &relu(&[1 << 31, 1 << 31, 1 << 31]), Code::BAD_SHAPE, "is too large");
    refused("a terabyte", &relu(&[1, 1 << 40]), Code::BAD_SHAPE, "is too large");
    refused("a negative dimension", &relu(&[1, -4]), Code::DYNAMIC_SHAPE, "dimension 1 of input `x`");
    refused("nothing", &relu(&[1, 0]), Code::BAD_SHAPE, "is empty");
    refused("dimensions without end", &relu(&[1; 2000]), Code::UNSUPPORTED, "2000 dimensions");
    let pads = |p| vec![longs("p", p)];
    refused("padding", &one(&[1, 4], "Pad", vec![], pads(&[0, 1 << 34, 0, 0])), Code::BAD_SHAPE, "is too large");
    refused("all cut away", &one(&[1, 4], "Pad", vec![], pads(&[0, -5, 0, 0])), Code::BAD_SHAPE, "leave nothing");
    let times = vec![longs("t", &[1 << 20, 1 << 16])];
    refused("repetition", &one(&[1, 4], "Tile", vec![], times), Code::BAD_SHAPE, "is too large");
    let shape = vec![longs("s", &[1 << 36, 4])];
    refused("expansion", &one(&[1, 4], "Expand", vec![], shape), Code::BAD_SHAPE, "is too large");
    for (shape, part) in [
        (&[-2, 2][..], "into [-2, 2]"),
        (&[-1, -1], "into [-1, -1]"),
        (&[3, 3], "as many elements"),
        (&[1 << 62, 1 << 62], "as many elements"),
    ] {
        refused("a reshape", &one(&[1, 4], "Reshape", vec![], vec![longs("s", shape)]), Code::BAD_SHAPE, part);
    }
    // Thirty concatenations of four make 2^60 elements.
    let name = |i: usize| {
        if i == 0 {
            "x".to_string()
        } else if i == 30 {
            "y".into()
        } else {
            format!("v{i}")
        }
    };
    let grow = |i: usize| node("Concat", &[name(i).as_str(); 4], &[&name(i + 1)], vec![int("axis", 0)]);
    refused("growth", &model(&[1, 4], (0..30).map(grow).collect(), vec![]), Code::BAD_SHAPE, "is too large");
    let many = node("Concat", &vec!["x"; 5000], &["y"], vec![int("axis", 0)]);
    refused("operands", &model(&[1, 4], vec![many], vec![]), Code::UNSUPPORTED, "5000 operands");
}

#[test]
fn windows_that_do_not_fit() {
    let conv = |attrs| one(&[1, 1, 4, 4], "Conv", attrs, vec![floats("w", &[1, 1, 3, 3], 1.0)]);
    refused("no stride", &conv(vec![ints("strides", &[0, 0])]), Code::BAD_SHAPE, "`strides` is [0, 0]");
    refused("a leap", &conv(vec![ints("strides", &[1 << 62, 1])]), Code::BAD_SHAPE, "`strides` is");
    refused("padding", &conv(vec![ints("pads", &[1 << 62; 4])]), Code::BAD_SHAPE, "`pads`");
    refused("no group", &conv(vec![int("group", 0)]), Code::BAD_SHAPE, "`groups` = 0");
    refused("another kernel", &conv(vec![ints("kernel_shape", &[5, 5])]), Code::BAD_SHAPE, "`kernel_shape` is [5, 5]");
    refused("a text", &conv(vec![text("strides", "2")]), Code::BAD_SHAPE, "is STRING, not INTS");
    refused("a word", &conv(vec![text("auto_pad", "SIDEWAYS")]), Code::UNSUPPORTED, "SIDEWAYS");
    let transposed = |attrs| one(&[1, 1, 4, 4], "ConvTranspose", attrs, vec![floats("w", &[1, 1, 3, 3], 1.0)]);
    let wide = vec![ints("strides", &[1_000_000; 2])];
    refused("a stretched image", &transposed(wide), Code::BAD_SHAPE, "is too large");
    let pool = |attrs| one(&[1, 1, 4, 4], "MaxPool", attrs, vec![]);
    refused("no kernel", &pool(vec![]), Code::BAD_SHAPE, "`kernel_shape` is missing");
    let outside = vec![ints("kernel_shape", &[2, 2]), ints("pads", &[3; 4])];
    refused("a window in the padding", &pool(outside), Code::BAD_SHAPE, "may lie outside");
    let cut = vec![node("Slice", &["x", "s", "s"], &["z"], vec![]), node("ConvTranspose", &["z", "w"], &["y"], vec![])];
    let nothing = model(&[1, 1, 4, 4], cut, vec![longs("s", &[0; 4]), floats("w", &[1, 1, 3, 3], 1.0)]);
    refused("an empty image", &nothing, Code::BAD_SHAPE, "overflows");
}

#[test]
fn positions_that_lead_nowhere() {
    let at = |dims: &[i64], values: &[i64]| TensorProto { dims: dims.to_vec(), ..longs("i", values) };
    let gathered = |op, attrs, at| one(&[2, 4], op, attrs, vec![at]);
    for outside in [4, -5, i64::MIN, i64::MAX] {
        let part = format!("position {outside} of an extent of 4");
        let axis = || vec![int("axis", 1)];
        refused("an element", &gathered("GatherElements", axis(), at(&[1, 1], &[outside])), Code::BAD_SHAPE, &part);
        refused("a place", &gathered("GatherND", vec![], at(&[1, 2], &[0, outside])), Code::BAD_SHAPE, &part);
    }
    let grid = at(&[3, 4], &[0; 12]);
    refused("another shape", &gathered("GatherElements", vec![int("axis", 1)], grid), Code::BAD_SHAPE, "shape [3, 4]");
    refused("an axis", &gathered("GatherElements", vec![int("axis", 2)], at(&[1, 1], &[0])), Code::BAD_SHAPE, "axis");
    refused("too deep", &gathered("GatherND", vec![], at(&[1, 3], &[0; 3])), Code::BAD_SHAPE, "of 3 dimensions");
    refused("no place", &gathered("GatherND", vec![], at(&[1, 0], &[])), Code::BAD_SHAPE, "of 0 dimensions");
    let batches = |n| gathered("GatherND", vec![int("batch_dims", n)], at(&[1, 1], &[0]));
    refused("fewer batches", &batches(1), Code::BAD_SHAPE, "the first 1 dimensions");
    refused("batches", &batches(3), Code::BAD_SHAPE, "positions of shape [1, 1]");
    refused("less than no batch", &batches(-1), Code::BAD_SHAPE, "`batch_dims` is negative");
    let rows = one(&[1, 1 << 16], "GatherND", vec![], vec![at(&[1 << 16, 1], &[0; 1 << 16])]);
    refused("2^32 elements", &rows, Code::BAD_SHAPE, "is too large");
    let scattered = |op, attrs, at, updates| one(&[2, 4], op, attrs, vec![at, floats("u", updates, 1.0)]);
    let element = |attrs, updates| scattered("ScatterElements", attrs, at(&[1, 1], &[1]), updates);
    refused("updates", &element(vec![], &[1, 2]), Code::BAD_SHAPE, "updates of shape [1, 2]");
    refused("a sum", &element(vec![text("reduction", "add")], &[1, 1]), Code::UNSUPPORTED, "`reduction` = \"add\"");
    let row = |at, updates| scattered("ScatterND", vec![], at, updates);
    refused("updates of rows", &row(at(&[1, 1], &[1]), &[1, 3]), Code::BAD_SHAPE, "updates of shape [1, 3]");
    refused("a row", &row(at(&[1, 1], &[2]), &[1, 4]), Code::BAD_SHAPE, "position 2 of an extent of 2");
    let moving = model(&[2, 4], vec![node("GatherElements", &["x", "x"], &["y"], vec![])], vec![]);
    refused("positions of run time", &moving, Code::UNSUPPORTED, "positions that the model computes");
    let row = one(&[4], "Trilu", vec![], vec![]);
    refused("no matrix", &row, Code::BAD_SHAPE, "the operand is no matrix");
    let two = one(&[2, 4], "Trilu", vec![], vec![longs("k", &[1, 2])]);
    refused("two diagonals", &two, Code::BAD_SHAPE, "`k` is not one number");
}

#[test]
fn data_that_is_not_there() {
    let add = |t: TensorProto| one(&[1, 4], "Add", vec![], vec![t]);
    let w = || floats("w", &[4], 1.0);
    refused("too few", &add(TensorProto { dims: vec![5], ..w() }), Code::BAD_SHAPE, "4 elements for shape [5]");
    refused("a claim", &add(TensorProto { dims: vec![1 << 40, 1 << 40], ..w() }), Code::BAD_SHAPE, "too many elements");
    refused("less than none", &add(TensorProto { dims: vec![-4], ..w() }), Code::BAD_SHAPE, "negative dimension");
    let raw = TensorProto { float_data: vec![], raw_data: vec![0; 13], ..w() };
    refused("bytes", &add(raw), Code::BAD_SHAPE, "13 bytes of data");
    for (number, part) in [(99, "number 99"), (8, "string"), (14, "complex"), (0, "is not given")] {
        let code = if number == 0 { Code::BAD_SHAPE } else { Code::UNSUPPORTED };
        refused("a type", &add(TensorProto { data_type: number, ..w() }), code, part);
    }
    let outside = |location: &str| {
        let entry = StringStringEntryProto { key: "location".into(), value: location.into(), ..Default::default() };
        let data_location = DataLocation::EXTERNAL.into();
        add(TensorProto { float_data: vec![], external_data: vec![entry], data_location, ..w() })
    };
    for location in ["../w", "/etc/passwd", "a/../../w", ""] {
        refused(location, &outside(location), Code::EXTERNAL_DATA, "");
    }
    let shape = vec![longs("s", &[1 << 40])];
    let fill = vec![node("ConstantOfShape", &["s"], &["c"], vec![]), node("Add", &["x", "c"], &["y"], vec![])];
    refused("a filled tensor", &model(&[1, 4], fill, shape), Code::BAD_SHAPE, "is too large");
    let range = vec![node("Range", &["a", "b", "a"], &["c"], vec![]), node("Add", &["x", "c"], &["y"], vec![])];
    let ends = vec![floats("a", &[], 1.0), floats("b", &[], 1e30)];
    refused("a range", &model(&[1, 4], range, ends), Code::BAD_SHAPE, "a range of more than");
}

#[test]
fn quantization_that_means_nothing() {
    let scaled =
        |scale: f32, zero: TensorProto| one(&[1, 4], "QuantizeLinear", vec![], vec![floats("s", &[], scale), zero]);
    let zero = || TensorProto { name: "z".into(), data_type: 2, int32_data: vec![0], ..TensorProto::new() };
    for scale in [0.0, -1.0, f32::INFINITY, f32::NAN] {
        refused("a scale", &scaled(scale, zero()), Code::BAD_SHAPE, "a scale of");
    }
    let wide = TensorProto { data_type: 7, int64_data: vec![0], ..zero() };
    refused("64 bits", &scaled(1.0, wide), Code::UNSUPPORTED, "quantization to I64");
    let real = TensorProto { data_type: FLOAT, float_data: vec![0.0], int32_data: vec![], ..zero() };
    refused("a real zero point", &scaled(1.0, real), Code::UNSUPPORTED, "quantization to F32");
    let block = |size| {
        let w = TensorProto {
            name: "w".into(),
            dims: vec![4, 4],
            data_type: 3,
            int32_data: vec![1; 16],
            ..TensorProto::new()
        };
        let attrs = vec![int("axis", 0), int("block_size", size)];
        let nodes =
            vec![node("DequantizeLinear", &["w", "s"], &["d"], attrs), node("MatMul", &["x", "d"], &["y"], vec![])];
        model(&[1, 4], nodes, vec![w, floats("s", &[2, 4], 1.0)])
    };
    refused("blocks", &block(5), Code::BAD_SHAPE, "for blocks of 5");
    refused("negative blocks", &block(-3), Code::BAD_SHAPE, "`block_size` = -3");
}

/// A constant of so many bytes, of 4 bits an element unless its type says otherwise.
fn codes(name: &str, dims: &[i64], data_type: i32, bytes: usize) -> TensorProto {
    let raw_data = vec![0x21; bytes];
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type, raw_data, ..TensorProto::new() }
}

const UINT4: i32 = 21;
const INT4: i32 = 22;

#[test]
fn codes_of_four_bits_that_mean_nothing() {
    let dequantized = |tensors: Vec<TensorProto>, attrs| {
        let names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        let nodes = vec![node("DequantizeLinear", &names, &["d"], attrs), node("MatMul", &["x", "d"], &["y"], vec![])];
        model(&[1, 5], nodes, tensors.clone())
    };
    let scale = || floats("s", &[], 0.5);
    let legal = dequantized(vec![codes("w", &[5, 3], INT4, 8), scale()], vec![]);
    import_bytes(&legal.write_to_bytes().unwrap(), None, &ImportOptions::default()).expect("an odd number of elements");
    for bytes in [7, 9, 15] {
        let model = dequantized(vec![codes("w", &[5, 3], INT4, bytes), scale()], vec![]);
        refused("a wrong length", &model, Code::BAD_SHAPE, "bytes of data for shape [5, 3], which takes 8");
    }
    let words = TensorProto { int32_data: vec![1; 15], raw_data: vec![], ..codes("w", &[5, 3], INT4, 0) };
    refused("a word each", &dequantized(vec![words, scale()], vec![]), Code::BAD_SHAPE, "15 bytes of 4-bit data");
    let words = TensorProto { int32_data: vec![300; 8], raw_data: vec![], ..codes("w", &[5, 3], INT4, 0) };
    refused("no bytes", &dequantized(vec![words, scale()], vec![]), Code::BAD_SHAPE, "does not fit");
    let zero = |data_type, bytes| codes("z", &[], data_type, bytes);
    let zero_of = |zero| dequantized(vec![codes("w", &[5, 3], UINT4, 8), scale(), zero], vec![]);
    refused("a zero point", &zero_of(zero(2, 1)), Code::BAD_SHAPE, "a zero point of 33 outside 0..=15");
    refused("no zero point", &zero_of(zero(UINT4, 2)), Code::BAD_SHAPE, "2 bytes of data");
    let blocks = |scales: &[i64], zeros: Option<TensorProto>, block| {
        let tensors = [codes("w", &[5, 3], INT4, 8), floats("s", scales, 0.5)].into_iter().chain(zeros).collect();
        dequantized(tensors, vec![int("axis", 0), int("block_size", block)])
    };
    let shorter = blocks(&[3, 3], None, 2);
    import_bytes(&shorter.write_to_bytes().unwrap(), None, &ImportOptions::default()).expect("a shorter last block");
    refused(
        "too few scales",
        &blocks(&[2, 3], None, 2),
        Code::BAD_SHAPE,
        "scales of shape [2, 3] for blocks of 2 of [5, 3]",
    );
    let zeros = codes("z", &[2, 3], INT4, 3);
    refused("too few zero points", &blocks(&[3, 3], Some(zeros), 2), Code::BAD_SHAPE, "6 zero points for blocks of 2");
    let infinite = changed(blocks(&[3, 3], None, 2), |m| {
        m.graph.mut_or_insert_default().initializer[1].float_data[4] = f32::INFINITY;
    });
    refused("an infinite scale", &infinite, Code::BAD_SHAPE, "a scale of inf");
}

#[test]
fn products_of_few_bits_that_mean_nothing() {
    let product = |tensors: Vec<TensorProto>, change: &[(&str, i64)]| {
        let mut names: Vec<&str> = vec!["x"];
        names.extend(tensors.iter().map(|t| t.name.as_str()));
        let mut attrs = vec![("K", 40), ("N", 6), ("bits", 4), ("block_size", 16)];
        for &(name, value) in change {
            match attrs.iter_mut().find(|(own, _)| *own == name) {
                Some(own) => own.1 = value,
                None => attrs.push((name, value)),
            }
        }
        let attrs = attrs.into_iter().map(|(name, value)| int(name, value)).collect();
        let node = NodeProto { domain: "com.microsoft".into(), ..node("MatMulNBits", &names, &["y"], attrs) };
        model(&[1, 40], vec![node], tensors.clone())
    };
    let weights = |bytes: usize| codes("w", &[6, 3, 8], 2, bytes);
    let scales = || floats("s", &[18], 0.5);
    let whole = || vec![weights(144), scales()];
    import_bytes(&product(whole(), &[]).write_to_bytes().unwrap(), None, &ImportOptions::default()).expect("legal");
    for (what, model, code, part) in [
        ("K", product(whole(), &[("K", 41)]), Code::BAD_SHAPE, ""),
        ("no K", product(whole(), &[("K", 0)]), Code::BAD_SHAPE, "`K` = 0"),
        ("a great N", product(whole(), &[("N", i64::MAX)]), Code::BAD_SHAPE, "too many elements"),
        ("N", product(whole(), &[("N", 7)]), Code::BAD_SHAPE, "288 codes for 7 outputs of 3 blocks of 16"),
        ("bits", product(whole(), &[("bits", 3)]), Code::UNSUPPORTED, "`bits` = 3"),
        ("other bits", product(whole(), &[("bits", 8)]), Code::BAD_SHAPE, "144 codes for 6 outputs of 3 blocks of 16"),
        ("blocks", product(whole(), &[("block_size", -16)]), Code::BAD_SHAPE, "`block_size` = -16"),
        ("packed", product(whole(), &[("weight_prepacked", 1)]), Code::UNSUPPORTED, "laid out for a GPU"),
        ("scales", product(vec![weights(144), floats("s", &[17], 0.5)], &[]), Code::BAD_SHAPE, "17 scales"),
        (
            "zero points",
            product(vec![weights(144), scales(), codes("z", &[11], 2, 11)], &[]),
            Code::BAD_SHAPE,
            "11 bytes of zero points for 6 rows of 3 blocks",
        ),
    ] {
        refused(what, &model, code, part);
    }
    let groups = |block: i32| {
        let zeros = codes("z", &[12], 2, 12);
        let groups = TensorProto {
            name: "g".into(),
            dims: vec![40],
            data_type: 6,
            int32_data: vec![block; 40],
            ..TensorProto::new()
        };
        product(vec![weights(144), scales(), zeros, groups], &[])
    };
    import_bytes(&groups(2).write_to_bytes().unwrap(), None, &ImportOptions::default())
        .expect("inputs of the last block");
    refused("a block", &groups(3), Code::BAD_SHAPE, "input 0 has no block");
}

#[test]
fn attention_whose_weights_have_no_columns() {
    for (what, weights, bias) in [("weights", vec![24], vec![24]), ("bias", vec![8, 24], vec![])] {
        let tensors = vec![floats("w", &weights, 0.5), floats("b", &bias, 0.5)];
        let attention = NodeProto {
            domain: "com.microsoft".into(),
            ..node("Attention", &["x", "w", "b"], &["y"], vec![int("num_heads", 2)])
        };
        refused(what, &model(&[1, 4, 8], vec![attention], tensors), Code::BAD_SHAPE, "to be taken apart");
    }
}

#[test]
fn names_that_contradict_each_other() {
    let loops = model(&[1, 4], vec![node("Add", &["x", "y"], &["y"], vec![])], vec![]);
    refused("a value that needs itself", &loops, Code::BAD_GRAPH, "has a cycle");
    let twice = changed(relu(&[1, 4]), |m| {
        let g = m.graph.mut_or_insert_default();
        g.output.push(g.output[0].clone());
    });
    refused("an output", &twice, Code::BAD_GRAPH, "two outputs are named `y`");
    let inputs = changed(relu(&[1, 4]), |m| {
        let g = m.graph.mut_or_insert_default();
        g.input.push(g.input[0].clone());
    });
    refused("an input", &inputs, Code::BAD_GRAPH, "two inputs are named `x`");
    let shadow =
        model(&[1, 4], vec![node("Relu", &["x"], &["x"], vec![]), node("Relu", &["x"], &["y"], vec![])], vec![]);
    refused("a result like an input", &shadow, Code::BAD_GRAPH, "`x` is defined twice");
    let silent = changed(relu(&[1, 4]), |m| m.graph.mut_or_insert_default().output.clear());
    refused("no output", &silent, Code::BAD_GRAPH, "no output");
    refused(
        "no operand",
        &model(&[1, 4], vec![node("Add", &["x", ""], &["y"], vec![])], vec![]),
        Code::BAD_SHAPE,
        "operand 1 is missing",
    );
}

fn function(name: &str, calls: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "local".into(),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: calls
            .into_iter()
            .map(|n| NodeProto { domain: if n.op_type == "Relu" { "".into() } else { "local".into() }, ..n })
            .collect(),
        ..FunctionProto::new()
    }
}

/// `levels` functions, each of which calls the next one twice.
fn doubling(levels: usize) -> ModelProto {
    let call = NodeProto { domain: "local".into(), ..node("F0", &["x"], &["y"], vec![]) };
    changed(model(&[1, 4], vec![call], vec![]), |m| {
        m.opset_import.push(OperatorSetIdProto { domain: "local".into(), version: 1, ..OperatorSetIdProto::new() });
        m.functions = (0..levels)
            .map(|i| {
                let next = format!("F{}", i + 1);
                function(
                    &format!("F{i}"),
                    vec![node(&next, &["a"], &["m"], vec![]), node(&next, &["m"], &["b"], vec![])],
                )
            })
            .collect();
        m.functions.push(function(&format!("F{levels}"), vec![node("Relu", &["a"], &["b"], vec![])]));
    })
}

#[test]
fn functions_that_do_not_end() {
    let endless = changed(doubling(1), |m| m.functions[1].node[0] = m.functions[0].node[0].clone());
    refused("recursion", &endless, Code::UNSUPPORTED, "nested too deep");
    refused("2^40 calls", &doubling(40), Code::UNSUPPORTED, "nested too deep");
    // Values of nested calls have the same names in their functions, and different ones in the graph.
    let bytes = doubling(6).write_to_bytes().unwrap();
    let graph = import_bytes(&bytes, None, &ImportOptions::default()).unwrap();
    assert_eq!(graph.node_count(), 64);
}

#[test]
fn operators_that_cannot_be_compiled() {
    for (op, part) in [
        ("Loop", "control flow"),
        ("NonMaxSuppression", "known at run time only"),
        ("SequenceInsert", "without sequences"),
        ("StringNormalizer", "texts"),
        ("RandomNormalLike", "random numbers"),
    ] {
        refused(op, &one(&[1, 4], op, vec![], vec![]), Code::UNSUPPORTED, part);
    }
    let cell = |dims: &[i64], w: &[i64], r: &[i64], direction| {
        one(dims, "LSTM", vec![text("direction", direction)], vec![floats("w", w, 1.0), floats("r", r, 1.0)])
    };
    let (w, r) = (&[1, 8, 4], &[1, 8, 2]);
    refused("a long sequence", &cell(&[100_000, 1, 4], w, r, "forward"), Code::UNSUPPORTED, "100000 steps");
    refused("weights", &cell(&[5, 1, 4], &[1, 6, 4], r, "forward"), Code::BAD_SHAPE, "weights of shapes");
    refused("one direction", &cell(&[5, 1, 4], w, r, "bidirectional"), Code::BAD_SHAPE, "weights of 1");
    for equation in ["ij,jk->iz", "ijk,jk->i", "ij->i", "ij,jk->ii", "i j, j", "->", "ij,j\u{fc}->i"] {
        let model = one(&[1, 4], "Einsum", vec![text("equation", equation)], vec![floats("w", &[4, 3], 1.0)]);
        refused(equation, &model, Code::BAD_SHAPE, "");
    }
    let diagonal = one(&[4, 4], "Einsum", vec![text("equation", "ii->i")], vec![]);
    refused("a diagonal", &diagonal, Code::UNSUPPORTED, "a diagonal");
}

/// `SplitToSequence` of `x` by `split`, then one operator that reads the sequence and `more`.
fn of_sequence(split: TensorProto, reader: &str, attrs: Vec<AttributeProto>, more: Option<TensorProto>) -> ModelProto {
    let mut inputs = vec!["s"];
    inputs.extend(more.iter().map(|t| t.name.as_str()));
    let nodes = vec![
        node("SplitToSequence", &["x", &split.name], &["s"], vec![int("axis", 1)]),
        node(reader, &inputs, &["y"], attrs),
    ];
    model(&[1, 7, 2], nodes, std::iter::once(split).chain(more.clone()).collect())
}

#[test]
fn sequences_are_lists_of_values() {
    let number = |name: &str, n: i64| TensorProto { dims: vec![], ..longs(name, &[n]) };
    let imported = |model: &ModelProto| {
        let graph = import_bytes(&model.write_to_bytes().unwrap(), None, &ImportOptions::default());
        let graph = graph.unwrap_or_else(|d| panic!("{d}"));
        let y = graph.outputs()[0];
        let starts = graph.producer(y).map(|n| graph.node(n)).filter(|n| n.op == qcc_ir::Opcode::Slice);
        (graph.ty(y).dims.clone(), starts.map(|n| n.attrs.get(attr::STARTS)[1]))
    };
    let at = |split: TensorProto, i: i64| of_sequence(split, "SequenceAt", vec![], Some(number("i", i)));
    // Parts of 3, 3 and 1.
    assert_eq!(imported(&at(number("n", 3), 1)), (vec![1, 3, 2], Some(3)));
    assert_eq!(imported(&at(number("n", 3), -1)), (vec![1, 1, 2], Some(6)));
    assert_eq!(imported(&at(longs("n", &[2, 5]), 1)), (vec![1, 5, 2], Some(2)));
    let joined = |new_axis| {
        let attrs = vec![int("axis", -1), int("new_axis", new_axis)];
        of_sequence(number("n", 1), "ConcatFromSequence", attrs, None)
    };
    assert_eq!(imported(&joined(0)), (vec![1, 1, 14], None));
    assert_eq!(imported(&joined(1)), (vec![1, 1, 2, 7], None));
    refused("a position", &at(number("n", 3), 3), Code::BAD_SHAPE, "position 3 in a sequence of 3 tensors");
    refused("a size", &at(number("n", 0), 0), Code::BAD_SHAPE, "parts of 0 elements");
    refused("sizes", &at(longs("n", &[2, 4]), 0), Code::BAD_SHAPE, "7 elements in parts of [2, 4]");
    refused("a reader", &of_sequence(number("n", 3), "Relu", vec![], None), Code::UNSUPPORTED, "`s` is a sequence");
    refused("no sequence", &one(&[1, 4], "SequenceAt", vec![], vec![number("i", 0)]), Code::BAD_SHAPE, "no operand is");
    let long = changed(at(number("n", 1), 0), |m| m.graph.as_mut().unwrap().input[0] = typed("x", FLOAT, &[1, 5000]));
    refused("many", &long, Code::UNSUPPORTED, "a sequence of 5000 tensors");
    // What reads the result of a node that is at fault is not reported beside it.
    let failed =
        changed(at(number("n", 3), 0), |m| m.graph.as_mut().unwrap().node[0].op_type = "SequenceInsert".into());
    refused("a producer", &failed, Code::UNSUPPORTED, "SequenceInsert");
    let output = changed(at(number("n", 3), 0), |m| m.graph.as_mut().unwrap().node[1].output[0] = "z".into());
    let output = changed(output, |m| m.graph.as_mut().unwrap().node[0].output[0] = "y".into());
    let output = changed(output, |m| m.graph.as_mut().unwrap().node[1].input[0] = "y".into());
    refused("an output", &output, Code::UNSUPPORTED, "output `y` is a sequence");
}
