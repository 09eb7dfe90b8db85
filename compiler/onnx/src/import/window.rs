//! Windows of convolution and pooling as ONNX writes them: any number of spatial dimensions, automatic padding, and
//! results rounded up.

use qcc_ir::{Attrs, ValueId, attr};

use super::layout;
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// A window over spatial dimensions, everything resolved.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    /// Padding in front of and behind each dimension, as declared or derived.
    pub(super) pads: Vec<[usize; 2]>,
    /// Padding behind each dimension that only rounding up needs, beyond `pads`.
    pub(super) extra: Vec<usize>,
}

/// Greatest extent, stride, dilation or padding of a window.
const GREATEST: usize = 1 << 30;

/// A list attribute with one positive element a dimension.
fn positive(site: &mut Site, name: &'static str, rank: usize) -> Outcome<Option<Vec<usize>>> {
    let Some(values) = site.attrs.ints(name)? else { return Ok(None) };
    let size = |&v: &i64| usize::try_from(v).ok().filter(|v| (1..=GREATEST).contains(v));
    let sizes: Option<Vec<usize>> = values.iter().map(size).collect();
    match sizes {
        Some(sizes) if sizes.len() == rank => Ok(Some(sizes)),
        _ => Err(Fault::shape(format!("`{name}` is {values:?}, not {rank} positive numbers of a sensible size"))),
    }
}

impl Window {
    /// Reads the attributes of a node whose input has the spatial extents `input`. `kernel` is known from weights or
    /// `None` where the attribute says it.
    pub(super) fn read(site: &mut Site, kernel: Option<&[usize]>, input: &[usize]) -> Outcome<Window> {
        let rank = input.len();
        let declared = positive(site, "kernel_shape", rank)?;
        let kernel = match (kernel, declared) {
            (Some(kernel), Some(declared)) if declared != kernel => {
                let message = format!("`kernel_shape` is {declared:?}, but the weights have {kernel:?}");
                return Err(Fault::shape(message));
            }
            (Some(kernel), _) => kernel.to_vec(),
            (None, Some(declared)) => declared,
            (None, None) => return Err(Fault::shape("attribute `kernel_shape` is missing")),
        };
        let strides = positive(site, "strides", rank)?.unwrap_or_else(|| vec![1; rank]);
        let dilations = positive(site, "dilations", rank)?.unwrap_or_else(|| vec![1; rank]);
        let mut window = Window { kernel, strides, dilations, pads: vec![[0; 2]; rank], extra: vec![0; rank] };
        let explicit = site.attrs.ints("pads")?;
        match site.attrs.string("auto_pad")?.unwrap_or("NOTSET") {
            "NOTSET" | "" => {
                if let Some(pads) = explicit {
                    window.pads = pairs(pads, rank)?;
                }
            }
            automatic => {
                if explicit.is_some_and(|p| p.iter().any(|&p| p != 0)) {
                    return Err(Fault::shape(format!("`pads` beside `auto_pad` = {automatic}")));
                }
                match automatic {
                    "VALID" => {}
                    "SAME_UPPER" => window.pad_to_same(input, true)?,
                    "SAME_LOWER" => window.pad_to_same(input, false)?,
                    other => return Err(Fault::unsupported(format!("`auto_pad` = {other:?} is not supported"))),
                }
            }
        }
        Ok(window)
    }

    /// A window over three dimensions as one over the first, beside a dimension of 1, and one over the others.
    pub(super) fn split_first(&self) -> (Window, Window) {
        let split = |v: &[usize], fill: usize| {
            let (first, rest) = v.split_first().map_or((fill, &[][..]), |(f, r)| (*f, r));
            (vec![first, fill], rest.to_vec())
        };
        let (kernel, strides, dilations) = (split(&self.kernel, 1), split(&self.strides, 1), split(&self.dilations, 1));
        let extra = split(&self.extra, 0);
        let pads = self.pads.split_first().map_or(([0; 2], &[][..]), |(f, r)| (*f, r));
        (
            Window {
                kernel: kernel.0,
                strides: strides.0,
                dilations: dilations.0,
                pads: vec![pads.0, [0; 2]],
                extra: extra.0,
            },
            Window {
                kernel: kernel.1,
                strides: strides.1,
                dilations: dilations.1,
                pads: pads.1.to_vec(),
                extra: extra.1,
            },
        )
    }

    /// Input positions from the first to the last element of the window.
    fn extent(&self, i: usize) -> Outcome<usize> {
        let steps = self.kernel[i].checked_sub(1).and_then(|k| k.checked_mul(self.dilations[i]));
        let extent = steps.and_then(|s| s.checked_add(1));
        extent.ok_or_else(|| Fault::shape(format!("a window of {:?} is empty or overflows", self.kernel)))
    }

    /// Pads so that the result has `ceil(input / stride)` elements; an odd element goes behind (`upper`) or in front.
    fn pad_to_same(&mut self, input: &[usize], upper: bool) -> Outcome<()> {
        for (i, &n) in input.iter().enumerate() {
            let covered = self.covered(i, n.div_ceil(self.strides[i]))?;
            let total = covered.saturating_sub(n);
            let less = total / 2;
            self.pads[i] = if upper { [less, total - less] } else { [total - less, less] };
        }
        Ok(())
    }

    /// Input positions that `count` windows cover.
    fn covered(&self, i: usize, count: usize) -> Outcome<usize> {
        let covered =
            count.saturating_sub(1).checked_mul(self.strides[i]).and_then(|c| c.checked_add(self.extent(i).ok()?));
        covered.ok_or_else(|| Fault::shape("a window overflows"))
    }

    /// Rounds the number of windows up instead of down, by padding behind. A window that would start behind the input and its
    /// padding in front is left out, as PyTorch and ONNX Runtime do.
    pub(super) fn round_up(&mut self, input: &[usize]) -> Outcome<()> {
        for (i, &n) in input.iter().enumerate() {
            let [before, after] = self.pads[i];
            let overflow = || Fault::shape("a window overflows");
            let inner = n.checked_add(before).ok_or_else(overflow)?;
            let padded = inner.checked_add(after).ok_or_else(overflow)?;
            let Some(room) = padded.checked_sub(self.extent(i)?) else { continue };
            let starts_inside = inner.saturating_sub(1) / self.strides[i];
            let count = room.div_ceil(self.strides[i]).min(starts_inside).saturating_add(1);
            self.extra[i] = self.covered(i, count)?.saturating_sub(padded);
        }
        Ok(())
    }

    /// The attributes `strides`, `pads` and, where there are any, `dilations` of a two-dimensional window; a dimension of
    /// height 1 goes in front of a single one.
    pub(super) fn set(&self, attrs: Attrs) -> Outcome<Attrs> {
        let lead = 2 - self.kernel.len().min(2);
        let two = |values: &[usize], fill: usize| {
            let all: Vec<usize> = vec![fill; lead].into_iter().chain(values.iter().copied()).collect();
            layout::list(&all)
        };
        let before: Vec<usize> = self.pads.iter().map(|p| p[0]).collect();
        let after: Vec<usize> = self.pads.iter().zip(&self.extra).map(|(p, e)| p[1].saturating_add(*e)).collect();
        let mut pads = two(&before, 0)?;
        pads.extend(two(&after, 0)?);
        let mut attrs = attrs.with(attr::STRIDES, two(&self.strides, 1)?).with(attr::PADS, pads);
        if attrs.has(attr::KERNEL) {
            attrs = attrs.with(attr::KERNEL, two(&self.kernel, 1)?);
        }
        if attrs.has(attr::DILATIONS) {
            attrs = attrs.with(attr::DILATIONS, two(&self.dilations, 1)?);
        }
        Ok(attrs)
    }
}

/// `[begin.., end..]` as pairs.
fn pairs(pads: &[i64], rank: usize) -> Outcome<Vec<[usize; 2]>> {
    if pads.len() != 2 * rank {
        return Err(Fault::shape(format!("`pads` is {pads:?}, not {} numbers", 2 * rank)));
    }
    let size = |p: i64| match usize::try_from(p) {
        Ok(size) if size <= GREATEST => Ok(size),
        Ok(_) => Err(Fault::shape(format!("`pads` {pads:?} are too large"))),
        Err(_) => Err(Fault::unsupported(format!("negative `pads` {pads:?}"))),
    };
    (0..rank).map(|i| Ok([size(pads[i])?, size(pads[rank + i])?])).collect()
}

/// The spatial extents of `[N, C, ..]` with one or two spatial dimensions.
pub(super) fn spatial(site: &Site, x: ValueId) -> Outcome<Vec<usize>> {
    match site.ty(x).dims.as_slice() {
        [_, _, spatial @ ..] if matches!(spatial.len(), 1 | 2) => Ok(spatial.to_vec()),
        dims if dims.len() > 4 => {
            Err(Fault::unsupported(format!("{} spatial dimensions are not supported", dims.len() - 2)))
        }
        dims => Err(Fault::shape(format!("shape {dims:?} has no spatial dimension"))),
    }
}

/// The spatial extents of `[N, C, ..]` with up to three spatial dimensions.
pub(super) fn volume(site: &Site, x: ValueId) -> Outcome<Vec<usize>> {
    match *site.ty(x).dims.as_slice() {
        [_, _, d, h, w] => Ok(vec![d, h, w]),
        _ => spatial(site, x),
    }
}

/// `[N, C, W]` as `[N, C, 1, W]`; four dimensions stay.
pub(super) fn with_height(site: &mut Site, x: ValueId, suffix: &str) -> Outcome<ValueId> {
    match *site.dims(x) {
        [n, c, w] => layout::reshape(site, x, &[n, c, 1, w], suffix),
        _ => Ok(x),
    }
}

/// The inverse of [`with_height`] for a result, given the rank that the input had.
pub(super) fn without_height(site: &mut Site, x: ValueId, rank: usize) -> Outcome<ValueId> {
    match *site.dims(x) {
        [n, c, 1, w] if rank == 3 => layout::reshape(site, x, &[n, c, w], "flat"),
        _ => Ok(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, pads: [usize; 2]) -> Window {
        Window { kernel: vec![kernel], strides: vec![stride], dilations: vec![1], pads: vec![pads], extra: vec![0] }
    }

    #[test]
    fn same_padding() {
        let mut w = window(3, 2, [0, 0]);
        w.pad_to_same(&[224], true).unwrap();
        assert_eq!(w.pads, [[0, 1]]);
        w.pad_to_same(&[224], false).unwrap();
        assert_eq!(w.pads, [[1, 0]]);
        w.pad_to_same(&[225], true).unwrap();
        assert_eq!(w.pads, [[1, 1]]);
        let mut w = window(1, 2, [0, 0]);
        w.pad_to_same(&[5], true).unwrap();
        assert_eq!(w.pads, [[0, 0]]);
    }

    #[test]
    fn rounding_up_pads_behind() {
        // SqueezeNet: 3x3 stride 2 over 110 gives 54.5, rounded up 55.
        let mut w = window(3, 2, [0, 0]);
        w.round_up(&[110]).unwrap();
        assert_eq!(w.extra, [1]);
        w.round_up(&[111]).unwrap();
        assert_eq!(w.extra, [0]);
        // The window that would start in the padding behind is left out.
        let mut w = window(2, 2, [1, 1]);
        w.round_up(&[3]).unwrap();
        assert_eq!(w.extra, [0]);
        let mut w = window(1, 3, [0, 0]);
        w.round_up(&[2]).unwrap();
        assert_eq!(w.extra, [0]);
    }

    #[test]
    fn nothing_overflows() {
        let mut w = window(usize::MAX, 1, [usize::MAX, 0]);
        assert!(w.round_up(&[9]).is_err());
        assert!(window(usize::MAX, usize::MAX, [0, 0]).pad_to_same(&[usize::MAX], true).is_ok());
        assert!(window(0, 1, [0, 0]).round_up(&[9]).is_err());
        let mut w = Window { dilations: vec![usize::MAX], ..window(3, 1, [0, 0]) };
        assert!(w.pad_to_same(&[9], true).is_err());
    }
}
