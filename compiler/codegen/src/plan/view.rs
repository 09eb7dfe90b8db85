//! Where a value lies in a buffer.

use qcc_ir::{Int, Type};

use super::buffer::{BufferId, SLACK};
use super::halo::Halo;

/// A strided view of a buffer. All distances are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferView {
    /// The buffer.
    pub buffer: BufferId,
    /// From the start of the buffer to the first element.
    pub offset: usize,
    /// Extent of each dimension.
    pub dims: Vec<usize>,
    /// Distance between neighbours in each dimension.
    pub strides: Vec<usize>,
    /// Size of one element.
    pub element: usize,
}

/// Bytes of one element of a value as kernels see it: 4-bit integers take a byte, like truth values.
pub fn element_bytes(ty: &Type) -> usize {
    match ty.elem.storage() {
        Some(Int::I4 | Int::U4 | Int::I8 | Int::U8) | None => 1,
        Some(Int::I16) => 2,
        Some(Int::I32) => 4,
        Some(Int::I64) => 8,
    }
}

impl BufferView {
    /// A dense view with room for a halo around height and width (NHWC), and the bytes that it takes.
    pub fn with_halo(buffer: BufferId, ty: &Type, halo: &Halo) -> (BufferView, usize) {
        let element = element_bytes(ty);
        let mut physical = ty.dims.clone();
        if let [_, h, w, _] = physical.as_mut_slice() {
            *h += halo.top + halo.bottom;
            *w += halo.left + halo.right;
        }
        let mut strides = vec![element; physical.len()];
        for i in (1..physical.len()).rev() {
            strides[i - 1] = strides[i] * physical[i];
        }
        let bytes = physical.iter().product::<usize>() * element;
        let offset = if physical.len() == 4 { halo.top * strides[1] + halo.left * strides[2] } else { 0 };
        let view = BufferView { buffer, offset, dims: ty.dims.clone(), strides, element };
        (view, bytes + SLACK)
    }

    /// True if the elements follow each other without gaps.
    pub fn is_dense(&self) -> bool {
        let mut expected = self.element;
        self.dims.iter().zip(&self.strides).rev().all(|(&d, &s)| {
            let fits = d == 1 || s == expected;
            expected *= d;
            fits
        })
    }

    /// The same elements in another shape, if they are dense.
    pub fn reshaped(&self, ty: &Type) -> Option<BufferView> {
        if !self.is_dense() {
            return None;
        }
        let (view, _) = BufferView::with_halo(self.buffer, ty, &Halo::NONE);
        Some(BufferView { offset: self.offset, ..view })
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    /// The view with its dimensions in another order.
    pub fn permuted(&self, perm: &[usize]) -> BufferView {
        let pick = |v: &[usize]| perm.iter().map(|&p| v[p]).collect();
        BufferView { dims: pick(&self.dims), strides: pick(&self.strides), ..self.clone() }
    }

    /// The view broadcast to `dims` (NumPy's rule): repeated dimensions have stride 0.
    pub fn broadcast(&self, dims: &[usize]) -> BufferView {
        let missing = dims.len() - self.dims.len();
        let stride = |i: usize| match i.checked_sub(missing) {
            Some(j) if self.dims[j] == dims[i] => self.strides[j],
            _ => 0,
        };
        BufferView { dims: dims.to_vec(), strides: (0..dims.len()).map(stride).collect(), ..self.clone() }
    }

    /// The part of the view that starts at `starts`, takes every `steps`-th element and has extents `dims`.
    pub fn window(&self, starts: &[usize], steps: &[usize], dims: &[usize]) -> BufferView {
        let shift: usize = starts.iter().zip(&self.strides).map(|(a, b)| a * b).sum();
        let strides = self.strides.iter().zip(steps).map(|(a, b)| a * b).collect();
        BufferView { offset: self.offset + shift, dims: dims.to_vec(), strides, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halo_moves_the_first_element_and_widens_rows() {
        let halo = Halo { top: 1, left: 2, bottom: 1, right: 0, value: 7 };
        let (p, bytes) = BufferView::with_halo(0, &Type::int(Int::U8, &[1, 4, 4, 8]), &halo);
        assert_eq!((p.offset, p.strides.clone(), bytes), (6 * 8 + 2 * 8, vec![6 * 6 * 8, 48, 8, 1], 6 * 6 * 8 + SLACK));
        assert!(!p.is_dense() && p.reshaped(&Type::int(Int::U8, &[128])).is_none());
    }

    #[test]
    fn views_share_strides() {
        let (p, _) = BufferView::with_halo(0, &Type::int(Int::I32, &[2, 3]), &Halo::NONE);
        assert_eq!(p.permuted(&[1, 0]).strides, [4, 12]);
        assert_eq!(p.broadcast(&[5, 2, 3]).strides, [0, 12, 4]);
        assert_eq!(p.window(&[1, 0], &[1, 2], &[1, 2]).offset, 12);
    }
}
