//! Splits Rust source into tokens and comments, so that a rule never mistakes a string or a comment for code.
//!
//! It knows just enough of the language for that: nested comments, raw strings, and that `'a` may begin a lifetime or be a
//! character. It accepts everything; the compiler is the one to reject.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A name or keyword.
    Ident,
    /// A string literal, text without its quotes and escapes as written.
    Text,
    /// A number, character or lifetime.
    Other,
    /// One character of punctuation.
    Punct,
}

/// One token and the line it begins on, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

impl Token<'_> {
    /// Whether this is the name or keyword `text`.
    pub(crate) fn is_ident(&self, text: &str) -> bool {
        self.kind == Kind::Ident && self.text == text
    }

    /// Whether this is the punctuation `text`.
    pub(crate) fn is_punct(&self, text: &str) -> bool {
        self.kind == Kind::Punct && self.text == text
    }
}

/// The tokens and the comments of a file.
#[derive(Debug, Default)]
pub(crate) struct Lexed<'a> {
    pub(crate) tokens: Vec<Token<'a>>,
    /// Each comment with its first line.
    pub(crate) comments: Vec<(usize, &'a str)>,
}

/// Splits `source`.
pub(crate) fn lex(source: &str) -> Lexed<'_> {
    let mut out = Lexed::default();
    let mut at = 0;
    let mut line = 1;
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        let (len, token) = next(rest, first);
        let text = &rest[..len];
        match token {
            Lexeme::Space => {}
            Lexeme::Comment => out.comments.push((line, text)),
            Lexeme::Token(kind, skip, drop) => {
                out.tokens.push(Token { kind, text: &text[skip..len - drop], line });
            }
        }
        line += text.matches('\n').count();
        at += len;
    }
    out
}

enum Lexeme {
    Space,
    Comment,
    /// Kind, and how many bytes of quotes to cut from the beginning and the end.
    Token(Kind, usize, usize),
}

fn next(rest: &str, first: char) -> (usize, Lexeme) {
    if first.is_whitespace() {
        return (first.len_utf8(), Lexeme::Space);
    }
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Lexeme::Comment);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), Lexeme::Comment);
    }
    if let Some((len, open, close)) = string(rest) {
        return (len, Lexeme::Token(Kind::Text, open, close));
    }
    if first == '\'' {
        return (quote(rest), Lexeme::Token(Kind::Other, 0, 0));
    }
    if first.is_alphabetic() || first == '_' || first.is_ascii_digit() {
        let kind = if first.is_ascii_digit() { Kind::Other } else { Kind::Ident };
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        return (end, Lexeme::Token(kind, 0, 0));
    }
    (first.len_utf8(), Lexeme::Token(Kind::Punct, 0, 0))
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of the string literal that `rest` begins with, and the lengths of its opening and closing quotes.
fn string(rest: &str) -> Option<(usize, usize, usize)> {
    let marks = rest.find(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|marks| *marks <= 2)?;
    let raw = rest[..marks].ends_with('r');
    let hashes = if raw { rest[marks..].len() - rest[marks..].trim_start_matches('#').len() } else { 0 };
    let open = marks + hashes + 1;
    if !rest[marks + hashes..].starts_with('"') {
        return None;
    }
    if raw {
        let close = format!("\"{}", "#".repeat(hashes));
        let end = rest[open..].find(&close).map_or(rest.len(), |at| open + at + close.len());
        return Some((end, open, close.len().min(end - open)));
    }
    let mut escaped = false;
    for (at, c) in rest[open..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some((open + at + 1, open, 1)),
            _ => {}
        }
    }
    Some((rest.len(), open, 0))
}

/// The length of a character literal or a lifetime.
fn quote(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            // The escaped character may be a quote itself.
            let from = chars.next().map_or(rest.len(), |(at, c)| at + c.len_utf8());
            rest[from..].find('\'').map_or(rest.len(), |at| from + at + 1)
        }
        Some((at, c)) if rest[at + c.len_utf8()..].starts_with('\'') => at + c.len_utf8() + 1,
        Some((at, _)) => rest[at..]
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .map_or(rest.len(), |n| at + n.max(1)),
        None => rest.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, tokens: &[&str], comments: usize) {
        let lexed = lex(source);
        assert_eq!(lexed.tokens.iter().map(|t| t.text).collect::<Vec<_>>(), tokens, "{source}");
        assert_eq!(lexed.comments.len(), comments, "{source}");
    }

    #[test]
    fn strings_and_comments_hide_what_is_inside() {
        check("a // fuser::x\nb", &["a", "b"], 1);
        check("a /* x /* y */ z */ b", &["a", "b"], 1);
        check(r#"f("say \"fuser\" // no", x)"#, &["f", "(", r#"say \"fuser\" // no"#, ",", "x", ")"], 0);
        check(r##"r#"a " b"# c"##, &[r#"a " b"#, "c"], 0);
        check(r#"br"\" b"x" c"#, &[r"\", "x", "c"], 0);
    }

    #[test]
    fn quotes_are_characters_or_lifetimes() {
        check("'a' 'b", &["'a'", "'b"], 0);
        check(r"'\'' x", &[r"'\''", "x"], 0);
        check(r"'\u{41}' x", &[r"'\u{41}'", "x"], 0);
        check("&'static str", &["&", "'static", "str"], 0);
        check("'\"' x", &["'\"'", "x"], 0);
    }

    #[test]
    fn names_that_begin_like_strings_are_names() {
        check("r b br bucket crate::x", &["r", "b", "br", "bucket", "crate", ":", ":", "x"], 0);
    }

    #[test]
    fn lines_are_counted_through_strings_and_comments() {
        let lexed = lex("\"a\nb\" /* \n */ x");
        assert_eq!(lexed.tokens[1], Token { kind: Kind::Ident, text: "x", line: 3 });
    }

    #[test]
    fn unfinished_source_ends() {
        for source in ["\"abc", "/* abc", "'", "r#\"abc", "'\\", "b'x"] {
            lex(source);
        }
    }
}
