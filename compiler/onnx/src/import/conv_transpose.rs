//! `ConvTranspose`: one to three spatial dimensions.

use qcc_ir::{Attrs, Opcode, ValueId, attr};

use super::conv::convolve;
use super::layout::{self, extent};
use super::site::Site;
use super::slice;
use super::window::{Window, volume};
use crate::fault::{Fault, Outcome};

/// Most taps of all phases along a dimension.
const MOST_TAPS: usize = 1 << 16;

/// A convolution of the stretched input, with `s - 1` zeros between its elements, by the flipped weights (Dumoulin and Visin 2016,
/// section 4).
///
/// With stride `s`, dilated kernel `e = d * (k - 1) + 1` and padding `p`, the result has `s * (n - 1) + e - p + output_padding`
/// elements; padding of `e - 1 - p` around the stretched input gives as many.
pub(super) fn conv_transpose(site: &mut Site) -> Outcome<ValueId> {
    let (x, w, bias) = (site.operand(0)?, site.operand(1)?, site.optional(2));
    let (input, kernel) = (volume(site, x)?, volume(site, w)?);
    let rank = input.len();
    if kernel.len() != rank {
        return Err(Fault::shape("input and weights differ in their number of dimensions"));
    }
    let same = site.attrs.string("auto_pad")?.unwrap_or("NOTSET").to_string();
    let numbers = |site: &mut Site, name| -> Outcome<Option<Vec<usize>>> {
        let Some(values) = site.attrs.ints(name)? else { return Ok(None) };
        let sizes: Option<Vec<usize>> = values.iter().map(|&v| usize::try_from(v).ok()).collect();
        let sizes = sizes.filter(|s| s.len() == rank && s.iter().all(|&v| v < 1 << 24));
        sizes.map(Some).ok_or_else(|| Fault::shape(format!("`{name}` is {values:?}")))
    };
    let extra = numbers(site, "output_padding")?.unwrap_or_else(|| vec![0; rank]);
    let wanted = numbers(site, "output_shape")?;
    let mut window = match same.as_str() {
        "NOTSET" | "" | "VALID" => Window::read(site, Some(&kernel), &input)?,
        // Here it is the result that is `stride` times as long, not the input.
        "SAME_UPPER" | "SAME_LOWER" => Window::read(site, Some(&kernel), &vec![1; rank])?,
        other => return Err(Fault::unsupported(format!("`auto_pad` = {other:?} is not supported"))),
    };
    let too_large = || Fault::shape("a transposed convolution overflows");
    let mut around = Vec::new();
    for i in 0..rank {
        let (k, s, d) = (window.kernel[i], window.strides[i], window.dilations[i]);
        let reach = (k.saturating_sub(1)).checked_mul(d).filter(|r| *r < 1 << 24).ok_or_else(too_large)?;
        let full =
            input[i].checked_sub(1).and_then(|n| n.checked_mul(s)).map(|n| n.saturating_add(reach + 1 + extra[i]));
        let full = full.filter(|n| *n < 1 << 24).ok_or_else(too_large)?;
        let target = match &wanted {
            Some(wanted) => Some(wanted[i]),
            None if same.starts_with("SAME") => Some(input[i].saturating_mul(s)),
            None => None,
        };
        if let Some(target) = target {
            let total = full.saturating_sub(target);
            let (less, more) = (total / 2, total - total / 2);
            window.pads[i] = if same == "SAME_UPPER" { [less, more] } else { [more, less] };
            // A result that is longer than everything that is computed ends in zeros.
            around.push(rest([reach, reach + extra[i] + target.saturating_sub(full)], window.pads[i])?);
        } else {
            around.push(rest([reach, reach + extra[i]], window.pads[i])?);
        }
    }
    let groups = site.attrs.int("group")?.unwrap_or(1);
    let count =
        usize::try_from(groups).ok().filter(|&g| g > 0).ok_or_else(|| Fault::shape("`group` is not positive"))?;
    let w = flipped(site, w, count)?;
    if window.strides.iter().any(|&s| s > 1) {
        let axes = (0..rank).map(|i| Axis::new(&window, i, input[i], around[i])).collect::<Outcome<Vec<_>>>()?;
        return phases(site, [x, w], bias, &axes, count);
    }
    let (x, pads) = padded(site, x, &around)?;
    window.pads = pads;
    window.extra = vec![0; rank];
    convolve(site, [x, w], bias, &window, groups, "")
}

/// What is left of the reach of a kernel on both sides behind padding, less than 0 where padding is more.
fn rest(reach: [usize; 2], pads: [usize; 2]) -> Outcome<[i64; 2]> {
    Ok([extent(reach[0])? - extent(pads[0])?, extent(reach[1])? - extent(pads[1])?])
}

/// Padding where numbers are positive; where they are negative, that much of the input is cut away.
fn padded(site: &mut Site, x: ValueId, around: &[[i64; 2]]) -> Outcome<(ValueId, Vec<[usize; 2]>)> {
    let side = |end: usize| [0, 0].into_iter().chain(around.iter().map(move |p| p[end]));
    let pads: Vec<i64> = side(0).chain(side(1)).collect();
    let x = if pads.iter().any(|&p| p < 0) { slice::cut(site, x, &pads)? } else { x };
    Ok((x, around.iter().map(|p| p.map(|v| usize::try_from(v).unwrap_or(0))).collect()))
}

/// One dimension of a transposed convolution with stride `s`, seen as `s` convolutions of the input as it is.
///
/// Result `y = s * q + r` of phase `r` sees the stretched input from `y - b` on, `b` being the padding before it; of that, elements
/// that are no zeros meet the taps `t0 + s * j`, `t0 = (b - r) mod s`, and are the inputs `q + o + j`, `o = (r - b + t0) / s`. The phases
/// get one window that covers them all, in which some weights are 0.
struct Axis {
    /// `s`, or the length of the result if that is less.
    phases: usize,
    /// Elements of the common window.
    kernel: usize,
    /// Results of a phase.
    count: usize,
    /// Results of all of them.
    length: usize,
    pads: [i64; 2],
    /// By phase and element of the window, which of the flipped weights it meets.
    taps: Vec<Option<usize>>,
}

impl Axis {
    fn new(window: &Window, axis: usize, input: usize, [before, after]: [i64; 2]) -> Outcome<Axis> {
        let (k, s, d) = (window.kernel[axis], window.strides[axis], window.dilations[axis]);
        let (reach, stride, input) = (extent((k - 1) * d + 1)?, extent(s)?, extent(input)?);
        let length = stride * (input - 1) + 1 + before + after - reach + 1;
        let Some(results) = usize::try_from(length).ok().filter(|&n| n > 0) else {
            return Err(Fault::shape(format!("the padding leaves nothing of a result: {length} elements")));
        };
        // Of each phase `t0`, `o` and the number of taps.
        let phase = |r: i64| {
            let first = (before - r).rem_euclid(stride);
            (first, (r - before + first) / stride, ((reach - first).max(0) + stride - 1) / stride)
        };
        let phases: Vec<(i64, i64, i64)> = (0..stride.min(length)).map(phase).collect();
        let some = || phases.iter().filter(|(.., taps)| *taps > 0);
        let lo = some().map(|(_, o, _)| *o).min().unwrap_or(0);
        let hi = some().map(|(_, o, taps)| o + taps).max().unwrap_or(1);
        let too_large = || Fault::shape(format!("a stride of {s} with {} taps for each phase is too large", hi - lo));
        let kernel = usize::try_from(hi - lo).ok();
        let kernel = kernel.filter(|k| k.checked_mul(phases.len()).is_some_and(|taps| taps <= MOST_TAPS));
        let kernel = kernel.ok_or_else(too_large)?;
        let tap = |&(first, o, taps): &(i64, i64, i64), element: i64| {
            let at = Some(element + lo - o)
                .filter(|j| (0..taps).contains(j))
                .and_then(|j| usize::try_from(first + stride * j).ok())?;
            at.is_multiple_of(d).then_some(at / d)
        };
        let taps = phases.iter().flat_map(|phase| (0..hi - lo).map(move |element| tap(phase, element))).collect();
        let count = results.div_ceil(s);
        let pads = [-lo, extent(count)? + hi - 1 - input];
        Ok(Axis { phases: phases.len(), kernel, count, length: results, pads, taps })
    }
}

/// All phases as one convolution, whose channels are then moved beside each other.
fn phases(
    site: &mut Site,
    [x, w]: [ValueId; 2],
    bias: Option<ValueId>,
    axes: &[Axis],
    parts: usize,
) -> Outcome<ValueId> {
    let (n, outputs, inputs) = (site.dims(x)[0], site.dims(w)[0], site.dims(w)[1]);
    let channels = outputs / parts;
    let mut w = w;
    for (i, axis) in axes.iter().enumerate() {
        w = with_taps(site, w, 2 + i, &axis.taps)?;
    }
    // [G, M, C, s, K, s, K ..] to [G, s, s .., M, C, K, K ..]
    let rank = axes.len();
    let mut split = vec![parts, channels, inputs];
    axes.iter().for_each(|axis| split.extend([axis.phases, axis.kernel]));
    let (phase_dims, taps) = ((0..rank).map(|i| 3 + 2 * i), (0..rank).map(|i| 4 + 2 * i));
    let perm: Vec<usize> = [0].into_iter().chain(phase_dims).chain([1, 2]).chain(taps).collect();
    let per_axis: Vec<usize> = axes.iter().map(|axis| axis.phases).collect();
    let all = layout::product(&[&[outputs], &per_axis[..]].concat())?;
    let merged: Vec<usize> = [all, inputs].into_iter().chain(axes.iter().map(|axis| axis.kernel)).collect();
    let w = layout::reshape(site, w, &split, "phases")?;
    let w = layout::transpose(site, w, &perm, "phases")?;
    let w = layout::reshape(site, w, &merged, "phases")?;
    let of_phases: usize = per_axis.iter().product();
    let positions: Vec<usize> = (0..parts)
        .flat_map(|g| (0..of_phases).flat_map(move |_| (0..channels).map(move |m| g * channels + m)))
        .collect();
    let bias = bias.map(|bias| layout::at_positions(site, bias, 0, &positions, "phases")).transpose()?;
    let around: Vec<[i64; 2]> = axes.iter().map(|axis| axis.pads).collect();
    let (x, pads) = padded(site, x, &around)?;
    let window = Window {
        kernel: axes.iter().map(|axis| axis.kernel).collect(),
        strides: vec![1; rank],
        dilations: vec![1; rank],
        pads,
        extra: vec![0; rank],
    };
    let y = convolve(site, [x, w], bias, &window, extent(parts)?, "phases")?;
    // [N, G, s, s .., M, Q, Q ..] to [N, G, M, Q, s, Q, s ..]
    let counts: Vec<usize> = axes.iter().map(|axis| axis.count).collect();
    let split = [&[n, parts], &per_axis[..], &[channels], &counts].concat();
    let moved = (0..rank).flat_map(|i| [3 + rank + i, 2 + i]);
    let perm: Vec<usize> = [0, 1, 2 + rank].into_iter().chain(moved).collect();
    let whole: Vec<usize> = axes.iter().map(|axis| axis.count * axis.phases).collect();
    let y = layout::reshape(site, y, &split, "split")?;
    let y = layout::transpose(site, y, &perm, "moved")?;
    let y = layout::reshape(site, y, &[&[n, outputs], &whole[..]].concat(), "")?;
    let mut pads = vec![0; 2 + rank + 2];
    for axis in axes {
        pads.push(extent(axis.length)? - extent(axis.count * axis.phases)?);
    }
    slice::cut(site, y, &pads)
}

/// Weights at these positions along an axis; 0 at none.
fn with_taps(site: &mut Site, w: ValueId, axis: usize, taps: &[Option<usize>]) -> Outcome<ValueId> {
    let dims = site.dims(w);
    let zero = dims[axis];
    let mut w = w;
    if taps.contains(&None) {
        let mut pads = vec![0; 2 * dims.len()];
        pads[dims.len() + axis] = 1;
        w = site.emit(Opcode::Pad, &[w], Attrs::new(Opcode::Pad).with(attr::PADS, layout::list(&pads)?), "phases")?;
    }
    let positions: Vec<usize> = taps.iter().map(|tap| tap.unwrap_or(zero)).collect();
    layout::at_positions(site, w, axis, &positions, "phases")
}

/// Weights `[C, M / groups, ..]` as those of a convolution, `[M, C / groups, ..]`, with their spatial dimensions reversed.
fn flipped(site: &mut Site, w: ValueId, groups: usize) -> Outcome<ValueId> {
    let dims = site.dims(w);
    let (c, m) = (dims[0], dims[1]);
    if c % groups != 0 {
        return Err(Fault::shape(format!("{c} channels in {groups} groups")));
    }
    let spatial = &dims[2..];
    let split: Vec<usize> = [groups, c / groups, m].into_iter().chain(spatial.iter().copied()).collect();
    let merged: Vec<usize> =
        [layout::product(&[groups, m])?, c / groups].into_iter().chain(spatial.iter().copied()).collect();
    let w = layout::reshape(site, w, &split, "groups")?;
    let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..split.len()).collect();
    let w = layout::transpose(site, w, &perm, "swapped")?;
    let mut w = layout::reshape(site, w, &merged, "merged")?;
    for (axis, &n) in merged.iter().enumerate().skip(2) {
        let positions: Vec<usize> = (0..n).rev().collect();
        w = layout::at_positions(site, w, axis, &positions, "flipped")?;
    }
    Ok(w)
}
