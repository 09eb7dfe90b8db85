//! One ONNX node while it is imported: its operands and attributes, and the way by which operations get into the graph.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use onnx_protobuf::NodeProto;
use qcc_ir::{Attrs, Builder, Data, Dialect, Elem, Int, Opcode, Origin, Tensor, Type, ValueId, shape};

use super::attributes::Attributes;
use super::fold;
use super::numbers::Numbers;
use crate::element::DataType;
use crate::fault::{Fault, Outcome};
use crate::options::MOST_ELEMENTS;
use crate::rounding::towards_zero;
use crate::tensor::Constant;

/// Nodes with more operands are no part of a network, and passes would take very long over them.
pub(crate) const MOST_OPERANDS: usize = 4096;

/// Remarks of a node: what of it they are about, and the text.
pub(crate) type NodeRemarks = Vec<(String, String)>;

/// A node at its place in the graph.
pub(crate) struct Site<'a, 'e, 'g> {
    builder: &'e mut Builder<'g>,
    node: &'a NodeProto,
    origin: Arc<Origin>,
    /// Name from which the names of all values of this node are made.
    base: String,
    operands: Vec<Option<ValueId>>,
    read: Vec<bool>,
    created: HashSet<ValueId>,
    /// Of which node, and what.
    remarks: NodeRemarks,
    types: &'e mut HashMap<ValueId, DataType>,
    /// The node's attributes.
    pub(crate) attrs: Attributes<'a>,
}

impl<'a, 'e, 'g> Site<'a, 'e, 'g> {
    pub(crate) fn new(
        builder: &'e mut Builder<'g>,
        node: &'a NodeProto,
        origin: Arc<Origin>,
        base: String,
        operands: Vec<Option<ValueId>>,
        types: &'e mut HashMap<ValueId, DataType>,
    ) -> Site<'a, 'e, 'g> {
        let (read, created, attrs) = (vec![false; operands.len()], HashSet::new(), Attributes::new(node));
        Site { builder, node, origin, base, operands, read, created, remarks: Vec::new(), types, attrs }
    }

    /// Version of the operator set.
    pub(crate) fn opset(&self) -> i64 {
        self.origin.opset
    }

    /// Number of results that the node names.
    pub(crate) fn result_count(&self) -> usize {
        self.node.output.len()
    }

    /// Number of operands that the node names, absent ones included.
    pub(crate) fn operand_count(&self) -> usize {
        self.operands.len()
    }

    /// Operand `i`, which may be absent.
    pub(crate) fn optional(&mut self, i: usize) -> Option<ValueId> {
        if let Some(read) = self.read.get_mut(i) {
            *read = true;
        }
        self.operands.get(i).copied().flatten()
    }

    /// Operand `i`.
    pub(crate) fn operand(&mut self, i: usize) -> Outcome<ValueId> {
        self.optional(i).ok_or_else(|| Fault::shape(format!("operand {i} is missing")))
    }

    /// All operands, none of them absent.
    pub(crate) fn all_operands(&mut self) -> Outcome<Vec<ValueId>> {
        (0..self.operands.len()).map(|i| self.operand(i)).collect()
    }

    /// Type of a value.
    pub(crate) fn ty(&self, v: ValueId) -> &Type {
        self.builder.graph().ty(v)
    }

    /// Shape of a value.
    pub(crate) fn dims(&self, v: ValueId) -> Vec<usize> {
        self.ty(v).dims.clone()
    }

    /// Element type of a value.
    pub(crate) fn elem(&self, v: ValueId) -> Elem {
        self.ty(v).elem.clone()
    }

    /// The type that a value has in the model, as far as that is known: several share one element type here.
    pub(crate) fn data_type(&self, v: ValueId) -> Option<DataType> {
        self.types.get(&v).copied().or_else(|| DataType::of(&self.ty(v).elem))
    }

    /// The contents of a constant.
    pub(crate) fn constant(&self, v: ValueId) -> Option<Arc<Tensor>> {
        self.builder.graph().constant(v).cloned()
    }

    /// The contents of operand `i`, which must be a constant or depend on constants only.
    pub(crate) fn known(&mut self, i: usize) -> Outcome<Arc<Tensor>> {
        let v = self.operand(i)?;
        self.constant(v).or_else(|| fold::known(self.builder.graph(), v)).ok_or_else(|| {
            Fault::unsupported("the operator is supported between constants only")
                .help(format!("operand {i} is computed by the model at run time"))
        })
    }

    /// Element type of operand `i`.
    pub(crate) fn operand_elem(&mut self, i: usize) -> Outcome<Elem> {
        let v = self.operand(i)?;
        Ok(self.elem(v))
    }

    /// The graph's own record of a value, for rules that look behind their operands.
    pub(crate) fn builder(&mut self) -> &mut Builder<'g> {
        self.builder
    }

    /// The contents of operand `i` as numbers; it must be a constant or absent.
    pub(crate) fn numbers(&mut self, i: usize, what: &str) -> Outcome<Option<Numbers>> {
        let Some(v) = self.optional(i) else { return Ok(None) };
        let tensor = self.constant(v).or_else(|| fold::known(self.builder.graph(), v)).ok_or_else(|| {
            let fault = Fault::unsupported(format!("{what} are computed by the model at run time"));
            fault.help(match what.contains("shape") || what.contains("sizes") || what.contains("scales") {
                true => "only models whose shapes are known at compile time can be compiled",
                false => "make it a constant of the model, or end the model in front of it, with --outputs VALUE,..",
            })
        })?;
        Ok(Some(Numbers::of(&tensor)))
    }

    /// Operand `i` as a list of integers; it must be a constant or absent.
    pub(crate) fn int_list(&mut self, i: usize, what: &str) -> Outcome<Option<Vec<i64>>> {
        match self.numbers(i, what)? {
            None => Ok(None),
            Some(Numbers::Int(values)) => Ok(Some(values)),
            Some(Numbers::Float(_)) => Err(Fault::shape(format!("{what} are not integers"))),
        }
    }

    /// The same, which a model may also give as reals without a fraction.
    pub(crate) fn int_or_whole(&mut self, i: usize, what: &str) -> Outcome<Vec<i64>> {
        match self.numbers(i, what)? {
            None => Err(Fault::shape(format!("operand {i} is missing"))),
            Some(Numbers::Int(values)) => Ok(values),
            Some(Numbers::Float(values)) => {
                let whole = |&v: &f32| (v.fract() == 0.0).then(|| towards_zero(v.into()));
                let values: Option<Vec<i64>> = values.iter().map(whole).collect();
                values.ok_or_else(|| Fault::shape(format!("{what} are not integers")))
            }
        }
    }

    /// Operand `i` as a list of floats; it must be a constant or absent.
    pub(crate) fn float_list(&mut self, i: usize, what: &str) -> Outcome<Option<Vec<f32>>> {
        match self.numbers(i, what)? {
            None => Ok(None),
            Some(Numbers::Float(values)) => Ok(Some(values)),
            Some(Numbers::Int(_)) => Err(Fault::shape(format!("{what} are not floats"))),
        }
    }

    /// A list that is attribute `name` before operator set `since` and operand `i` from then on.
    pub(crate) fn int_list_since(&mut self, since: i64, name: &'static str, i: usize) -> Outcome<Option<Vec<i64>>> {
        if self.opset() < since {
            Ok(self.attrs.ints(name)?.map(<[i64]>::to_vec))
        } else {
            self.int_list(i, &format!("`{name}`"))
        }
    }

    /// Says something about the node that is no fault.
    pub(crate) fn remark(&mut self, what: impl std::fmt::Display) {
        let node = crate::structure::node_name(self.node);
        self.remarks.push((format!("{node:?} ({})", self.node.op_type), what.to_string()));
    }

    /// A name for a value of this node.
    fn name(&self, suffix: &str) -> String {
        if suffix.is_empty() { self.base.clone() } else { format!("{}.{suffix}", self.base) }
    }

    /// Adds a constant.
    pub(crate) fn constant_of(&mut self, tensor: impl Into<Arc<Tensor>>, elem: Elem, suffix: &str) -> ValueId {
        let name = self.name(suffix);
        let v = self.builder.add_typed_const(&name, tensor, elem);
        self.created.insert(v);
        v
    }

    /// Adds a constant of the model.
    pub(crate) fn constant_like(&mut self, constant: Constant) -> ValueId {
        let v = self.constant_of(constant.tensor, constant.data_type.elem(), "");
        self.types.insert(v, constant.data_type);
        v
    }

    /// Adds a float constant.
    pub(crate) fn floats(&mut self, dims: &[usize], values: Vec<f32>, suffix: &str) -> ValueId {
        self.constant_of(Tensor::f32(dims, values), Elem::F32, suffix)
    }

    /// Adds an operation whose type follows from its operands; on constants, evaluates it where shapes may depend on it.
    pub(crate) fn emit(&mut self, op: Opcode, operands: &[ValueId], attrs: Attrs, suffix: &str) -> Outcome<ValueId> {
        let types: Vec<&Type> = operands.iter().map(|&v| self.builder.graph().ty(v)).collect();
        let dims = shape::infer_dims(op, &attrs, &types).map_err(Fault::shape)?;
        if Type::f32(&dims).checked_elements().is_none_or(|n| n >= MOST_ELEMENTS) {
            return Err(Fault::shape(format!("a result of shape {dims:?} is too large")));
        }
        shape::check_elems(op, &types).map_err(Fault::unsupported)?;
        let elem = shape::infer_elem(op, &attrs, &types);
        if let (None, true, &[x]) = (&elem, keeps_codes(op), operands) {
            return self.emit_between_casts(op, x, attrs, dims, suffix);
        }
        let elem = elem.ok_or_else(|| Fault::unsupported(format!("quantized operands of `{}`", op.name())))?;
        self.emit_typed(op, operands, attrs, Type { dims, elem }, suffix)
    }

    /// Adds an operation whose result has the quantized type of its operand.
    fn emit_between_casts(
        &mut self,
        op: Opcode,
        x: ValueId,
        attrs: Attrs,
        dims: Vec<usize>,
        suffix: &str,
    ) -> Outcome<ValueId> {
        let own = self.elem(x);
        let real = self.emit(Opcode::DCast, &[x], Attrs::new(Opcode::DCast), "x")?;
        let y = self.emit_typed(op, &[real], attrs, Type::f32(&dims), "real")?;
        self.emit_typed(Opcode::QCast, &[y], Attrs::new(Opcode::QCast), Type { dims, elem: own }, suffix)
    }

    /// Adds an operation of a given type.
    pub(crate) fn emit_typed(
        &mut self,
        op: Opcode,
        operands: &[ValueId],
        attrs: Attrs,
        ty: Type,
        suffix: &str,
    ) -> Outcome<ValueId> {
        if let Some(tensor) = fold::evaluate(self.builder.graph(), op, &attrs, operands, &ty)? {
            return Ok(self.constant_of(tensor, ty.elem, suffix));
        }
        if ty.dims.contains(&0) {
            // Nothing is computed for it: a constant without elements.
            let data = match ty.elem {
                Elem::F32 => Data::F32(Vec::new()),
                Elem::Int(Int::I64) => Data::I64(Vec::new()),
                Elem::Bool => Data::U8(Vec::new()),
                _ => return Err(Fault::shape(format!("the result of shape {:?} is empty", ty.dims))),
            };
            return Ok(self.constant_of(Tensor::new(&ty.dims, data), ty.elem, suffix));
        }
        if op.info().dialect() == Dialect::Nn && matches!(ty.elem, Elem::Int(_) | Elem::Bool) {
            let fault = Fault::unsupported("arithmetic on integers that are known only at run time");
            return Err(fault.help("only shapes and constants may be computed in integers"));
        }
        let name = self.name(suffix);
        let v = self.builder.add(op, operands, attrs, &name, ty, Some(self.origin.clone()));
        self.created.insert(v);
        Ok(v)
    }

    /// An axis counted from the front; negative ones count from the end of `rank` dimensions.
    pub(crate) fn axis(axis: i64, rank: usize) -> Outcome<usize> {
        let outside = || Fault::shape(format!("axis {axis} of {rank} dimensions"));
        let wide = i64::try_from(rank).map_err(|_| outside())?;
        let axis = if axis < 0 { axis.checked_add(wide).ok_or_else(outside)? } else { axis };
        usize::try_from(axis).ok().filter(|&a| a < rank).ok_or_else(outside)
    }

    /// Several axes, each at most once.
    pub(crate) fn axes(axes: &[i64], rank: usize) -> Outcome<Vec<usize>> {
        let axes: Vec<usize> = axes.iter().map(|&a| Site::axis(a, rank)).collect::<Outcome<_>>()?;
        if axes.iter().enumerate().any(|(i, a)| axes[..i].contains(a)) {
            return Err(Fault::shape(format!("axes {axes:?} name one twice")));
        }
        Ok(axes)
    }

    /// Ends the import of the node: every attribute and operand must have been read. Gives the values that were added, and remarks.
    pub(crate) fn finish(self) -> Outcome<(HashSet<ValueId>, NodeRemarks)> {
        self.attrs.finish()?;
        match self.operands.iter().zip(&self.read).position(|(v, read)| v.is_some() && !read) {
            Some(i) => Err(Fault::unsupported(format!("operand {i} is not supported"))),
            None => Ok((self.created, self.remarks)),
        }
    }
}

/// Operators that ONNX defines on integers too, where their result is one of the operand's elements or its zero.
fn keeps_codes(op: Opcode) -> bool {
    matches!(op, Opcode::MaxPool | Opcode::ReduceMax | Opcode::ReduceMin)
}
