//! Makes one function of functions of one value that follow one another.
//!
//! ```text
//! %e = nn.exp(%x)
//! %s = nn.add(%e, @one)
//! %y = nn.log(%s)                                   // softplus; %e spans decades that no scale of 8 bits holds
//! // becomes
//! %y = nn.map(%x) {body = "log(add(exp(x), 1.0))"}
//! ```
//!
//! A function of one value is a table on integers, whatever it is put together from: its entries are computed from the real functions,
//! and nothing is rounded between them. Taken together is what leads from one value to another through operators on single elements,
//! as long as nothing else reads what lies between; `x * sigmoid(x)` has two ways from `x`. What is linear and clamps alone stays, since
//! layers take it in.

use std::collections::{BTreeMap, HashMap, HashSet};

use qcc_ir::ops::{Binary, Move};
use qcc_ir::{Attrs, Class, Diags, Edit, Elem, Function, Graph, NodeId, Opcode, ValueId, attr};

use crate::rewrite::{is_live, named, scalar, substitute};
use crate::{Context, Pass};

/// The pass `compose-functions`.
pub struct ComposeFunctions;

impl Pass for ComposeFunctions {
    fn run(&self, edit: &mut Edit, _cx: &mut Context) -> Result<(), Diags> {
        let roots = roots(edit.graph());
        // What compositions have taken the place of.
        let mut gone: HashSet<NodeId> = HashSet::new();
        // From the end: the longest compositions come first, and what they are made of goes with them.
        for n in edit.graph().order().into_iter().rev() {
            let g = edit.graph();
            let y = g.result(n);
            if gone.contains(&n) || !is_live(g, n) {
                continue;
            }
            let Some(found) = roots.get(&y).and_then(|roots| Composition::find(g, n, roots, &gone)) else { continue };
            let label = format!("compose-functions: {} of %{}", named(edit, n), edit.graph().name_of(found.root));
            if let Some(mut change) = edit.begin(label) {
                let attrs = Attrs::new(Opcode::Map).with(attr::BODY, found.body);
                substitute(&mut change, y, Opcode::Map, &[found.root], attrs);
                gone.extend(found.nodes);
            }
        }
        edit.remove_dead();
        Ok(())
    }
}

/// A function of one value that takes more than one operator.
struct Composition {
    root: ValueId,
    body: Function,
    nodes: Vec<NodeId>,
}

/// The values that a value is a function of, each with the number of operators between.
type Roots = BTreeMap<ValueId, usize>;

impl Composition {
    /// The function that the node computes of the value furthest back, without what has `gone`.
    fn find(g: &Graph, n: NodeId, roots: &Roots, gone: &HashSet<NodeId>) -> Option<Composition> {
        let y = g.result(n);
        let mut candidates: Vec<(usize, ValueId)> = roots.iter().map(|(&v, &size)| (size, v)).collect();
        candidates.sort_unstable();
        candidates.into_iter().rev().find_map(|(size, root)| {
            let twice = g.operands(n).len() > 1 && g.operands(n).iter().all(|&v| v == root);
            let fits = g.ty(root).dims == g.ty(y).dims
                && g.ty(root).is_float()
                && g.ty(y).is_float()
                && g.constant(root).is_none();
            let nodes = (fits && (size >= 2 || twice)).then(|| between(g, n, root, gone)).flatten()?;
            let body = body(g, y, root)?;
            (is_curved(&body) || twice).then_some(Composition { root, body, nodes })
        })
    }
}

/// The roots of all values that operators on single elements compute.
fn roots(g: &Graph) -> HashMap<ValueId, Roots> {
    let mut found: HashMap<ValueId, Roots> = HashMap::new();
    for n in g.order().into_iter().filter(|&n| is_elementwise(g, n)) {
        let mut common: Option<Roots> = None;
        for v in g.operands(n).into_iter().filter(|&v| scalar(g, v).is_none()) {
            let mut of_operand = found.get(&v).cloned().unwrap_or_default();
            of_operand.insert(v, 0);
            common = Some(match common {
                None => of_operand,
                Some(mut all) => {
                    all.retain(|root, _| of_operand.contains_key(root));
                    all.iter_mut().for_each(|(root, size)| *size += of_operand[root]);
                    all
                }
            });
        }
        let all = common.unwrap_or_default().into_iter().map(|(root, size)| (root, size + 1));
        found.insert(g.result(n), all.filter(|&(_, size)| size <= MOST).collect());
    }
    found
}

/// Most operators that are looked through.
const MOST: usize = 24;

/// Operators on single elements whose operands have the result's shape, or one element that is constant.
fn is_elementwise(g: &Graph, n: NodeId) -> bool {
    let y = g.result(n);
    let real = g.ty(y).is_float();
    let fits = |&v: &ValueId| g.ty(v).dims == g.ty(y).dims && g.constant(v).is_none() || scalar(g, v).is_some();
    match g.op(n).info().class {
        Class::Unary(_) => real,
        Class::Binary(_) | Class::Move(Move::Where) => real && g.operands(n).iter().all(fits),
        // The condition of a selection.
        Class::Move(Move::Cast) => g.ty(y).elem == Elem::Bool && g.ty(g.operands(n)[0]).is_float(),
        _ => false,
    }
}

/// The nodes that lead from `root` to node `n`, if nothing else reads what lies between.
fn between(g: &Graph, n: NodeId, root: ValueId, gone: &HashSet<NodeId>) -> Option<Vec<NodeId>> {
    let mut inside = vec![n];
    let mut next = 0;
    while let Some(&node) = inside.get(next) {
        next += 1;
        for v in g.operands(node).into_iter().filter(|&v| v != root) {
            if let Some(producer) = g.producer(v).filter(|p| !inside.contains(p)) {
                inside.push(producer);
            }
        }
    }
    let known = |reader: NodeId| inside.contains(&reader) || gone.contains(&reader);
    let closed = |&m: &NodeId| {
        let v = g.result(m);
        m == n || !g.is_output(v) && g.uses(v).into_iter().all(|(reader, _)| known(reader))
    };
    inside.iter().all(closed).then_some(inside)
}

/// `y` as a function of `root`.
fn body(g: &Graph, y: ValueId, root: ValueId) -> Option<Function> {
    if y == root {
        return Some(Function::Argument);
    }
    if let Some(c) = scalar(g, y) {
        return c.is_finite().then_some(Function::Number(c));
    }
    let n = g.producer(y)?;
    let operands: Vec<Function> = g.operands(n).into_iter().map(|v| body(g, v, root)).collect::<Option<_>>()?;
    let attrs = &g.node(n).attrs;
    match attrs.op() {
        Opcode::CastTo => operands.into_iter().next(),
        Opcode::Where => Function::select(operands.try_into().ok()?),
        Opcode::Map => Function::parse(attrs.get(attr::BODY).text()).ok()?.after(operands.first()?),
        _ => Function::call(attrs.clone(), operands),
    }
}

/// Whether it is more than straight lines and clamps.
fn is_curved(f: &Function) -> bool {
    let call = match f {
        Function::Call(call) => call,
        Function::Select(_) => return true,
        Function::Argument | Function::Number(_) => return false,
    };
    let varies = |f: &Function| !matches!(f, Function::Number(_));
    let own = match call.attrs.op().info().class {
        Class::Unary(_) => !matches!(call.attrs.op(), Opcode::Relu | Opcode::Clip | Opcode::Neg),
        Class::Binary(kind) => match kind {
            Binary::Add | Binary::Sub | Binary::Min | Binary::Max => false,
            Binary::Mul => call.operands.iter().all(varies),
            Binary::Div => varies(&call.operands[1]),
            Binary::Pow | Binary::PRelu => true,
        },
        _ => false,
    };
    own || call.operands.iter().any(is_curved)
}
