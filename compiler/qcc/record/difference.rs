//! What differs between two texts of a graph. Lines are the same line if they define the same name, so that a line that changed stands
//! beside what it was, however much of it changed.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::Line;

/// Lines before and behind a change in a unified difference.
const CONTEXT: usize = 3;

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// Nothing: line `.0` of the old text is line `.1` of the new one.
    Same(usize, usize),
    /// It defines the same in another way.
    Changed(usize, usize),
    /// It is gone, or stands elsewhere.
    Removed(usize),
    /// It is new here.
    Added(usize),
}

/// Every line of both texts, in order. As many lines as possible keep their partner without crossing another pair.
pub fn difference(old: &[Line], new: &[Line]) -> Vec<Row> {
    let places: HashMap<&str, usize> = old.iter().enumerate().map(|(i, l)| (l.key.as_str(), i)).collect();
    let partners: Vec<(usize, usize)> =
        new.iter().enumerate().filter_map(|(j, l)| Some((*places.get(l.key.as_str())?, j))).collect();
    let mut rows = Vec::with_capacity(old.len().max(new.len()));
    let (mut i, mut j) = (0, 0);
    for (a, b) in ascending(&partners).into_iter().chain([(old.len(), new.len())]) {
        rows.extend((i..a).map(Row::Removed));
        rows.extend((j..b).map(Row::Added));
        if a < old.len() {
            rows.push(if old[a].text == new[b].text { Row::Same(a, b) } else { Row::Changed(a, b) });
        }
        (i, j) = (a + 1, b + 1);
    }
    rows
}

/// A longest part of pairs, whose second numbers ascend, in which the first ones ascend too.
fn ascending(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // For each length the pair that ends a chain of it with the least first number, and for each pair the one before it.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (p, pair) in pairs.iter().enumerate() {
        let length = ends.partition_point(|&e| pairs[e].0 < pair.0);
        before.push(length.checked_sub(1).map(|l| ends[l]));
        match ends.get_mut(length) {
            Some(end) => *end = p,
            None => ends.push(p),
        }
    }
    let mut chain: Vec<(usize, usize)> =
        std::iter::successors(ends.last().copied(), |&p| before[p]).map(|p| pairs[p]).collect();
    chain.reverse();
    chain
}

/// The difference as `diff -u` writes it, to be read and to be applied by `patch`; empty where there is none.
pub fn unified(names: (&str, &str), old: &[Line], new: &[Line]) -> String {
    let rows = difference(old, new);
    let is_change = |row: &Row| !matches!(row, Row::Same(..));
    let mut out = String::new();
    let (mut begin, mut at) = (0, 0);
    // Lines of either text before a hunk.
    let (mut olds, mut news) = (0, 0);
    while let Some(first) = rows[at..].iter().position(is_change).map(|p| at + p) {
        if out.is_empty() {
            let _ = write!(out, "--- {}\n+++ {}\n", names.0, names.1);
        }
        let start = first.saturating_sub(CONTEXT).max(begin);
        let mut last = first;
        while let Some(next) = rows[last + 1..].iter().take(2 * CONTEXT + 1).position(is_change) {
            last += next + 1;
        }
        let end = (last + 1 + CONTEXT).min(rows.len());
        let count = |range: &[Row], old: bool| {
            range.iter().filter(|r| !matches!((r, old), (Row::Added(_), true) | (Row::Removed(_), false))).count()
        };
        olds += count(&rows[begin..start], true);
        news += count(&rows[begin..start], false);
        let hunk = &rows[start..end];
        let (of_old, of_new) = (count(hunk, true), count(hunk, false));
        // A place behind which nothing stands is given by the line before.
        let place = |before: usize, count: usize| if count == 0 { before } else { before + 1 };
        let _ = writeln!(out, "@@ -{},{of_old} +{},{of_new} @@", place(olds, of_old), place(news, of_new));
        for row in hunk {
            let _ = match *row {
                Row::Same(i, _) => writeln!(out, " {}", old[i].text),
                Row::Changed(i, j) => write!(out, "-{}\n+{}\n", old[i].text, new[j].text),
                Row::Removed(i) => writeln!(out, "-{}", old[i].text),
                Row::Added(j) => writeln!(out, "+{}", new[j].text),
            };
        }
        (olds, news) = (olds + of_old, news + of_new);
        (begin, at) = (end, end);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[(&str, &str)]) -> Vec<Line> {
        text.iter().map(|(k, t)| Line { key: (*k).to_string(), text: (*t).to_string() }).collect()
    }

    /// What `patch` does with a unified difference.
    fn patched(old: &[Line], difference: &str) -> Vec<String> {
        let (mut out, mut at) = (Vec::new(), 0);
        for line in difference.lines().skip(2) {
            match line.as_bytes()[0] {
                b'@' => {
                    let mut numbers = line[4..].split([',', ' ']).map(|n| n.parse::<usize>());
                    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) else { panic!("{line}") };
                    let start = if count == 0 { first } else { first - 1 };
                    out.extend(old[at..start].iter().map(|l| l.text.clone()));
                    at = start;
                }
                b' ' => {
                    assert_eq!(old[at].text, line[1..]);
                    out.push(line[1..].to_string());
                    at += 1;
                }
                b'-' => {
                    assert_eq!(old[at].text, line[1..]);
                    at += 1;
                }
                _ => out.push(line[1..].to_string()),
            }
        }
        out.extend(old[at..].iter().map(|l| l.text.clone()));
        out
    }

    #[test]
    fn a_changed_line_stands_beside_what_it_was() {
        let old = lines(&[("g", "g"), ("a", "a = 1"), ("b", "b = 1"), ("c", "c = 1")]);
        let new = lines(&[("g", "g"), ("a", "a = 2"), ("n", "n = 1"), ("c", "c = 1"), ("b", "b = 1")]);
        let rows = difference(&old, &new);
        // Of `b` and `c`, which crossed, one keeps its place.
        assert_eq!(rows[..2], [Row::Same(0, 0), Row::Changed(1, 1)]);
        assert_eq!(rows.iter().filter(|r| matches!(r, Row::Same(..))).count(), 2, "{rows:?}");
        assert!(unified(("x", "y"), &old, &old).is_empty());
    }

    #[test]
    fn a_difference_makes_the_new_text_of_the_old_one() {
        let mut state = 7u32;
        let mut next = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        for case in 0..300 {
            let count = next(40);
            let old: Vec<Line> = (0..count).map(|i| Line { key: format!("k{i}"), text: format!("k{i} = 0") }).collect();
            let mut new = old.clone();
            for change in 0..next(6) {
                let at = next(new.len() as u32 + 1) as usize;
                match next(4) {
                    0 if at < new.len() => drop(new.remove(at)),
                    1 => new.insert(at, Line { key: format!("n{change}"), text: "new".to_string() }),
                    2 if at < new.len() => {
                        let line = new.remove(at);
                        let to = next(new.len() as u32 + 1) as usize;
                        new.insert(to, line);
                    }
                    _ if at < new.len() => new[at].text.push('!'),
                    _ => {}
                }
            }
            let text = unified(("old", "new"), &old, &new);
            let wanted: Vec<String> = new.iter().map(|l| l.text.clone()).collect();
            assert_eq!(patched(&old, &text), wanted, "case {case}:\n{text}");
            assert_eq!(text.is_empty(), old == new, "case {case}");
        }
    }
}
