//! Differences of texts.

/// Lines around a difference that are shown too.
const CONTEXT: usize = 2;

/// The difference of two texts: ` `, `-` or `+` before each line, and `...` for lines that both have.
pub fn lines(expected: &str, found: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let edits = edits(&old, &new);
    let changed = |i: usize| edits[i].0 != ' ';
    let near = |i: usize| (i.saturating_sub(CONTEXT)..=(i + CONTEXT).min(edits.len() - 1)).any(changed);
    let mut text = String::new();
    let mut left_out = false;
    for (i, (sign, line)) in edits.iter().enumerate() {
        if near(i) {
            text += &format!("{sign}{line}\n");
        } else if !left_out {
            text += "...\n";
        }
        left_out = !near(i);
    }
    text
}

/// Every line of both, in order, by the longest common subsequence.
fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let width = new_rest.len() + 1;
    // common[i * width + j]: lines that the rest after i old and j new ones have in common.
    let mut common = vec![0u32; (old_rest.len() + 1) * width];
    for i in (0..old_rest.len()).rev() {
        for j in (0..new_rest.len()).rev() {
            common[i * width + j] = if old_rest[i] == new_rest[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let mut edits: Vec<(char, &str)> = old[..start].iter().map(|&line| (' ', line)).collect();
    let (mut i, mut j) = (0, 0);
    while i < old_rest.len() || j < new_rest.len() {
        let both = i < old_rest.len() && j < new_rest.len();
        if both && old_rest[i] == new_rest[j] {
            edits.push((' ', old_rest[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new_rest.len() || both && common[(i + 1) * width + j] >= common[i * width + j + 1] {
            edits.push(('-', old_rest[i]));
            i += 1;
        } else {
            edits.push(('+', new_rest[j]));
            j += 1;
        }
    }
    edits
}

#[test]
fn differences_show_what_is_around_them() {
    assert_eq!(lines("a\nb\nc\nd\ne\nf", "a\nb\nc\nd\nx\nf"), "...\n c\n d\n-e\n+x\n f\n");
    assert_eq!(lines("", "a"), "+a\n");
    assert_eq!(lines("a\nb", "b\na"), "-a\n b\n+a\n");
}
