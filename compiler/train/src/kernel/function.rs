//! Functions of one value: tables and clamps. A table has no derivative where it has steps: that of the line through its entries at both ends of an
//! interval is taken, which is the longer the fewer results the table has.

use qcc_ir::{Data, Diag, Opcode};

use super::{Backward, Call, Kernel, Rounded, Site};

/// Codes of a byte.
const CODES: usize = 256;

/// `int.lut`, `int.clamp`.
pub(super) struct Table {
    table: Vec<u8>,
    slopes: Vec<f32>,
}

impl Table {
    pub(super) fn new(site: &Site) -> Option<Table> {
        if site.operands[0].0.is_some() {
            return None;
        }
        if site.op == Opcode::Clamp {
            let (lo, hi) = site.attrs.byte_bounds();
            let table = (0..=u8::MAX).map(|q| q.clamp(lo, hi)).collect();
            let slopes = (0..=u8::MAX).map(|q| f32::from(u8::from((lo..=hi).contains(&q)))).collect();
            return Some(Table { table, slopes });
        }
        let table = site.operands[1].0.as_ref()?.as_u8()?.to_vec();
        (table.len() == CODES).then(|| Table { slopes: slopes(&table), table })
    }
}

/// Derivatives of a table at each code.
fn slopes(table: &[u8]) -> Vec<f32> {
    let steps = table.windows(2).filter(|pair| pair[0] != pair[1]).count();
    // A table of few results is flat over half as many codes.
    let reach = if steps == 0 { 1 } else { (2 * CODES / (steps + 1)).clamp(1, 48) };
    let slope = |q: usize| {
        let (first, last) = (q.saturating_sub(reach), (q + reach).min(CODES - 1));
        (f32::from(table[last]) - f32::from(table[first])) / (last - first) as f32
    };
    (0..CODES).map(slope).collect()
}

impl Kernel for Table {
    fn forward(&self, call: &Call) -> Result<Rounded, Diag> {
        let codes = call.bytes(0).unwrap_or_default().iter().map(|&q| self.table[usize::from(q)]).collect();
        Ok(Rounded::exact(Data::U8(codes)))
    }

    fn backward(&self, call: &Call, back: Backward) -> Vec<Option<Vec<f32>>> {
        let x = call.bytes(0).unwrap_or_default();
        let by_x = back.gradient.iter().zip(x).map(|(g, &q)| g * self.slopes[usize::from(q)]).collect();
        vec![Some(by_x), None]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_function() {
        let line: Vec<u8> = (0..=u8::MAX).map(|q| q / 17).collect();
        assert!(slopes(&line)[20..230].iter().all(|s| (s - 1.0 / 17.0).abs() < 0.02));
        let rectifier: Vec<u8> = (0..=u8::MAX).map(|q| q.max(100)).collect();
        let found = slopes(&rectifier);
        assert!(found[..90].iter().all(|&s| s == 0.0) && found[110..].iter().all(|&s| s == 1.0));
        assert!(slopes(&[7; CODES]).iter().all(|&s| s == 0.0));
    }
}
