//! Attention as ONNX Runtime's optimizer and model builder write it, in the domain `com.microsoft`.

use qcc_ir::{Data, Elem, Format, Opcode, Tensor, Uniform, ValueId};

use super::affine::{Parameters, as_real, format_of, real_before};
use super::attention::{Heads, behind, both, causal, given_mask, heads, join_heads, split_heads, within_lengths};
use super::boolean;
use super::layout::{self, apply};
use super::numbers::listed;
use super::rotary::{Angles, Pairs, Positions, rotate};
use super::shape_ops::join;
use super::site::Site;
use super::slice::{part, parts};
use crate::fault::{Fault, Outcome};

/// Queries, keys and values as heads.
struct Parts {
    q: ValueId,
    k: ValueId,
    v: ValueId,
}

/// Number `i` of dimension `axis`, without that dimension.
fn element(site: &mut Site, v: ValueId, axis: usize, i: usize) -> Outcome<ValueId> {
    let mut dims = site.dims(v);
    let one = part(site, v, axis, i..i + 1)?;
    dims.remove(axis);
    layout::reshape(site, one, &dims, "element")
}

/// The factor of the scores: by default the root of the size of a head.
fn scale(site: &mut Site, q: ValueId) -> Outcome<f32> {
    let size = site.dims(q).last().copied().unwrap_or(1);
    Ok(site.attrs.float("scale")?.filter(|&s| s != 0.0).unwrap_or(1.0 / (size as f32).sqrt()))
}

/// Which of `keys` keys take part, by a mask of integers: lengths `[batch]`, ends and begins `[2 batch]`, or a number for each key
/// `[batch, keys]` or each query and key `[batch, queries, keys]`.
fn key_mask(site: &mut Site, mask: ValueId, batch: usize, keys: usize) -> Outcome<ValueId> {
    if site.elem(mask) == Elem::Bool {
        return Err(Fault::shape("a mask of booleans in the place of integers"));
    }
    match *site.dims(mask).as_slice() {
        [n] if n == batch => within_lengths(site, mask, keys),
        [n] if n == 2 * batch => {
            let ends = parts(site, mask, 0, &[batch, batch])?;
            let (end, begin) = (within_lengths(site, ends[0], keys)?, within_lengths(site, ends[1], keys)?);
            let behind = boolean::opposite(site, begin)?;
            boolean::both(site, end, behind)
        }
        [b, n] if b == batch && n == keys => {
            let holds = boolean::of_integers(site, mask)?;
            layout::reshape(site, holds, &[batch, 1, 1, keys], "mask")
        }
        [b, q, n] if b == batch && n == keys => {
            let holds = boolean::of_integers(site, mask)?;
            layout::reshape(site, holds, &[batch, 1, q, keys], "mask")
        }
        ref dims => Err(Fault::unsupported(format!("a mask of shape {dims:?} for {keys} keys"))),
    }
}

/// A causal mask beside another, if the node asks for one.
fn unidirectional(site: &mut Site, mask: Option<ValueId>, queries: usize, keys: usize) -> Outcome<Option<ValueId>> {
    if !site.attrs.flag("unidirectional", false)? {
        return Ok(mask);
    }
    let first = keys.checked_sub(queries).ok_or_else(|| Fault::shape(format!("{queries} queries for {keys} keys")))?;
    let causal = causal(site, queries, keys, first, None)?;
    both(site, mask, causal).map(Some)
}

/// `Attention`: operands input, weights of all three, their bias, mask, earlier keys and values, and what is added to scores.
pub(super) fn attention(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let (x, w, bias) = (site.operand(0)?, site.operand(1)?, site.optional(2));
    let columns = site.dims(w).get(1).copied().unwrap_or(0);
    let sizes = hidden_sizes(site, columns)?;
    let weights = parts(site, w, 1, &sizes)?;
    let biases = match bias {
        Some(b) => parts(site, b, 0, &sizes)?.into_iter().map(Some).collect(),
        None => vec![None; 3],
    };
    let mut projected = Vec::new();
    for (w, bias) in weights.into_iter().zip(biases) {
        let w = layout::transpose(site, w, &[1, 0], "weights")?;
        let operands: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
        projected.push(apply(site, Opcode::Linear, &operands, "projected")?);
    }
    attended(site, &projected, [3, 4, 5])
}

/// How many numbers queries, keys and values have.
fn hidden_sizes(site: &mut Site, columns: usize) -> Outcome<Vec<usize>> {
    match site.attrs.ints("qkv_hidden_sizes")? {
        Some(sizes) if sizes.len() == 3 => crate::tensor::extents(sizes),
        Some(sizes) => Err(Fault::shape(format!("`qkv_hidden_sizes` = {sizes:?}"))),
        None if columns.is_multiple_of(3) => Ok(vec![columns / 3; 3]),
        None => Err(Fault::shape(format!("weights of {columns} columns"))),
    }
}

/// The rest of `Attention` and `QAttention`: mask, earlier keys and values, and what is added to scores are these operands.
fn attended(site: &mut Site, projected: &[ValueId], [mask, past, added]: [usize; 3]) -> Outcome<Vec<ValueId>> {
    site.attrs.ignore(&["mask_filter_value", "past_present_share_buffer", "rotary_embedding_dim"]);
    if site.attrs.flag("do_rotary", false)? {
        return Err(Fault::unsupported("`do_rotary` = 1 is not supported"));
    }
    let number = heads(site, "num_heads")?.ok_or_else(|| Fault::shape("attribute `num_heads` is missing"))?;
    let mut split = Vec::new();
    for &v in projected {
        split.push(split_heads(site, v, number)?);
    }
    let parts = Parts { q: split[0], k: split[1], v: split[2] };
    let earlier = match site.optional(past) {
        Some(past) if !site.dims(past).contains(&0) => {
            [Some(element(site, past, 0, 0)?), Some(element(site, past, 0, 1)?)]
        }
        _ => [None, None],
    };
    let (k, v) = (behind(site, earlier[0], parts.k)?, behind(site, earlier[1], parts.v)?);
    let (batch, queries, keys) = (site.dims(parts.q)[0], site.dims(parts.q)[2], site.dims(k)[2]);
    let given = match site.optional(mask) {
        Some(mask) => Some(key_mask(site, mask, batch, keys)?),
        None => None,
    };
    let mask = unidirectional(site, given, queries, keys)?;
    let bias = site.optional(added);
    let scale = scale(site, parts.q)?;
    let steps = Heads { q: parts.q, k, v, scale, softcap: 0.0, bias, mask }.attend(site)?;
    let mut results = vec![join_heads(site, steps.y)?];
    if site.result_count() > 1 {
        let mut both = Vec::new();
        for v in [k, v] {
            let dims = [&[1], site.dims(v).as_slice()].concat();
            both.push(layout::reshape(site, v, &dims, "present")?);
        }
        results.push(join(site, both, 0)?);
    }
    Ok(results)
}

/// `QAttention`: operands input, weights, bias, scales of both, mask, zero points of both, and earlier keys and values.
pub(super) fn quantized_attention(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let (x, w, bias) = (site.operand(0)?, site.operand(1)?, site.operand(2)?);
    let x = real_before(site, x, Parameters { scale: 3, zero: 6 })?;
    let format = format_of(&site.elem(w))?;
    let columns = site.dims(w).get(1).copied().unwrap_or(0);
    let scales = site.float_list(4, "scales")?.unwrap_or_default();
    let zeros = site.int_list(7, "zero points")?.unwrap_or_else(|| vec![0]);
    let sizes = hidden_sizes(site, columns)?;
    let (weights, biases) = (parts(site, w, 1, &sizes)?, parts(site, bias, 0, &sizes)?);
    let (mut projected, mut first) = (Vec::new(), 0);
    for ((w, bias), size) in weights.into_iter().zip(biases).zip(sizes) {
        let w = layout::transpose(site, w, &[1, 0], "weights")?;
        let uniform = columns_of(format.clone(), &scales, &zeros, first..first + size, columns)?;
        let w = as_real(site, w, uniform, "weights")?;
        projected.push(apply(site, Opcode::Linear, &[x, w, bias], "projected")?);
        first += size;
    }
    attended(site, &projected, [5, 8, usize::MAX])
}

/// Scales and zero points of some columns of weights, which are the outputs.
fn columns_of(
    format: Format,
    scales: &[f32],
    zeros: &[i64],
    range: std::ops::Range<usize>,
    columns: usize,
) -> Outcome<Uniform> {
    let counts = [scales.len(), zeros.len()];
    if counts.iter().any(|&n| n != 1 && n != columns) || scales.iter().any(|s| !(s.is_normal() && *s > 0.0)) {
        return Err(Fault::shape(format!("{} scales and {} zero points of {columns}", scales.len(), zeros.len())));
    }
    if counts == [1, 1] {
        return Ok(Uniform { format, axis: None, scales: scales.to_vec(), zero_points: zeros.to_vec() });
    }
    let scales = range.clone().map(|i| scales[if scales.len() == 1 { 0 } else { i }]).collect();
    let zero_points = range.map(|i| zeros[if zeros.len() == 1 { 0 } else { i }]).collect();
    Ok(Uniform { format, axis: Some(0), scales, zero_points })
}

/// `MultiHeadAttention`: operands query, key, value, their bias, a mask of keys, what is added to scores, earlier keys and values.
pub(super) fn multi_head(site: &mut Site) -> Outcome<Vec<ValueId>> {
    site.attrs.ignore(&["mask_filter_value"]);
    let number = heads(site, "num_heads")?.ok_or_else(|| Fault::shape("attribute `num_heads` is missing"))?;
    let packed = unpacked(site)?;
    let biases = match site.optional(3) {
        Some(b) => {
            let sizes = packed.iter().map(|&v| site.dims(v).last().copied().unwrap_or(0)).collect::<Vec<_>>();
            parts(site, b, 0, &sizes)?.into_iter().map(Some).collect()
        }
        None => vec![None; 3],
    };
    let mut split = Vec::new();
    for (v, bias) in packed.into_iter().zip(biases) {
        if site.ty(v).rank() == 4 {
            split.push(v);
            continue;
        }
        let v = match bias {
            Some(bias) => apply(site, Opcode::Add, &[v, bias], "projected")?,
            None => v,
        };
        split.push(split_heads(site, v, number)?);
    }
    if site.optional(8).is_some() || site.optional(9).is_some() {
        return Err(Fault::unsupported("earlier keys and values in a buffer of the host"));
    }
    let (past_k, past_v) = (site.optional(6), site.optional(7));
    let (k, v) = (behind(site, past_k, split[1])?, behind(site, past_v, split[2])?);
    let (batch, queries, keys) = (site.dims(split[0])[0], site.dims(split[0])[2], site.dims(k)[2]);
    let given = match site.optional(4) {
        Some(mask) => Some(key_mask(site, mask, batch, keys)?),
        None => None,
    };
    let mask = unidirectional(site, given, queries, keys)?;
    let bias = site.optional(5);
    let scale = scale(site, split[0])?;
    let steps = Heads { q: split[0], k, v, scale, softcap: 0.0, bias, mask }.attend(site)?;
    let y = join_heads(site, steps.y)?;
    Ok(vec![y, k, v, steps.shares])
}

/// Queries, keys and values of `MultiHeadAttention`, which may be packed: `[batch, length, heads, 3, size]`, or keys and values
/// `[batch, length, heads, 2, size]`.
fn unpacked(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let (q, k, v) = (site.operand(0)?, site.optional(1), site.optional(2));
    let flat = |site: &mut Site, v: ValueId, i: usize| {
        let v = element(site, v, 3, i)?;
        let &[batch, length, heads, size] = site.dims(v).as_slice() else { return Err(Fault::shape("packed heads")) };
        layout::reshape(site, v, &[batch, length, layout::product(&[heads, size])?], "unpacked")
    };
    match (k, v) {
        (Some(k), Some(v)) => Ok(vec![q, k, v]),
        (Some(kv), None) if site.ty(kv).rank() == 5 => Ok(vec![q, flat(site, kv, 0)?, flat(site, kv, 1)?]),
        (None, None) if site.ty(q).rank() == 5 => Ok(vec![flat(site, q, 0)?, flat(site, q, 1)?, flat(site, q, 2)?]),
        _ => Err(Fault::unsupported("keys without values")),
    }
}

/// `GroupQueryAttention`: operands query, key, value (or all in the first), earlier keys and values, the last position of each sample,
/// the number of all keys, cosines and sines, positions, and what is added to scores.
pub(super) fn group_query(site: &mut Site) -> Outcome<Vec<ValueId>> {
    let number = heads(site, "num_heads")?.ok_or_else(|| Fault::shape("attribute `num_heads` is missing"))?;
    let shared = heads(site, "kv_num_heads")?.ok_or_else(|| Fault::shape("attribute `kv_num_heads` is missing"))?;
    if site.attrs.flag("smooth_softmax", false)? || site.optional(11).is_some() {
        return Err(Fault::unsupported("a softmax with a share for none"));
    }
    let mut rows = match (site.operand(0)?, site.optional(1), site.optional(2)) {
        (q, Some(k), Some(v)) => vec![q, k, v],
        (packed, None, None) => {
            let hidden = site.dims(packed).last().copied().unwrap_or(0);
            let size = hidden / (number + 2 * shared);
            parts(site, packed, 2, &[number * size, shared * size, shared * size])?
        }
        _ => return Err(Fault::shape("keys without values")),
    };
    for (v, heads) in rows.iter_mut().zip([number, shared, shared]) {
        *v = split_heads(site, *v, heads)?;
    }
    let (past_k, past_v) = (site.optional(3), site.optional(4));
    let past = past_k.map_or(0, |p| site.dims(p)[2]);
    if site.attrs.flag("do_rotary", false)? {
        let tables = Angles { cos: site.operand(7)?, sin: site.operand(8)? };
        let pairs = if site.attrs.flag("rotary_interleaved", false)? { Pairs::Neighbours } else { Pairs::Halves };
        let at = site.optional(9).map_or(Positions::From(past), Positions::Given);
        for v in &mut rows[..2] {
            *v = rotate(site, *v, tables, &at, pairs)?;
        }
    } else {
        site.attrs.ignore(&["rotary_interleaved"]);
        for i in 7..10 {
            site.optional(i);
        }
    }
    let (k, v) = (behind(site, past_k, rows[1])?, behind(site, past_v, rows[2])?);
    let (queries, keys) = (site.dims(rows[0])[2], site.dims(k)[2]);
    let window = site.attrs.int("local_window_size")?.and_then(|w| usize::try_from(w).ok()).filter(|&w| w > 0);
    let mut mask = Some(causal(site, queries, keys, past, window)?);
    if let Some(within) = sequence_lengths(site, past, keys)? {
        mask = Some(both(site, mask, within)?);
    }
    let mut bias = None;
    let added = site.optional(10);
    given_mask(site, added, &mut bias, &mut mask)?;
    let softcap = site.attrs.float("softcap")?.unwrap_or(0.0);
    let scale = scale(site, rows[0])?;
    let steps = Heads { q: rows[0], k, v, scale, softcap, bias, mask }.attend(site)?;
    Ok(vec![join_heads(site, steps.y)?, k, v])
}

/// Which keys are there, by the last position of each sample. With earlier keys these fill their buffers: a model for fixed
/// shapes knows no other case.
fn sequence_lengths(site: &mut Site, past: usize, keys: usize) -> Outcome<Option<ValueId>> {
    let (last, total) = (site.operand(5)?, site.operand(6)?);
    let full = |values: &[i64]| values.iter().all(|&v| usize::try_from(v).is_ok_and(|v| v + 1 == keys));
    if site.constant(total).is_some() {
        let total = site.int_list(6, "the number of keys")?.unwrap_or_default();
        if total.iter().any(|&n| usize::try_from(n) != Ok(keys)) {
            return Err(Fault::shape(format!("{total:?} keys in all, not {keys}")));
        }
    }
    if site.constant(last).is_some() && full(&site.int_list(5, "last positions")?.unwrap_or_default()) {
        return Ok(None);
    }
    if past > 0 {
        return Err(Fault::unsupported("earlier keys whose number is known at run time only")
            .help(format!("make operand 5 a constant: with {past} earlier keys it is {}", keys - 1)));
    }
    let count = layout::product(&site.dims(last))?;
    let flat = layout::reshape(site, last, &[count], "last")?;
    lengths(site, flat, keys).map(Some)
}

/// Keys up to the last position.
fn lengths(site: &mut Site, last: ValueId, keys: usize) -> Outcome<ValueId> {
    let &[batch] = site.dims(last).as_slice() else { return Err(Fault::shape("last positions")) };
    let upto = (0..listed(&[keys, keys])?).map(|i| u8::from(i % keys <= i / keys)).collect();
    let table = Tensor::new(&[keys, keys], Data::U8(upto));
    let table = site.constant_of(table, Elem::Bool, "last");
    let rows = boolean::row(site, table, last)?;
    layout::reshape(site, rows, &[batch, 1, 1, keys], "within")
}

/// `MatMulIntegerToFloat`: operands a, b, their scales, their zero points, and a bias.
pub(super) fn matmul_integer_to_float(site: &mut Site) -> Outcome<ValueId> {
    let a = site.operand(0)?;
    let a = real_before(site, a, Parameters { scale: 2, zero: 4 })?;
    product(site, a, 3, 5, 6)
}

/// `DynamicQuantizeMatMul`: operands A, which is real, b, its scale and zero point, and a bias. A layer on real numbers, as all
/// that is quantized by scales of each run becomes one.
pub(super) fn dynamic_matmul(site: &mut Site) -> Outcome<ValueId> {
    let a = site.operand(0)?;
    product(site, a, 2, 3, 4)
}

/// A real operand times weights of integers, plus a bias; these operands are scale, zero point and bias.
fn product(site: &mut Site, a: ValueId, scale: usize, zero: usize, bias: usize) -> Outcome<ValueId> {
    let b = site.operand(1)?;
    let format = format_of(&site.elem(b))?;
    let &[_, columns] = site.dims(b).as_slice() else {
        return Err(Fault::unsupported(format!("weights of shape {:?}", site.dims(b))));
    };
    let scales = site.float_list(scale, "scales")?.unwrap_or_default();
    let zeros = site.int_list(zero, "zero points")?.unwrap_or_else(|| vec![0]);
    let uniform = columns_of(format, &scales, &zeros, 0..columns, columns)?;
    if site.constant(b).is_none() {
        return Err(Fault::unsupported("weights that the model computes at run time"));
    }
    let w = layout::transpose(site, b, &[1, 0], "weights")?;
    let w = as_real(site, w, uniform, "weights")?;
    let operands: Vec<ValueId> = [a, w].into_iter().chain(site.optional(bias)).collect();
    apply(site, Opcode::Linear, &operands, "")
}
