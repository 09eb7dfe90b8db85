//! Sums and products of two operands, and affine maps of one: equations (5) and (1) to (4) of `docs/math.md`.

use qcc_ir::{Data, Diag, Opcode, attr};
use qcc_num::affine::Affine;
use qcc_num::requant::{Epilogue, FRACTION_BITS};

use super::rounding::{clamped, factor};
use super::{Backward, Call, Codes, Kernel, Rounded, Site};

/// Where the elements of an operand lie that is broadcast to the result.
pub(super) struct Broadcast {
    /// For each element of the result; empty where the operand has its shape.
    at: Vec<u32>,
    /// Elements of the operand of one sample.
    length: usize,
}

impl Broadcast {
    /// `None` if the operand has too many elements to be numbered.
    pub(super) fn new(from: &[usize], to: &[usize]) -> Option<Broadcast> {
        let length = from.iter().product();
        if from == to {
            return Some(Broadcast { at: Vec::new(), length });
        }
        u32::try_from(length).ok()?;
        let missing = to.len().checked_sub(from.len())?;
        let mut at = vec![0u32];
        let mut stride = length;
        for (i, &extent) in to.iter().enumerate() {
            let own = i.checked_sub(missing).map_or(1, |j| from[j]);
            stride /= own.max(1);
            let step = if own == 1 { 0 } else { stride as u32 };
            at = at.iter().flat_map(|&a| (0..extent as u32).map(move |k| a + k * step)).collect();
        }
        Some(Broadcast { at, length })
    }

    /// The operand's element for element `i` of the result of one sample.
    pub(super) fn of(&self, i: usize) -> usize {
        if self.at.is_empty() { i } else { self.at[i] as usize }
    }

    /// Sums what goes to the same element of each sample.
    pub(super) fn back(&self, batch: usize, gradient: impl Iterator<Item = f32>) -> Vec<f32> {
        if self.at.is_empty() {
            return gradient.collect();
        }
        let mut sums = vec![0.0; batch * self.length];
        let places = (0..batch).flat_map(|b| self.at.iter().map(move |&a| b * self.length + a as usize));
        places.zip(gradient).for_each(|(place, g)| sums[place] += g);
        sums
    }
}

/// An operand as bytes, with the distance between samples: 0 for a constant.
pub(super) fn bytes_of<'a>(operand: Codes<'a>, length: usize) -> (&'a [u8], usize) {
    match operand {
        Codes::Samples(Data::U8(v)) => (v, length),
        Codes::Constant(t) => (t.as_u8().unwrap_or_default(), 0),
        Codes::Samples(_) => (&[], 0),
    }
}

/// How a sum or product is rounded.
enum Rule {
    Sum { mults: [i32; 2], rule: Affine },
    Product { zeros: [i32; 2], mult: i32, rule: Epilogue },
}

/// `int.add`, `int.mul`.
pub(super) struct TwoOperands {
    rule: Rule,
    operands: [Broadcast; 2],
    length: usize,
}

impl TwoOperands {
    pub(super) fn new(site: &Site) -> Option<TwoOperands> {
        let small = |x: i64| i32::try_from(x).ok();
        let pair = |list: Vec<i64>| Some([small(*list.first()?)?, small(*list.get(1)?)?]);
        let attrs = &site.attrs;
        let rule = match site.op {
            Opcode::IAdd => {
                let rule = attrs.affine(small(attrs.get(attr::OFFSET))?);
                Rule::Sum { mults: pair(attrs.get(attr::MULTS))?, rule }
            }
            _ => Rule::Product {
                zeros: pair(attrs.get(attr::ZEROS))?,
                mult: small(attrs.get(attr::MULT))?,
                rule: attrs.epilogue(),
            },
        };
        let constants_are_bytes = site.operands.iter().all(|(c, _)| c.as_ref().is_none_or(|t| t.as_u8().is_some()));
        let broadcast = |i: usize| Broadcast::new(&site.operands[i].1.dims, &site.result.dims);
        let operands = [broadcast(0)?, broadcast(1)?];
        constants_are_bytes.then(|| TwoOperands { rule, operands, length: site.result.elements() })
    }

    /// Both operands of element `i` of sample `b`.
    fn pairs<'a>(&'a self, call: &Call<'a>) -> impl Iterator<Item = (i32, i32)> + 'a {
        let [(a, a_step), (b, b_step)] = [0, 1].map(|i| bytes_of(call.operands[i], self.operands[i].length));
        let element = move |s: usize, i: usize| {
            let at = [self.operands[0].of(i), self.operands[1].of(i)];
            (i32::from(a[s * a_step + at[0]]), i32::from(b[s * b_step + at[1]]))
        };
        (0..call.batch).flat_map(move |s| (0..self.length).map(move |i| element(s, i)))
    }
}

/// A number with `shift` fraction bits, half a unit more than what is rounded, as a code and its error.
fn rounded(sum: i32, rule: &Affine) -> (u8, i8) {
    let fraction = sum & ((1i32 << rule.shift) - 1);
    let fraction = match rule.shift.checked_sub(FRACTION_BITS) {
        Some(more) => fraction >> more,
        None => fraction << (FRACTION_BITS - rule.shift),
    };
    clamped(sum >> rule.shift, fraction, i32::from(rule.lo), i32::from(rule.hi))
}

/// Codes and errors apart.
fn apart(both: impl Iterator<Item = (u8, i8)>) -> Rounded {
    let (codes, errors) = both.unzip();
    Rounded { codes: Data::U8(codes), errors: Some(errors) }
}

impl Kernel for TwoOperands {
    fn forward(&self, call: &Call) -> Result<Rounded, Diag> {
        Ok(match &self.rule {
            Rule::Sum { mults: [ma, mb], rule } => {
                apart(self.pairs(call).map(|(a, b)| rounded(a * ma + b * mb + rule.offset, rule)))
            }
            Rule::Product { zeros: [za, zb], mult, rule } => apart(self.pairs(call).map(|(a, b)| {
                let u = i32::from(rule.before_rounding((a - za) * (b - zb), *mult, 0));
                let fraction = u & ((1 << FRACTION_BITS) - 1);
                clamped(u >> FRACTION_BITS, fraction, i32::from(rule.lo), i32::from(rule.hi))
            })),
        })
    }

    fn backward(&self, call: &Call, back: Backward) -> Vec<Option<Vec<f32>>> {
        let gradient = || back.gradient.iter();
        let one = |i: usize| -> Vec<f32> {
            match &self.rule {
                Rule::Sum { mults, rule } => {
                    let factor = (f64::from(mults[i]) / f64::from(rule.shift).exp2()) as f32;
                    self.operands[i].back(call.batch, gradient().map(|g| g * factor))
                }
                Rule::Product { zeros, mult, rule } => {
                    let factor = factor(rule, *mult);
                    let other = |(a, b): (i32, i32)| if i == 0 { b - zeros[1] } else { a - zeros[0] };
                    let terms = gradient().zip(self.pairs(call)).map(|(g, pair)| g * factor * other(pair) as f32);
                    self.operands[i].back(call.batch, terms)
                }
            }
        };
        (0..2).map(|i| back.wanted[i].then(|| one(i))).collect()
    }
}

/// `int.rescale`, `int.scale_channels`: a multiplier and an offset, one for all or one for each of the last dimension.
pub(super) struct Line {
    mults: Vec<i32>,
    rules: Vec<Affine>,
}

impl Line {
    pub(super) fn new(site: &Site) -> Option<Line> {
        let attrs = &site.attrs;
        let (mults, offsets): (Vec<i32>, Vec<i32>) = match site.op {
            Opcode::Rescale => {
                (vec![i32::try_from(attrs.get(attr::MULT)).ok()?], vec![i32::try_from(attrs.get(attr::OFFSET)).ok()?])
            }
            _ => {
                let constant = |i: usize| site.operands[i].0.as_ref();
                let mults = constant(1)?.as_i16()?.iter().map(|&m| i32::from(m)).collect();
                (mults, constant(2)?.as_i32()?.to_vec())
            }
        };
        let rules = offsets.into_iter().map(|offset| attrs.affine(offset)).collect();
        site.operands[0].0.is_none().then_some(Line { mults, rules })
    }
}

impl Kernel for Line {
    fn forward(&self, call: &Call) -> Result<Rounded, Diag> {
        let n = self.mults.len();
        let one = |(i, &x): (usize, &u8)| {
            let (mult, rule) = (self.mults[i % n], &self.rules[i % n]);
            rounded(i32::from(x) * mult + rule.offset, rule)
        };
        Ok(apart(call.bytes(0).unwrap_or_default().iter().enumerate().map(one)))
    }

    fn backward(&self, _call: &Call, back: Backward) -> Vec<Option<Vec<f32>>> {
        let n = self.mults.len();
        let factor = |i: usize| (f64::from(self.mults[i]) / f64::from(self.rules[i].shift).exp2()) as f32;
        let factors: Vec<f32> = (0..n).map(factor).collect();
        let by_x = back.gradient.iter().enumerate().map(|(i, g)| g * factors[i % n]).collect();
        vec![Some(by_x), None, None]
    }
}
