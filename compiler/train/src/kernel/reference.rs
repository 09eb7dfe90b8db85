//! Operators that `qcc_interp` evaluates sample by sample, and the derivatives of those of them that have one.

use qcc_interp::eval_node;
use qcc_ir::{Attrs, Data, Diag, Opcode, Tensor, Type, attr, map_data};
use qcc_num::wide::shift_of;

use super::sum::Broadcast;
use super::{ABOVE, BELOW, Backward, Call, Codes, Kernel, Rounded, Site};

/// Any operator.
pub(super) struct Reference {
    site: Site,
    derivative: Option<Derivative>,
}

/// Derivatives by the operands, in the codes of one run.
type Derivative = fn(&Site, &Call, &Backward) -> Vec<Option<Vec<f32>>>;

/// The derivative of an operator, if it has one.
fn derivative(op: Opcode) -> Option<Derivative> {
    match op {
        Opcode::ISoftmax => Some(softmax),
        Opcode::Byte => Some(byte),
        Opcode::Combine => Some(combine),
        _ => None,
    }
}

impl Reference {
    pub(super) fn new(site: Site) -> Reference {
        Reference { derivative: derivative(site.op), site }
    }
}

/// The elements of sample `b`.
fn sample(data: &Data, b: usize, ty: &Type) -> Tensor {
    let n = ty.elements();
    Tensor::new(&ty.dims, map_data!(data, v => v[b * n..(b + 1) * n].to_vec()))
}

/// Codes in real numbers.
#[expect(clippy::unnecessary_cast, reason = "one of the kinds of data is real already")]
fn reals(data: &Data) -> Vec<f32> {
    qcc_ir::for_data!(data, v => v.iter().map(|&q| q as f32).collect())
}

impl Kernel for Reference {
    fn forward(&self, call: &Call) -> Result<Rounded, Diag> {
        let mut all: Option<Data> = None;
        for b in 0..call.batch {
            let own = |(operand, (_, ty)): (&Codes, &(_, Type))| match *operand {
                Codes::Samples(data) => sample(data, b, ty),
                Codes::Constant(t) => t.clone(),
            };
            let tensors: Vec<Tensor> = call.operands.iter().zip(&self.site.operands).map(own).collect();
            let pairs: Vec<(&Tensor, &Type)> =
                tensors.iter().zip(self.site.operands.iter().map(|(_, ty)| ty)).collect();
            let result = eval_node(self.site.op, &self.site.attrs, &pairs, &self.site.result)?.data;
            match &mut all {
                None => all = Some(result),
                Some(all) => {
                    all.append(result);
                }
            }
        }
        let codes = all.unwrap_or_else(|| Data::U8(Vec::new()));
        let errors = (self.site.op == Opcode::Combine).then(|| cut_off(&self.site.attrs, &codes));
        Ok(Rounded { codes, errors })
    }

    fn backward(&self, call: &Call, back: Backward) -> Vec<Option<Vec<f32>>> {
        self.derivative.map_or_else(Vec::new, |d| d(&self.site, call, &back))
    }

    fn has_gradient(&self) -> bool {
        self.derivative.is_some()
    }
}

/// What stands at a bound counts as cut off; of the rest it is not known how it was rounded.
fn cut_off(attrs: &Attrs, codes: &Data) -> Vec<i8> {
    let (lo, hi) = (attrs.get(attr::LO) as f32, attrs.get(attr::HI) as f32);
    let mark = |q: f32| match q {
        q if q <= lo => BELOW,
        q if q >= hi => ABOVE,
        _ => 0,
    };
    reals(codes).into_iter().map(mark).collect()
}

/// With `p` the results as parts of their sum, `d x = S (y g - p sum(y g))`.
fn softmax(site: &Site, _call: &Call, back: &Backward) -> Vec<Option<Vec<f32>>> {
    let scale = site.operands[0].1.uniform().map_or(1.0, |u| u.scale());
    let zero = site.result.uniform().map_or(0, |u| u.zero_point()) as f32;
    let row = site.result.dims.last().copied().unwrap_or(1).max(1);
    let y: Vec<f32> = reals(&back.result.codes).into_iter().map(|q| q - zero).collect();
    let mut by_x = Vec::with_capacity(y.len());
    for (y, g) in y.chunks(row).zip(back.gradient.chunks(row)) {
        let sum = y.iter().sum::<f32>().max(1.0);
        let products = y.iter().zip(g).map(|(y, g)| y * g).sum::<f32>();
        by_x.extend(y.iter().zip(g).map(|(y, g)| scale * (y * g - y / sum * products)));
    }
    vec![Some(by_x), None]
}

/// The highest byte stands for the whole number: the others change as it does not, and add up to nothing.
fn byte(site: &Site, _call: &Call, back: &Backward) -> Vec<Option<Vec<f32>>> {
    let fine = site.operands[0].1.elem.storage() == Some(qcc_ir::Int::I32);
    let unit = match (fine, site.attrs.get(attr::HIGH), site.attrs.get(attr::INDEX)) {
        (false, true, _) => 1.0 / 256.0,
        (true, _, 2) => 1.0 / 65536.0,
        _ => 0.0,
    };
    vec![Some(back.gradient.iter().map(|g| g * unit).collect())]
}

/// Each term has its factor, and all the multiplier.
fn combine(site: &Site, call: &Call, back: &Backward) -> Vec<Option<Vec<f32>>> {
    let unit = (-f64::from(shift_of(u32::try_from(site.attrs.get(attr::BITS)).unwrap_or(8)))).exp2();
    let mult = site.operands[1].0.as_ref().and_then(|t| t.as_i64()).unwrap_or_default();
    let to = &site.result.dims;
    let Some(mults) = Broadcast::new(&site.operands[1].1.dims, to) else { return Vec::new() };
    let elements = site.result.elements().max(1);
    let factors: Vec<f32> = (0..elements).map(|i| (mult[mults.of(i)] as f64 * unit) as f32).collect();
    let mut all = vec![None; 3];
    for (i, own) in site.attrs.get(attr::FACTORS).into_iter().enumerate() {
        let by = Broadcast::new(&site.operands[3 + i].1.dims, to).filter(|_| back.wanted[3 + i]);
        all.push(by.map(|by| {
            let terms = back.gradient.iter().enumerate().map(|(e, g)| g * factors[e % elements] * own as f32);
            by.back(call.batch, terms)
        }));
    }
    all
}
