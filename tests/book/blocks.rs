//! Blocks of code in Markdown.

/// One block.
pub struct Block {
    /// What stands behind the fence.
    pub language: String,
    /// The lines inside.
    pub text: String,
    /// Line of the fence, from 1.
    pub line: usize,
}

/// All blocks of a page, in order.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (i, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(language) if !is_open => {
                found.push(Block { language: language.trim().to_string(), text: String::new(), line: i + 1 });
                is_open = true;
            }
            Some(_) => is_open = false,
            None => {
                if let Some(block) = found.last_mut().filter(|_| is_open) {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
            }
        }
    }
    found
}
