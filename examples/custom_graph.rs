//! A network built by hand, quantized by a pipeline of one's own, and its meaning looked up in the interpreter:
//! `cargo run --example custom_graph`.

use qcc::ir::{Attrs, Builder, Graph, Opcode, Range, Tensor, Type};
use qcc::{Options, TensorRef, compile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut graph = Graph::new("perceptron");
    let mut builder = Builder::new(&mut graph);
    let x = builder.add_input("x", Type::f32(&[1, 4]));
    let weights = (0..32).map(|i| ((i * 7 % 13) as f32 - 6.0) / 6.0).collect();
    let weights = builder.add_const("weights", Tensor::f32(&[8, 4], weights));
    let hidden = builder.add_inferred(Opcode::Linear, &[x, weights], Attrs::new(Opcode::Linear), "hidden", None)?;
    let y = builder.add_inferred(Opcode::Relu, &[hidden], Attrs::new(Opcode::Relu), "y", None)?;
    builder.set_outputs(vec![y]);

    let mut options = Options { pipeline: Some("-O1".into()), ..Options::default() };
    options.input_ranges.insert("x".into(), Range { min: -1.0, max: 1.0 });
    let compiled = compile(graph, &options)?;
    print!("{}", compiled.graph());

    let stored = [0u8, 85, 170, 255];
    let fast = compiled.jit()?.run(&[TensorRef::new(&[1, 4], &stored)])?;
    let exact = compiled.interpreter().run(&[Tensor::new(&[1, 4], qcc::ir::Data::U8(stored.to_vec()))])?;
    assert_eq!(fast[0].as_slice::<u8>(), exact[0].as_u8());
    println!("{:?}", fast[0].as_slice::<u8>().unwrap_or_default());
    Ok(())
}
