//! Row-major layout: strides, broadcasting, and one walk through several arrays at once.

/// Distance in elements between neighbours along each dimension.
pub(crate) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i];
    }
    strides
}

/// Strides with which an array of shape `dims` is read as one of shape `out`: aligned at the last dimension, 0 where an
/// extent of 1 (or none) is repeated.
pub(crate) fn broadcast_strides(dims: &[usize], out: &[usize]) -> Vec<usize> {
    let own = strides(dims);
    let missing = out.len() - dims.len();
    let stride = |i: usize| if i < missing || dims[i - missing] == 1 { 0 } else { own[i - missing] };
    (0..out.len()).map(stride).collect()
}

/// Products of the extents before `axis`, of `axis`, and after it.
pub(crate) fn around(dims: &[usize], axis: usize) -> (usize, usize, usize) {
    (dims[..axis].iter().product(), dims[axis], dims[axis + 1..].iter().product())
}

/// A row-major walk over one shape through `N` arrays with strides of their own. Dimensions that are contiguous in all
/// arrays are merged, so that the rows are as long as they can be.
pub(crate) struct Walk<const N: usize> {
    outer: Vec<(usize, [usize; N])>,
    row: (usize, [usize; N]),
}

impl<const N: usize> Walk<N> {
    /// A walk over `dims`; `strides` has one entry per dimension for each array.
    pub(crate) fn new(dims: &[usize], strides: [&[usize]; N]) -> Walk<N> {
        let mut merged: Vec<(usize, [usize; N])> = Vec::new();
        for (i, &extent) in dims.iter().enumerate() {
            let step = strides.map(|s| s[i]);
            match merged.last_mut() {
                _ if extent == 1 => {}
                Some((n, outer)) if (0..N).all(|k| outer[k] == step[k] * extent) => {
                    *n *= extent;
                    *outer = step;
                }
                Some(_) | None => merged.push((extent, step)),
            }
        }
        let row = merged.pop().unwrap_or((1, [1; N]));
        Walk { outer: merged, row }
    }

    /// Calls `f` for each row with the offset of its first element in each array, its length, and the strides along it.
    pub(crate) fn rows(&self, mut f: impl FnMut([usize; N], usize, [usize; N])) {
        let (length, steps) = self.row;
        if length == 0 || self.outer.iter().any(|(n, _)| *n == 0) {
            return;
        }
        let mut index = vec![0; self.outer.len()];
        let mut offsets = [0; N];
        loop {
            f(offsets, length, steps);
            let mut d = self.outer.len();
            loop {
                if d == 0 {
                    return;
                }
                d -= 1;
                let (extent, step) = self.outer[d];
                index[d] += 1;
                if index[d] < extent {
                    (0..N).for_each(|k| offsets[k] += step[k]);
                    break;
                }
                index[d] = 0;
                (0..N).for_each(|k| offsets[k] -= step[k] * (extent - 1));
            }
        }
    }
}

/// The elements at `offset + sum(index[i] * strides[i])` for all indices of shape `dims`, in row-major order.
pub(crate) fn gather<T: Copy>(source: &[T], offset: usize, dims: &[usize], strides: &[usize]) -> Vec<T> {
    let mut out = Vec::with_capacity(dims.iter().product());
    Walk::new(dims, [strides]).rows(|[start], n, [step]| {
        let start = offset + start;
        match step {
            0 => out.extend(std::iter::repeat_n(source[start], n)),
            1 => out.extend_from_slice(&source[start..start + n]),
            _ => out.extend(source[start..].iter().step_by(step).take(n)),
        }
    });
    out
}

/// The elements in such an order that those which differ only in their index along `axes` follow one another, and how many
/// these are.
pub(crate) fn grouped<T: Copy>(x: &[T], dims: &[usize], axes: &[usize]) -> (Vec<T>, usize) {
    let (kept, taken): (Vec<usize>, Vec<usize>) = (0..dims.len()).partition(|d| !axes.contains(d));
    let own = strides(dims);
    let order: Vec<usize> = kept.iter().chain(&taken).copied().collect();
    let moved: Vec<usize> = order.iter().map(|&d| dims[d]).collect();
    let steps: Vec<usize> = order.iter().map(|&d| own[d]).collect();
    (gather(x, 0, &moved, &steps), taken.iter().map(|&d| dims[d]).product())
}

/// `f` of each pair of elements of two arrays that are broadcast to shape `out`.
pub(crate) fn zip_broadcast<T: Copy, R>(
    (a, a_dims): (&[T], &[usize]),
    (b, b_dims): (&[T], &[usize]),
    out: &[usize],
    mut result: Vec<R>,
    f: impl Fn(T, T) -> R,
) -> Vec<R> {
    result.clear();
    result.reserve(out.iter().product());
    let walk = Walk::new(out, [&broadcast_strides(a_dims, out), &broadcast_strides(b_dims, out)]);
    walk.rows(|[i, j], n, steps| match steps {
        [1, 1] => result.extend(a[i..i + n].iter().zip(&b[j..j + n]).map(|(&x, &y)| f(x, y))),
        [1, 0] => {
            let y = b[j];
            result.extend(a[i..i + n].iter().map(|&x| f(x, y)));
        }
        [0, 1] => {
            let x = a[i];
            result.extend(b[j..j + n].iter().map(|&y| f(x, y)));
        }
        [s, t] => result.extend((0..n).map(|k| f(a[i + k * s], b[j + k * t]))),
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_dimensions_merge() {
        let s = strides(&[2, 3, 4]);
        let walk = Walk::new(&[2, 3, 4], [&s]);
        assert!(walk.outer.is_empty());
        assert_eq!(walk.row, (24, [1]));
        // A channel vector against NCHW: rows are whole planes.
        let dims = [2, 3, 4, 5];
        let walk = Walk::new(&dims, [&strides(&dims), &broadcast_strides(&[3, 1, 1], &dims)]);
        assert_eq!(walk.row, (20, [1, 0]));
    }

    #[test]
    fn gather_transposes_broadcasts_and_handles_empty_shapes() {
        let x: Vec<i32> = (0..6).collect();
        assert_eq!(gather(&x, 0, &[3, 2], &[1, 3]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(gather(&x, 1, &[2, 2], &[0, 2]), [1, 3, 1, 3]);
        assert_eq!(gather(&x, 4, &[], &[]), [4]);
        assert_eq!(gather(&x, 0, &[2, 0, 3], &[1, 1, 1]), [0; 0]);
    }

    #[test]
    fn broadcasting_aligns_last_dimensions() {
        let a = [1, 2, 3];
        let b = [10, 20];
        let sums = zip_broadcast((&a, &[3]), (&b, &[2, 1]), &[2, 3], Vec::new(), |x, y| x + y);
        assert_eq!(sums, [11, 12, 13, 21, 22, 23]);
        let scalar = zip_broadcast((&a[..1], &[]), (&b[..1], &[1, 1]), &[1, 1], Vec::new(), |x, y| x * y);
        assert_eq!(scalar, [10]);
    }
}
