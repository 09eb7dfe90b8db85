//! Operators that give or read positions, integers and booleans: the functions to which rows of the table of operators point.

use qcc_ir::attr;
use qcc_ir::{Data, Elem, Int, Opcode};

use super::operators::{list, pool_attributes, step};
use super::writer::{Item, Value, Writer, extent, number, number_of};

type Written = Result<(), String>;

/// Rows of ONNX are at 32- or 64-bit positions within the extent; without `wrap` all others are the last one.
pub(crate) fn gather(w: &mut Writer, mut item: Item) -> Written {
    let (g, attrs) = (w.g, item.attrs);
    let operands = g.operands(item.node);
    let axis = attrs.get(attr::AXIS);
    let kind = match g.ty(operands[1]).elem {
        Elem::Int(int @ (Int::I32 | Int::I64)) => int,
        _ => {
            let wide = w.fresh(&item.named("positions"));
            let from = w.codes(operands[1])?;
            w.emit("Cast", &[from], &wide, vec![("to", Value::Int(number(Int::I64).into()))]);
            item.operands[1] = wide;
            Int::I64
        }
    };
    if !attrs.get(attr::WRAP) {
        let extents = usize::try_from(axis).ok().and_then(|axis| g.ty(operands[0]).dims.get(axis).copied());
        let last = extent(extents.ok_or("it has no such axis")?) - 1;
        let zero = w.constant(&item.named("first"), &[], Data::integers(kind, [0]));
        let last = w.constant(&item.named("last"), &[], Data::integers(kind, [last]));
        let before = step(w, &item, "Less", "before", &[&item.operands[1], &zero]);
        let behind = step(w, &item, "Min", "within", &[&item.operands[1], &last]);
        item.operands[1] = step(w, &item, "Where", "rows", &[&before, &last, &behind]);
    }
    w.emit(item.onnx, &item.operands, item.result, vec![("axis", Value::Int(axis))]);
    Ok(())
}

pub(crate) fn arg_max(w: &mut Writer, item: Item) -> Written {
    let attrs = item.attrs;
    let attributes = vec![
        ("axis", Value::Int(attrs.get(attr::AXIS))),
        ("keepdims", Value::Int(attrs.get(attr::KEEPDIMS).into())),
        ("select_last_index", Value::Int(attrs.get(attr::LAST).into())),
    ];
    w.emit(item.onnx, &item.operands, item.result, attributes);
    Ok(())
}

pub(crate) fn top_k(w: &mut Writer, item: Item) -> Written {
    let index = w.fresh(&item.named("positions"));
    top(w, &item, [item.result, &index])
}

pub(crate) fn top_k_index(w: &mut Writer, item: Item) -> Written {
    let values = w.fresh(&item.named("values"));
    top(w, &item, [&values, item.result])
}

fn top(w: &mut Writer, item: &Item, results: [&str; 2]) -> Written {
    let attrs = item.attrs;
    let attributes =
        vec![("axis", Value::Int(attrs.get(attr::AXIS))), ("largest", Value::Int(attrs.get(attr::LARGEST).into()))];
    let k = list(w, item, "k", vec![attrs.get(attr::K)]);
    w.emit_all(item.onnx, &[item.operands[0].clone(), k], &results, attributes);
    Ok(())
}

/// The elements have to be asked for too.
pub(crate) fn max_pool_index(w: &mut Writer, item: Item) -> Written {
    let greatest = w.fresh(&item.named("greatest"));
    let attributes = pool_attributes(w, &item);
    w.emit_all(item.onnx, &item.operands, &[&greatest, item.result], attributes);
    Ok(())
}

/// Conversions of ONNX do not stop at the ends of a type.
pub(crate) fn cast(w: &mut Writer, item: Item) -> Written {
    let g = w.g;
    let elem = g.ty(g.result(item.node)).elem.clone();
    let from = g.operands(item.node)[0];
    let mut x = item.operands[0].clone();
    if let (Elem::Int(int @ (Int::U8 | Int::I8 | Int::I16)), false) =
        (&elem, matches!(g.ty(from).elem, Elem::Int(_) | Elem::Bool))
    {
        let bounds = [Int::min(*int), Int::max(*int)].map(|q| q as f32);
        let [lo, hi] = bounds.map(|q| w.constant(&item.named("bound"), &[], Data::F32(vec![q])));
        x = step(w, &item, "Clip", "bounded", &[&x, &lo, &hi]);
    }
    w.emit("Cast", &[x], item.result, vec![("to", Value::Int(number_of(&elem).into()))]);
    Ok(())
}

/// The condition comes first.
pub(crate) fn select(w: &mut Writer, item: Item) -> Written {
    let g = w.g;
    let condition = g.operands(item.node)[2];
    let mut holds = w.codes(condition)?;
    if g.ty(condition).elem != Elem::Bool {
        let to = Value::Int(number_of(&Elem::Bool).into());
        let cast = w.fresh(&item.named("condition"));
        w.emit("Cast", &[holds], &cast, vec![("to", to)]);
        holds = cast;
    }
    if g.ty(g.result(item.node)).elem != Elem::Bool {
        w.emit(item.onnx, &[holds, item.operands[0].clone(), item.operands[1].clone()], item.result, vec![]);
        return Ok(());
    }
    // ONNX Runtime selects no booleans.
    let fails = step(w, &item, "Not", "fails", &[&holds]);
    let first = step(w, &item, "And", "first", &[&holds, &item.operands[0]]);
    let second = step(w, &item, "And", "second", &[&fails, &item.operands[1]]);
    w.emit("Or", &[first, second], item.result, vec![]);
    Ok(())
}

/// How operators are written that share an ONNX operator with another.
pub(crate) fn second(op: Opcode) -> Option<(&'static str, super::writer::Write)> {
    match op {
        Opcode::TopKIndex => Some(("TopK", top_k_index)),
        Opcode::MaxPoolIndex => Some(("MaxPool", max_pool_index)),
        _ => None,
    }
}
