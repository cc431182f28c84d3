//! What is worth a look but no crime: long files, long functions, notes of work left over. Reported, never an error.

use super::Finding;
use super::lexer::Token;
use super::source::{Source, group_end};

/// Production lines of a file: past this it holds more than one idea.
const FILE_LINES: usize = 500;
/// Lines of a function: past this it does not fit on a screen.
const FUNCTION_LINES: usize = 70;

/// What is large or left over in `source`.
pub(crate) fn report(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let tokens = source.production_tokens();
    // Blank and comment lines count too: they take room on the screen.
    let lines = tokens.last().map_or(0, |token| token.line);
    if lines > FILE_LINES && !source.is_generated() {
        findings.push(Finding::new(&source.path, 1, format!("{lines} lines (over {FILE_LINES})")));
    }
    for (name, line, lines) in functions(&tokens) {
        if lines > FUNCTION_LINES && !source.is_generated() {
            let message = format!("`{name}` has {lines} lines (over {FUNCTION_LINES})");
            findings.push(Finding::new(&source.path, line, message));
        }
    }
    for (line, comment) in source.lexed().comments {
        if ["TODO", "FIXME"]
            .iter()
            .any(|word| comment.split(|c: char| !c.is_alphanumeric()).any(|w| w == *word))
        {
            findings.push(Finding::new(&source.path, line, comment.trim().to_owned()));
        }
    }
    findings
}

/// Name, first line and number of lines of each function with a body.
fn functions<'a>(tokens: &[Token<'a>]) -> Vec<(&'a str, usize, usize)> {
    let mut out = Vec::new();
    for at in (0..tokens.len()).filter(|at| tokens[*at].is_ident("fn")) {
        let Some(name) = tokens.get(at + 1) else { continue };
        let open = tokens[at..].iter().position(|token| token.is_punct("{") || token.is_punct(";"));
        let Some(open) = open.map(|offset| at + offset).filter(|open| tokens[*open].is_punct("{")) else {
            continue;
        };
        let end = group_end(tokens, open);
        out.push((name.text, tokens[at].line, tokens[end - 1].line - tokens[at].line + 1));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::finds;
    use super::*;

    fn file(text: &str) -> Source {
        Source::new("crates/a/src/x.rs", text).expect("inside a crate")
    }

    #[test]
    fn long_files_and_functions_and_leftovers_are_reported() {
        let body = "    call();\n".repeat(69);
        finds(&report(&file(&format!("fn long() {{\n{body}}}\n"))), "`long` has 71 lines");
        finds(&report(&file(&format!("{}x\n", "\n".repeat(500)))), "501 lines");
        finds(&report(&file("// TODO: later\n")), "TODO");
    }

    #[test]
    fn what_fits_is_not_reported() {
        let body = "    call();\n".repeat(68);
        assert!(report(&file(&format!("fn fits() {{\n{body}}}\n// the todo list of TODOs\n"))).is_empty());
        let tests = format!("x\n#[cfg(test)] mod tests {{\n{} y }}", "\n".repeat(600));
        assert!(report(&file(&tests)).is_empty(), "tests may be long");
    }
}
