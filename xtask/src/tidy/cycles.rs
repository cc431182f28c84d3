//! Arrows point down inside a crate too: its top-level modules use each other without a cycle.
//!
//! An arrow is a path that begins with `crate::` or climbs out of a module with `super::`. A name that the crate's root re-exports
//! counts as the module it comes from. Tests may look anywhere.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::lexer::{Kind, Token};
use super::source::{Source, group_end};

/// The modules that one module uses, each with the place of the first use.
type Arrows = BTreeMap<String, BTreeMap<String, (String, usize)>>;

/// One finding for each knot of modules in the crate that `sources` are.
pub(crate) fn check(sources: &[&Source]) -> Vec<Finding> {
    let arrows = arrows(sources);
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for module in arrows.keys() {
        let Some(cycle) = cycle_through(&arrows, module) else { continue };
        if seen.insert(cycle.iter().cloned().collect::<BTreeSet<_>>()) {
            let (path, line) = &arrows[&cycle[0]][cycle.get(1).unwrap_or(&cycle[0])];
            let message = format!("modules in a circle: {} -> {}", cycle.join(" -> "), cycle[0]);
            findings.push(Finding::new(path, *line, message));
        }
    }
    findings
}

fn arrows(sources: &[&Source]) -> Arrows {
    let modules: BTreeSet<String> =
        sources.iter().filter_map(|source| source.module_path().first().map(|s| (*s).to_owned())).collect();
    let exports = exports(sources, &modules);
    let mut arrows = Arrows::new();
    for source in sources {
        let module = source.module_path();
        let Some(from) = module.first() else { continue };
        for (name, line) in names_from_root(&source.production_tokens(), module.len()) {
            let to = exports.get(name).map_or(name, String::as_str);
            if modules.contains(to) && to != *from {
                let place = (source.path.clone(), line);
                arrows.entry((*from).to_owned()).or_default().entry(to.to_owned()).or_insert(place);
            }
        }
    }
    arrows
}

/// The names that `pub use module::{..}` in the crate's root gives to the modules below.
fn exports(sources: &[&Source], modules: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    for root in sources.iter().filter(|source| source.is_crate_root()) {
        let tokens = root.production_tokens();
        for at in (0..tokens.len()).filter(|at| tokens[*at].is_ident("use")) {
            let path = tokens[at + 1..].iter().take_while(|t| !t.is_punct(";"));
            let idents: Vec<_> =
                path.filter(|t| t.kind == Kind::Ident && !matches!(t.text, "crate" | "self")).collect();
            let Some((module, names)) = idents.split_first() else { continue };
            if modules.contains(module.text) {
                exports.extend(names.iter().map(|name| (name.text.to_owned(), module.text.to_owned())));
            }
        }
    }
    exports
}

/// Every name that is looked up in the crate's root, by code in a module `depth` levels below it.
fn names_from_root<'a>(tokens: &[Token<'a>], depth: usize) -> Vec<(&'a str, usize)> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = tokens[at].is_ident("crate") || tokens[at].is_ident("super");
        if !begins || !colons(tokens, at + 1) {
            at += 1;
            continue;
        }
        let mut climbed = if tokens[at].is_ident("crate") { depth } else { 1 };
        at += 3;
        while tokens.get(at).is_some_and(|t| t.is_ident("super")) && colons(tokens, at + 1) {
            climbed += 1;
            at += 3;
        }
        if climbed == depth {
            out.extend(first_names(tokens, at));
        }
    }
    out
}

/// The name at `at`, or the first names of each path in the braces at `at`.
fn first_names<'a>(tokens: &[Token<'a>], at: usize) -> Vec<(&'a str, usize)> {
    let Some(token) = tokens.get(at) else { return Vec::new() };
    if !token.is_punct("{") {
        return vec![(token.text, token.line)];
    }
    let end = group_end(tokens, at);
    let mut names = Vec::new();
    let mut inner = at + 1;
    while inner < end {
        names.push((tokens[inner].text, tokens[inner].line));
        while inner < end && !tokens[inner].is_punct(",") {
            inner = if tokens[inner].is_punct("{") { group_end(tokens, inner) } else { inner + 1 };
        }
        inner += 1;
    }
    names
}

fn colons(tokens: &[Token<'_>], at: usize) -> bool {
    tokens.get(at..at + 2).is_some_and(|pair| pair.iter().all(|token| token.is_punct(":")))
}

/// A shortest way from `start` back to itself.
fn cycle_through(arrows: &Arrows, start: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut reached = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let here = way.last().expect("a way has a beginning");
            for next in arrows.get(here).into_iter().flat_map(BTreeMap::keys) {
                if next == start {
                    return Some(way);
                }
                if reached.insert(next.clone()) {
                    longer.push(way.iter().cloned().chain([next.clone()]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_crate(files: &[(&str, &str)], expect: &[&str]) {
        let sources: Vec<_> = files
            .iter()
            .map(|(path, text)| Source::new(&format!("crates/a/src/{path}"), text).expect("inside a crate"))
            .collect();
        let findings = check(&sources.iter().collect::<Vec<_>>());
        let messages: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(messages, expect, "{files:?}");
    }

    #[test]
    fn arrows_down_are_no_cycle() {
        check_crate(&[("a.rs", "use crate::b::X;"), ("b.rs", "use crate::c::{X, Y};"), ("c.rs", "")], &[]);
        check_crate(
            &[("a.rs", "mod x;"), ("a/x.rs", "use super::Y; use super::super::b::Z;"), ("b.rs", "")],
            &[],
        );
    }

    #[test]
    fn circles_are_found_however_they_are_written() {
        let circle = &["modules in a circle: a -> b -> a"];
        for (a, b) in [
            ("use crate::b::X;", "use crate::a::Y;"),
            ("use crate::{b::X, c};", "fn f(x: crate::a::Y) {}"),
            ("use super::b::X;", "use super::a::Y;"),
            ("use crate::b;", "use crate::{c::{d, e}, a};"),
        ] {
            check_crate(&[("a.rs", a), ("b.rs", b), ("c.rs", "")], circle);
        }
        check_crate(
            &[("a.rs", "use crate::b::X;"), ("b.rs", ""), ("b/deep.rs", "use super::super::a::Y;")],
            circle,
        );
        check_crate(
            &[("a.rs", "use crate::b::X;"), ("b.rs", "use crate::c::X;"), ("c.rs", "use crate::a::X;")],
            &["modules in a circle: a -> b -> c -> a"],
        );
    }

    #[test]
    fn a_name_exported_by_the_root_belongs_to_its_module() {
        check_crate(
            &[
                ("lib.rs", "pub use a::{Error, Result};"),
                ("a.rs", "use crate::b::X;"),
                ("b.rs", "use crate::Error;"),
            ],
            &["modules in a circle: a -> b -> a"],
        );
    }

    #[test]
    fn tests_may_look_anywhere() {
        check_crate(
            &[
                ("a.rs", "use crate::b::X;"),
                ("b.rs", "#[cfg(test)] mod tests { use crate::a::Y; }"),
                ("b/tests.rs", "use crate::a::Y;"),
            ],
            &[],
        );
    }
}
