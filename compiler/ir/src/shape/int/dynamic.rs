//! Shapes of operators on values whose scale is found at run time: see [`qcc_num::dynamic`].

use crate::attr;
use qcc_num::dynamic::{GRIDS, HEADER, INTERVALS, ROW, SIDE, TABLE};

use crate::shape::Call;

/// Most scales that are made alike at once.
pub const MOST_SCALES: usize = 256;

/// Channels and positions of a tensor of accumulators, neither of which is 0.
fn positions(call: &Call, i: usize) -> Result<(usize, usize), String> {
    match call.dims(i).split_last() {
        Some((&channels, outer)) if channels > 0 && !outer.contains(&0) => Ok((channels, outer.iter().product())),
        _ => Err(call.expected(i, "a rank of at least 1 and an element")),
    }
}

/// A scale: a vector that begins with mantissa and exponent.
pub fn expect_scale(call: &Call, i: usize) -> Result<(), String> {
    match call.dims(i) {
        &[n] if n >= 2 => Ok(()),
        _ => Err(call.expected(i, "a vector that begins with mantissa and exponent")),
    }
}

pub fn extrema(call: &Call) -> Result<Vec<usize>, String> {
    let (channels, positions) = positions(call, 0)?;
    let rows = usize::try_from(call.attrs.get(attr::ROWS)).ok().filter(|&r| r > 0);
    let rows = rows.ok_or_else(|| "expected `rows` of at least 1".to_string())?;
    Ok(vec![positions.div_ceil(rows), 2, channels])
}

pub fn scale(call: &Call) -> Result<Vec<usize>, String> {
    let [_, two, channels] = call.of_rank(0)?;
    if two != 2 || channels == 0 {
        return Err(call.expected(0, "the extrema of some channels, [parts, 2, C]"));
    }
    expect_scale(call, 1)?;
    call.expect_dims(2, &[channels])?;
    call.expect_dims(3, &[channels])?;
    call.expect_optional(4, &[channels])?;
    let vectors = if call.operands.len() > 4 { 3 } else { 2 };
    Ok(vec![HEADER + vectors * channels])
}

pub fn requant(call: &Call) -> Result<Vec<usize>, String> {
    let (channels, _) = positions(call, 0)?;
    if call.dims(1) != [HEADER + 3 * channels] {
        call.expect_dims(1, &[HEADER + 2 * channels])?;
    }
    Ok(call.dims(0).to_vec())
}

pub fn align_scales(call: &Call) -> Result<Vec<usize>, String> {
    expect_scale(call, 0)?;
    expect_scale(call, 1)?;
    Ok(vec![4])
}

pub fn add(call: &Call) -> Result<Vec<usize>, String> {
    call.expect_dims(1, call.dims(0))?;
    call.expect_dims(2, &[4])?;
    Ok(call.dims(0).to_vec())
}

pub fn common_scale(call: &Call) -> Result<Vec<usize>, String> {
    let (scales, levels) = (call.operands.len(), call.attrs.get(attr::LEVELS));
    let all_of_16_bits = i64::from(i16::MAX);
    let fits = |n: &i64| (1..=255).contains(n) || levels.last() == Some(&all_of_16_bits) && *n == all_of_16_bits;
    if levels.len() != scales + 1 || !levels.iter().all(fits) {
        return Err(format!("expected `levels` of {} numbers in 1..=255, found {levels:?}", scales + 1));
    }
    // A factor is at most twice its unit, or as many times that as 16 bits have more levels.
    let wide = levels[scales] == all_of_16_bits;
    let near = |n: &i64| if wide { *n >= 127 } else { levels[scales] <= 3 * n };
    if scales == 0 || scales > MOST_SCALES || !levels.iter().all(near) {
        return Err(format!("expected 1 to {MOST_SCALES} scales whose levels are near the result's"));
    }
    (0..scales).try_for_each(|i| expect_scale(call, i))?;
    Ok(vec![2 + scales])
}

pub fn rescale(call: &Call) -> Result<Vec<usize>, String> {
    expect_scale(call, 1)?;
    let factors = call.dims(1)[0] - 2;
    match usize::try_from(call.attrs.get(attr::INDEX)) {
        Ok(index) if index < factors => Ok(call.dims(0).to_vec()),
        _ => Err(format!("expected `index` below {factors}, found {}", call.attrs.get(attr::INDEX))),
    }
}

pub fn product_scale(call: &Call) -> Result<Vec<usize>, String> {
    expect_scale(call, 0)?;
    expect_scale(call, 1)?;
    Ok(vec![2])
}

pub fn exponentials(call: &Call) -> Result<Vec<usize>, String> {
    expect_scale(call, 0)?;
    call.expect_dims(1, &[INTERVALS + 1])?;
    Ok(vec![256])
}

pub fn table(call: &Call) -> Result<Vec<usize>, String> {
    if (1..32).contains(&call.attrs.get(attr::RESULT_ZERO)) {
        return Err("expected `result_zero` to be 0, or 32 and more".to_string());
    }
    expect_scale(call, 0)?;
    call.expect_dims(1, &[GRIDS, ROW])?;
    Ok(vec![TABLE])
}

pub fn curve(call: &Call) -> Result<Vec<usize>, String> {
    if (1..32).contains(&call.attrs.get(attr::RESULT_ZERO)) {
        return Err("expected `result_zero` to be 0, or 32 and more".to_string());
    }
    expect_scale(call, 0)?;
    let samples = if call.attrs.get(attr::ZERO) == 0 { SIDE + 2 } else { 2 * SIDE + 2 };
    call.expect_dims(1, &[samples])?;
    if call.operands[2].elements() == 0 {
        return Err(call.expected(2, "an element"));
    }
    Ok(vec![TABLE])
}

pub fn look_up(call: &Call) -> Result<Vec<usize>, String> {
    call.expect_dims(1, &[TABLE])?;
    Ok(call.dims(0).to_vec())
}
