//! Border rows of an image: at the top and at the bottom some kernel rows lie in the padding alone. What they add is known when the
//! network is compiled, and is part of the biases there.

use qcc_ir::window::Window;

/// Most ranges of rows of an image; each is a microkernel of its own.
const MOST: usize = 7;

/// Neighbouring rows of the result that meet the same kernel rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRange {
    /// The first of them.
    pub first: usize,
    /// Their number.
    pub rows: usize,
    /// Kernel rows that are left out, the first and the last.
    pub left_out: [usize; 2],
}

impl RowRange {
    /// All rows with all kernel rows.
    pub fn whole(rows: usize) -> RowRange {
        RowRange { first: 0, rows, left_out: [0; 2] }
    }
}

/// The ranges of an image, from the top, if there are several and they are few.
pub fn of(window: &Window, in_rows: usize, out_rows: usize) -> Option<Vec<RowRange>> {
    let mut ranges: Vec<RowRange> = Vec::new();
    for row in 0..out_rows {
        let left_out = left_out(window, in_rows, row);
        match ranges.last_mut() {
            Some(range) if range.left_out == left_out => range.rows += 1,
            _ => ranges.push(RowRange { first: row, rows: 1, left_out }),
        }
        if ranges.len() > MOST {
            return None;
        }
    }
    (ranges.len() > 1).then_some(ranges)
}

/// Kernel rows, at either end, that meet only padding; at least one row stays.
fn left_out(window: &Window, in_rows: usize, row: usize) -> [usize; 2] {
    let kernel = window.kernel[0];
    let meets = |k: &usize| {
        let at = row * window.strides[0] + k * window.dilations[0];
        (window.pads[0]..window.pads[0] + in_rows).contains(&at)
    };
    let Some(first) = (0..kernel).find(meets) else { return [0, kernel - 1] };
    let last = (first..kernel).rev().find(meets).unwrap_or(first);
    [first, kernel - 1 - last]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, pad: usize, dilation: usize) -> Window {
        Window { kernel: [kernel; 2], strides: [stride; 2], pads: [pad; 4], dilations: [dilation; 2] }
    }

    fn check(window: &Window, rows: usize, expected: &[(usize, usize, [usize; 2])]) {
        let out = window.output(rows, rows).expect("fits")[0];
        let found = of(window, rows, out).unwrap_or_default();
        let found: Vec<_> = found.iter().map(|range| (range.first, range.rows, range.left_out)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn ranges_of_common_windows() {
        check(&window(3, 1, 1, 1), 7, &[(0, 1, [1, 0]), (1, 5, [0, 0]), (6, 1, [0, 1])]);
        check(&window(3, 2, 1, 1), 8, &[(0, 1, [1, 0]), (1, 3, [0, 0])]);
        check(&window(3, 1, 4, 4), 6, &[(0, 2, [1, 0]), (2, 2, [1, 1]), (4, 2, [0, 1])]);
        check(&window(1, 1, 0, 1), 9, &[]);
        check(&window(3, 1, 0, 1), 9, &[]);
        // Rows 0, 1 and 6, 7 see nothing but padding.
        check(&window(1, 1, 2, 1), 4, &[]);
        check(&window(17, 1, 8, 1), 40, &[]);
    }
}
