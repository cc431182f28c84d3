//! What the documents claim is there: each test, flag and error kind.
//!
//! `docs/SEMANTICS.md` names a test below each claim, as `` Test: `sluicefs_fuse::it::read::name` ``: the crate's name in Rust, `it`
//! for its integration tests, the modules, the function. A name that no test has is an error; a claim without a test is reported.

use std::collections::{BTreeSet, HashMap};

use super::Finding;
use super::lexer::{Kind, Token};
use super::source::{Source, group_end};

/// Where the claims stand.
pub(crate) const SEMANTICS: &str = "docs/SEMANTICS.md";
/// Where the flags stand.
pub(crate) const CLI: &str = "docs/CLI.md";

const MARK: &str = "Test: ";

/// Tests named in the claims that do not exist. `packages` gives each package's name in Rust the folder of its crate.
pub(crate) fn missing_tests(
    text: &str,
    packages: &HashMap<String, String>,
    sources: &[Source],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, name) in named_tests(text) {
        if !test_exists(name, packages, sources) {
            findings.push(Finding::new(SEMANTICS, line, format!("no test is called `{name}`")));
        }
    }
    findings
}

/// List items of the claims that end without naming a test. (Tenets and tables are not list items.)
pub(crate) fn untested_claims(text: &str) -> Vec<Finding> {
    let mut open: Option<(usize, &str)> = None;
    let mut findings = Vec::new();
    let mut close = |open: Option<(usize, &str)>| {
        if let Some((line, claim)) = open {
            let message = format!("no test yet: {}", claim.trim_start_matches("- "));
            findings.push(Finding::new(SEMANTICS, line, message));
        }
    };
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("- ") {
            close(open.replace((index + 1, line)));
        } else if !line.starts_with(' ') && !line.is_empty() {
            close(open.take());
        }
        if line.contains(MARK) {
            open = None;
        }
    }
    close(open);
    findings
}

fn named_tests(text: &str) -> Vec<(usize, &str)> {
    let lines =
        text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, line.split_once(MARK)?.1)));
    let names = lines.flat_map(|(line, rest)| rest.split(',').map(move |name| (line, name)));
    names.map(|(line, name)| (line, name.trim().trim_end_matches('.').trim_matches('`'))).collect()
}

fn test_exists(name: &str, packages: &HashMap<String, String>, sources: &[Source]) -> bool {
    let parts: Vec<_> = name.split("::").collect();
    let [package, modules @ .., function] = parts.as_slice() else { return false };
    let Some(krate) = packages.get(*package) else { return false };
    let in_tests = modules.first() == Some(&"it");
    sources.iter().any(|source| {
        // Modules written inside a file make the name longer than the file's own path.
        source.krate == *krate
            && source.place.starts_with(if in_tests { "tests/" } else { "src/" })
            && modules.starts_with(&source.module_path())
            && tests_of(source).contains(*function)
    })
}

fn tests_of(source: &Source) -> BTreeSet<&str> {
    let tokens = source.lexed().tokens;
    let mut names = BTreeSet::new();
    for at in (0..tokens.len()).filter(|at| tokens[*at].is_punct("#")) {
        let end = group_end(&tokens, at + 1);
        let is_test = tokens[at..end].last().is_some_and(|t| t.is_punct("]"))
            && tokens[at..end].iter().take_while(|t| !t.is_punct("(")).any(|t| t.is_ident("test"));
        if is_test {
            names.extend(function_after(&tokens[end..]));
        }
    }
    names
}

/// The name of the function that begins here, attributes and `async` left out.
fn function_after<'a>(tokens: &[Token<'a>]) -> Option<&'a str> {
    let at = tokens.iter().position(|token| token.is_ident("fn"))?;
    let before = tokens[..at].iter().any(|token| token.is_punct(";") || token.is_punct("}"));
    tokens.get(at + 1).filter(|_| !before).map(|token| token.text)
}

/// The command line of another program, which documents it.
const FOREIGN_FLAGS: &str = "src/compat.rs";

/// Flags of the command line that its document does not name.
pub(crate) fn missing_flags(document: &str, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.krate == "cli" && source.place != FOREIGN_FLAGS) {
        for (flag, line) in flags(&source.production_tokens()) {
            if !document.contains(&format!("`--{flag}")) {
                findings.push(Finding::new(&source.path, line, format!("`--{flag}` is missing from {CLI}")));
            }
        }
    }
    findings
}

/// The long flags that `#[arg(long ..)]` declares; hidden ones are left out, as in the help.
fn flags(tokens: &[Token<'_>]) -> Vec<(String, usize)> {
    let mut flags = Vec::new();
    for at in 0..tokens.len() {
        let is_arg =
            tokens[at].is_punct("#") && tokens.get(at + 2).is_some_and(|token| token.is_ident("arg"));
        if !is_arg {
            continue;
        }
        let end = group_end(tokens, at + 1);
        let attribute = &tokens[at..end];
        let hidden = attribute.windows(3).any(|w| w[0].is_ident("hide") && w[2].is_ident("true"));
        let Some(long) = attribute.iter().position(|t| t.is_ident("long")).filter(|_| !hidden) else {
            continue;
        };
        let given = attribute.get(long + 2).filter(|token| token.kind == Kind::Text);
        let field = || tokens[end..].windows(2).find(|w| w[0].kind == Kind::Ident && w[1].is_punct(":"));
        let name = given.map(|token| token.text).or_else(|| field().map(|w| w[0].text));
        flags.extend(name.map(|name| (name.replace('_', "-"), tokens[at].line)));
    }
    flags
}

/// Error kinds of the file system that the table of errors does not name.
pub(crate) fn missing_error_kinds(semantics: &str, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let of_core = |source: &&Source| source.krate == "s3-fs-core" && source.place == "src/error.rs";
    for source in sources.iter().filter(of_core) {
        for variant in variants(&source.production_tokens(), "ErrorKind") {
            if !semantics.contains(&format!("`{}`", variant.text)) {
                let message = format!("the error kind `{}` is missing from {SEMANTICS}", variant.text);
                findings.push(Finding::new(&source.path, variant.line, message));
            }
        }
    }
    findings
}

fn variants<'a>(tokens: &[Token<'a>], name: &str) -> Vec<Token<'a>> {
    let Some(at) = tokens.windows(2).position(|w| w[0].is_ident("enum") && w[1].is_ident(name)) else {
        return Vec::new();
    };
    let body = &tokens[at + 3..group_end(tokens, at + 2) - 1];
    let first = body.first().filter(|token| token.kind == Kind::Ident).copied();
    let later = body.windows(2).filter(|w| w[0].is_punct(",") && w[1].kind == Kind::Ident).map(|w| w[1]);
    first.into_iter().chain(later).collect()
}

#[cfg(test)]
mod tests {
    use super::super::finds;
    use super::*;

    fn file(path: &str, text: &str) -> Source {
        Source::new(path, text).expect("inside a crate")
    }

    #[test]
    fn a_named_test_must_exist_where_its_name_says() {
        let packages = HashMap::from([("sluicefs_core".to_owned(), "core".to_owned())]);
        let sources = [
            file(
                "crates/core/src/read.rs",
                "#[cfg(test)] mod tests { #[test] fn short() {} fn no_test() {} }",
            ),
            file("crates/core/src/read/tests.rs", "#[tokio::test(start_paused = true)]\nasync fn long() {}"),
            file("crates/core/tests/it/model.rs", "proptest! { #[test] fn model(x in 0..3) {} }"),
        ];
        for (name, exists) in [
            ("sluicefs_core::read::tests::short", true),
            ("sluicefs_core::read::tests::long", true),
            ("sluicefs_core::it::model::model", true),
            ("sluicefs_core::model::model", false),
            ("sluicefs_core::read::tests::no_test", false),
            ("sluicefs_core::write::tests::short", false),
            ("sluicefs_other::read::tests::short", false),
            ("short", false),
        ] {
            let text = format!("- A claim.\n  Test: `{name}`\n");
            assert_eq!(missing_tests(&text, &packages, &sources).is_empty(), exists, "{name}");
        }
        let text = "Test: `sluicefs_core::read::tests::short`, `sluicefs_core::gone`";
        finds(&missing_tests(text, &packages, &sources), "sluicefs_core::gone");
    }

    #[test]
    fn claims_without_a_test_are_reported() {
        for (text, untested) in [
            ("- A.\n  Test: `x::y`\n- B.\n  More of B.\n  Test: `x::z`\n", 0),
            ("- A.\n- B.\n  Test: `x::y`\n", 1),
            ("- A.\n\nProse.\n- B.\n", 2),
            ("Prose alone.\n", 0),
        ] {
            assert_eq!(untested_claims(text).len(), untested, "{text}");
        }
    }

    #[test]
    fn each_flag_must_be_documented() {
        let code = "struct A {\n#[arg(long, short)]\n pub read_only: bool,\n #[arg(long = \"uid\", value_name = \"U\")]\n\
                    owner: u32,\n #[arg(long, hide = true)] secret: bool,\n #[arg(short)] f: bool }";
        let sources = [file("crates/cli/src/args.rs", code)];
        assert!(missing_flags("`--read-only` and `--uid <U>`", &sources).is_empty());
        finds(&missing_flags("`--uid <U>`", &sources), "--read-only");
        finds(&missing_flags("`--read-only`", &sources), "--uid");
    }

    #[test]
    fn each_error_kind_must_be_documented() {
        let code = "enum ErrorKind { /// Doc, with a comma.\n NotFound, Stale, }";
        let sources = [file("crates/s3-fs-core/src/error.rs", code)];
        assert!(missing_error_kinds("`NotFound` | `Stale`", &sources).is_empty());
        finds(&missing_error_kinds("`NotFound`", &sources), "Stale");
        finds(&missing_error_kinds("`Stale`", &sources), "NotFound");
    }
}
