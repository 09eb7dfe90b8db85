//! Operators with 16 bits on either side: sums in 64 bits and one rounding, by `qcc_num::wide`.
//!
//! ```text
//! x + 2^15 = 256 high + low,  w = 256 wh + wl     the bytes of activations and weights
//! sum (x - Zx) w  =  sum over both of 256^(i + j) (sum byte[i] digit[j])  -  (Zx + 2^15) sum w
//! ```
//!
//! so that a layer is as many products of bytes as its activations have bytes times its weights, each with exact accumulators of
//! 32 bits, and `int.combine`. Padding of each holds a byte of `Zx + 2^15`. Means are sums of bytes likewise: products with weights
//! of 1.

use qcc_ir::ops::{Binary, Cast, Contract, Norm, Pool, Reduce};
use qcc_ir::{Attrs, Class, Data, Diag, Elem, Int, Opcode, Tensor, Uniform, ValueId, Window};
use qcc_num::wide;

use super::window::{SOFTMAX_ONE, elements_inside};
use super::{Lower, layer};
use crate::adopt_qdq::constants::codes;
use crate::rewrite::{floats, inverse, scalar};
use crate::{assign_scales, fold_bn, quantize};

/// Weight of the greater operand of a sum.
const SUM_UNIT: f64 = (1u32 << 23) as f64;

/// A byte of an activation.
struct Piece {
    value: ValueId,
    factor: i64,
    /// That of the zero point.
    zero: i64,
}

/// The constants of `int.combine`.
struct Rule {
    bias: Tensor,
    mult: Tensor,
    offset: Tensor,
}

fn one(x: i64) -> Tensor {
    Tensor::new(&[1], Data::I64(vec![x]))
}

/// The bytes of weights, each with its factor: `w = 256 wh + wl`, `wl` in [-128, 127].
pub(super) fn digits(weights: &[i64]) -> Vec<(Vec<i8>, i64)> {
    let mut rest = weights.to_vec();
    let mut digits = Vec::new();
    let mut factor = 1;
    while digits.is_empty() || rest.iter().any(|&w| w != 0) {
        let low: Vec<i8> = rest.iter().map(|&w| w as i8).collect();
        rest.iter_mut().zip(&low).for_each(|(w, &l)| *w = (*w - i64::from(l)) / 256);
        digits.push((low, factor));
        factor *= 256;
    }
    // What is 0 everywhere adds nothing.
    let some = weights.iter().any(|&w| w != 0);
    digits.retain(|(d, _)| !some || d.iter().any(|&w| w != 0));
    digits
}

impl Lower<'_, '_> {
    /// True if an operand or the result has 16 bits.
    pub(super) fn is_wide(&self) -> bool {
        let wide = |v: ValueId| self.g().ty(v).uniform().is_some_and(|u| u.storage == Int::I16);
        wide(self.y) || self.g().operands(self.n).into_iter().any(wide)
    }

    /// The value that takes the place of the result.
    pub(super) fn wide(&mut self) -> Result<ValueId, Diag> {
        let attrs = self.attrs().clone();
        match self.op().info().class {
            Class::Unary(_) if assign_scales::clamps(self.op()) => self.wide_clamp(),
            Class::Unary(f) => self.wide_table(self.operand(0), |x| f(&attrs, x)),
            Class::Binary(kind @ (Binary::Add | Binary::Sub)) => self.wide_sum(kind),
            Class::Binary(Binary::Mul) => self.wide_product(),
            Class::Binary(kind) => self.wide_function(kind),
            Class::Contract(Contract::Conv2d | Contract::Linear) => self.wide_layer(),
            Class::Pool(Pool::Max) => self.wide_max_pool(),
            Class::Pool(Pool::Average) => self.wide_average_pool(),
            Class::Reduce(kind @ (Reduce::Mean | Reduce::Sum)) => self.wide_mean(kind),
            Class::Reduce(Reduce::Max) => {
                let reduced = self.maximum(self.operand(0))?;
                self.converted(reduced)
            }
            Class::Norm(Norm::Batch) => self.wide_batch_norm(),
            Class::Norm(Norm::Softmax) => self.wide_softmax(),
            Class::Cast(Cast::Requantize) => self.convert(self.operand(0), None),
            Class::Contract(Contract::MatMul)
            | Class::Reduce(Reduce::Min)
            | Class::Norm(Norm::Layer)
            | Class::Cast(_)
            | Class::Move(_)
            | Class::Int(_) => Err(self.no_form("its operands or its result have 16 bits")),
        }
    }

    /// The quantization of a value of 8 or 16 bits.
    fn quantization(&self, v: ValueId) -> Result<std::sync::Arc<Uniform>, Diag> {
        match self.g().ty(v).uniform() {
            Some(u) if matches!(u.storage, Int::U8 | Int::I16) && u.axis.is_none() => Ok(u.clone()),
            Some(_) | None => {
                Err(self.no_form(format_args!("%{} is no u8 or i16 with one scale", self.g().name_of(v))))
            }
        }
    }

    /// The bytes of a value. Operations that read the same value share them.
    fn pieces(&mut self, v: ValueId) -> Result<Vec<Piece>, Diag> {
        let u = self.quantization(v)?;
        if u.storage == Int::U8 {
            return Ok(vec![Piece { value: v, factor: 1, zero: u.zero_point() }]);
        }
        let zero = u.zero_point() + 32768;
        let mut pieces = Vec::new();
        for (high, suffix, factor, zero) in [(true, ".high", 256, zero >> 8), (false, ".low", 1, zero & 255)] {
            let attrs = Attrs::new(Opcode::Byte).with("high", high);
            let g = self.g();
            let known = g.uses(v).into_iter().find(|&(n, _)| g.op(n) == Opcode::Byte && g.node(n).attrs == attrs);
            let value = match known {
                Some((n, _)) => g.result(n),
                None => {
                    let name = format!("{}{suffix}", g.name_of(v));
                    let ty = g.ty(v).with_elem(Elem::Int(Int::U8));
                    let origin = crate::rewrite::origin_of(g, v);
                    self.edit.add(Opcode::Byte, &[v], attrs, &name, ty, origin)
                }
            };
            pieces.push(Piece { value, factor, zero });
        }
        Ok(pieces)
    }

    fn multiplier(&self, factor: f64) -> Result<i64, Diag> {
        wide::multiplier(factor).map_err(|e| self.scale_error(e))
    }

    /// The requantized sum of `xs`, each with its factor, in the type of the result.
    fn combine(
        &mut self,
        xs: &[(ValueId, i64)],
        rule: Rule,
        bounds: Option<(i64, i64)>,
        suffix: &str,
        dims: &[usize],
    ) -> Result<ValueId, Diag> {
        let to = self.quantization(self.y)?;
        let (least, greatest) = bounds.unwrap_or((to.min, to.max));
        let clamped = |x: i64| x.clamp(to.min, to.max);
        let attrs = Attrs::new(Opcode::Combine)
            .with("factors", xs.iter().map(|x| x.1).collect::<Vec<_>>())
            .with("lo", clamped(least))
            .with("hi", clamped(greatest))
            .with("bits", i64::from(to.storage.bits()));
        let bias = self.constant("bias", rule.bias);
        let mult = self.constant("mult", rule.mult);
        let offset = self.constant("offset", rule.offset);
        let operands: Vec<ValueId> = [bias, mult, offset].into_iter().chain(xs.iter().map(|x| x.0)).collect();
        let elem = self.g().ty(self.y).elem.clone();
        Ok(self.emit(Opcode::Combine, &operands, attrs, suffix, dims, elem))
    }

    /// A value in the type of the result, within bounds if there are any.
    fn convert(&mut self, x: ValueId, bounds: Option<(i64, i64)>) -> Result<ValueId, Diag> {
        let (from, to) = (self.quantization(x)?, self.quantization(self.y)?);
        let rule = Rule {
            bias: one(-from.zero_point()),
            mult: one(self.multiplier(self.factor(&[from.scale()], to.scale()))?),
            offset: one(wide::offset(to.zero_point(), 0.0)),
        };
        let dims = self.dims(x);
        self.combine(&[(x, 1)], rule, bounds, "", &dims)
    }

    fn converted(&mut self, x: ValueId) -> Result<ValueId, Diag> {
        if self.g().ty(x).elem == self.g().ty(self.y).elem { Ok(x) } else { self.convert(x, None) }
    }

    /// A rectifier or clip: it keeps the order of numbers, so that it clamps codes.
    fn wide_clamp(&mut self) -> Result<ValueId, Diag> {
        let to = self.quantization(self.y)?;
        let (least, greatest) = match self.op() {
            Opcode::Relu => (0.0, f32::MAX),
            _ => (self.attrs().float("min"), self.attrs().float("max")),
        };
        let bound = |x: f32| i64::from(quantize::code(x, &to));
        self.convert(self.operand(0), Some((bound(least), bound(greatest))))
    }

    /// Any function of one value.
    fn wide_table(&mut self, x: ValueId, f: impl Fn(f32) -> f32) -> Result<ValueId, Diag> {
        let (from, to) = (self.quantization(x)?, self.quantization(self.y)?);
        let least = from.storage.min() as i32;
        let codes: Vec<f32> = (0..1i32 << from.storage.bits()).map(|q| f(quantize::real(q + least, &from))).collect();
        let table = quantize::tensor(&[codes.len()], &codes, &to);
        let table = self.constant("table", table);
        let dims = self.dims(x);
        Ok(self.emit_result(Opcode::Lut, &[x, table], Attrs::new(Opcode::Lut), "", &dims))
    }

    /// Quotients, extremes, powers and slopes with one constant.
    fn wide_function(&mut self, kind: Binary) -> Result<ValueId, Diag> {
        let operands = [self.operand(0), self.operand(1)];
        let f = super::elementwise::function(kind);
        match operands.map(|v| scalar(self.g(), v)) {
            [None, Some(c)] if self.dims(operands[0]) == self.dims(self.y) => self.wide_table(operands[0], |x| f(x, c)),
            [Some(c), None] if self.dims(operands[1]) == self.dims(self.y) => self.wide_table(operands[1], |x| f(c, x)),
            _ => Err(self.no_form("it is a function of two values, of which one has 16 bits")),
        }
    }

    /// The operand that is a constant of real numbers, its elements, and the other one.
    fn constant_operand(&self) -> Result<Option<(usize, Tensor, ValueId)>, Diag> {
        let operands = [self.operand(0), self.operand(1)];
        let Some(at) = operands.iter().position(|&v| floats(self.g(), v).is_some()) else { return Ok(None) };
        let Some((tensor, data)) = floats(self.g(), operands[at]) else { return Ok(None) };
        if data.iter().any(|x| !x.is_finite()) {
            return Err(self.no_form("a constant is not finite"));
        }
        Ok(Some((at, tensor.clone(), operands[1 - at])))
    }

    fn wide_sum(&mut self, kind: Binary) -> Result<ValueId, Diag> {
        let to = self.quantization(self.y)?;
        let sign = |i: usize| if kind == Binary::Sub && i == 1 { -1.0 } else { 1.0 };
        let dims = self.dims(self.y);
        if let Some((at, c, x)) = self.constant_operand()? {
            let from = self.quantization(x)?;
            let term = |c: &f32| wide::offset(to.zero_point(), sign(at) * f64::from(*c) / f64::from(to.scale()));
            let offsets = c.as_f32().unwrap_or_default().iter().map(term).collect();
            let rule = Rule {
                bias: one(-from.zero_point()),
                mult: one(self.multiplier(sign(1 - at) * self.factor(&[from.scale()], to.scale()))?),
                offset: Tensor::new(&c.dims, Data::I64(offsets)),
            };
            // A constant may have more elements than what it is added to.
            if self.dims(x) == dims {
                return self.combine(&[(x, 1)], rule, None, "", &dims);
            }
        }
        let (a, b) = (self.wide_operand(0)?, self.wide_operand(1)?);
        let (ta, tb) = (self.quantization(a)?, self.quantization(b)?);
        let greater = f64::from(ta.scale()).max(f64::from(tb.scale()));
        let factor = |u: &Uniform| (f64::from(u.scale()) / greater * SUM_UNIT).round() as i64;
        let (ka, kb) = (factor(&ta), factor(&tb) * if kind == Binary::Sub { -1 } else { 1 });
        let rule = Rule {
            bias: one(-(ka * ta.zero_point() + kb * tb.zero_point())),
            mult: one(self.multiplier(greater / f64::from(to.scale()) / SUM_UNIT)?),
            offset: one(wide::offset(to.zero_point(), 0.0)),
        };
        self.combine(&[(a, ka), (b, kb)], rule, None, "", &dims)
    }

    /// The operand; a float constant becomes one of 16 bits.
    fn wide_operand(&mut self, i: usize) -> Result<ValueId, Diag> {
        let v = self.operand(i);
        let Some((tensor, data)) = floats(self.g(), v) else { return Ok(v) };
        let (min, max) = data.iter().fold((0.0f32, 0.0f32), |(lo, hi), &x| (lo.min(x), hi.max(x)));
        let uniform = Uniform::i16_for(qcc_ir::Range { min, max });
        let codes = quantize::tensor(&tensor.dims, data, &uniform);
        let name = format!("{}.q", self.g().name_of(v));
        Ok(self.edit.add_typed_const(&name, codes, Elem::Uniform(uniform.into())))
    }

    fn wide_product(&mut self) -> Result<ValueId, Diag> {
        let to = self.quantization(self.y)?;
        let dims = self.dims(self.y);
        if let Some((_, c, x)) = self.constant_operand()?
            && self.dims(x) == dims
        {
            let from = self.quantization(x)?;
            let unit = f64::from(from.scale()) / f64::from(to.scale());
            let factors = c.as_f32().unwrap_or_default().iter().map(|&c| self.multiplier(f64::from(c) * unit));
            let rule = Rule {
                bias: one(-from.zero_point()),
                mult: Tensor::new(&c.dims, Data::I64(factors.collect::<Result<_, _>>()?)),
                offset: one(wide::offset(to.zero_point(), 0.0)),
            };
            return self.combine(&[(x, 1)], rule, None, "", &dims);
        }
        let (a, b) = (self.wide_operand(0)?, self.wide_operand(1)?);
        let (ta, tb) = (self.quantization(a)?, self.quantization(b)?);
        let attrs = Attrs::new(Opcode::WideMul)
            .with("zeros", vec![ta.zero_point(), tb.zero_point()])
            .with("mult", self.multiplier(self.factor(&[ta.scale(), tb.scale()], to.scale()))?)
            .with("offset", wide::offset(to.zero_point(), 0.0))
            .with("lo", to.min)
            .with("hi", to.max)
            .with("bits", i64::from(to.storage.bits()));
        let elem = self.g().ty(self.y).elem.clone();
        Ok(self.emit(Opcode::WideMul, &[a, b], attrs, "", &dims, elem))
    }

    /// `a[c] x + b[c]` with one rounding.
    fn wide_batch_norm(&mut self) -> Result<ValueId, Diag> {
        let (a, b) =
            fold_bn::affine(self.g(), self.n).ok_or_else(|| self.no_form("its parameters are not constant"))?;
        let x = self.operand(0);
        let (from, to) = (self.quantization(x)?, self.quantization(self.y)?);
        let (sx, sy) = (f64::from(from.scale()), f64::from(to.scale()));
        let mult = a.iter().map(|a| self.multiplier(a * sx / sy)).collect::<Result<Vec<_>, _>>()?;
        let offset = b.iter().map(|b| wide::offset(to.zero_point(), b / sy)).collect::<Vec<_>>();
        let dims = self.dims(x);
        let channels: Vec<usize> = (0..dims.len()).map(|i| if i == 1 { dims[i] } else { 1 }).collect();
        let rule = Rule {
            bias: one(-from.zero_point()),
            mult: Tensor::new(&channels, Data::I64(mult)),
            offset: Tensor::new(&channels, Data::I64(offset)),
        };
        self.combine(&[(x, 1)], rule, None, "", &dims)
    }

    /// The sums of products of a value's bytes with bytes of weights.
    fn products(
        &mut self,
        op: Opcode,
        pieces: &[Piece],
        weights: (&[usize], &[(Vec<i8>, i64)]),
        attrs: &Attrs,
        dims: &[usize],
    ) -> Vec<(ValueId, i64)> {
        let (shape, digits) = weights;
        let outputs = shape.first().copied().unwrap_or(0);
        let none = self.constant("none", Tensor::new(&[outputs], Data::I32(vec![0; outputs])));
        let mut terms = Vec::new();
        for (digit, of_digit) in digits {
            let w = self.constant("weights", Tensor::new(shape, Data::I8(digit.clone())));
            for piece in pieces {
                let attrs = match op {
                    Opcode::IConv2d => attrs.clone().with("pad_value", piece.zero),
                    _ => attrs.clone(),
                };
                let acc = self.emit(op, &[piece.value, w, none], attrs, ".acc", dims, Elem::Int(Int::I32));
                terms.push((acc, piece.factor * of_digit));
            }
        }
        terms
    }

    fn wide_layer(&mut self) -> Result<ValueId, Diag> {
        let operands = self.g().operands(self.n);
        let (input, output) = (self.quantization(operands[0])?, self.quantization(self.y)?);
        let unquantized = || self.no_form("its weights are not quantized by channel");
        let weights = self.g().constant(operands[1]).ok_or_else(unquantized)?.clone();
        let scales = self.g().ty(operands[1]).uniform().filter(|u| u.zero_points.iter().all(|&z| z == 0));
        let scales = scales.ok_or_else(unquantized)?.clone();
        let w = codes(&weights).ok_or_else(unquantized)?;
        let channels = weights.dims.first().copied().unwrap_or(0);
        let row = w.len() / channels.max(1);
        let own = match operands.get(2) {
            Some(&b) => Some(self.g().constant(b).and_then(|t| codes(t)).ok_or_else(unquantized)?),
            None => None,
        };
        let pieces = self.pieces(operands[0])?;
        let zero: i64 = pieces.iter().map(|p| p.factor * p.zero).sum();
        let mut bias = Vec::with_capacity(channels);
        let mut mult = Vec::with_capacity(channels);
        for c in 0..channels {
            let sum: i64 = w[c * row..(c + 1) * row].iter().sum();
            bias.push(own.as_ref().map_or(0, |b| b[c]) - zero * sum);
            let scale = if scales.axis.is_none() { scales.scale() } else { scales.scales[c] };
            mult.push(self.multiplier(self.factor(&[input.scale(), scale], output.scale()))?);
        }
        if let Some(b) = bias.iter().find(|b| b.unsigned_abs() > wide::GREATEST_BIAS.unsigned_abs()) {
            return Err(self.no_form(format_args!("a bias of {b} units of its accumulators")));
        }
        let rule = Rule {
            bias: Tensor::new(&[channels], Data::I64(bias)),
            mult: Tensor::new(&[channels], Data::I64(mult)),
            offset: one(wide::offset(output.zero_point(), 0.0)),
        };
        let digits = digits(&w);
        if self.op() == Opcode::Linear {
            let dims = self.dims(self.y);
            let attrs = Attrs::new(Opcode::ILinear);
            let terms = self.products(Opcode::ILinear, &pieces, (&weights.dims, &digits), &attrs, &dims);
            return self.combine(&terms, rule, None, "", &dims);
        }
        let ([o, c, kh, kw], [n, _, h, width]) = (
            <[usize; 4]>::try_from(weights.dims.as_slice())
                .map_err(|_| self.no_form("its weights are not of rank 4"))?,
            <[usize; 4]>::try_from(self.dims(self.y)).map_err(|_| self.no_form("its result is not of rank 4"))?,
        );
        let digits: Vec<_> = digits.into_iter().map(|(d, f)| (layer::ohwi(&d, [o, c, kh, kw]), f)).collect();
        let mut attrs = Attrs::new(Opcode::IConv2d).with("groups", self.attrs().int("groups"));
        for name in ["strides", "pads", "dilations"] {
            attrs = attrs.with(name, self.attrs().ints(name));
        }
        let pieces: Vec<Piece> = pieces.into_iter().map(|p| Piece { value: self.nhwc(p.value), ..p }).collect();
        let dims = [n, h, width, o];
        let terms = self.products(Opcode::IConv2d, &pieces, (&[o, kh, kw, c], &digits), &attrs, &dims);
        let q = self.combine(&terms, rule, None, ".nhwc", &dims)?;
        Ok(self.nchw(q))
    }

    fn wide_max_pool(&mut self) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        if self.quantization(x)?.storage == Int::U8 {
            let [n, c, h, w] = self.rank_4(self.y)?;
            let pooled = self.pooled_maximum(x, self.attrs().ints("pads"), [n, h, w, c]);
            let pooled = self.nchw(pooled);
            return self.converted(pooled);
        }
        let pads = self.attrs().ints("pads");
        let [n, c, h, w] = self.rank_4(self.y)?;
        let mut source = x;
        if pads != [0; 4] {
            // The least code never wins a maximum.
            let padded = vec![0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]];
            let own = self.dims(x);
            let dims: Vec<usize> = (0..4).map(|i| own[i] + (padded[i] + padded[4 + i]) as usize).collect();
            let attrs = Attrs::new(Opcode::Pad).with("pads", padded).with("value", f32::from(i16::MIN));
            let elem = self.g().ty(x).elem.clone();
            source = self.emit(Opcode::Pad, &[x], attrs, ".pad", &dims, elem);
        }
        let pooled = self.pooled_maximum(source, vec![0; 4], [n, h, w, c]);
        let pooled = self.nchw(pooled);
        self.converted(pooled)
    }

    fn rank_4(&self, v: ValueId) -> Result<[usize; 4], Diag> {
        self.dims(v).try_into().map_err(|_| self.no_form(format_args!("%{} is not of rank 4", self.g().name_of(v))))
    }

    fn pooled_maximum(&mut self, x: ValueId, pads: Vec<i64>, dims: [usize; 4]) -> ValueId {
        let mut attrs = Attrs::new(Opcode::IMaxPool).with("pads", pads);
        for name in ["kernel", "strides", "dilations"] {
            attrs = attrs.with(name, self.attrs().ints(name));
        }
        let elem = self.g().ty(x).elem.clone();
        let x = self.nhwc(x);
        self.emit(Opcode::IMaxPool, &[x], attrs, ".nhwc", &dims, elem)
    }

    /// The sums of `counts[i]` elements each, requantized to their means; `shape` is that of the counts.
    #[expect(clippy::too_many_arguments, reason = "a convolution has as many parts")]
    fn mean_of(
        &mut self,
        x: &Uniform,
        pieces: &[Piece],
        weights: [usize; 4],
        attrs: &Attrs,
        counts: &[f64],
        shape: &[usize],
        suffix: &str,
        dims: &[usize],
    ) -> Result<ValueId, Diag> {
        let to = self.quantization(self.y)?;
        let taps = weights[1] * weights[2];
        let zero: i64 = pieces.iter().map(|p| p.factor * p.zero).sum();
        let unit = self.factor(&[x.scale()], to.scale());
        let mult = counts.iter().map(|n| self.multiplier(unit / n)).collect::<Result<Vec<_>, _>>()?;
        let ones = [(vec![1i8; weights.iter().product()], 1)];
        let terms = self.products(Opcode::IConv2d, pieces, (&weights, &ones), attrs, dims);
        let rule = Rule {
            bias: one(-zero * taps as i64),
            mult: Tensor::new(shape, Data::I64(mult)),
            offset: one(wide::offset(to.zero_point(), 0.0)),
        };
        self.combine(&terms, rule, None, suffix, dims)
    }

    fn wide_average_pool(&mut self) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let from = self.quantization(x)?;
        let ([n, c, oh, ow], [_, _, h, w]) = (self.rank_4(self.y)?, self.rank_4(x)?);
        let window = Window::pool(self.attrs());
        let counts: Vec<f64> = if self.attrs().bool("count_include_pad") {
            vec![(window.kernel[0] * window.kernel[1]) as f64; oh * ow]
        } else {
            let (rows, columns) = (elements_inside(&window, 0, oh, h), elements_inside(&window, 1, ow, w));
            rows.iter().flat_map(|r| columns.iter().map(move |c| (r * c) as f64)).collect()
        };
        let alike = counts.iter().all(|&k| k == counts[0]);
        let (counts, shape) = if alike { (&counts[..1], vec![1]) } else { (&counts[..], vec![oh, ow, 1]) };
        let mut attrs = Attrs::new(Opcode::IConv2d).with("groups", c as i64);
        for name in ["strides", "pads", "dilations"] {
            attrs = attrs.with(name, self.attrs().ints(name));
        }
        let pieces = self.pieces(x)?;
        let pieces: Vec<Piece> = pieces.into_iter().map(|p| Piece { value: self.nhwc(p.value), ..p }).collect();
        let weights = [c, window.kernel[0], window.kernel[1], 1];
        let q = self.mean_of(&from, &pieces, weights, &attrs, counts, &shape, ".nhwc", &[n, oh, ow, c])?;
        Ok(self.nchw(q))
    }

    /// The mean or sum over axes: a window over all elements of `[1, reduced, 1, kept]`.
    fn wide_mean(&mut self, kind: Reduce) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let from = self.quantization(x)?;
        let (axes, result, dims) = (self.attrs().sizes("axes"), self.dims(self.y), self.dims(x));
        let kept = (0..dims.len()).filter(|i| !axes.contains(i));
        let perm: Vec<usize> = axes.iter().copied().chain(kept).collect();
        let count: usize = axes.iter().map(|&a| dims[a]).product();
        let rest: usize = result.iter().product();
        let divisor = if kind == Reduce::Mean { count.max(1) as f64 } else { 1.0 };
        let shape = [1, count, 1, rest];
        let reshape = |dims: &[usize]| Attrs::new(Opcode::Reshape).with("shape", dims);
        let mut pieces = Vec::new();
        for piece in self.pieces(x)? {
            let value = self.transpose(piece.value, &perm, ".t");
            let elem = self.g().ty(value).elem.clone();
            let value = self.emit(Opcode::Reshape, &[value], reshape(&shape), ".flat", &shape, elem);
            pieces.push(Piece { value, ..piece });
        }
        let attrs = Attrs::new(Opcode::IConv2d).with("groups", rest as i64);
        let weights = [rest, count, 1, 1];
        let q = self.mean_of(&from, &pieces, weights, &attrs, &[divisor], &[1], ".mean", &[1, 1, 1, rest])?;
        let elem = self.g().ty(q).elem.clone();
        Ok(self.emit(Opcode::Reshape, &[q], reshape(&result), "", &result, elem))
    }

    fn wide_softmax(&mut self) -> Result<ValueId, Diag> {
        let x = self.operand(0);
        let (from, to) = (self.quantization(x)?, self.quantization(self.y)?);
        let axis = usize::try_from(self.attrs().int("axis")).unwrap_or(0);
        let term = |d: u32| (SOFTMAX_ONE * (-f64::from(d) * f64::from(from.scale())).exp()).round() as i32;
        let table: Vec<i32> = (0..1u32 << from.storage.bits()).map(term).collect();
        let table = self.constant("table", Tensor::new(&[table.len()], Data::I32(table)));
        let perm: Vec<usize> = (0..self.dims(x).len()).filter(|&i| i != axis).chain([axis]).collect();
        let x = self.transpose(x, &perm, ".t");
        let dims = self.dims(x);
        // The rule's factor has 8 fraction bits and 31 in all.
        let scales = 1.0 / f64::from(1 << 22)..=1.0;
        let fits = to.zero_point() == to.storage.min() && scales.contains(&f64::from(to.scale()));
        let own = match to.storage {
            _ if fits => (*to).clone(),
            Int::I16 => Uniform::per_tensor(Int::I16, 1.0 / 65535.0, -32768),
            _ => Uniform::per_tensor(Int::U8, 1.0 / 255.0, 0),
        };
        let suffix = if perm.is_sorted() { "" } else { ".t" };
        let attrs = Attrs::new(Opcode::ISoftmax)
            .with("mult", (256.0 / f64::from(own.scale())).round() as i64)
            .with("bits", i64::from(own.storage.bits()));
        let elem = Elem::Uniform(own.into());
        let y = self.emit(Opcode::ISoftmax, &[x, table], attrs, suffix, &dims, elem);
        let y = self.transpose(y, &inverse(&perm), "");
        self.converted(y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number of 16 bits is the sum of its digits.
    #[test]
    fn digits_add_up() {
        let all: Vec<i64> = (-32768..=32767).collect();
        let digits = digits(&all);
        assert_eq!(digits.iter().map(|d| d.1).collect::<Vec<_>>(), [1, 256, 65536]);
        for (i, w) in all.iter().enumerate() {
            assert_eq!(digits.iter().map(|(d, f)| i64::from(d[i]) * f).sum::<i64>(), *w);
        }
        let limited: Vec<i64> = all.into_iter().filter(|w| w.abs() <= 127 * 256).collect();
        assert_eq!(super::digits(&limited).len(), 2);
        assert_eq!(super::digits(&[0, 0]), [(vec![0, 0], 1)]);
        assert_eq!(super::digits(&[5 * 256, -256]), [(vec![5, -1], 256)]);
    }
}
