//! The matrix product: the only place that calls the `gemm-f32` crate, also for those who train.

use gemm_common::Parallelism;

/// A matrix inside a slice: element (i, j) is `data[i * row + j * column]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// Elements from (0, 0) on.
    pub data: &'a [f32],
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub column: usize,
}

/// Largest index that an `m` by `n` matrix with these strides reads, plus one.
fn span(m: usize, n: usize, row: usize, column: usize) -> usize {
    if m == 0 || n == 0 { 0 } else { (m - 1) * row + (n - 1) * column + 1 }
}

/// `out += a * b` on the calling thread: `a` is `m` by `k`, `b` is `k` by `n`, and `out` has rows `row` apart and columns next to each
/// other. Panics where a matrix ends outside its data.
pub fn multiply_add_alone(sizes: (usize, usize, usize), a: Matrix, b: Matrix, out: &mut [f32], row: usize) {
    multiply_add(sizes, a, b, out, row, Parallelism::None);
}

/// `out = a * b`, likewise; `k` is at least 1.
pub fn multiply_alone(sizes: (usize, usize, usize), a: Matrix, b: Matrix, out: &mut [f32], row: usize) {
    assert!(sizes.2 > 0, "a product without terms");
    multiply(sizes, a, b, out, row, false, Parallelism::None);
}

/// `out += a * b` with `a` of `m` by `k` and `b` of `k` by `n`; `out` has rows `row` apart and columns next to each other.
pub(super) fn multiply_add(
    sizes: (usize, usize, usize),
    a: Matrix,
    b: Matrix,
    out: &mut [f32],
    row: usize,
    parallelism: Parallelism,
) {
    multiply(sizes, a, b, out, row, true, parallelism);
}

/// The same, or without what `out` was if it does not `add`.
fn multiply(
    (m, n, k): (usize, usize, usize),
    a: Matrix,
    b: Matrix,
    out: &mut [f32],
    row: usize,
    add: bool,
    parallelism: Parallelism,
) {
    assert!(span(m, k, a.row, a.column) <= a.data.len(), "left matrix ends outside its data");
    assert!(span(k, n, b.row, b.column) <= b.data.len(), "right matrix ends outside its data");
    assert!(span(m, n, row, 1) <= out.len() && (row >= n || m <= 1), "result ends outside its data or overlaps itself");
    // SAFETY: by the assertions all elements that are read or written lie inside their slices and no element of the
    // result is written twice; `out` is borrowed exclusively, so that it overlaps neither operand. Slices are shorter
    // than `isize::MAX`, and so are all strides that are used.
    unsafe {
        let gemm = gemm_f32::gemm::f32::get_gemm_fn();
        let (left, right) = (a.data.as_ptr(), b.data.as_ptr());
        let (left_column, left_row) = (a.column as isize, a.row as isize);
        let (right_column, right_row) = (b.column as isize, b.row as isize);
        let (out, row) = (out.as_mut_ptr(), row as isize);
        // The kernels write columns: rows of the result are columns of its transpose, which is the product of the
        // transposes in the other order.
        let (left, right) = ((m, left, left_column, left_row), (n, right, right_column, right_row));
        // Column and row of an operand trade places in its transpose.
        let transposed = |(count, data, column, row)| (count, data, row, column);
        let ((m, left, left_column, left_row), (n, right, right_column, right_row), column) =
            if row > 1 { (transposed(right), transposed(left), row) } else { (left, right, 1) };
        let row = if row > 1 { 1 } else { row };
        gemm(
            m,
            n,
            k,
            out,
            column,
            row,
            add,
            left,
            left_column,
            left_row,
            right,
            right_column,
            right_row,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
