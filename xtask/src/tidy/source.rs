//! A source file as the rules see it: which crate it belongs to, what it is for, and its tokens with and without tests.

use super::lexer::{Lexed, Token, lex};

/// What a file is for. Rules about production code leave the others alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Code that users run.
    Production,
    /// Unit tests in a file of their own, integration tests, benchmarks.
    Test,
    /// Programs that show the library's use.
    Example,
}

/// One Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    /// The folder of its crate: `s3-client`, `xtask`.
    pub(crate) krate: String,
    /// Where it lies, from the root of the repository.
    pub(crate) path: String,
    /// Where it lies below its crate: `src/key.rs`.
    pub(crate) place: String,
    /// Its text.
    pub(crate) text: String,
}

impl Source {
    /// A file at `path` (from the root of the repository); `None` for one outside every crate.
    pub(crate) fn new(path: &str, text: &str) -> Option<Self> {
        let (krate, place) = match path.strip_prefix("crates/") {
            Some(rest) => rest.split_once('/')?,
            None => ("xtask", path.strip_prefix("xtask/")?),
        };
        Some(Self {
            krate: krate.to_owned(),
            path: path.to_owned(),
            place: place.to_owned(),
            text: text.to_owned(),
        })
    }

    /// What the file is for.
    pub(crate) fn role(&self) -> Role {
        let parts: Vec<_> = self.place.split('/').collect();
        if parts[0] == "examples" {
            Role::Example
        } else if parts[0] != "src" || parts.iter().any(|part| matches!(*part, "tests" | "tests.rs")) {
            Role::Test
        } else {
            Role::Production
        }
    }

    /// Whether a program wrote the file.
    pub(crate) fn is_generated(&self) -> bool {
        self.text.lines().take(5).any(|line| line.starts_with("//") && line.contains("@generated"))
    }

    /// Whether the file is the root of a library or program.
    pub(crate) fn is_crate_root(&self) -> bool {
        matches!(self.place.as_str(), "src/lib.rs" | "src/main.rs")
    }

    /// All tokens and comments.
    pub(crate) fn lexed(&self) -> Lexed<'_> {
        lex(&self.text)
    }

    /// The tokens that users run: without items under `#[cfg(test)]`; none of a test file.
    pub(crate) fn production_tokens(&self) -> Vec<Token<'_>> {
        match self.role() {
            Role::Production => without_tests(&self.lexed().tokens),
            Role::Test | Role::Example => Vec::new(),
        }
    }

    /// The path of the module that the file is: `["read", "window"]`; empty for a crate's root.
    pub(crate) fn module_path(&self) -> Vec<&str> {
        let below = self.place.strip_prefix("src/").or_else(|| self.place.strip_prefix("tests/"));
        let name = below.unwrap_or(&self.place).trim_end_matches(".rs");
        let name = name.strip_suffix("/main").or_else(|| name.strip_suffix("/mod")).unwrap_or(name);
        if matches!(name, "lib" | "main") { Vec::new() } else { name.split('/').collect() }
    }
}

/// Drops every item that `#[cfg(test)]` stands before.
fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if is_cfg_test(&tokens[at..]) {
            at = item_end(tokens, attribute_end(tokens, at));
        } else {
            out.push(tokens[at]);
            at += 1;
        }
    }
    out
}

fn is_cfg_test(tokens: &[Token<'_>]) -> bool {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    tokens.len() >= CFG_TEST.len() && tokens.iter().zip(CFG_TEST).all(|(token, text)| token.text == text)
}

/// The index after the attribute that begins at `at` with `#[`.
fn attribute_end(tokens: &[Token<'_>], at: usize) -> usize {
    let open = at + 1 + usize::from(tokens.get(at + 1).is_some_and(|t| t.is_punct("!")));
    group_end(tokens, open)
}

/// The index after the group whose opening bracket is at `open`.
pub(crate) fn group_end(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if ["(", "[", "{"].iter().any(|bracket| token.is_punct(bracket)) {
            depth += 1;
        } else if [")", "]", "}"].iter().any(|bracket| token.is_punct(bracket)) {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return at + 1;
            }
        }
    }
    tokens.len()
}

/// The index after the item that begins at `from`, further attributes included.
fn item_end(tokens: &[Token<'_>], mut from: usize) -> usize {
    while tokens.get(from).is_some_and(|t| t.is_punct("#")) {
        from = attribute_end(tokens, from);
    }
    let mut at = from;
    while let Some(token) = tokens.get(at) {
        if token.is_punct(";") {
            return at + 1;
        } else if token.is_punct("{") {
            let end = group_end(tokens, at);
            // `use x::{..};` goes on to its semicolon.
            return end + usize::from(tokens.get(end).is_some_and(|t| t.is_punct(";")));
        } else if token.is_punct("(") || token.is_punct("[") {
            at = group_end(tokens, at);
        } else {
            at += 1;
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::new(path, text).expect("inside a crate")
    }

    #[test]
    fn roles_follow_from_the_place() {
        for (path, role) in [
            ("crates/a/src/lib.rs", Role::Production),
            ("crates/a/src/testing/memory.rs", Role::Production),
            ("crates/a/src/read/tests.rs", Role::Test),
            ("crates/a/src/read/tests/model.rs", Role::Test),
            ("crates/a/tests/it/main.rs", Role::Test),
            ("crates/a/benches/read.rs", Role::Test),
            ("crates/a/examples/cat.rs", Role::Example),
            ("xtask/src/main.rs", Role::Production),
        ] {
            assert_eq!(source(path, "").role(), role, "{path}");
        }
        assert!(Source::new("build/x.rs", "").is_none());
    }

    #[test]
    fn modules_follow_from_the_place() {
        for (path, module) in [
            ("crates/a/src/lib.rs", &[] as &[&str]),
            ("crates/a/src/read.rs", &["read"]),
            ("crates/a/src/read/window.rs", &["read", "window"]),
            ("crates/a/tests/it/main.rs", &["it"]),
            ("crates/a/tests/it/outside.rs", &["it", "outside"]),
        ] {
            assert_eq!(source(path, "").module_path(), module, "{path}");
        }
    }

    #[test]
    fn test_items_are_not_production() {
        for (text, left) in [
            ("a #[cfg(test)] mod tests { fn x() { y } } b", "a b"),
            ("a #[cfg(test)] #[path = \"x.rs\"] mod tests; b", "a b"),
            ("a #[cfg(test)] use x::{y, z}; b", "a b"),
            ("a #[cfg(test)] fn f(x: [u8; 3]) -> u8 { 1 } b", "a b"),
            (
                "a #[cfg(any(test, feature = \"t\"))] mod m; b",
                "a # [ cfg ( any ( test , feature = t ) ) ] mod m ; b",
            ),
        ] {
            let source = source("crates/a/src/x.rs", text);
            let tokens: Vec<_> = source.production_tokens().iter().map(|t| t.text).collect();
            assert_eq!(tokens.join(" "), left, "{text}");
        }
    }
}
