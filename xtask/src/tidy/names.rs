//! Which crate may name what: the arrows between the crates, and what each keeps to itself.
//!
//! A rule is a row of a table. It looks at the code (never at comments) and at the dependencies of `Cargo.toml`.

use super::Finding;
use super::lexer::{Kind, Token};
use super::manifest::Manifest;
use super::source::{Role, Source};

/// What a rule looks for.
#[derive(Debug, Clone, Copy)]
enum Name {
    /// A crate: `hyper` as the beginning of a path or as a dependency.
    Crate(&'static str),
    /// Every crate whose name begins so.
    CratePrefix(&'static str),
    /// Names joined by `::` anywhere in a path.
    Path(&'static [&'static str]),
    /// A macro call.
    Macro(&'static str),
    /// A string literal that contains this.
    Literal(&'static str),
    /// A `static` that can change while the process runs.
    ChangingStatic,
}

/// Which crates may.
#[derive(Debug, Clone, Copy)]
enum Who {
    Only(&'static [&'static str]),
    AllBut(&'static str),
}

/// Whether a rule also holds for tests and examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Everywhere,
    Production,
}

struct Rule {
    names: &'static [Name],
    who: Who,
    within: Where,
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        names: &[Name::CratePrefix("aws_"), Name::Crate("object_store")],
        who: Who::Only(&["s3-client"]),
        within: Where::Everywhere,
        why: "the rest speaks to the bucket trait",
    },
    Rule {
        names: &[Name::Crate("hyper"), Name::Crate("http"), Name::CratePrefix("http_")],
        who: Who::Only(&["s3-client", "embedded-s3"]),
        within: Where::Everywhere,
        why: "HTTP ends at the client; the embedded server is its other end",
    },
    Rule {
        names: &[Name::Crate("hyper_util")],
        who: Who::Only(&["s3-client", "embedded-s3", "csi"]),
        within: Where::Everywhere,
        why: "beyond HTTP only tonic needs it, to wrap a Unix socket",
    },
    Rule {
        names: &[Name::Crate("s3s")],
        who: Who::Only(&["embedded-s3"]),
        within: Where::Everywhere,
        why: "it serves, the others ask",
    },
    Rule {
        names: &[Name::Crate("fuser")],
        who: Who::Only(&["fuse-adapter"]),
        within: Where::Everywhere,
        why: "another transport shall be able to take its place",
    },
    Rule {
        names: &[Name::Crate("libc")],
        who: Who::Only(&["fuse-adapter"]),
        within: Where::Production,
        why: "system calls go through rustix, error numbers through the adapter's one table",
    },
    Rule {
        names: &[Name::Path(&["Errno"])],
        who: Who::Only(&["fuse-adapter", "fuse-mount", "cli", "csi"]),
        within: Where::Production,
        why: "the file system and the client say what happened; the adapter's one table gives it a number",
    },
    Rule {
        names: &[Name::Literal("/dev/fuse")],
        // These two only print it, in what they advise.
        who: Who::Only(&["fuse-mount", "cli", "xtask"]),
        within: Where::Production,
        why: "one crate knows how a mount comes to be",
    },
    Rule {
        names: &[Name::Path(&["rustix", "mount"])],
        who: Who::Only(&["fuse-mount"]),
        within: Where::Production,
        why: "one crate knows how a mount comes to be",
    },
    Rule {
        names: &[
            Name::Crate("tonic"),
            Name::Crate("prost"),
            Name::CratePrefix("tonic_"),
            Name::CratePrefix("prost_"),
        ],
        who: Who::Only(&["csi"]),
        within: Where::Everywhere,
        why: "gRPC and Kubernetes end there",
    },
    Rule {
        names: &[Name::Crate("anyhow"), Name::Crate("clap")],
        who: Who::Only(&["cli", "xtask"]),
        within: Where::Production,
        why: "a library's errors can be told apart, and it has no command line",
    },
    Rule {
        names: &[
            Name::Path(&["std", "env"]),
            Name::Macro("println"),
            Name::Macro("print"),
            Name::Macro("eprintln"),
            Name::Macro("eprint"),
            Name::Path(&["process", "exit"]),
        ],
        who: Who::Only(&["cli", "xtask"]),
        within: Where::Production,
        why: "a library neither reads the environment nor prints nor ends the process",
    },
    Rule {
        names: &[
            Name::Path(&["runtime", "Runtime"]),
            Name::Path(&["runtime", "Builder"]),
            Name::Path(&["std", "fs"]),
            Name::Path(&["tokio", "fs"]),
            Name::Path(&["std", "net"]),
            Name::Path(&["tokio", "net"]),
            Name::Macro("thread_local"),
            Name::ChangingStatic,
        ],
        who: Who::AllBut("s3-fs-core"),
        within: Where::Production,
        why: "the core has no runtime and no state of the process, and does its work through the bucket trait",
    },
];

/// Types that can change behind a shared reference.
const CHANGING: [&str; 6] = ["Mutex", "RwLock", "OnceLock", "LazyLock", "OnceCell", "UnsafeCell"];

/// What `source` names against the rules.
pub(crate) fn check_source(source: &Source) -> Vec<Finding> {
    let lexed = source.lexed();
    let production = source.production_tokens();
    let mut findings = Vec::new();
    for rule in RULES.iter().filter(|rule| !rule.who.may(&source.krate)) {
        let tokens = match rule.within {
            Where::Everywhere => &lexed.tokens,
            Where::Production => &production,
        };
        for at in 0..tokens.len() {
            if rule.names.iter().any(|name| name.is_at(tokens, at)) {
                let message = rule.message(tokens[at].text);
                findings.push(Finding::new(&source.path, tokens[at].line, message));
            }
        }
    }
    findings
}

/// What `manifest` depends on against the rules.
pub(crate) fn check_manifest(manifest: &Manifest) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in RULES.iter().filter(|rule| !rule.who.may(&manifest.krate)) {
        for dependency in &manifest.dependencies {
            let counts = rule.within == Where::Everywhere || dependency.role == Role::Production;
            if counts && rule.names.iter().any(|name| name.is_crate(&dependency.ident())) {
                findings.push(Finding::new(&manifest.path, dependency.line, rule.message(&dependency.name)));
            }
        }
    }
    findings
}

impl Rule {
    fn message(&self, name: &str) -> String {
        match self.who {
            Who::Only(crates) => format!("`{name}` belongs to {}: {}", crates.join(", "), self.why),
            Who::AllBut(krate) => format!("`{name}` has no place in {krate}: {}", self.why),
        }
    }
}

impl Who {
    fn may(self, krate: &str) -> bool {
        match self {
            Self::Only(crates) => crates.contains(&krate),
            Self::AllBut(other) => krate != other,
        }
    }
}

impl Name {
    fn is_at(&self, tokens: &[Token<'_>], at: usize) -> bool {
        let token = tokens[at];
        match self {
            Self::Crate(_) | Self::CratePrefix(_) => {
                let before = at.checked_sub(1).map(|at| tokens[at]);
                // `x::hyper::y` is somebody's module; `::hyper` at the beginning of a path is the crate.
                let inner = before.is_some_and(|t| t.is_punct(":"))
                    && at
                        .checked_sub(3)
                        .is_some_and(|at| tokens[at].kind == Kind::Ident && !tokens[at].is_ident("use"));
                let is_path = follows(tokens, at + 1);
                let is_use = before.is_some_and(|t| t.is_ident("use") || t.is_ident("crate"));
                token.kind == Kind::Ident && self.is_crate(token.text) && !inner && (is_path || is_use)
            }
            Self::Path(names) => {
                let (last, first) = names.split_last().expect("a path has a name");
                let mut at = at;
                for name in first {
                    if !(tokens[at].is_ident(name) && follows(tokens, at + 1)) {
                        return false;
                    }
                    at += 3;
                }
                tokens.get(at).is_some_and(|token| token.is_ident(last))
            }
            Self::Macro(name) => token.is_ident(name) && tokens.get(at + 1).is_some_and(|t| t.is_punct("!")),
            Self::Literal(text) => token.kind == Kind::Text && token.text.contains(text),
            Self::ChangingStatic => {
                let declared = tokens[at..].iter().take_while(|t| !(t.is_punct("=") || t.is_punct(";")));
                let mut words = declared.filter(|t| t.kind == Kind::Ident);
                token.is_ident("static")
                    && words.any(|t| CHANGING.contains(&t.text) || t.text.starts_with("Atomic"))
            }
        }
    }

    fn is_crate(&self, ident: &str) -> bool {
        match self {
            Self::Crate(name) => ident == *name,
            Self::CratePrefix(prefix) => ident.starts_with(prefix),
            Self::Path(_) | Self::Macro(_) | Self::Literal(_) | Self::ChangingStatic => false,
        }
    }
}

/// Whether `::` is at `at`.
fn follows(tokens: &[Token<'_>], at: usize) -> bool {
    tokens.get(at..at + 2).is_some_and(|pair| pair.iter().all(|token| token.is_punct(":")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, findings: usize) {
        let source = Source::new(path, text).expect("inside a crate");
        let found = check_source(&source);
        assert_eq!(found.len(), findings, "{path}: {text}: {found:?}");
    }

    #[test]
    fn each_rule_finds_its_name_in_a_crate_that_may_not() {
        for (krate, text) in [
            ("s3-fs-core", "use aws_sdk_s3::Client;"),
            ("cli", "fn f(c: aws_config::SdkConfig) {}"),
            ("s3-fs-core", "use object_store::path::Path;"),
            ("s3-fs-core", "let x = hyper::Uri::from_static(\"\");"),
            ("csi", "use http_body_util::Full;"),
            ("cli", "use s3s::S3;"),
            ("s3-fs-core", "use fuser;"),
            ("fuse-mount", "x.map(|_| libc::EIO)"),
            ("s3-fs-core", "return Err(Errno::IO);"),
            ("s3-client", "rustix::io::Errno::NOENT"),
            ("fuse-adapter", "open(\"/dev/fuse\")"),
            ("csi", "rustix::mount::unmount(path)"),
            ("cli", "use tonic::transport::Server;"),
            ("csi", "fn main() -> anyhow::Result<()> {}"),
            ("s3-client", "std::env::var(\"AWS_REGION\")"),
            ("fuse-adapter", "println!(\"mounted\")"),
            ("csi", "std::process::exit(1)"),
            ("s3-fs-core", "tokio::runtime::Runtime::new()"),
            ("s3-fs-core", "static N: AtomicU64 = AtomicU64::new(0);"),
            ("csi", "hyper::client::conn()"),
            ("s3-fs-core", "static X: LazyLock<u8> = LazyLock::new(f)"),
        ] {
            let source = Source::new(&format!("crates/{krate}/src/x.rs"), text).expect("inside a crate");
            assert!(!check_source(&source).is_empty(), "{krate}: {text}");
        }
    }

    #[test]
    fn the_crate_that_owns_a_name_may() {
        for (krate, text) in [
            ("s3-client", "use aws_sdk_s3::Client; use object_store::path::Path; use hyper::Uri;"),
            ("embedded-s3", "use hyper::body::Incoming; use s3s::S3;"),
            ("fuse-adapter", "use fuser::Filesystem; libc::EIO; Errno::IO;"),
            ("fuse-mount", "open(\"/dev/fuse\"); rustix::mount::unmount(p)"),
            ("cli", "anyhow!(\"no /dev/fuse\"); println!(\"x\"); std::env::args()"),
            ("csi", "use tonic::Status; prost::Message"),
        ] {
            check(&format!("crates/{krate}/src/x.rs"), text, 0);
        }
    }

    #[test]
    fn words_that_only_look_alike_are_left_alone() {
        for text in [
            "// fuser::x\n/// hyper::y\n/* tonic::z */",
            "let http = 1; f(http); x.http(); s.hyper",
            "let s = \"use aws_sdk_s3::x\";",
            "use crate::http::Status; crate::wire::http::x()",
            "env!(\"CARGO_PKG_VERSION\")",
            "tokio::runtime::Handle::current()",
            "struct S { once: OnceLock<u8>, name: &'static Mutex<u8> }",
            "static TABLE: [u8; 2] = [AtomicU8::X, 1];",
        ] {
            check("crates/s3-fs-core/src/x.rs", text, 0);
        }
    }

    #[test]
    fn tests_may_print_but_not_name_what_another_crate_owns() {
        check("crates/csi/tests/it/main.rs", "println!(\"x\"); std::env::temp_dir()", 0);
        check("crates/csi/src/x.rs", "#[cfg(test)] mod tests { fn f() { println!(\"x\") } }", 0);
        check("crates/csi/tests/it/main.rs", "fuser::mount()", 1);
    }

    #[test]
    fn dependencies_count_as_names() {
        for (text, findings) in [
            ("[dependencies]\ntonic.workspace = true\n", 1),
            ("[dependencies]\nanyhow.workspace = true\n", 1),
            ("[dev-dependencies]\nanyhow.workspace = true\n", 0),
            ("[dev-dependencies]\naws-sdk-s3.workspace = true\n", 1),
            ("[dependencies]\nbytes.workspace = true\n", 0),
        ] {
            let manifest = Manifest::new("crates/s3-fs-core/Cargo.toml", text).expect("inside a crate");
            assert_eq!(check_manifest(&manifest).len(), findings, "{text}");
        }
    }
}
