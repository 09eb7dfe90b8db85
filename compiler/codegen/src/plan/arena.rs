//! Offsets in the arena: buffers whose lives overlap get disjoint memory.
//!
//! Greedy by size: the largest buffer first, each at the lowest offset that is free during its whole life (Pisarchyk and Lee
//! 2020, section 5.2, "greedy by size for offset calculation").

use super::buffer::{ALIGN, Buffer, SLACK, Storage};

/// Gives every arena buffer its offset and returns the size of the arena.
pub fn assign(buffers: &mut [Buffer]) -> usize {
    let mut order: Vec<usize> =
        (0..buffers.len()).filter(|&i| matches!(buffers[i].storage, Storage::Arena(_))).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(buffers[i].bytes), i));
    let mut placed: Vec<(usize, usize)> = Vec::new();
    let mut total = 0;
    for i in order {
        let (first, last) = buffers[i].life;
        let size = buffers[i].bytes.next_multiple_of(ALIGN);
        let mut busy: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&(j, _)| buffers[j].life.0 <= last && first <= buffers[j].life.1)
            .map(|&(j, offset)| (offset, offset + buffers[j].bytes.next_multiple_of(ALIGN)))
            .collect();
        busy.sort_unstable();
        let mut offset = 0;
        for (from, to) in busy {
            if from >= offset + size {
                break;
            }
            offset = offset.max(to);
        }
        buffers[i].storage = Storage::Arena(offset);
        placed.push((i, offset));
        total = total.max(offset + size);
    }
    total + SLACK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_that_overlap_get_disjoint_memory_and_others_share() {
        let make =
            |bytes, first, last| Buffer { storage: Storage::Arena(0), bytes, life: (first, last), name: String::new() };
        let mut b = vec![make(100, 0, 1), make(300, 1, 2), make(200, 2, 3), make(64, 0, 3)];
        let total = assign(&mut b);
        let span = |b: &Buffer| match b.storage {
            Storage::Arena(o) => (o, o + b.bytes),
            _ => unreachable!(),
        };
        for i in 0..b.len() {
            for j in 0..i {
                let overlap = b[i].life.0 <= b[j].life.1 && b[j].life.0 <= b[i].life.1;
                let ((a0, a1), (b0, b1)) = (span(&b[i]), span(&b[j]));
                assert!(!overlap || a1 <= b0 || b1 <= a0, "{i} and {j} share memory");
            }
        }
        assert!(total < 100 + 300 + 200 + 64 + 4 * ALIGN, "{total}: nothing was shared");
    }
}
