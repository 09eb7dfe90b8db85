//! Windows without weights, and means.

use qcc_ir::{Data, Diag, Opcode, Window, attr};
use qcc_num::requant::{Epilogue, FRACTION_BITS};

use super::rounding::{clamped, factor};
use super::{Backward, Call, Kernel, Rounded, Site};

/// For each element of the result of one sample the elements that it is made of, one list behind the other.
struct Lists {
    ends: Vec<u32>,
    elements: Vec<u32>,
    /// Elements of the operand of one sample.
    length: usize,
}

impl Lists {
    /// The elements that a window over `[N, H, W, C]` sees.
    fn of_windows(window: &Window, input: &[usize], output: &[usize]) -> Option<Lists> {
        let (&[n, height, width, channels], &[_, oh, ow, _]) = (input, output) else { return None };
        let length = input.iter().product();
        u32::try_from(length).ok()?;
        let along = |d: usize, o: usize, extent: usize| -> Vec<usize> {
            let position = |k: usize| (o * window.strides[d] + k * window.dilations[d]).checked_sub(window.pads[d]);
            (0..window.kernel[d]).filter_map(position).filter(|&i| i < extent).collect()
        };
        let (mut ends, mut elements) = (Vec::new(), Vec::new());
        for image in 0..n {
            for oy in 0..oh {
                let rows = along(0, oy, height);
                for ox in 0..ow {
                    let columns = along(1, ox, width);
                    for c in 0..channels {
                        for &y in &rows {
                            let places = columns.iter().map(|x| ((image * height + y) * width + x) * channels + c);
                            elements.extend(places.map(|p| p as u32));
                        }
                        ends.push(elements.len() as u32);
                    }
                }
            }
        }
        Some(Lists { ends, elements, length })
    }

    /// The elements along some axes, for each index of the others.
    fn along(axes: &[usize], dims: &[usize]) -> Option<Lists> {
        let length = dims.iter().product();
        u32::try_from(length).ok()?;
        let places = |axes: &mut dyn Iterator<Item = usize>| {
            let mut places = vec![0u32];
            for axis in axes {
                let stride: usize = dims[axis + 1..].iter().product();
                places =
                    places.iter().flat_map(|&p| (0..dims[axis] as u32).map(move |k| p + k * stride as u32)).collect();
            }
            places
        };
        let kept = places(&mut (0..dims.len()).filter(|a| !axes.contains(a)));
        let inner = places(&mut axes.iter().copied());
        let elements: Vec<u32> = kept.iter().flat_map(|k| inner.iter().map(move |i| k + i)).collect();
        let ends = (1..=kept.len()).map(|i| (i * inner.len()) as u32).collect();
        Some(Lists { ends, elements, length })
    }

    /// Calls `f` with the number of each result, counted over all samples, and the elements it is made of.
    fn each(&self, batch: usize, mut f: impl FnMut(usize, &mut dyn Iterator<Item = usize>)) {
        for b in 0..batch {
            let mut start = 0;
            for (i, &end) in self.ends.iter().enumerate() {
                let list = &self.elements[start..end as usize];
                f(b * self.ends.len() + i, &mut list.iter().map(|&e| b * self.length + e as usize));
                start = end as usize;
            }
        }
    }
}

/// `int.max_pool`.
pub(super) struct Greatest(Lists);

impl Greatest {
    pub(super) fn new(site: &Site) -> Option<Greatest> {
        let window = Window::pool(&site.attrs);
        let lists = Lists::of_windows(&window, &site.operands[0].1.dims, &site.result.dims)?;
        site.operands[0].0.is_none().then_some(Greatest(lists))
    }
}

impl Kernel for Greatest {
    fn forward(&self, call: &Call) -> Result<Rounded, Diag> {
        let x = call.bytes(0).unwrap_or_default();
        let mut codes = vec![0u8; call.batch * self.0.ends.len()];
        self.0.each(call.batch, |i, elements| codes[i] = elements.map(|e| x[e]).max().unwrap_or(0));
        Ok(Rounded::exact(Data::U8(codes)))
    }

    /// The first of several that are greatest gets all.
    fn backward(&self, call: &Call, back: Backward) -> Vec<Option<Vec<f32>>> {
        let x = call.bytes(0).unwrap_or_default();
        let mut by_x = vec![0.0f32; x.len()];
        self.0.each(call.batch, |i, elements| {
            let first = elements.reduce(|a, b| if x[b] > x[a] { b } else { a });
            if let Some(e) = first {
                by_x[e] += back.gradient[i];
            }
        });
        vec![Some(by_x)]
    }
}

/// `int.average_pool`, `int.mean`: sums of codes less the zero point, requantized.
pub(super) struct Mean {
    lists: Lists,
    zero: i32,
    /// One for all results of a sample, or one for each position, `channels` results.
    mult: Vec<i32>,
    channels: usize,
    rule: Epilogue,
}

impl Mean {
    pub(super) fn new(site: &Site) -> Option<Mean> {
        let (attrs, x) = (&site.attrs, &site.operands[0].1);
        if site.operands[0].0.is_some() {
            return None;
        }
        let (lists, mult, channels) = match site.op {
            Opcode::IMean => {
                let lists = Lists::along(&attrs.sizes(attr::AXES), &x.dims)?;
                (lists, vec![i32::try_from(attrs.get(attr::MULT)).ok()?], 1)
            }
            _ => {
                let lists = Lists::of_windows(&Window::pool(attrs), &x.dims, &site.result.dims)?;
                (lists, site.operands[1].0.as_ref()?.as_i32()?.to_vec(), *site.result.dims.last()?)
            }
        };
        let zero = i32::try_from(attrs.get(attr::ZERO)).ok()?;
        Some(Mean { lists, zero, mult, channels, rule: attrs.epilogue() })
    }

    fn mult(&self, i: usize) -> i32 {
        self.mult[i / self.channels % self.mult.len()]
    }
}

impl Kernel for Mean {
    fn forward(&self, call: &Call) -> Result<Rounded, Diag> {
        let x = call.bytes(0).unwrap_or_default();
        let count = call.batch * self.lists.ends.len();
        let (mut codes, mut errors) = (vec![0u8; count], vec![0i8; count]);
        let (lo, hi) = (i32::from(self.rule.lo), i32::from(self.rule.hi));
        self.lists.each(call.batch, |i, elements| {
            let sum: i32 = elements.map(|e| i32::from(x[e]) - self.zero).sum();
            let u = i32::from(self.rule.before_rounding(sum, self.mult(i), 0));
            (codes[i], errors[i]) = clamped(u >> FRACTION_BITS, u & ((1 << FRACTION_BITS) - 1), lo, hi);
        });
        Ok(Rounded { codes: Data::U8(codes), errors: Some(errors) })
    }

    fn backward(&self, call: &Call, back: Backward) -> Vec<Option<Vec<f32>>> {
        let mut by_x = vec![0.0f32; call.batch * self.lists.length];
        self.lists.each(call.batch, |i, elements| {
            let g = back.gradient[i] * factor(&self.rule, self.mult(i));
            elements.for_each(|e| by_x[e] += g);
        });
        vec![Some(by_x), None]
    }
}
