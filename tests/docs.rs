//! What the documents say is there: links, paths, modules, commands with their flags, settings of the node.
//!
//! Owns: comparing words with what they name. Not: whether a sentence is true; the other tests and their readers see to that.
//! A page that is not linked from the README, and a source file that does not say what it owns, are found here too.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Every page for people, relative to the repository.
fn pages() -> Vec<String> {
    let mut pages: Vec<String> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(str::to_owned).into();
    pages.extend(
        ["cross/README.md", "fuzz/README.md", "wasm-examples/README.md"].map(str::to_owned),
    );
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            pages.push(format!("docs/{name}"));
        }
    }
    pages.sort();
    pages
}

/// The text of a page outside of its fenced blocks, and the lines inside them.
fn prose_and_blocks(text: &str) -> (String, Vec<String>) {
    let (mut prose, mut blocks, mut fenced) = (String::new(), Vec::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            blocks.push(line.trim().to_owned());
        } else {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    (prose, blocks)
}

/// What stands in backticks.
fn spans(prose: &str) -> impl Iterator<Item = &str> {
    prose.split("\n\n").flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2))
}

/// `a/{b,c}` as `a/b` and `a/c`.
fn expanded(text: &str) -> Vec<String> {
    let Some((before, rest)) = text.split_once('{') else { return vec![text.to_owned()] };
    let Some((inside, after)) = rest.split_once('}') else { return vec![text.to_owned()] };
    inside.split(',').map(|word| format!("{before}{}{after}", word.trim())).collect()
}

/// The anchor that a heading gets on the usual hosts.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = String::new();
    for page in pages() {
        let (prose, _) = prose_and_blocks(&read(&page));
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => root().join(&page),
                file => root().join(&page).parent().unwrap().join(file),
            };
            let there = match heading {
                "" => target.exists(),
                heading => std::fs::read_to_string(&target).is_ok_and(|text| {
                    text.lines().any(|l| l.starts_with('#') && anchor(l) == heading)
                }),
            };
            if !there {
                writeln!(wrong, "{page}: {link}").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "links to nothing:\n{wrong}");
}

#[test]
fn the_readme_leads_to_every_page() {
    let readme = read("README.md");
    for page in pages().iter().filter(|page| page.starts_with("docs/")) {
        assert!(readme.contains(&format!("]({page})")), "README.md does not mention {page}");
    }
}

#[test]
fn every_path_that_is_named_exists() {
    const TOP: [&str; 9] =
        ["src", "tests", "docs", "wasm-examples", "manifests", "cross", "benches", "fuzz", ".ci"];
    let mut wrong = String::new();
    for page in pages() {
        let (prose, _) = prose_and_blocks(&read(&page));
        for span in
            spans(&prose).filter(|span| !span.contains([' ', '*', '<', '…']) || span.contains('{'))
        {
            let first = span.split('/').next().unwrap_or_default();
            if !span.contains('/') || !TOP.contains(&first) || span.contains("TARGET") {
                continue;
            }
            for path in expanded(span) {
                if !root().join(&path).exists() {
                    writeln!(wrong, "{page}: {path}").unwrap();
                }
            }
        }
    }
    assert!(wrong.is_empty(), "paths that are not there:\n{wrong}");
}

/// The files and folders below one, as paths from there.
fn below(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            below(&path, into);
        }
        into.push(path);
    }
}

/// Whether `a::b::c` is a file, a folder or an item of one in `src/`.
fn module_exists(path: &str) -> bool {
    let words: Vec<&str> = path.split("::").collect();
    let file = |words: &[&str]| {
        let base = root().join("src").join(words.join("/"));
        [base.with_extension("rs"), base.join("mod.rs")].into_iter().find(|file| file.exists())
    };
    if file(&words).is_some() {
        return true;
    }
    let (item, module) = words.split_last().unwrap();
    let Some(text) = file(module).and_then(|file| std::fs::read_to_string(file).ok()) else {
        return false;
    };
    ["fn", "struct", "enum", "trait", "mod", "const"]
        .into_iter()
        .any(|word| text.contains(&format!("{word} {item}")))
}

#[test]
fn the_map_shows_what_is_there_and_all_of_it() {
    let map = read("ARCHITECTURE.md");
    let (prose, _) = prose_and_blocks(&map);
    let mut files = Vec::new();
    below(&root().join("src"), &mut files);
    let mut wrong = String::new();
    for span in spans(&prose) {
        let named = |file: &PathBuf| file.ends_with(span.trim_end_matches('/'));
        let known = match span {
            _ if span.contains("::") && !span.contains("…") => {
                expanded(span).iter().all(|path| module_exists(path))
            }
            _ if span.ends_with('/') || span.ends_with(".rs") && !span.contains('/') => {
                files.iter().any(named) || root().join(span).exists()
            }
            _ => true,
        };
        if !known {
            writeln!(wrong, "{span}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "ARCHITECTURE.md names what is not there:\n{wrong}");
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let shown = if entry.path().is_dir() { format!("`{name}/`") } else { format!("{name}`") };
        let root_file = matches!(name.as_str(), "lib.rs" | "main.rs");
        assert!(root_file || map.contains(&shown), "ARCHITECTURE.md does not say what {name} is");
    }
}

#[test]
fn every_source_file_says_what_it_owns() {
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches"] {
        below(&root().join(dir), &mut files);
    }
    let silent: Vec<_> = files
        .iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        // Tests of one file stand beside it; its header is theirs.
        .filter(|path| !path.to_str().unwrap().contains("tests"))
        .filter(|path| !std::fs::read_to_string(path).unwrap().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "no header: {silent:?}");
}

/// A command line in a page: words, without prompt, comment, pipe or redirection.
fn command_of(line: &str) -> Option<Vec<String>> {
    let line = line.trim_start_matches("# ").trim();
    let line = match line.split_once(['$', '#']) {
        Some((host, rest)) if !host.contains(' ') && !host.is_empty() => rest.trim(),
        _ => line,
    };
    let line = line.strip_prefix("cargo run --release -- ").map_or_else(
        || line.strip_prefix("podling ").map(str::to_owned),
        |rest| Some(rest.to_owned()),
    )?;
    let end = [" #", " >", " | ", " && ", "  "].iter().filter_map(|stop| line.find(stop)).min();
    Some(line[..end.unwrap_or(line.len())].split_whitespace().map(str::to_owned).collect())
}

/// The commands that a page names, in its blocks and in its prose.
fn commands(page: &str) -> Vec<Vec<String>> {
    // A table writes `\|` for a bar.
    let text = read(page).replace("\\|", "|");
    let (prose, blocks) = if page.ends_with(".md") {
        prose_and_blocks(&text)
    } else {
        let comment = |line: &str| line.trim().strip_prefix('#').map(|l| l.trim().to_owned());
        let comments: Vec<String> = text.lines().filter_map(comment).collect();
        (comments.join("\n"), comments)
    };
    let joined = prose.replace('\n', " ");
    blocks
        .iter()
        .filter_map(|line| command_of(line))
        .chain(
            joined
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|span| span.starts_with("podling "))
                .filter_map(command_of),
        )
        .collect()
}

/// What `podling WORDS… --help` prints, if there is such a command.
fn help(words: &[String]) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podling"));
    let output = command.env("NO_COLOR", "1").args(words).arg("--help").output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// A flag as it stands in a help text: followed by no letter of a longer one.
fn has_flag(help: &str, flag: &str) -> bool {
    help.match_indices(flag).any(|(at, _)| {
        let after = help[at + flag.len()..].chars().next();
        !after.is_some_and(|c| c.is_alphanumeric() || c == '-')
    })
}

#[test]
fn every_command_and_flag_that_is_shown_exists() {
    let mut pages = pages();
    for entry in std::fs::read_dir(root().join("manifests")).unwrap() {
        pages.push(format!("manifests/{}", entry.unwrap().file_name().to_str().unwrap()));
    }
    // Its blocks are what benches print, where `podling` heads a row.
    pages.retain(|page| page != "docs/performance.md");
    let nested = ["image", "key", "fleet"];
    let mut helps: BTreeMap<Vec<String>, Option<String>> = BTreeMap::new();
    let (mut wrong, mut seen) = (BTreeSet::new(), 0);
    for page in pages {
        for words in commands(&page) {
            let Some(first) = words.first().cloned() else { continue };
            // `podling COMMAND --help`, `podling …`; and the child that is no command for people.
            if !first.starts_with(|c: char| c.is_ascii_lowercase()) || first == "compile" {
                continue;
            }
            let absent = [("demo", cfg!(feature = "demo"))];
            if absent.iter().any(|(name, built)| first == *name && !built) {
                continue;
            }
            let deeper = nested.contains(&first.as_str()).then(|| words.get(1)).flatten();
            let seconds: Vec<&str> =
                deeper.map_or(vec![], |word| word.trim_end_matches(',').split('|').collect());
            let paths: Vec<Vec<String>> = match seconds.as_slice() {
                [] | ["…"] => vec![vec![first]],
                seconds => {
                    seconds.iter().map(|word| vec![first.clone(), (*word).to_owned()]).collect()
                }
            };
            for path in paths {
                seen += 1;
                let help = helps.entry(path.clone()).or_insert_with(|| help(&path));
                let shown = format!("{page}: podling {}", words.join(" "));
                let Some(help) = help else {
                    wrong.insert(format!("{shown}: no such command"));
                    continue;
                };
                let after = words.iter().skip_while(|word| *word != "--").count();
                for flag in words[..words.len() - after]
                    .iter()
                    .filter(|word| word.starts_with('-') && word.len() > 1)
                {
                    let flag =
                        flag.trim_end_matches([',', '.', '`', ')']).split('=').next().unwrap();
                    if !has_flag(help, flag) {
                        wrong.insert(format!("{shown}: no flag {flag}"));
                    }
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} commands were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The commands below one, from its help text.
fn subcommands(path: &[String]) -> Vec<String> {
    let help = help(path).unwrap();
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = list.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_is_in_the_manual() {
    let text = read("docs/cli.md").replace("\\|", "|");
    let words = |span: &str| -> Vec<String> {
        let parts = span.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        parts.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let shown: Vec<Vec<String>> = text.split('`').skip(1).step_by(2).map(words).collect();
    let mut missing = Vec::new();
    for name in subcommands(&[]) {
        let of = |span: &Vec<String>| span.iter().take(2).any(|word| *word == name);
        let spans: Vec<&Vec<String>> = shown.iter().filter(|span| of(span)).collect();
        if spans.is_empty() {
            missing.push(name.clone());
        }
        if ["image", "key", "fleet"].contains(&name.as_str()) {
            let deeper = subcommands(std::slice::from_ref(&name)).into_iter();
            let absent = deeper.filter(|word| !spans.iter().any(|span| span.contains(word)));
            missing.extend(absent.map(|word| format!("{name} {word}")));
        }
    }
    assert!(missing.is_empty(), "docs/cli.md lacks {missing:?}");
}

#[test]
fn every_setting_of_the_node_is_in_the_manual_and_every_row_is_a_setting() {
    use podling::daemon::config::ConfigFile;
    // For tests: see `daemon::network`, `daemon::test_clock`, and docs/network.md of bad networks.
    let hidden = ["testNet", "testFaults", "allowTestNet", "testClock"];
    let sections = ["capacity", "reserved", "network", "artifacts", "mqtt", "mqtt.tls"];
    let manual = read("docs/configuration.md");
    let documented = documented_settings(&manual);
    for section in std::iter::once("").chain(sections) {
        let depth: Vec<&str> = section.split('.').filter(|word| !word.is_empty()).collect();
        let mut text = depth.iter().map(|word| format!("{{{word}: ")).collect::<String>();
        text.push_str("{no-such-setting: 1}");
        text.push_str(&"}".repeat(depth.len()));
        let error = serde_yaml::from_str::<ConfigFile>(&text).unwrap_err().to_string();
        // "unknown field `no-such-setting`, expected one of `a`, `b` at line …"
        let names: BTreeSet<&str> = error.split('`').skip(3).step_by(2).collect();
        assert!(names.len() > 1, "{section}: {error}");
        let full = |name: &str| {
            if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
        };
        for name in names.iter().filter(|name| !hidden.contains(*name)) {
            let name = full(name);
            let group = sections.iter().any(|section| *section == name);
            assert!(group || documented.contains(&name), "docs/configuration.md lacks {name}");
        }
        for row in
            documented.iter().filter(|row| row.rsplit_once('.').map_or("", |(s, _)| s) == section)
        {
            let name = row.rsplit('.').next().unwrap();
            assert!(names.contains(name), "docs/configuration.md has {row}, which is no setting");
        }
    }
}

/// The settings that stand in the first column of the manual's tables, in full.
fn documented_settings(manual: &str) -> BTreeSet<String> {
    let mut prefix = String::new();
    let mut settings = BTreeSet::new();
    for line in manual.lines() {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let Some(first) = cells.next() else { continue };
        if let Some(heading) = first.strip_prefix("Setting") {
            let below =
                heading.trim().strip_prefix("below `").map(|rest| rest.trim_end_matches('`'));
            prefix = below.map(|section| format!("{section}.")).unwrap_or_default();
        } else {
            let names = first.split('`').skip(1).step_by(2);
            settings.extend(names.map(|name| format!("{prefix}{name}")));
        }
    }
    settings
}
