//! An operator with its attributes and operands, and what rules ask of them.

use super::broadcast;
use crate::attr::{self, Key};
use crate::ops::{Attrs, OpInfo, Opcode};
use crate::types::Type;
use crate::window::Window;

/// An operator with attributes and operands that its row allows in number and presence.
pub struct Call<'a> {
    pub info: &'static OpInfo,
    pub attrs: &'a Attrs,
    pub operands: &'a [&'a Type],
}

impl<'a> Call<'a> {
    pub fn new(op: Opcode, attrs: &'a Attrs, operands: &'a [&'a Type]) -> Result<Call<'a>, String> {
        let info = op.info();
        if attrs.op() != op {
            return Err(format!("`{}` has the attributes of `{}`", info.name, attrs.op().name()));
        }
        let (least, greatest) = info.arity();
        if !(least..=greatest).contains(&operands.len()) {
            let wanted = match greatest {
                usize::MAX => format!("at least {least} operands"),
                1 if least == 1 => "one operand".to_string(),
                _ if least == greatest => format!("{least} operands"),
                _ => format!("{least} to {greatest} operands"),
            };
            return Err(format!("expected {wanted} of `{}`, found {}", info.name, operands.len()));
        }
        if let Some(name) = attrs.missing().next() {
            return Err(format!("`{}` lacks attribute `{name}`", info.name));
        }
        if let Some(t) = operands.iter().find(|t| t.checked_elements().is_none()) {
            return Err(format!("an operand of shape {:?} has too many elements", t.dims));
        }
        Ok(Call { info, attrs, operands })
    }

    pub fn dims(&self, i: usize) -> &[usize] {
        &self.operands[i].dims
    }

    /// `expected x of .., found [1, 3]`.
    pub fn expected(&self, i: usize, wanted: impl std::fmt::Display) -> String {
        format!("expected {} of {wanted}, found {:?}", operand_name(self.info, i), self.dims(i))
    }

    pub fn of_rank<const N: usize>(&self, i: usize) -> Result<[usize; N], String> {
        self.dims(i).try_into().map_err(|_| self.expected(i, format_args!("rank {N}")))
    }

    pub fn expect_dims(&self, i: usize, dims: &[usize]) -> Result<(), String> {
        if self.dims(i) == dims { Ok(()) } else { Err(self.expected(i, format_args!("shape {dims:?}"))) }
    }

    /// The same, if the optional operand is there.
    pub fn expect_optional(&self, i: usize, dims: &[usize]) -> Result<(), String> {
        if i < self.operands.len() { self.expect_dims(i, dims) } else { Ok(()) }
    }

    /// A list attribute without negative elements.
    pub fn sizes(&self, key: Key<Vec<i64>>) -> Result<Vec<usize>, String> {
        let (name, list) = (key.name(), self.attrs.get(key));
        let sizes: Option<Vec<usize>> = list.iter().map(|&v| usize::try_from(v).ok()).collect();
        sizes.ok_or_else(|| format!("expected `{name}` without negative elements, found {list:?}"))
    }

    /// A list attribute of `n` elements, none negative.
    pub fn sizes_of(&self, key: Key<Vec<i64>>, n: usize) -> Result<Vec<usize>, String> {
        let (name, sizes) = (key.name(), self.sizes(key)?);
        if sizes.len() == n { Ok(sizes) } else { Err(format!("expected `{name}` of {n} elements, found {sizes:?}")) }
    }

    /// The attribute `axis`, of operand `i`.
    pub fn axis(&self, i: usize) -> Result<usize, String> {
        let (axis, rank) = (self.attrs.get(attr::AXIS), self.dims(i).len());
        let inside = usize::try_from(axis).ok().filter(|&a| a < rank);
        inside.ok_or_else(|| format!("expected `axis` in 0..{rank}, found {axis}"))
    }

    /// The result of reducing operand 0 over the attribute `axes`.
    pub fn reduced(&self) -> Result<Vec<usize>, String> {
        let (axes, keep) = (self.sizes(attr::AXES)?, self.attrs.get(attr::KEEPDIMS));
        let rank = self.dims(0).len();
        if axes.iter().enumerate().any(|(i, a)| *a >= rank || axes[..i].contains(a)) {
            return Err(format!("expected `axes` to be different axes in 0..{rank}, found {axes:?}"));
        }
        let dims = self.dims(0).iter().enumerate();
        Ok(dims
            .filter(|(i, _)| keep || !axes.contains(i))
            .map(|(i, &d)| if axes.contains(&i) { 1 } else { d })
            .collect())
    }

    pub fn broadcast(&self, a: usize, b: usize) -> Result<Vec<usize>, String> {
        broadcast(self.dims(a), self.dims(b))
    }

    /// Checks that operand `i` broadcasts to the shape of operand `to`.
    pub fn broadcasts_to(&self, i: usize, to: usize) -> Result<(), String> {
        match self.broadcast(i, to) {
            Ok(dims) if dims == self.dims(to) => Ok(()),
            _ => Err(self.expected(i, format_args!("a shape that broadcasts to {:?}", self.dims(to)))),
        }
    }

    pub fn conv_window(&self, kernel: [usize; 2]) -> Result<Window, String> {
        for (key, n) in [(attr::STRIDES, 2), (attr::PADS, 4), (attr::DILATIONS, 2)] {
            self.sizes_of(key, n)?;
        }
        Ok(Window::conv(self.attrs, kernel))
    }

    pub fn pool_window(&self) -> Result<Window, String> {
        for (key, n) in [(attr::KERNEL, 2), (attr::STRIDES, 2), (attr::PADS, 4), (attr::DILATIONS, 2)] {
            if self.attrs.has(key) {
                self.sizes_of(key, n)?;
            }
        }
        Ok(Window::pool(self.attrs))
    }

    /// The result of a window over operand 0; a window that may lie in the padding alone only where padding counts.
    pub fn pooled(&self, padding_counts: bool) -> Result<Vec<usize>, String> {
        let [n, c, h, w] = self.of_rank(0)?;
        let window = self.pool_window()?;
        let [h, w] = if padding_counts { window.output(h, w)? } else { window.output_nonempty(h, w)? };
        Ok(vec![n, c, h, w])
    }

    /// Checks the channels of a convolution: `o` outputs from `c` inputs, of which each group's weights see `per_group`.
    pub fn check_groups(&self, c: usize, o: usize, per_group: usize) -> Result<(), String> {
        let groups = self.attrs.get(attr::GROUPS);
        match usize::try_from(groups) {
            Ok(g) if g > 0 && per_group.checked_mul(g) == Some(c) && o.is_multiple_of(g) => Ok(()),
            _ => Err(format!("{c} channels in, {o} out and weights over {per_group} do not fit `groups` = {groups}")),
        }
    }
}

/// Name of operand `i` without its marks; of an open list, with its number.
pub fn operand_name(info: &OpInfo, i: usize) -> String {
    match info.operands.get(i).or(info.operands.last()) {
        Some(name) if name.ends_with('*') => format!("{}[{i}]", name.trim_end_matches('*')),
        Some(name) => name.trim_end_matches('?').to_string(),
        None => format!("operand {i}"),
    }
}
