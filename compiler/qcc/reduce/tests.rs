use qcc_ir::{Opcode, parse};

use super::*;

const NET: &str =
    "graph @net(%x: tensor<1x8x6x6xf32>, %m: tensor<1x8x6x6xf32>) -> (tensor<1x8x6x6xf32>, tensor<1x8xf32>) {
  const @w : tensor<8x8x1x1xf32> = dense<[WEIGHTS]>
  %a = nn.conv2d(%x, @w) : tensor<1x8x6x6xf32>
  %b = nn.relu(%a) : tensor<1x8x6x6xf32>
  %c = nn.tanh(%b) : tensor<1x8x6x6xf32>
  %d = nn.mul(%c, %m) : tensor<1x8x6x6xf32>
  %e = nn.reduce_mean(%c) {axes = [2, 3], keepdims = false} : tensor<1x8xf32>
  %f = nn.sigmoid(%d) : tensor<1x8x6x6xf32>
  return %f, %e
}
";

fn net() -> Graph {
    let weights: Vec<String> = (0..64u8).map(|i| format!("{:?}", f32::from(i) / 8.0 - 3.0)).collect();
    parse(&NET.replace("WEIGHTS", &weights.join(", ")), &qcc_ir::parse::no_files).expect("a graph")
}

fn reduced(holds: impl Fn(&Graph) -> bool) -> (Graph, usize) {
    let mut asked = 0;
    let graph = reduce(
        net(),
        &mut |g| {
            asked += 1;
            verify(g).expect("only graphs are asked about");
            Ok(holds(g))
        },
        &mut |_, _| {},
    );
    (graph.expect("no fault"), asked)
}

fn has(g: &Graph, op: Opcode) -> bool {
    g.order().iter().any(|&n| g.op(n) == op)
}

#[test]
fn one_operator_is_left() {
    let (g, asked) = reduced(|g| has(g, Opcode::Tanh));
    assert_eq!(Size::of(&g), Size { nodes: 1, outputs: 1, inputs: 1, elements: 2, contents: 0, facts: 0 }, "{g}");
    assert!(asked < 40, "{asked}");
}

#[test]
fn what_belongs_together_stays() {
    let (g, _) = reduced(|g| has(g, Opcode::Conv2d) && has(g, Opcode::Sigmoid));
    assert_eq!(g.node_count(), 2, "{g}");
    assert!(g.constants().all(|(_, t)| t.data.len() == 1 && candidates::contents(t) == 0), "{g}");
}

/// Contents that matter are kept, and nothing else.
#[test]
fn contents_are_halved() {
    let (g, _) = reduced(|g| g.constants().any(|(_, t)| t.as_f32().is_some_and(|w| w.contains(&4.5))));
    let contents: usize = g.constants().map(|(_, t)| candidates::contents(t)).sum();
    assert!(contents <= 2, "{g}");
}

#[test]
fn the_same_is_left_every_time() {
    let one = || reduced(|g| has(g, Opcode::Mul) && has(g, Opcode::Relu)).0;
    assert_eq!(one(), one());
}
