//! Codes with a sign at the interface: a model that takes or gives them keeps them there, and computes with codes that are greater
//! by 128.
//!
//! ```text
//! %x.i8   = tensor.reshape(%x) {shape = ..} : i8             // x: !quant.uniform<i8:f32, 0.5:-3>
//! %x.bits = tensor.cast(%x.i8) {to = 5} : u8
//! %x.u8   = int.lut(%x.bits, @signs)                         // !quant.uniform<u8:f32, 0.5:125>; signs[i] = i ^ 128
//! ```

use qcc_ir::{
    Attrs, Change, Data, Def, Edit, Elem, Fact, Format, Int, Opcode, Tensor, Type, Uniform, ValueId, attr, shape,
};

/// How much greater a code without a sign is.
const SHIFT: i64 = 128;

/// Gives inputs and outputs back the signs that the model has them with.
pub(super) fn restore(edit: &mut Edit) {
    let metadata = edit.graph().metadata();
    let signed = |numbers: &[f64]| numbers == [f64::from(i8::MIN), f64::from(i8::MAX)];
    let declared = metadata.of(Fact::Declared).filter(|(_, numbers)| signed(numbers));
    let named = metadata.of(Fact::SignedCodes).chain(declared).map(|(name, _)| name.to_string());
    let named: Vec<String> = named.collect();
    for name in named {
        let g = edit.graph();
        let Some(v) = g.find(&name) else { continue };
        let Some(stored) = g.ty(v).uniform().filter(|u| u.storage() == Int::U8).cloned() else { continue };
        let (is_input, is_output) = (matches!(g.def(v), Def::Input(_)), g.is_output(v));
        if !is_input && !is_output {
            continue;
        }
        let Some(mut change) = edit.begin(format!("lower-to-int: %{name} with a sign")) else { return };
        let format = Format::linear(Int::I8, stored.min() - SHIFT, stored.max() - SHIFT);
        let signed = Uniform::per_tensor(format, stored.scale(), stored.zero_point() - SHIFT);
        let (stored, signed) = (Elem::Uniform(stored), Elem::Uniform(signed.into()));
        if is_input {
            input(&mut change, v, &name, stored, signed);
        } else {
            output(&mut change, v, &name, signed);
        }
    }
}

fn input(change: &mut Change, v: ValueId, name: &str, stored: Elem, signed: Elem) {
    let readers = change.graph().uses(v);
    change.set_elem(v, signed);
    // A cast of codes would be one of what they stand for.
    let ty = Type { elem: Elem::Int(Int::I8), ..change.graph().ty(v).clone() };
    let shape: Vec<i64> = ty.dims.iter().map(|&d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
    let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, shape);
    let plain = change.add(Opcode::Reshape, &[v], attrs, &format!("{name}.i8"), ty, None);
    let bits = cast(change, plain, &format!("{name}.bits"), Elem::Int(Int::U8));
    let y = without_sign(change, bits, &format!("{name}.u8"), stored);
    readers.into_iter().for_each(|(n, i)| change.set_operand(n, i, y));
}

fn output(change: &mut Change, v: ValueId, name: &str, signed: Elem) {
    let bits = without_sign(change, v, &format!("{name}.bits"), Elem::Int(Int::U8));
    let y = cast(change, bits, name, signed);
    let outputs = change.graph().outputs().iter().map(|&o| if o == v { y } else { o }).collect();
    change.set_outputs(outputs);
    change.rename(v, &format!("{name}.u8"));
    change.rename(y, name);
}

/// The same bits under another type of 8 bits.
fn cast(change: &mut Change, v: ValueId, name: &str, elem: Elem) -> ValueId {
    let to = shape::cast_to(&elem.storage().map_or(elem.clone(), Elem::Int)).unwrap_or_default();
    let ty = Type { dims: change.graph().ty(v).dims.clone(), elem };
    change.add(Opcode::CastTo, &[v], Attrs::new(Opcode::CastTo).with(attr::TO, to), name, ty, None)
}

/// The highest bit the other way round; it is its own inverse.
fn without_sign(change: &mut Change, v: ValueId, name: &str, elem: Elem) -> ValueId {
    let table = Tensor::new(&[256], Data::U8((0..=255).map(|i: u8| i ^ 0x80).collect()));
    let table = change.add_const(&format!("{name}.signs"), table);
    let ty = Type { dims: change.graph().ty(v).dims.clone(), elem };
    change.add(Opcode::Lut, &[v, table], Attrs::new(Opcode::Lut), name, ty, None)
}
