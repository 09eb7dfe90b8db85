//! Iteration spaces: several strided views of one shape, with as few loops as possible.

/// One loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Rounds.
    pub extent: usize,
    /// Bytes that each operand moves on in a round.
    pub strides: Vec<usize>,
}

/// Loops from the outermost to a contiguous run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loops {
    /// The loops; the first one's rounds are the units of a task.
    pub outer: Vec<Level>,
    /// Elements of the innermost run.
    pub run: usize,
    /// Bytes from element to element of each operand in the run; 0 where one element serves all.
    pub inner: Vec<usize>,
}

impl Loops {
    /// Elements of a unit where everything is one run; a multiple of the vector length.
    pub const CHUNK: usize = 4096;

    /// Merges neighbouring dimensions through which all operands move evenly. `strides` holds one list for each operand.
    pub fn new(dims: &[usize], strides: &[&[usize]]) -> Loops {
        let mut levels: Vec<Level> = Vec::new();
        for (i, &extent) in dims.iter().enumerate() {
            if extent == 1 {
                continue;
            }
            let here: Vec<usize> = strides.iter().map(|s| s[i]).collect();
            match levels.last_mut() {
                Some(last) if last.strides.iter().zip(&here).all(|(&outer, &inner)| outer == inner * extent) => {
                    last.extent *= extent;
                    last.strides = here;
                }
                _ => levels.push(Level { extent, strides: here }),
            }
        }
        let (run, inner) = match levels.pop() {
            Some(last) => (last.extent, last.strides),
            None => (1, vec![0; strides.len()]),
        };
        Loops { outer: levels, run, inner }
    }

    /// The same space with a run through which every operand moves by its element's size or not at all; where it does not, as in
    /// a column of single channels, the run becomes a loop and one element remains.
    pub fn dense(mut self, elements: &[usize]) -> Loops {
        let moves = |(&inner, &element): (&usize, &usize)| inner == 0 || inner == element;
        if !self.inner.iter().zip(elements).all(moves) {
            let strides = std::mem::replace(&mut self.inner, elements.to_vec());
            self.outer.push(Level { extent: std::mem::replace(&mut self.run, 1), strides });
        }
        self
    }

    /// Units of a task that goes through these loops.
    pub fn units(&self) -> usize {
        match self.outer.first() {
            Some(first) => first.extent,
            None => self.run.div_ceil(Loops::CHUNK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_views_become_one_run() {
        let l = Loops::new(&[2, 3, 4], &[&[12, 4, 1], &[12, 4, 1]]);
        assert_eq!((l.outer.len(), l.run, l.units()), (0, 24, 1));
    }

    #[test]
    fn a_halo_or_a_broadcast_keeps_a_loop() {
        let halo = Loops::new(&[1, 4, 4, 8], &[&[999, 48, 8, 1], &[128, 32, 8, 1]]);
        assert_eq!((halo.outer.len(), halo.run, halo.units()), (1, 32, 4));
        let broadcast = Loops::new(&[4, 4, 8], &[&[32, 8, 1], &[0, 0, 1]]);
        assert_eq!((broadcast.outer.len(), broadcast.run), (1, 8));
        assert_eq!(broadcast.outer[0], Level { extent: 16, strides: vec![8, 0] });
    }

    #[test]
    fn a_column_of_single_channels_is_no_run() {
        let column = Loops::new(&[1, 7, 1, 1], &[&[14, 2, 2, 1], &[7, 1, 1, 1]]).dense(&[1, 1]);
        assert_eq!((column.run, column.outer), (1, vec![Level { extent: 7, strides: vec![2, 1] }]));
    }
}
