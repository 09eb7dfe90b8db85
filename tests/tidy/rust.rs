//! Rust sources as far as the laws need them: text without comments and strings, tokens, lengths of functions.

/// The text with spaces for what stands in comments, strings and characters; lines stay where they are.
pub fn code(text: &str) -> String {
    let source: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < source.len() {
        let end = not_code(&source[at..], code.chars().next_back());
        if end == 0 {
            code.push(source[at]);
            at += 1;
        } else {
            code.extend(source[at..at + end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at += end;
        }
    }
    code
}

/// Characters of the comment, string or character that starts here, 0 for code.
fn not_code(rest: &[char], before: Option<char>) -> usize {
    let starts = |prefix: &str| prefix.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if starts("//") {
        rest.iter().position(|&c| c == '\n').unwrap_or(rest.len())
    } else if starts("/*") {
        (2..rest.len()).find(|&i| rest[i - 1] == '*' && rest[i] == '/').map_or(rest.len(), |i| i + 1)
    } else if rest[0] == '"' {
        quoted(rest, '"')
    } else if rest[0] == '\'' && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
        quoted(rest, '\'')
    } else if rest[0] == 'r' && !in_word {
        raw(rest)
    } else {
        0
    }
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Length of `r"..."`, `r#"..."#` and so on.
fn raw(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let closes = |i: &usize| rest[*i] == '"' && rest[*i + 1..].iter().take_while(|&&c| c == '#').count() >= hashes;
    (2 + hashes..rest.len()).find(closes).map_or(rest.len(), |i| i + 1 + hashes)
}

/// Words, `::`, and single characters of [`code`], each with its line from 1.
pub fn tokens(code: &str) -> Vec<(&str, usize)> {
    let mut tokens = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let length = if word > 0 {
                word
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push((&rest[..length], line + 1));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// Position after the bracket that closes the one at `open`.
pub fn closed(tokens: &[(&str, usize)], open: usize) -> usize {
    let mut depth = 0usize;
    for (i, (token, _)) in tokens.iter().enumerate().skip(open) {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// Name, first line and number of lines of every function with a body.
pub fn functions(code: &str) -> Vec<(&str, usize, usize)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for (i, &(token, line)) in tokens.iter().enumerate() {
        let Some(&(name, _)) = tokens.get(i + 1).filter(|(name, _)| token == "fn" && *name != "(") else { continue };
        let mut at = i + 2;
        while at < tokens.len() && !["{", ";"].contains(&tokens[at].0) {
            at = if ["(", "["].contains(&tokens[at].0) { closed(&tokens, at) } else { at + 1 };
        }
        if tokens.get(at).is_some_and(|t| t.0 == "{") {
            let last = tokens[closed(&tokens, at) - 1].1;
            found.push((name, line, last - line + 1));
        }
    }
    found
}
