//! Operators that move elements: where each element of the result comes from is found once, by moving numbers of places in place
//! of codes; backwards each gives its derivative to where it came from.

use std::sync::Arc;

use qcc_interp::eval_node;
use qcc_ir::{Data, Diag, Elem, Int, Opcode, Tensor, Type, attr, map_data};

use super::{Backward, Call, Codes, Kernel, Rounded, Site};

/// What stands at padding in place of a number.
const PADDING: i32 = -1;

/// Movements of elements.
pub(super) struct Moved {
    /// For each element of the result its place: operands are numbered one behind the other. Empty where nothing moves.
    places: Vec<i32>,
    /// First number of each operand, and its elements.
    operands: Vec<(usize, usize)>,
    constants: Vec<Option<Arc<Tensor>>>,
    padding: i64,
    storage: Int,
}

impl Moved {
    /// `None` if something else than elements' places decides what moves.
    pub(super) fn new(site: &Site) -> Result<Option<Moved>, Diag> {
        let Some(storage) = site.result.elem.storage() else { return Ok(None) };
        // Positions of a gather are what it reads, and no elements.
        let positions = (site.op == Opcode::Gather).then_some(1);
        if positions.is_some_and(|i| site.operands[i].0.is_none()) {
            return Ok(None);
        }
        let (mut next, mut operands, mut tensors) = (0i32, Vec::new(), Vec::new());
        for (i, (constant, ty)) in site.operands.iter().enumerate() {
            if Some(i) == positions {
                operands.push((next as usize, 0));
                tensors.push(
                    constant.as_ref().map_or_else(|| Tensor::new(&[0], Data::I32(vec![])), |t| t.as_ref().clone()),
                );
                continue;
            }
            let count = ty.elements();
            let Some(end) = i32::try_from(count).ok().and_then(|n| next.checked_add(n)) else { return Ok(None) };
            operands.push((next as usize, count));
            tensors.push(Tensor::new(&ty.dims, Data::I32((next..end).collect())));
            next = end;
        }
        let types: Vec<Type> = tensors.iter().map(Tensor::plain_type).collect();
        let (mut attrs, mut padding) = (site.attrs.clone(), 0);
        if site.op == Opcode::Pad {
            padding = attrs.get(attr::VALUE) as i64;
            attrs.set(attr::VALUE, PADDING as f32);
        }
        let pairs: Vec<(&Tensor, &Type)> = tensors.iter().zip(&types).collect();
        let moved = eval_node(site.op, &attrs, &pairs, &Type::int(Int::I32, &site.result.dims))?;
        let Data::I32(places) = moved.data else { return Ok(None) };
        let still = site.operands.len() == 1 && places.iter().enumerate().all(|(i, &p)| p as usize == i);
        let still = still && places.len() == operands[0].1;
        let constants = site.operands.iter().map(|(c, _)| c.clone()).collect();
        let places = if still { Vec::new() } else { places };
        let real = matches!(site.result.elem, Elem::F32 | Elem::Calibrated(_));
        Ok((!real).then_some(Moved { places, operands, constants, padding, storage }))
    }

    /// Operand and place in it.
    fn place(&self, number: usize) -> (usize, usize) {
        let operand = self.operands.partition_point(|&(first, count)| first + count <= number);
        (operand, number - self.operands[operand].0)
    }
}

impl Kernel for Moved {
    fn forward(&self, call: &Call) -> Result<Rounded, Diag> {
        if let (true, Codes::Samples(data)) = (self.places.is_empty(), call.operands[0]) {
            return Ok(Rounded::exact(data.clone()));
        }
        // All operands of one sample side by side, as the numbers count them, then moved at once.
        let total = self.operands.last().map_or(0, |&(first, count)| first + count);
        let mut data = Data::integers(self.storage, std::iter::empty());
        for b in 0..call.batch {
            let mut all = Data::integers(self.storage, std::iter::empty());
            for (operand, &(_, count)) in call.operands.iter().zip(&self.operands).filter(|(_, (_, n))| *n > 0) {
                let part = match *operand {
                    Codes::Samples(data) => map_data!(data, v => v[b * count..(b + 1) * count].to_vec()),
                    Codes::Constant(t) => t.data.clone(),
                };
                all.append(part);
            }
            debug_assert_eq!(all.len(), total);
            let padding = Data::integers(self.storage, [self.padding]);
            all.append(padding);
            let at = |p: i32| usize::try_from(p).unwrap_or(total);
            data.append(map_data!(&all, v => self.places.iter().map(|&p| v[at(p)]).collect()));
        }
        Ok(Rounded::exact(data))
    }

    fn backward(&self, call: &Call, back: Backward) -> Vec<Option<Vec<f32>>> {
        if self.places.is_empty() {
            return vec![Some(back.gradient.to_vec())];
        }
        let wanted = |i: usize| back.wanted[i] && self.constants[i].is_none();
        let zeros = |i: usize| wanted(i).then(|| vec![0.0f32; call.batch * self.operands[i].1]);
        let mut all: Vec<Option<Vec<f32>>> = (0..self.operands.len()).map(zeros).collect();
        for (b, gradient) in back.gradient.chunks(self.places.len()).enumerate() {
            for (g, &place) in gradient.iter().zip(&self.places) {
                let Ok(number) = usize::try_from(place) else { continue };
                let (operand, at) = self.place(number);
                if let Some(sums) = &mut all[operand] {
                    sums[b * self.operands[operand].1 + at] += g;
                }
            }
        }
        all
    }
}
