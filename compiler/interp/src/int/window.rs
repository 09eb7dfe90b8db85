//! Integer pooling and means: greatest elements, and sums that are requantized.

use std::ops::Range;

use qcc_ir::{Data, Diag, Window, attr};

use super::{Call, accumulator};
use crate::layout::grouped;

/// Window elements of one output position that lie inside the input: pairs of row and column.
fn inside(window: &Window, [oy, ox]: [usize; 2], [height, width]: [usize; 2]) -> impl Iterator<Item = (usize, usize)> {
    let along = |d: usize, o: usize, input: usize| {
        let start = o * window.strides[d];
        let (pad, dilation) = (window.pads[d], window.dilations[d]);
        let position = move |k: usize| (start + k * dilation).checked_sub(pad).filter(|&i| i < input);
        (0..window.kernel[d]).filter_map(position)
    };
    let columns: Vec<usize> = along(1, ox, width).collect();
    along(0, oy, height)
        .collect::<Vec<_>>()
        .into_iter()
        .flat_map(move |y| columns.clone().into_iter().map(move |x| (y, x)))
}

/// Calls `f` for each output position of an NHWC pooling with its channels in the result, its number in [OH, OW], and the
/// ranges of `x` with the channels of each window element inside the input.
fn for_windows<T: Send>(
    call: &Call,
    result: &mut [T],
    f: impl Fn(&mut [T], usize, &[Range<usize>]) -> Result<(), Diag> + Sync,
) -> Result<(), Diag> {
    let &[_, height, width, channels] = call.dims_of(0) else { return Err(call.wrong(0, "NHWC")) };
    let [_, oh, ow, _] = *call.dims else { return Err(call.wrong(0, "NHWC")) };
    let window = Window::pool(call.attrs);
    call.cx.try_chunks(result, ow * channels, |row, result| {
        let (n, oy) = (row / oh, row % oh);
        for (ox, result) in result.chunks_mut(channels).enumerate() {
            let at = |(y, x)| ((n * height + y) * width + x) * channels;
            let elements = inside(&window, [oy, ox], [height, width]).map(|p| at(p)..at(p) + channels);
            f(result, oy * ow + ox, &elements.collect::<Vec<_>>())?;
        }
        Ok(())
    })
}

/// Greatest element of each window.
pub(super) fn max_pool(call: &Call) -> Result<Data, Diag> {
    match &call.operands[0].0.data {
        Data::I16(x) => greatest(call, x, i16::MIN).map(Data::I16),
        _ => greatest(call, call.u8s(0)?, 0).map(Data::U8),
    }
}

/// A verified window has an element inside the input, which is not below the least.
fn greatest<T: Copy + Ord + Send + Sync>(call: &Call, x: &[T], least: T) -> Result<Vec<T>, Diag> {
    let mut result = vec![least; call.dims.iter().product()];
    for_windows(call, &mut result, |greatest, _, elements| {
        for element in elements {
            greatest.iter_mut().zip(&x[element.clone()]).for_each(|(g, &x)| *g = (*g).max(x));
        }
        Ok(())
    })?;
    Ok(result)
}

/// `requant(sum of (x - zero))` over each window; padding adds nothing. `mult` is one for all or one for each output position.
pub(super) fn average_pool(call: &Call) -> Result<Vec<u8>, Diag> {
    let (x, mult) = (call.u8s(0)?, call.i32s(1)?);
    let (rule, zero) = (call.attrs.epilogue(), call.attrs.get(attr::ZERO));
    let mut result = vec![0; call.dims.iter().product()];
    for_windows(call, &mut result, |result, position, elements| {
        let mut sums = vec![0i64; result.len()];
        for element in elements {
            sums.iter_mut().zip(&x[element.clone()]).for_each(|(s, &x)| *s += i64::from(x) - zero);
        }
        for (q, &sum) in result.iter_mut().zip(&sums) {
            *q = rule.apply(accumulator(sum)?, mult[position % mult.len()], 0);
        }
        Ok(())
    })?;
    Ok(result)
}

/// `requant(sum of (x - zero))` over `axes`.
pub(super) fn mean(call: &Call) -> Result<Vec<u8>, Diag> {
    let (groups, count) = grouped(call.u8s(0)?, call.dims_of(0), &call.attrs.sizes(attr::AXES));
    let (rule, zero, mult) = (call.attrs.epilogue(), call.attrs.get(attr::ZERO), call.attrs.get(attr::MULT) as i32);
    let sum = |i: usize| groups[i * count..(i + 1) * count].iter().map(|&x| i64::from(x) - zero).sum::<i64>();
    (0..call.dims.iter().product()).map(|i| Ok(rule.apply(accumulator(sum(i))?, mult, 0))).collect()
}
