//! Words that may not stand in any file, because the repository speaks of the project alone.
//!
//! Somebody who clones it has neither the machine nor the notes of whoever wrote a line, so a path of that machine or the number of
//! a note tells them nothing. What the line means must stand in the line.

use super::Finding;

/// What is looked for, in pieces so that this file passes its own rule; and whether a digit must follow.
const WORDS: [(&[&str], bool); 3] =
    [(&["/wo", "rk/"], false), (&["is", "sue #"], true), (&["is", "sue "], true)];

/// The words in the file at `path` that may not be there.
pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let lower = line.to_lowercase();
        for (pieces, digit) in WORDS {
            let word = pieces.concat();
            let mut hits = lower.match_indices(&word);
            if hits
                .any(|(at, _)| !digit || lower[at + word.len()..].starts_with(|c: char| c.is_ascii_digit()))
            {
                let message = format!("`{word}`: say what it means, a reader elsewhere does not have it");
                findings.push(Finding::new(path, index + 1, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_and_places_of_one_machine_are_found() {
        for (line, found) in [
            (["see /wo", "rk/notes"].concat(), true),
            (["fixes Is", "sue #12"].concat(), true),
            (["as is", "sue 7 asks"].concat(), true),
            ("the issue # of a magazine".to_owned(), false),
            ("issue a request".to_owned(), false),
            ("target/network/x".to_owned(), false),
        ] {
            assert_eq!(!check("README.md", &line).is_empty(), found, "{line}");
        }
    }
}
