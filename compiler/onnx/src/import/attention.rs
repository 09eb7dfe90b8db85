//! Scaled dot-product attention: the products that every operator of the kind stands for, and ONNX's own `Attention`.

use qcc_ir::{Attrs, Data, Elem, Opcode, Tensor, ValueId, attr};

use super::boolean;
use super::layout::{self, Repeat, apply};
use super::numbers::listed;
use super::select::selected;
use super::shape_ops::join;
use super::site::Site;
use crate::fault::{Fault, Outcome};

/// What a mask of booleans puts in the place of an argument of the softmax that it switches off.
const OFF: f32 = f32::MIN;

/// Queries `[batch, heads, queries, size]`, keys and values `[batch, heads of keys, keys, ..]`, and what is done between their products.
pub(super) struct Heads {
    pub(super) q: ValueId,
    pub(super) k: ValueId,
    pub(super) v: ValueId,
    pub(super) scale: f32,
    /// `c tanh(x / c)` of the arguments of the softmax, unless 0.
    pub(super) softcap: f32,
    /// What is added to the arguments.
    pub(super) bias: Option<ValueId>,
    /// Where they take part.
    pub(super) mask: Option<ValueId>,
}

/// Intermediate results that an operator can be asked for.
pub(super) struct Steps {
    pub(super) raw: ValueId,
    pub(super) masked: ValueId,
    pub(super) capped: ValueId,
    pub(super) shares: ValueId,
    /// `[batch, heads, queries, size of values]`.
    pub(super) y: ValueId,
}

fn rank4(site: &Site, v: ValueId, what: &str) -> Outcome<[usize; 4]> {
    let dims = site.dims(v);
    dims.as_slice().try_into().map_err(|_| Fault::shape(format!("{what} of shape {dims:?}")))
}

impl Heads {
    /// Several heads of queries may share one of keys and values.
    fn shared(&mut self, site: &mut Site) -> Outcome<()> {
        let heads = rank4(site, self.q, "queries")?[1];
        for (v, what) in [(&mut self.k, "keys"), (&mut self.v, "values")] {
            let own = rank4(site, *v, what)?[1];
            if own == heads {
                continue;
            }
            if own == 0 || heads % own != 0 {
                return Err(Fault::shape(format!("{heads} heads of queries for {own} of {what}")));
            }
            *v = layout::repeat(site, *v, &[1, heads / own, 1, 1], Repeat::Elements)?;
        }
        Ok(())
    }

    /// `softmax(scale q k^T + bias) v`, all steps of it.
    pub(super) fn attend(mut self, site: &mut Site) -> Outcome<Steps> {
        self.shared(site)?;
        let turned = layout::transpose(site, self.k, &[0, 1, 3, 2], "turned")?;
        let attrs = Attrs::new(Opcode::MatMul).with(attr::ALPHA, self.scale);
        let raw = site.emit(Opcode::MatMul, &[self.q, turned], attrs, "scores")?;
        let dims = site.dims(raw);
        let capped = match self.softcap {
            0.0 => raw,
            cap => softcapped(site, raw, cap)?,
        };
        let mut masked = capped;
        for v in [self.bias, self.mask].into_iter().flatten() {
            if layout::broadcast(site, v, &dims)? != dims {
                return Err(Fault::shape(format!("a mask of shape {:?} for scores of {dims:?}", site.dims(v))));
            }
        }
        if let Some(bias) = self.bias {
            masked = apply(site, Opcode::Add, &[masked, bias], "biased")?;
        }
        if let Some(mask) = self.mask {
            let off = site.floats(&[], vec![OFF], "off");
            masked = selected(site, mask, masked, off, "masked")?;
        }
        let shares =
            site.emit(Opcode::Softmax, &[masked], Attrs::new(Opcode::Softmax).with(attr::AXIS, 3), "shares")?;
        let y = apply(site, Opcode::MatMul, &[shares, self.v], "attended")?;
        Ok(Steps { raw, masked, capped, shares, y })
    }
}

fn softcapped(site: &mut Site, x: ValueId, cap: f32) -> Outcome<ValueId> {
    if !(cap.is_finite() && cap > 0.0) {
        return Err(Fault::shape(format!("`softcap` = {cap}")));
    }
    let (down, up) = (site.floats(&[], vec![1.0 / cap], "factor"), site.floats(&[], vec![cap], "cap"));
    let small = apply(site, Opcode::Mul, &[x, down], "small")?;
    let bounded = apply(site, Opcode::Tanh, &[small], "bounded")?;
    apply(site, Opcode::Mul, &[bounded, up], "capped")
}

/// `[batch, length, heads * size]` as `[batch, heads, length, size]`.
pub(super) fn split_heads(site: &mut Site, v: ValueId, heads: usize) -> Outcome<ValueId> {
    let &[batch, length, hidden] = site.dims(v).as_slice() else {
        return Err(Fault::shape(format!("{heads} heads of shape {:?}", site.dims(v))));
    };
    if heads == 0 || hidden % heads != 0 {
        return Err(Fault::shape(format!("{heads} heads of {hidden} numbers")));
    }
    let parts = layout::reshape(site, v, &[batch, length, heads, hidden / heads], "heads")?;
    layout::transpose(site, parts, &[0, 2, 1, 3], "heads")
}

/// The inverse of [`split_heads`].
pub(super) fn join_heads(site: &mut Site, v: ValueId) -> Outcome<ValueId> {
    let [batch, heads, length, size] = rank4(site, v, "heads")?;
    let y = layout::transpose(site, v, &[0, 2, 1, 3], "rows")?;
    layout::reshape(site, y, &[batch, length, layout::product(&[heads, size])?], "")
}

/// Keys or values behind those of earlier calls.
pub(super) fn behind(site: &mut Site, past: Option<ValueId>, v: ValueId) -> Outcome<ValueId> {
    match past.filter(|&p| !site.dims(p).contains(&0)) {
        Some(past) => join(site, vec![past, v], 2),
        None => Ok(v),
    }
}

/// Where a query sees a key: none that come after it, the last query being the last key, nor, with a window, those that many or
/// more before it. `first` is the key of the first query.
pub(super) fn causal(
    site: &mut Site,
    queries: usize,
    keys: usize,
    first: usize,
    window: Option<usize>,
) -> Outcome<ValueId> {
    let sees = |i: usize| {
        let (query, key) = (first + i / keys, i % keys);
        u8::from(key <= query && window.is_none_or(|w| query - key < w))
    };
    let mask = (0..listed(&[queries, keys])?).map(sees).collect();
    Ok(site.constant_of(Tensor::new(&[queries, keys], Data::U8(mask)), Elem::Bool, "causal"))
}

/// A mask given as booleans or as numbers that are added.
pub(super) fn given_mask(
    site: &mut Site,
    mask: Option<ValueId>,
    bias: &mut Option<ValueId>,
    conditions: &mut Option<ValueId>,
) -> Outcome<()> {
    let Some(mask) = mask else { return Ok(()) };
    match site.elem(mask) {
        Elem::Bool => *conditions = both(site, *conditions, mask).map(Some)?,
        Elem::F32 => {
            *bias = Some(match *bias {
                Some(other) => apply(site, Opcode::Add, &[other, mask], "bias")?,
                None => mask,
            });
        }
        other => return Err(Fault::shape(format!("a mask of type {other}"))),
    }
    Ok(())
}

/// Where two masks of booleans hold, or the one that there is.
pub(super) fn both(site: &mut Site, a: Option<ValueId>, b: ValueId) -> Outcome<ValueId> {
    match a {
        Some(a) => boolean::both(site, a, b),
        None => Ok(b),
    }
}

/// A positive number of heads.
pub(super) fn heads(site: &mut Site, name: &'static str) -> Outcome<Option<usize>> {
    let Some(n) = site.attrs.int(name)? else { return Ok(None) };
    let heads = usize::try_from(n).ok().filter(|&n| n > 0);
    heads.map(Some).ok_or_else(|| Fault::shape(format!("`{name}` = {n}")))
}

/// ONNX's operator. Queries, keys and values have three dimensions or four; the results are Y, all keys and values, and one of the
/// intermediate steps.
pub(super) fn attention(site: &mut Site) -> Outcome<Vec<ValueId>> {
    // The precision of intermediate results; here f32.
    site.attrs.ignore(&["softmax_precision"]);
    let (q_heads, kv_heads) = (heads(site, "q_num_heads")?, heads(site, "kv_num_heads")?);
    let mode = site.attrs.int("qk_matmul_output_mode")?.unwrap_or(0);
    let mut parts = Vec::new();
    let flat = site.operand(0)?;
    let flat = site.ty(flat).rank() == 3;
    for (i, heads) in [q_heads, kv_heads, kv_heads].into_iter().enumerate() {
        let v = site.operand(i)?;
        parts.push(match (site.ty(v).rank(), heads) {
            (4, _) => v,
            (3, Some(heads)) => split_heads(site, v, heads)?,
            (3, None) => return Err(Fault::shape("the number of heads is missing")),
            _ => return Err(Fault::shape(format!("operand {i} of shape {:?}", site.dims(v)))),
        });
    }
    let (past_k, past_v) = (site.optional(4), site.optional(5));
    let (k, v) = (behind(site, past_k, parts[1])?, behind(site, past_v, parts[2])?);
    let ([_, _, queries, size], [_, _, keys, _]) = (rank4(site, parts[0], "queries")?, rank4(site, k, "keys")?);
    let scale = site.attrs.float("scale")?.unwrap_or(1.0 / (size as f32).sqrt());
    let (mut bias, mut mask) = (None, None);
    let given = site.optional(3);
    let given = match given {
        Some(m) => Some(filled(site, m, keys)?),
        None => None,
    };
    given_mask(site, given, &mut bias, &mut mask)?;
    if site.attrs.flag("is_causal", false)? {
        let first = site.ty(k).dims[2] - site.ty(parts[1]).dims[2];
        mask = Some(match mask {
            Some(mask) => {
                let causal = causal(site, queries, keys, first, None)?;
                boolean::both(site, mask, causal)?
            }
            None => causal(site, queries, keys, first, None)?,
        });
    }
    if let Some(lengths) = site.optional(6) {
        let within = within_lengths(site, lengths, keys)?;
        mask = Some(both(site, mask, within)?);
    }
    let softcap = site.attrs.float("softcap")?.unwrap_or(0.0);
    let steps = Heads { q: parts[0], k, v, scale, softcap, bias, mask }.attend(site)?;
    let y = if flat { join_heads(site, steps.y)? } else { steps.y };
    let mut results = vec![y, k, v];
    if site.result_count() > 3 {
        results.push(match mode {
            0 => steps.raw,
            1 => steps.capped,
            2 => steps.masked,
            3 => steps.shares,
            other => return Err(Fault::shape(format!("`qk_matmul_output_mode` = {other}"))),
        });
    }
    Ok(results)
}

/// A mask that ends before the keys switches the others off.
fn filled(site: &mut Site, mask: ValueId, keys: usize) -> Outcome<ValueId> {
    let dims = site.dims(mask);
    let missing = dims.last().filter(|&&n| n > 1).and_then(|n| keys.checked_sub(*n)).unwrap_or(0);
    if missing == 0 {
        return Ok(mask);
    }
    let mut rest = dims.clone();
    if let Some(last) = rest.last_mut() {
        *last = missing;
    }
    let count = listed(&rest)?;
    let elem = site.elem(mask);
    let data = match elem {
        Elem::Bool => Data::U8(vec![0; count]),
        _ => Data::F32(vec![OFF; count]),
    };
    let off = site.constant_of(Tensor::new(&rest, data), elem, "off");
    let axis = layout::extent(dims.len() - 1)?;
    join(site, vec![mask, off], axis)
}

/// Which of `keys` keys of each sample take part, of which there are as many as `lengths` `[batch]` says: `[batch, 1, 1, keys]`.
pub(super) fn within_lengths(site: &mut Site, lengths: ValueId, keys: usize) -> Outcome<ValueId> {
    let &[batch] = site.dims(lengths).as_slice() else {
        return Err(Fault::shape(format!("lengths of shape {:?}", site.dims(lengths))));
    };
    let cells = listed(&[keys + 1, keys])?;
    let counts = (0..cells).map(|i| u8::from(i % keys < i / keys)).collect();
    let table = site.constant_of(Tensor::new(&[keys + 1, keys], Data::U8(counts)), Elem::Bool, "lengths");
    let rows = boolean::row(site, table, lengths)?;
    layout::reshape(site, rows, &[batch, 1, 1, keys], "within")
}
