//! The laws of the textual form, on random graphs and on damaged texts. A failure prints the seed that reproduces it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use qcc_ir::attr::AttrInput;
use qcc_ir::parse::{no_files, parse, parse_located};
use qcc_ir::print::{INLINE, Large, Options, print, print_with};
use qcc_ir::{
    Attr, AttrKind, Attrs, Builder, Data, Elem, Fact, Format, Function, Graph, Int, Opcode, Range, Tensor, Type,
    Uniform, ValueId,
};

/// What the random graphs are made of.
struct Random(qcc_num::random::Random);

impl Random {
    fn new(seed: u64) -> Random {
        Random(qcc_num::random::Random::new(seed))
    }

    /// Any float that equals itself, infinite ones included.
    fn float(&mut self) -> f32 {
        let any = f32::from_bits(self.0.bits() as u32);
        if any.is_nan() { -0.0 } else { any }
    }

    fn name(&mut self) -> String {
        let parts =
            ["x", "conv1", "a b", "\"", "\\", "0", "-1", "é", "\n", "", "->", "quant.uniform", "return", "const", "/"];
        (0..1 + self.0.below(3)).map(|_| self.0.pick(&parts)).collect()
    }

    fn dims(&mut self) -> Vec<usize> {
        (0..self.0.below(4)).map(|_| self.0.below(5)).collect()
    }

    fn format(&mut self) -> Format {
        let storage = self.0.pick(&Int::ALL);
        match self.0.below(3) {
            0 => Format::all(storage),
            1 => Format::linear(storage, storage.min() / 2, storage.max()),
            _ => Format::levels(storage, vec![storage.min(), 1, storage.max()]).unwrap_or(storage.into()),
        }
    }

    fn ty(&mut self) -> Type {
        let dims = self.dims();
        let storage = self.0.pick(&Int::ALL);
        let scale = |r: &mut Random| r.float().abs().clamp(f32::from_bits(1), f32::MAX);
        let elem = match self.0.below(6) {
            0 => Elem::F32,
            1 => Elem::Bool,
            2 => Elem::Int(storage),
            3 => {
                let (a, b) = (self.float().clamp(-1e30, 1e30), self.float().clamp(-1e30, 1e30));
                Elem::Calibrated(Range { min: a.min(b), max: a.max(b) })
            }
            n => {
                let axis = Some(self.0.below(4)).filter(|_| n == 4);
                let count = if axis.is_some() { self.0.below(7) } else { 1 };
                let format = self.format();
                Elem::Uniform(Arc::new(Uniform {
                    format,
                    axis,
                    scales: (0..count).map(|_| scale(self)).collect(),
                    zero_points: (0..count).map(|_| self.0.below(3) as i64 - 1).collect(),
                }))
            }
        };
        Type { dims, elem }
    }

    fn function(&mut self) -> Function {
        let inner = Function::call(Attrs::new(Opcode::Exp), vec![Function::Argument]).unwrap();
        Function::call(Attrs::new(Opcode::Mul), vec![inner, Function::Number(self.float())]).unwrap()
    }

    fn attrs(&mut self, op: Opcode) -> Attrs {
        let mut attrs = Attrs::new(op);
        for schema in op.info().attrs {
            let value = match schema.kind {
                AttrKind::Int => Attr::Int(self.0.bits() as i64),
                AttrKind::Ints => Attr::Ints((0..self.0.below(5)).map(|_| self.0.below(9) as i64 - 4).collect()),
                AttrKind::Float => Attr::Float(self.float()),
                AttrKind::Bool => Attr::Bool(self.0.below(2) == 0),
                AttrKind::Format => Attr::Format(self.format()),
                AttrKind::Function => Attr::Function(AttrInput::into_value(self.function())),
            };
            if self.0.below(3) > 0 {
                attrs.try_set(schema.name, value).unwrap();
            }
        }
        attrs
    }

    /// A graph that can be written, though it would not pass the verifier.
    fn graph(&mut self) -> Graph {
        let mut graph = Graph::new(self.name());
        let mut values: Vec<ValueId> = Vec::new();
        for _ in 0..self.0.below(20) {
            let (name, ty) = (self.name(), self.ty());
            let mut builder = Builder::new(&mut graph);
            let v = match self.0.below(4) {
                0 => builder.add_input(&name, ty),
                1 => {
                    let bytes: Vec<u8> = (0..8 * ty.elements()).map(|_| self.0.below(128) as u8).collect();
                    let width = Data::from_bytes(&ty.elem, &bytes).map_or(8, |d| 8 * ty.elements() / d.len().max(1));
                    let data = Data::from_bytes(&ty.elem, &bytes[..ty.elements() * width.max(1)]).unwrap();
                    builder.add_typed_const(&name, Tensor::new(&ty.dims, data), ty.elem)
                }
                _ => {
                    let op = self.0.pick(qcc_ir::ops::OPS.iter().map(|i| i.op).collect::<Vec<_>>().as_slice());
                    let count = if values.is_empty() { 0 } else { self.0.below(4) };
                    let operands: Vec<_> = (0..count).map(|_| self.0.pick(&values)).collect();
                    let origin = (self.0.below(3) == 0).then(|| {
                        let opset = self.0.below(20) as i64;
                        Arc::new(qcc_ir::Origin { name: self.name(), op: self.name(), opset })
                    });
                    builder.add(op, &operands, self.attrs(op), &name, ty, origin)
                }
            };
            values.push(v);
        }
        for fact in Fact::ALL.into_iter().filter(|_| self.0.below(8) == 0).collect::<Vec<_>>() {
            let numbers = (0..self.0.below(4)).map(|_| f64::from(self.float()) / 3.0).collect();
            Builder::new(&mut graph).set_metadata(fact, &self.name(), numbers);
        }
        if !values.is_empty() {
            let outputs = (0..self.0.below(4)).map(|_| self.0.pick(&values)).collect();
            Builder::new(&mut graph).set_outputs(outputs);
        }
        graph
    }
}

#[test]
fn what_is_printed_reads_back_the_same() {
    for seed in 0..2000 {
        let graph = Random::new(seed).graph();
        let text = print(&graph);
        let back = parse(&text, &no_files).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        assert!(back == graph, "seed {seed}: another graph\n{text}\n{}", print(&back));
        assert_eq!(print(&back), text, "seed {seed}: another text");
    }
}

#[test]
fn side_files_hold_large_constants_once() {
    for seed in 0..300 {
        let graph = Random::new(seed).graph();
        let files: RefCell<HashMap<String, Vec<u8>>> = RefCell::default();
        let mut write = |name: &str, bytes: &[u8]| {
            files.borrow_mut().insert(name.to_string(), bytes.to_vec());
            Ok(())
        };
        let inline = seed as usize % (INLINE + 1);
        let text = print_with(&graph, Options { inline, large: Large::File(&mut write) }).unwrap();
        let read = |name: &str| files.borrow().get(name).cloned().ok_or(std::io::ErrorKind::NotFound.into());
        let back = parse(&text, &read).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        assert!(back == graph, "seed {seed}: another graph\n{text}");
    }
}

#[test]
fn elided_texts_are_refused_with_advice() {
    let mut graph = Graph::new("g");
    Builder::new(&mut graph).add_const("w", Tensor::f32(&[17], vec![0.5; 17]));
    assert!(graph.to_string().contains("const @w : tensor<17xf32> = dense<...> // elided"));
    let fault = parse(&graph.to_string(), &no_files).unwrap_err();
    assert_eq!(fault.0[0].help.as_deref(), Some("the text was printed without its large constants"));
}

/// Bytes are changed, removed, doubled and swapped with others; what still parses is verified, and printed again.
#[test]
fn no_text_makes_the_parser_or_verifier_panic() {
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let mut text: Vec<char> = print(&random.graph()).chars().collect();
        for _ in 0..1 + random.0.below(6) {
            let (i, j) = (random.0.below(text.len()), random.0.below(text.len()));
            match random.0.below(6) {
                0 => {
                    text[i] = random.0.pick(&['(', '"', '\\', '%', '<', '-', '9', 'x', '\n', 'é', '\0', '}', ',', '!'])
                }
                1 => drop(text.remove(i)),
                2 => text.swap(i, j),
                3 => text.truncate(i.max(1)),
                4 => drop(text.splice(i..i, ['9'; 25])),
                _ => {
                    let part: Vec<_> = text[i.min(j)..i.max(j).min(i.min(j) + 40)].to_vec();
                    text.splice(i..i, part);
                }
            }
            if text.is_empty() {
                text.push(' ');
            }
        }
        let text: String = text.into_iter().collect();
        match parse_located(&text, &no_files) {
            Ok(located) => {
                let _ = located.verify();
                let printed = print(&located.graph);
                let back = parse(&printed, &no_files).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{printed}"));
                assert_eq!(print(&back), printed, "seed {seed}");
            }
            Err(faults) => {
                assert!(!faults.0.is_empty() && faults.0.iter().all(|f| f.place.line.is_some()), "seed {seed}");
            }
        }
    }
}

/// Depth and length that would exhaust a stack or an allocation made on the text's word.
#[test]
fn hostile_sizes_are_refused() {
    let deep = "tensor<".repeat(200_000);
    let long = "1x".repeat(100_000);
    for text in [
        format!("graph @g({}", "(".repeat(500_000)),
        format!("graph @g(%x: {deep}"),
        format!("graph @g(%x: tensor<{long}18446744073709551615x2xf32>) -> () {{ return }}"),
        "graph @g() -> () { const @w : tensor<99999999999x8xf32> = dense<[]> return }".to_string(),
        "graph @g() -> () { const @w : tensor<1xf32> = file<\"../../etc/passwd\"> return }".to_string(),
        "graph @g() -> () { const @w : tensor<1xf32> = file<\"..\"> return }".to_string(),
    ] {
        assert!(parse(&text, &|_: &str| Ok(vec![0; 4])).is_err(), "{}", &text[..60.min(text.len())]);
    }
}
