//! Circles of imports among the files of a crate.
//!
//! A file points at the files of all modules that its paths lead to, in `use` and elsewhere. Two arrows are not counted:
//!
//! - `pub use` in the parent of what it names: a parent that re-exports its children does not need them. What others
//!   import through it leads to the file that defines it.
//! - from a module to the modules that contain it: what stands in a parent is the vocabulary of its children. A parent that
//!   calls its children points at them, so a child that reaches its parent by way of a sibling is in a circle.
//!
//! Modules of tests are left out.

use std::collections::{BTreeMap, BTreeSet};

use super::rust;

/// Path of a module within its crate: `["program", "step"]`.
type Path = Vec<String>;

/// What a file says of other modules.
#[derive(Default)]
struct Module {
    file: String,
    children: BTreeSet<String>,
    /// Names that `use` brings in, with the path as it is written; `*` for all of a module. Re-exports are marked.
    imports: Vec<(String, Path, bool)>,
    /// Paths in code.
    paths: Vec<Path>,
}

/// Files of a crate by what they point at.
pub type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The arrows among the files of the crate whose root is `lib`; `read` gives a file's text, nothing where there is no file.
pub fn arrows(lib: &str, read: &dyn Fn(&str) -> Option<String>) -> Arrows {
    let mut modules = BTreeMap::new();
    load(lib, &Vec::new(), read, &mut modules);
    let mut arrows = Arrows::new();
    for (path, module) in &modules {
        let targets = arrows.entry(module.file.clone()).or_default();
        let reexported = module.imports.iter().filter(|i| !i.2).map(|i| &i.1);
        for target in reexported.chain(&module.paths) {
            if let Some(found) = resolve(&modules, path, target, 0)
                && !path.starts_with(&found)
            {
                targets.insert(modules[&found].file.clone());
            }
        }
    }
    arrows
}

fn load(file: &str, path: &Path, read: &dyn Fn(&str) -> Option<String>, modules: &mut BTreeMap<Path, Module>) {
    let Some(text) = read(file) else { return };
    let code = rust::code(&text);
    let module = scan(file, &rust::tokens(&code));
    let folder = match file.rsplit_once('/') {
        Some((folder, "lib.rs" | "main.rs" | "mod.rs")) => folder.to_string(),
        _ => file.trim_end_matches(".rs").to_string(),
    };
    for child in &module.children {
        let below = [path.as_slice(), std::slice::from_ref(child)].concat();
        load(&format!("{folder}/{child}.rs"), &below, read, modules);
        load(&format!("{folder}/{child}/mod.rs"), &below, read, modules);
    }
    modules.insert(path.clone(), module);
}

/// Declarations, imports and paths of a file.
fn scan(file: &str, tokens: &[(&str, usize)]) -> Module {
    let mut module = Module { file: file.to_string(), ..Module::default() };
    let token = |i: usize| tokens.get(i).map_or("", |t| t.0);
    let (mut at, mut public, mut test) = (0, false, false);
    while at < tokens.len() {
        match token(at) {
            "#" if token(at + 1) == "[" => {
                let end = rust::closed(tokens, at + 1);
                test |= token(at + 2) == "cfg" && (at..end).any(|i| token(i) == "test");
                at = end;
                continue;
            }
            "pub" => {
                at = if token(at + 1) == "(" { rust::closed(tokens, at + 1) } else { at + 1 };
                public = true;
                continue;
            }
            "mod" if token(at + 2) == ";" => {
                if !test {
                    module.children.insert(token(at + 1).to_string());
                }
                at += 2;
            }
            "mod" if token(at + 2) == "{" && test => at = rust::closed(tokens, at + 2) - 1,
            "use" => at = imports(tokens, at + 1, Vec::new(), public, &mut module.imports),
            word if starts_path(word) && token(at + 1) == "::" && (at == 0 || token(at - 1) != "::") => {
                let mut path = vec![word.to_string()];
                while token(at + 1) == "::" && starts_path(token(at + 2)) {
                    path.push(token(at + 2).to_string());
                    at += 2;
                }
                module.paths.push(path);
            }
            _ => {}
        }
        (public, test) = (false, false);
        at += 1;
    }
    module
}

fn starts_path(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads a tree of `use` and returns the position of what ends it.
fn imports(
    tokens: &[(&str, usize)],
    from: usize,
    mut path: Path,
    public: bool,
    found: &mut Vec<(String, Path, bool)>,
) -> usize {
    let token = |i: usize| tokens.get(i).map_or(";", |t| t.0);
    let mut at = from;
    loop {
        match token(at) {
            "{" => {
                at += 1;
                while token(at) != "}" && token(at) != ";" {
                    at = imports(tokens, at, path.clone(), public, found);
                    at += usize::from(token(at) == ",");
                }
                return at + usize::from(token(at) == "}");
            }
            "::" => {}
            word => path.push(word.to_string()),
        }
        at += 1;
        if token(at) == "as" {
            found.push((token(at + 1).to_string(), path, public));
            return at + 2;
        }
        if [",", "}", ";"].contains(&token(at)) {
            if path.last().is_some_and(|w| w == "self") && path.len() > 1 {
                path.pop();
            }
            found.push((path.last().cloned().unwrap_or_default(), path, public));
            return at;
        }
    }
}

/// The module that defines what a path names, seen from a module; nothing for other crates.
fn resolve(modules: &BTreeMap<Path, Module>, from: &Path, path: &[String], depth: usize) -> Option<Path> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => descend(modules, Path::new(), rest, depth),
        "self" => descend(modules, from.clone(), rest, depth),
        "super" => descend(modules, from[..from.len().checked_sub(1)?].to_vec(), rest, depth),
        name => {
            let module = modules.get(from)?;
            let known = module.children.contains(name) || module.imports.iter().any(|i| i.0 == name);
            known.then(|| descend(modules, from.clone(), path, depth))?
        }
    }
}

fn descend(modules: &BTreeMap<Path, Module>, at: Path, rest: &[String], depth: usize) -> Option<Path> {
    let module = modules.get(&at)?;
    let Some((name, below)) = rest.split_first().filter(|_| depth < 16) else { return Some(at) };
    if name == "super" {
        return descend(modules, at[..at.len().checked_sub(1)?].to_vec(), below, depth + 1);
    }
    if module.children.contains(name) {
        let child = [at.as_slice(), std::slice::from_ref(name)].concat();
        return if modules.contains_key(&child) { descend(modules, child, below, depth + 1) } else { Some(at) };
    }
    if let Some((_, target, _)) = module.imports.iter().find(|i| i.0 == *name) {
        // What an import names; items of other crates are this module's own here.
        let target = [target.as_slice(), below].concat();
        return resolve(modules, &at, &target, depth + 1);
    }
    Some(at)
}

/// The groups of files that reach each other, each sorted, with the arrows within.
pub fn circles(arrows: &Arrows) -> Vec<Vec<String>> {
    let reached = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            for next in arrows.get(file).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<String>> = arrows.keys().map(|f| (f, reached(f))).collect();
    let mut groups = BTreeSet::new();
    for (file, seen) in &reach {
        if seen.contains(*file) {
            let group = seen.iter().filter(|other| reach.get(other).is_some_and(|r| r.contains(*file)));
            groups.insert(group.cloned().collect::<Vec<_>>());
        }
    }
    groups.into_iter().collect()
}
