//! The smallest graph in which engines differ: one operation, where its operands tell all.

use qcc_interp::Evaluator;
use qcc_ir::{Builder, Def, Graph, NodeId, Tensor, print};

/// Whether engines differ on a graph and these inputs.
pub type Differ<'a> = dyn Fn(&Graph, &[Tensor]) -> bool + 'a;

/// The graph up to the first operation that differs when it is the only output; of it the operation alone, on operands that are inputs, if that
/// still differs. Returns it with inputs, as text that `tests/filetests` runs.
pub fn shrink(graph: &Graph, inputs: &[Tensor], differ: &Differ) -> String {
    let mut smallest = (graph.clone(), inputs.to_vec());
    for n in graph.order() {
        let mut alone = graph.clone();
        let mut builder = Builder::new(&mut alone);
        builder.set_outputs(vec![graph.result(n)]);
        builder.remove_dead();
        if differ(&alone, inputs) {
            smallest = (alone, inputs.to_vec());
            break;
        }
    }
    if let Some(cut) = cut(&smallest.0, &smallest.1).filter(|(graph, inputs)| differ(graph, inputs)) {
        smallest = cut;
    }
    let (graph, inputs) = smallest;
    let list = |tensors: &[Tensor]| tensors.iter().map(|t| print::dense(&t.data)).collect::<Vec<_>>().join(", ");
    let wanted = Evaluator::new(&graph).run(&inputs).map(|found| list(&found)).unwrap_or_default();
    format!("//@ run ({}) == {wanted}\n{}", list(&inputs), print::print(&graph))
}

/// The last operation alone: what it computes from, inputs with the values that the interpreter gives them.
fn cut(graph: &Graph, inputs: &[Tensor]) -> Option<(Graph, Vec<Tensor>)> {
    let node: NodeId = graph.producer(*graph.outputs().first()?)?;
    let mut computed: Vec<_> = graph.operands(node).into_iter().filter(|&v| graph.constant(v).is_none()).collect();
    computed.dedup();
    let mut before = graph.clone();
    Builder::new(&mut before).set_outputs(computed.clone());
    let values = Evaluator::new(&before).run(inputs).ok()?;
    let mut alone = Graph::new(graph.name.clone());
    let mut b = Builder::new(&mut alone);
    let mut of = std::collections::HashMap::new();
    for &v in &computed {
        of.entry(v).or_insert_with(|| b.add_input(graph.name_of(v), graph.ty(v).clone()));
    }
    let mut operands = Vec::new();
    for v in graph.operands(node) {
        operands.push(match graph.def(v) {
            Def::Const(tensor) => b.add_typed_const(graph.name_of(v), tensor, graph.ty(v).elem.clone()),
            Def::Input(_) | Def::Node(..) => *of.get(&v)?,
        });
    }
    let result = graph.result(node);
    let origin = graph.node(node).origin.clone();
    let attrs = graph.node(node).attrs.clone();
    let y = b.add_inferred(graph.op(node), &operands, attrs, graph.name_of(result), origin).ok()?;
    b.set_type(y, graph.ty(result).clone());
    b.set_outputs(vec![y]);
    Some((alone, values))
}

#[test]
fn a_difference_is_reduced_to_its_operation() {
    use qcc_ir::{Data, Opcode};
    // An engine that is said to be wrong wherever two values are added.
    let wrong = |graph: &Graph, _: &[Tensor]| graph.order().iter().any(|&n| graph.op(n) == Opcode::IAdd);
    let seed = (0..1000).find(|&seed| wrong(&super::random_graph(seed), &[])).expect("some graph adds");
    let graph = super::random_graph(seed);
    let ty = graph.ty(graph.inputs()[0]);
    let input = Tensor::new(&ty.dims, Data::U8(vec![7; ty.elements()]));
    let text = shrink(&graph, &[input], &wrong);
    let operations = text.lines().filter(|l| l.trim_start().starts_with('%')).count();
    assert!(operations == 1 && text.contains("int.add") && text.starts_with("//@ run (dense<"), "{text}");
}
