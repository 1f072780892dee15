//! Who may know whom: one table, compared with every `crate::…` path in `src/`.
//!
//! Owns: the table of dependencies between top-level modules and the words that only some of them may say. Not: a Rust
//! parser; it reads tokens, which is enough because the house writes paths across modules as `crate::…` and uses `super::`
//! only inside a top-level module (that, too, is checked here). Code that exists in tests only is not looked at.
//!
//! To let a module use another: add the name to its row in [`MAY_USE`]. A row may name only rows above it, so the table is
//! an order and the program has no cycles. A new top-level module needs a row.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What each top-level module may name, bottom-up.
const MAY_USE: &[(&str, &[&str])] = &[
    // Words and values.
    ("error", &[]),
    ("limits", &[]),
    ("clock", &[]),
    ("spec", &["clock"]),
    // Pure cores and plain resources: they know what a pod is, and nothing of each other.
    ("lifecycle", &["clock", "error", "limits", "spec"]),
    ("net", &["clock", "error", "limits", "spec"]),
    ("admission", &["clock", "limits", "spec"]),
    ("store", &["clock", "error", "limits", "spec"]),
    ("secret", &["error", "limits", "store"]),
    ("volume", &["clock", "error", "limits", "secret", "spec", "store"]),
    ("image", &["clock", "error", "limits", "spec", "store"]),
    ("artifact", &["clock", "error", "image", "limits", "spec", "store"]),
    // What goes in and out.
    ("manifest", &["clock", "error", "image", "lifecycle", "limits", "secret", "spec"]),
    // The engine.
    ("wasi", &["clock", "error", "limits", "net", "spec"]),
    ("runtime", &["clock", "error", "limits", "net", "spec", "wasi"]),
    // Pods from afar: topics, signed documents, the protocol's core; and the link to the broker.
    ("mqtt", &["clock", "error", "image", "limits", "manifest", "spec"]),
    // The other end: who publishes pods, and reads what nodes say.
    (
        "controller",
        &["artifact", "clock", "error", "image", "limits", "manifest", "mqtt", "secret", "spec"],
    ),
    // Between pods, and the host's network.
    ("fabric", &["clock", "error", "limits", "net", "spec"]),
    ("outside", &["clock", "error", "fabric", "limits", "net", "spec"]),
    // The hands.
    ("board", &["clock", "error", "limits", "manifest", "spec"]),
    (
        "pod",
        &[
            "admission",
            "artifact",
            "board",
            "clock",
            "error",
            "fabric",
            "image",
            "lifecycle",
            "limits",
            "manifest",
            "net",
            "outside",
            "runtime",
            "secret",
            "spec",
            "volume",
        ],
    ),
    (
        "source",
        &["board", "clock", "error", "image", "limits", "manifest", "mqtt", "pod", "spec", "store"],
    ),
    (
        "reconciler",
        &[
            "admission",
            "board",
            "clock",
            "error",
            "fabric",
            "image",
            "lifecycle",
            "limits",
            "manifest",
            "mqtt",
            "pod",
            "secret",
            "source",
            "spec",
            "store",
        ],
    ),
    // The doors.
    (
        "server",
        &["board", "clock", "error", "limits", "manifest", "net", "outside", "reconciler", "spec"],
    ),
    ("daemon", EVERYTHING_BELOW_THE_DAEMON),
    ("play", EVERYTHING_BELOW_PLAY),
    (
        "cli",
        &[
            "artifact",
            "board",
            "clock",
            "controller",
            "daemon",
            "error",
            "image",
            "limits",
            "manifest",
            "mqtt",
            "outside",
            "play",
            "runtime",
            "secret",
            "server",
            "spec",
        ],
    ),
    ("fuzzing", &["artifact", "clock", "image", "manifest", "mqtt", "spec", "store"]),
    ("main", &["cli", "error"]),
    ("lib", &[]),
];

/// The daemon wires everyone together and is known by the command line only.
const EVERYTHING_BELOW_THE_DAEMON: &[&str] = &[
    "admission",
    "artifact",
    "board",
    "clock",
    "error",
    "fabric",
    "image",
    "lifecycle",
    "limits",
    "manifest",
    "mqtt",
    "net",
    "outside",
    "pod",
    "reconciler",
    "runtime",
    "secret",
    "server",
    "source",
    "spec",
    "store",
    "volume",
    "wasi",
];

/// `play` is a daemon for one manifest in the foreground.
const EVERYTHING_BELOW_PLAY: &[&str] = &[
    "admission",
    "artifact",
    "board",
    "clock",
    "daemon",
    "error",
    "fabric",
    "image",
    "lifecycle",
    "limits",
    "manifest",
    "mqtt",
    "net",
    "outside",
    "pod",
    "reconciler",
    "runtime",
    "secret",
    "server",
    "source",
    "spec",
    "store",
    "volume",
    "wasi",
];

/// Who may name a crate. A name ending in `_` stands for every crate that begins so.
enum Who {
    /// These and no others.
    Only(&'static [&'static str]),
    /// All but these.
    AllBut(&'static [&'static str]),
}

const CRATES: &[(&str, Who)] = &[
    ("wasmtime", Who::Only(&["runtime", "wasi"])),
    ("wasmtime_", Who::Only(&["runtime", "wasi"])),
    ("wiggle", Who::Only(&["runtime", "wasi"])),
    ("rumqttc", Who::Only(&["mqtt"])),
    // A whole broker: for the demo, and nothing else.
    ("mqtt5", Who::Only(&["cli"])),
    ("hickory_", Who::Only(&["outside"])),
    ("oci_client", Who::Only(&["artifact"])),
    ("reqwest", Who::Only(&["artifact"])),
    ("tokio", Who::AllBut(&["lifecycle", "net", "spec"])),
    ("tokio_", Who::AllBut(&["lifecycle", "net", "spec"])),
];

/// Files and folders below `src` that are pure though their module is not: they know no async runtime.
const PURE: &[&str] = &[
    "mqtt/cause",
    "mqtt/command",
    "mqtt/controller",
    "mqtt/envelope",
    "mqtt/index",
    "mqtt/intent",
    "mqtt/protocol",
    "mqtt/record",
    "mqtt/signature",
    "mqtt/status",
    "mqtt/topic",
    "mqtt/trust",
    "mqtt/version",
];

/// Folders and files that hold test code by name; what `#[cfg(test)] mod x;` declares is left out as well.
const TEST_NAMES: &[&str] = &["test", "tests", "testkit"];

#[test]
fn every_module_names_only_those_below_it() {
    let complaints = check_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let mut text = String::new();
    for complaint in &complaints {
        writeln!(text, "  {complaint}").unwrap();
    }
    assert!(
        complaints.is_empty(),
        "{} breaches of the layering (tests/layering.rs):\n{text}",
        complaints.len()
    );
}

#[test]
fn the_table_is_an_order_without_cycles() {
    let mut above = BTreeSet::new();
    for (module, uses) in MAY_USE {
        for used in *uses {
            assert!(
                above.contains(used),
                "the row of {module} names {used}, which has no row above it"
            );
        }
        assert!(above.insert(*module), "{module} has two rows");
    }
}

/// All complaints about the files below `src`, in order of path.
fn check_tree(src: &Path) -> Vec<String> {
    let mut files = Vec::new();
    list(src, &mut files);
    files.sort();
    assert!(!files.is_empty(), "no source file below {}", src.display());

    let mut read = Vec::new();
    let mut test_only: BTreeSet<PathBuf> = BTreeSet::new();
    for path in &files {
        let scan = Scan::of(&fs::read_to_string(path).unwrap());
        let home = children_of(src, path);
        test_only.extend(scan.test_children.iter().map(|name| home.join(name)));
        read.push((path.strip_prefix(src).unwrap(), scan));
    }
    let is_test = |path: &Path| {
        path.iter().any(|part| {
            TEST_NAMES.iter().any(|name| *name == Path::new(part).with_extension("").as_os_str())
        }) || src.join(path).with_extension("").ancestors().any(|up| test_only.contains(up))
    };
    read.iter()
        .filter(|(path, _)| !is_test(path))
        .flat_map(|(path, scan)| check_file(path, scan))
        .collect()
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The folder in which a file's child modules lie.
fn children_of(src: &Path, file: &Path) -> PathBuf {
    let folder = file.parent().unwrap();
    let stem = file.file_stem().unwrap();
    if stem == "mod" || folder == src && (stem == "lib" || stem == "main") {
        folder.into()
    } else {
        folder.join(stem)
    }
}

/// Complaints about one file; `path` is relative to `src`.
fn check_file(path: &Path, scan: &Scan) -> Vec<String> {
    let module_path = path.with_extension("");
    let parts: Vec<&str> = module_path
        .iter()
        .map(|part| part.to_str().unwrap())
        .filter(|part| *part != "mod")
        .collect();
    let module = parts[0];
    let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
        return vec![format!("src/{}: the module {module} has no row in MAY_USE", path.display())];
    };
    let is_pure = PURE.iter().any(|pure| module_path.starts_with(pure));
    let mut complaints = Vec::new();
    for Named { what, line } in &scan.named {
        let complaint = match what {
            What::Module(used) if used == module || may_use.contains(&used.as_str()) => continue,
            What::Module(used) => format!("{module} may not use crate::{used}"),
            What::Super { levels } if *levels < parts.len() => continue,
            What::Super { .. } => format!("super:: leaves {module}; write crate::…"),
            What::Crate(name)
                if may_name(module, name) && !(is_pure && name.starts_with("tokio")) =>
            {
                continue;
            }
            What::Crate(name) => format!("{module} may not name the crate {name}"),
        };
        complaints.push(format!("src/{}:{line}: {complaint}", path.display()));
    }
    complaints
}

fn may_name(module: &str, name: &str) -> bool {
    CRATES.iter().filter(|(pattern, _)| matches_crate(pattern, name)).all(|(_, who)| match who {
        Who::Only(these) => these.contains(&module),
        Who::AllBut(these) => !these.contains(&module),
    })
}

fn matches_crate(pattern: &str, name: &str) -> bool {
    if pattern.ends_with('_') { name.starts_with(pattern) } else { name == pattern }
}

/// Something a file names, and where.
#[derive(Debug)]
struct Named {
    what: What,
    line: usize,
}

#[derive(Debug, PartialEq)]
enum What {
    /// The first segment after `crate::` (or `podling::`, as the binary says).
    Module(String),
    /// A chain of `super::` that climbs `levels` modules above the file's own.
    Super { levels: usize },
    /// A crate with a rule in [`CRATES`].
    Crate(String),
}

/// What one file's production code names.
#[derive(Debug, Default)]
struct Scan {
    named: Vec<Named>,
    /// Modules that the file declares for tests only.
    test_children: Vec<String>,
}

impl Scan {
    fn of(source: &str) -> Self {
        let mut scan = Self::default();
        let tokens = scan.without_tests(&tokens(source));
        // For each open brace: does it open an inline module?
        let mut braces: Vec<bool> = Vec::new();
        for at in 0..tokens.len() {
            let line = tokens[at].line;
            match text(&tokens, at) {
                "{" => braces.push(at >= 2 && text(&tokens, at - 2) == "mod"),
                "}" => drop(braces.pop()),
                "crate" | "podling" if text(&tokens, at + 1) == "::" => {
                    let heads = heads(&tokens, at + 2);
                    scan.named.extend(
                        heads.into_iter().map(|head| Named { what: What::Module(head), line }),
                    );
                }
                "super" if text(&tokens, at + 1) == "::" && !climbs(&tokens, at) => {
                    let chain = (0..).take_while(|n| climbs(&tokens, at + 2 * (n + 1))).count() + 1;
                    let inside = braces.iter().filter(|is_module| **is_module).count();
                    if chain > inside {
                        scan.named
                            .push(Named { what: What::Super { levels: chain - inside }, line });
                    }
                }
                word if CRATES.iter().any(|(pattern, _)| matches_crate(pattern, word)) => {
                    let before = if at == 0 { "" } else { text(&tokens, at - 1) };
                    if before != "::"
                        && (text(&tokens, at + 1) == "::" || before == "use" || before == "crate")
                    {
                        scan.named.push(Named { what: What::Crate(word.into()), line });
                    }
                }
                _ => {}
            }
        }
        scan
    }

    /// Drops every item under `#[cfg(test)]`, and everything under `#![cfg(test)]`.
    fn without_tests(&mut self, tokens: &[Token]) -> Vec<Token> {
        let mut kept = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if text(tokens, at) != "#" {
                kept.push(tokens[at].clone());
                at += 1;
                continue;
            }
            let inner = text(tokens, at + 1) == "!";
            let end = closing(tokens, at + 1 + usize::from(inner));
            let attribute = &tokens[at..end];
            if !is_test_attribute(attribute) {
                kept.extend_from_slice(attribute);
                at = end;
            } else if inner {
                return Vec::new();
            } else {
                at = end;
                while text(tokens, at) == "#" {
                    at = closing(tokens, at + 1);
                }
                let end = end_of_item(tokens, at);
                let item = &tokens[at..end];
                if let Some(keyword) = item.iter().position(|token| token.text == "mod")
                    && text(item, keyword + 2) == ";"
                {
                    self.test_children.push(text(item, keyword + 1).into());
                }
                at = end;
            }
        }
        kept
    }
}

/// Whether the token at `at` continues a chain `super::super`.
fn climbs(tokens: &[Token], at: usize) -> bool {
    at >= 2
        && text(tokens, at) == "super"
        && text(tokens, at - 1) == "::"
        && text(tokens, at - 2) == "super"
}

/// First segments of the path, or of each path in the group, that begins at `at`.
fn heads(tokens: &[Token], at: usize) -> Vec<String> {
    if text(tokens, at) != "{" {
        return vec![text(tokens, at).into()];
    }
    let (mut heads, mut depth) = (Vec::new(), 0_usize);
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            name if depth == 1 && matches!(text(tokens, index - 1), "{" | ",") => {
                heads.push(name.into())
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

/// `#[cfg(test)]` and `#[cfg(all(test, …))]`, but neither `cfg(not(test))` nor `cfg(any(test, …))`.
fn is_test_attribute(attribute: &[Token]) -> bool {
    let has = |word: &str| attribute.iter().any(|token| token.text == word);
    has("cfg") && has("test") && !has("not") && !has("any")
}

/// Index after the bracket that closes the one at `at`.
fn closing(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// Index after the item (or field, or match arm) that begins at `at`.
fn end_of_item(tokens: &[Token], at: usize) -> usize {
    const ITEMS: &[&str] = &[
        "fn",
        "mod",
        "use",
        "impl",
        "struct",
        "enum",
        "union",
        "const",
        "static",
        "type",
        "trait",
        "async",
        "unsafe",
        "extern",
        "let",
        "macro_rules",
    ];
    let mut start = at;
    if text(tokens, start) == "pub" {
        start += 1;
        if text(tokens, start) == "(" {
            start = closing(tokens, start);
        }
    }
    let is_item = ITEMS.contains(&text(tokens, start));
    let mut index = start;
    while index < tokens.len() {
        match text(tokens, index) {
            "(" | "[" => index = closing(tokens, index),
            "{" => {
                index = closing(tokens, index);
                return if matches!(text(tokens, index), ";" | ",") { index + 1 } else { index };
            }
            ";" => return index + 1,
            "," if !is_item => return index + 1,
            ")" | "]" | "}" => return index,
            _ => index += 1,
        }
    }
    index
}

/// A word, `::`, or one character of punctuation, with its line.
#[derive(Clone, Debug)]
struct Token {
    text: String,
    line: usize,
}

/// The token's text; empty outside the file.
fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

/// The tokens of a source file, without comments, literals of text, and lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let source: Vec<char> = source.chars().collect();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < source.len() {
        let start = at;
        let rest = &source[at..];
        let next = rest.get(1).copied().unwrap_or(' ');
        match rest[0] {
            '/' if next == '/' => at += until(rest, '\n'),
            '/' if next == '*' => at += block_comment(rest),
            '"' => at += quoted(rest, '"'),
            '\'' if next == '\\' || rest.get(2) == Some(&'\'') => at += quoted(rest, '\''),
            '\'' => at += 1 + word(&rest[1..]),
            ':' if next == ':' => {
                tokens.push(Token { text: "::".into(), line });
                at += 2;
            }
            first if is_word(first) => {
                at += word(rest);
                let name: String = source[start..at].iter().collect();
                let raw = matches!(name.as_str(), "r" | "br" | "cr");
                match source.get(at) {
                    Some('"' | '#') if raw && raw_text(&source[at..]) > 0 => {
                        at += raw_text(&source[at..])
                    }
                    Some('#') if name == "r" => at += 1,
                    Some('"' | '\'') if matches!(name.as_str(), "b" | "c") => {}
                    _ => tokens.push(Token { text: name, line }),
                }
            }
            first => {
                if !first.is_whitespace() {
                    tokens.push(Token { text: first.into(), line });
                }
                at += 1;
            }
        }
        line += source[start..at.min(source.len())]
            .iter()
            .filter(|character| **character == '\n')
            .count();
    }
    tokens
}

fn is_word(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

fn word(rest: &[char]) -> usize {
    rest.iter().take_while(|character| is_word(**character)).count()
}

fn until(rest: &[char], end: char) -> usize {
    rest.iter().take_while(|character| **character != end).count()
}

/// Length of a quoted literal, both quotes included.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Length of a raw literal after its prefix, or 0 if it is none (`r#name`).
fn raw_text(rest: &[char]) -> usize {
    let hashes = rest.iter().take_while(|character| **character == '#').count();
    if rest.get(hashes) != Some(&'"') {
        return 0;
    }
    let mut at = hashes + 1;
    while at < rest.len() {
        if rest[at] == '"'
            && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
        {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

/// Length of a block comment; these nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The checker, on files small enough to see through.
mod checker {
    use super::{Scan, What, check_file, check_tree};
    use std::path::Path;

    fn complaints(path: &str, source: &str) -> Vec<String> {
        check_file(Path::new(path), &Scan::of(source))
    }

    #[track_caller]
    fn refused(path: &str, source: &str, because: &str) {
        let found = complaints(path, source);
        assert_eq!(found.len(), 1, "{path} with {source:?}: {found:?}");
        assert!(found[0].contains(because), "{because:?} is not in {found:?}");
    }

    #[track_caller]
    fn accepted(path: &str, source: &str) {
        assert_eq!(complaints(path, source), Vec::<String>::new(), "{path} with {source:?}");
    }

    #[test]
    fn a_module_may_use_its_row_and_itself() {
        accepted("lifecycle/pod.rs", "use crate::spec::Pod; use crate::lifecycle::container;");
        refused(
            "lifecycle/pod.rs",
            "use crate::runtime::Exit;",
            "lifecycle may not use crate::runtime",
        );
        refused(
            "spec/mod.rs",
            "fn f() -> crate::net::Port { todo!() }",
            "spec may not use crate::net",
        );
        refused(
            "clock.rs",
            "\n\nuse crate::spec::Pod;",
            "src/clock.rs:3: clock may not use crate::spec",
        );
    }

    #[test]
    fn groups_are_read_element_by_element() {
        accepted("wasi/linker.rs", "use crate::{net::{Net, tcp::{self, Tcp}}, spec};");
        refused(
            "wasi/linker.rs",
            "use crate::{net::{Net, pod}, pod::Worker};",
            "wasi may not use crate::pod",
        );
        refused("wasi/linker.rs", "use crate::{net, pod};", "wasi may not use crate::pod");
    }

    #[test]
    fn a_module_without_a_row_is_refused() {
        refused("attic/mod.rs", "", "the module attic has no row");
        refused("attic.rs", "use crate::spec::Pod;", "the module attic has no row");
    }

    #[test]
    fn the_binary_says_the_package_name() {
        accepted("main.rs", "fn main() { podling::cli::run() }");
        refused("main.rs", "fn main() { podling::net::run() }", "main may not use crate::net");
    }

    #[test]
    fn comments_and_literals_name_nothing() {
        accepted(
            "clock.rs",
            "// crate::pod\n/* crate::pod /* tokio::x */ crate::net */ /// [`crate::pod`]\n",
        );
        accepted(
            "clock.rs",
            r####"const A: &str = "crate::pod \" crate::net"; const B: &str = r#"" crate::pod"#;"####,
        );
        accepted(
            "clock.rs",
            "const A: &[u8] = b\"crate::pod\"; const B: char = '\"'; const C: &str = \"crate::pod\";",
        );
        refused("clock.rs", "fn f<'a>(x: &'a str) { crate::pod::g(x, '\\'', 'b') }", "crate::pod");
        refused("clock.rs", "fn r#f() { let r#crate_ = r\"\"; crate::pod::g() }", "crate::pod");
    }

    #[test]
    fn code_for_tests_may_use_anything() {
        accepted(
            "clock.rs",
            "#[cfg(test)] mod test { use crate::pod::Worker; mod deep { use crate::net::X; } }",
        );
        accepted(
            "clock.rs",
            "#[cfg(test)]\n#[allow(x)]\npub(crate) fn f<A, B>(a: [A; 2]) { crate::pod::g() }",
        );
        accepted("clock.rs", "#[cfg(test)] use crate::{net, pod};");
        accepted(
            "clock.rs",
            "#[cfg(all(test, unix))] impl crate::pod::P for T { fn f() { crate::net::g() } }",
        );
        accepted("clock.rs", "#![cfg(test)] use crate::pod::Worker;");
    }

    #[test]
    fn what_follows_code_for_tests_is_read() {
        refused(
            "clock.rs",
            "#[cfg(test)] mod test { use crate::net::X; } use crate::pod::Worker;",
            "crate::pod",
        );
        refused("clock.rs", "#[cfg(test)] mod test; use crate::pod::Worker;", "crate::pod");
        refused(
            "clock.rs",
            "#[cfg(test)] use crate::{net}; fn f() { crate::pod::g() }",
            "crate::pod",
        );
        refused(
            "clock.rs",
            "struct S { #[cfg(test)] pub a: crate::net::A, b: crate::pod::B }",
            "crate::pod",
        );
        refused("clock.rs", "#[cfg(not(test))] use crate::pod::Worker;", "crate::pod");
        refused("clock.rs", "#[cfg(any(test, unix))] use crate::pod::Worker;", "crate::pod");
    }

    #[test]
    fn super_stays_inside_the_top_level_module() {
        accepted("net/tcp.rs", "use super::Port;");
        accepted("net/tcp/conn.rs", "use super::super::Port;");
        accepted("net/mod.rs", "mod inner { use super::Port; }");
        accepted("net/mod.rs", "pub(super) fn f() {}");
        refused("clock.rs", "use super::pod;", "super:: leaves clock");
        refused("net/mod.rs", "use super::pod;", "super:: leaves net");
        refused("net/tcp.rs", "use super::super::pod;", "super:: leaves net");
        refused("net/tcp.rs", "mod inner { use super::super::super::pod; }", "super:: leaves net");
        refused(
            "net/tcp.rs",
            "fn f() { if true { super::super::pod::f() } }",
            "super:: leaves net",
        );
    }

    #[test]
    fn some_crates_are_for_some_modules() {
        accepted("runtime/engine.rs", "use wasmtime::Engine; use wasmtime_wasi::WasiCtx;");
        refused("pod/worker.rs", "use wasmtime::Engine;", "pod may not name the crate wasmtime");
        refused(
            "pod/worker.rs",
            "fn f(x: wasmtime_wasi::WasiCtx) {}",
            "pod may not name the crate wasmtime_wasi",
        );
        refused("source/mqtt.rs", "use rumqttc;", "source may not name the crate rumqttc");
        refused("net/mod.rs", "#[tokio::main] async fn f() {}", "net may not name the crate tokio");
        refused(
            "lifecycle/mod.rs",
            "use {std::fmt, tokio_util::sync::X};",
            "may not name the crate tokio_util",
        );
        accepted(
            "pod/worker.rs",
            "use tokio::time; let wasmtime_version = 48; let x = crate::runtime::wasmtime;",
        );
    }

    #[test]
    fn a_child_declared_for_tests_is_known_to_its_parent() {
        let scan = Scan::of("#[cfg(test)]\nmod fault;\n#[cfg(test)] mod inline {}\nmod real;");
        assert_eq!(scan.test_children, ["fault"]);
    }

    #[test]
    fn lines_are_counted_through_comments_and_literals() {
        let scan = Scan::of("/* one\n two */\nconst A: &str = \"\n\n\";\n// six\nuse crate::pod;");
        assert_eq!(scan.named.len(), 1);
        assert_eq!((scan.named[0].line, &scan.named[0].what), (7, &What::Module("pod".into())));
    }

    #[test]
    fn a_tree_is_read_without_its_test_files() {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("layering");
        let _ = std::fs::remove_dir_all(&folder); // left by an earlier run, or absent
        let write = |path: &str, text: &str| {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let breach = "use crate::cli::Command;";
        write("lib.rs", "pub mod net;");
        write("net/mod.rs", "mod tcp; #[cfg(test)] mod fault; #[cfg(test)] mod tests;");
        write("net/tcp.rs", "#[cfg(test)] mod steps;");
        write("net/fault.rs", breach);
        write("net/tests.rs", breach);
        write("net/tests/more.rs", breach);
        write("net/tcp/steps.rs", breach);
        write("testkit/mod.rs", breach);
        assert_eq!(check_tree(&folder), Vec::<String>::new());

        write("net/tcp/conn.rs", breach);
        write("net/steps.rs", breach);
        assert_eq!(
            check_tree(&folder),
            [
                "src/net/steps.rs:1: net may not use crate::cli",
                "src/net/tcp/conn.rs:1: net may not use crate::cli"
            ]
        );
    }
}
