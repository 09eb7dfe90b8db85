//! Transposes and reshapes that split or merge dimensions, as in a shuffle of channels to pixels.
//!
//! ```text
//! %a = tensor.transpose(%x) {perm = [0, 3, 1, 2]}         NHWC to NCHW
//! %b = tensor.reshape(%a)                                 [N, s, s, C, H, W]
//! %c = tensor.transpose(%b) {perm = [0, 3, 4, 1, 5, 2]}
//! %d = tensor.reshape(%c)                                 [N, C, s * H, s * W]
//! // becomes
//! %b = tensor.reshape(%x)                                 [N, H, W, s, s, C]
//! %c = tensor.transpose(%b) {perm = [0, 1, 3, 2, 4, 5]}   rows of channels stay together
//! %d' = tensor.reshape(%c)                                [N, s * H, s * W, C]
//! %d = tensor.transpose(%d') {perm = [0, 3, 1, 2]}        moves on
//! ```

use std::ops::Range;

use qcc_ir::{Attrs, Edit, Graph, NodeId, Opcode, Type, ValueId, attr};

use crate::rewrite::{inverse, origin_of, substitute, transposed};

/// NCHW to NHWC.
const TO_NHWC: [usize; 4] = [0, 2, 3, 1];

/// For each dimension of `whole` the dimensions of `parts` into which it is split, if nothing else happens.
fn groups(whole: &[usize], parts: &[usize]) -> Option<Vec<Range<usize>>> {
    let mut groups = Vec::new();
    let mut end = 0;
    for &extent in whole {
        let (start, mut product) = (end, 1);
        while product < extent {
            product *= parts.get(end)?;
            end += 1;
        }
        if extent == 1 && parts.get(end) == Some(&1) {
            end += 1;
        }
        groups.push(start..end);
        if product != extent {
            return None;
        }
    }
    (end == parts.len()).then_some(groups)
}

/// A reshape of a transpose: the transpose's operand and permutation, extents before and after the reshape.
struct Reshaped {
    source: ValueId,
    perm: Vec<usize>,
    before: Vec<usize>,
    after: Vec<usize>,
}

fn reshaped(g: &Graph, n: NodeId) -> Option<Reshaped> {
    let x = *g.operands(n).first().filter(|_| g.op(n) == Opcode::Reshape)?;
    let (source, perm) = transposed(g, x)?;
    Some(Reshaped { source, perm, before: g.ty(x).dims.clone(), after: g.ty(g.result(n)).dims.clone() })
}

/// `reshape(T(x))` that splits dimensions becomes `T'(reshape'(x))` where only transposes follow: they merge with `T'`.
pub(super) fn split_first(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let y = g.result(n);
    let Some(Reshaped { source, perm, before, after }) = reshaped(g, n) else { return false };
    let users = g.uses(y);
    if g.is_output(y) || users.is_empty() || users.iter().any(|&(user, _)| g.op(user) != Opcode::Transpose) {
        return false;
    }
    let Some(groups) = groups(&before, &after).filter(|_| after.len() > before.len()) else { return false };
    let label = format!("layout: %{} = tensor.reshape before its transpose", g.name_of(y));
    let (elem, origin) = (g.ty(y).elem.clone(), origin_of(g, y));
    let name = format!("{}.t", g.name_of(y));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let (mut dims, mut starts) = (Vec::new(), vec![0; perm.len()]);
    for axis in inverse(&perm) {
        starts[axis] = dims.len();
        dims.extend(&after[groups[axis].clone()]);
    }
    let moved: Vec<usize> = groups.iter().zip(&starts).flat_map(|(group, &start)| start..start + group.len()).collect();
    let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, dims.as_slice());
    let inner = change.add(Opcode::Reshape, &[source], attrs, &name, Type { dims, elem }, origin);
    substitute(
        &mut change,
        y,
        Opcode::Transpose,
        &[inner],
        Attrs::new(Opcode::Transpose).with(attr::PERM, moved.as_slice()),
    );
    true
}

/// `reshape(T(x))` that merges to NCHW and tears channels apart that lie together becomes a transpose of the same in NHWC.
pub(super) fn merge_to_nhwc(edit: &mut Edit, n: NodeId) -> bool {
    let g = edit.graph();
    let y = g.result(n);
    let Some(Reshaped { source, perm, before, after }) = reshaped(g, n) else { return false };
    if g.is_output(y) || after.len() != TO_NHWC.len() || before.len() <= after.len() {
        return false;
    }
    let Some(groups) = groups(&after, &before) else { return false };
    let innermost = |group: &Range<usize>| group.end > group.start && perm[group.end - 1] + 1 == perm.len();
    if !innermost(&groups[1]) {
        return false;
    }
    let label = format!("layout: %{} = tensor.reshape with its channels together", g.name_of(y));
    let (elem, origin) = (g.ty(y).elem.clone(), origin_of(g, y));
    let (moved_name, name) = (format!("{}.moved", g.name_of(y)), format!("{}.nhwc", g.name_of(y)));
    let Some(mut change) = edit.begin(label) else {
        return false;
    };
    let order: Vec<usize> = TO_NHWC.iter().flat_map(|&axis| groups[axis].clone()).collect();
    let moved_perm: Vec<usize> = order.iter().map(|&axis| perm[axis]).collect();
    let moved_dims = order.iter().map(|&axis| before[axis]).collect();
    let attrs = Attrs::new(Opcode::Transpose).with(attr::PERM, moved_perm.as_slice());
    let ty = Type { dims: moved_dims, elem: elem.clone() };
    let moved = change.add(Opcode::Transpose, &[source], attrs, &moved_name, ty, origin.clone());
    let dims: Vec<usize> = TO_NHWC.iter().map(|&axis| after[axis]).collect();
    let attrs = Attrs::new(Opcode::Reshape).with(attr::SHAPE, dims.as_slice());
    let merged = change.add(Opcode::Reshape, &[moved], attrs, &name, Type { dims, elem }, origin);
    let back = Attrs::new(Opcode::Transpose).with(attr::PERM, inverse(&TO_NHWC).as_slice());
    substitute(&mut change, y, Opcode::Transpose, &[merged], back);
    true
}

#[cfg(test)]
mod tests {
    use super::groups;

    #[test]
    fn dimensions_are_grouped() {
        assert_eq!(groups(&[2, 12, 5], &[2, 3, 4, 5]), Some(vec![0..1, 1..3, 3..4]));
        assert_eq!(groups(&[1, 4, 1], &[1, 2, 2, 1]), Some(vec![0..1, 1..3, 3..4]));
        assert_eq!(groups(&[4, 1], &[2, 2]), Some(vec![0..2, 2..2]));
        assert_eq!(groups(&[4, 6], &[6, 4]), None);
        assert_eq!(groups(&[4], &[2, 2, 1]), None);
    }
}
