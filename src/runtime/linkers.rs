//! What guests may import, and where it is implemented.
//!
//! Owns: the two linkers of an engine (components, core modules) and the list of the interfaces we offer, each beside the
//! line that links it, so that "which podling does not offer" names all that is missing and nothing else. Is not: any
//! implementation.
//!
//! wasmtime-wasi's interfaces are linked one by one: its aggregate functions would link the host's sockets.

use wasmtime::component::{self, HasData, ResourceTable};
use wasmtime::{AsContextMut, Engine};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView as _};
use wasmtime_wasi::{I32Exit, WasiView as _, p2, p3};
use wasmtime_wasi_io::bindings::wasi::io;

use super::guest::Guest;
use crate::wasi::{files, http, lifecycle, p1, sockets};

type Link = fn(&mut component::Linker<Guest>) -> wasmtime::Result<()>;

/// wasi:io works on the resource table alone.
struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

/// The interfaces that WASI 0.2 and 0.3 have under the same names, from the bindings of one of them, and that version's own.
macro_rules! offered {
    ($version:ident: $($own:tt)*) => {{
        use $version::bindings::{cli, clocks, filesystem, random};
        &[
            $($own)*
            ("wasi:filesystem/types", files::$version::add_to_linker),
            ("wasi:clocks/monotonic-clock", |l| {
                clocks::monotonic_clock::add_to_linker::<_, WasiClocks>(l, Guest::clocks)
            }),
            ("wasi:filesystem/preopens", |l| {
                filesystem::preopens::add_to_linker::<_, WasiFilesystem>(l, Guest::filesystem)
            }),
            ("wasi:random/random", |l| {
                random::random::add_to_linker::<_, WasiRandom>(l, Guest::random)
            }),
            ("wasi:random/insecure", |l| {
                random::insecure::add_to_linker::<_, WasiRandom>(l, Guest::random)
            }),
            ("wasi:random/insecure-seed", |l| {
                random::insecure_seed::add_to_linker::<_, WasiRandom>(l, Guest::random)
            }),
            ("wasi:cli/exit", |l| cli::exit::add_to_linker::<_, WasiCli>(l, Guest::cli)),
            ("wasi:cli/environment", |l| {
                cli::environment::add_to_linker::<_, WasiCli>(l, Guest::cli)
            }),
            ("wasi:cli/stdin", |l| cli::stdin::add_to_linker::<_, WasiCli>(l, Guest::cli)),
            ("wasi:cli/stdout", |l| cli::stdout::add_to_linker::<_, WasiCli>(l, Guest::cli)),
            ("wasi:cli/stderr", |l| cli::stderr::add_to_linker::<_, WasiCli>(l, Guest::cli)),
            ("wasi:cli/terminal-input", |l| {
                cli::terminal_input::add_to_linker::<_, WasiCli>(l, Guest::cli)
            }),
            ("wasi:cli/terminal-output", |l| {
                cli::terminal_output::add_to_linker::<_, WasiCli>(l, Guest::cli)
            }),
            ("wasi:cli/terminal-stdin", |l| {
                cli::terminal_stdin::add_to_linker::<_, WasiCli>(l, Guest::cli)
            }),
            ("wasi:cli/terminal-stdout", |l| {
                cli::terminal_stdout::add_to_linker::<_, WasiCli>(l, Guest::cli)
            }),
            ("wasi:cli/terminal-stderr", |l| {
                cli::terminal_stderr::add_to_linker::<_, WasiCli>(l, Guest::cli)
            }),
        ]
    }};
}

/// Each interface of WASI 0.2 that we offer beside sockets and HTTP.
const WASI_0_2: &[(&str, Link)] = offered! { p2:
    ("wasi:io/error", |l| {
        io::error::add_to_linker::<_, Table>(l, |g: &mut Guest| g.ctx().table)
    }),
    ("wasi:io/poll", crate::wasi::io::add_to_linker),
    ("wasi:io/streams", crate::wasi::io::add_streams_to_linker),
    ("wasi:clocks/wall-clock", |l| {
        clocks::wall_clock::add_to_linker::<_, WasiClocks>(l, Guest::clocks)
    }),
};

/// Each interface of WASI 0.3 that we offer beside sockets and HTTP.
const WASI_0_3: &[(&str, Link)] = offered! { p3:
    // Types alone: there is nothing to link.
    ("wasi:cli/types", |_| Ok(())),
    ("wasi:clocks/types", |l| clocks::types::add_to_linker::<_, WasiClocks>(l, Guest::clocks)),
    ("wasi:clocks/system-clock", |l| {
        clocks::system_clock::add_to_linker::<_, WasiClocks>(l, Guest::clocks)
    }),
};

/// Both linkers of one engine.
pub(crate) struct Linkers {
    pub(crate) component: component::Linker<Guest>,
    pub(crate) core: wasmtime::Linker<Guest>,
}

impl Linkers {
    /// Links everything for `engine`; WASI 0.3 only where it has `tasks`.
    ///
    /// # Errors
    /// wasmtime's, if something is linked twice.
    pub(crate) fn new(engine: &Engine, tasks: bool) -> wasmtime::Result<Self> {
        let mut component = component::Linker::new(engine);
        for (_, link) in WASI_0_2 {
            link(&mut component)?;
        }
        sockets::add_to_linker_p2(&mut component)?;
        http::add_to_linker_p2(&mut component)?;
        lifecycle::add_to_linker(&mut component)?;
        if tasks {
            for (_, link) in WASI_0_3 {
                link(&mut component)?;
            }
            sockets::add_to_linker_p3(&mut component)?;
            http::add_to_linker_p3(&mut component)?;
        }

        let mut core = wasmtime::Linker::new(engine);
        p1::add_to_linker(&mut core)?;
        // wasmtime-wasi traps at codes above 125; a program's exit code is eight bits wide everywhere else.
        core.allow_shadowing(true);
        core.func_wrap(p1::PREVIEW1, "proc_exit", |code: i32| -> wasmtime::Result<()> {
            Err(wasmtime::Error::new(I32Exit(code)))
        })?;
        core.allow_shadowing(false);
        lifecycle::add_to_core_linker(&mut core)?;
        Ok(Self { component, core })
    }

    /// The linker for one core module: some functions have the signature that it imports them with.
    pub(crate) fn core_for(
        &self,
        module: &wasmtime::Module,
    ) -> wasmtime::Result<wasmtime::Linker<Guest>> {
        let mut linker = self.core.clone();
        p1::add_variants(&mut linker, module)?;
        Ok(linker)
    }
}

/// The imports of a core module that nothing in `linker` answers, as `MODULE::NAME`.
pub(crate) fn missing_core(
    linker: &wasmtime::Linker<Guest>,
    module: &wasmtime::Module,
    mut store: impl AsContextMut<Data = Guest>,
) -> Vec<String> {
    module
        .imports()
        .filter(|import| linker.get(&mut store, import.module(), import.name()).is_err())
        .map(|import| format!("{}::{}", import.module(), import.name()))
        .collect()
}

/// Whether components may import the interface called `name` (with its version).
pub(crate) fn offers(name: &str) -> bool {
    if name == lifecycle::INTERFACE {
        return true;
    }
    let Some((interface, version)) = name.split_once('@') else {
        return false;
    };
    if version.starts_with("0.2.") {
        return WASI_0_2.iter().any(|(offered, _)| *offered == interface)
            || sockets::WASI_0_2.contains(&interface)
            || http::WASI_0_2.contains(&interface);
    }
    version.starts_with("0.3.")
        && (WASI_0_3.iter().any(|(offered, _)| *offered == interface)
            || sockets::WASI_0_3.contains(&interface)
            || http::WASI_0_3.contains(&interface))
}

#[cfg(test)]
mod test {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_is_offered_is_known_by_name_and_version() {
        for name in [
            "wasi:cli/environment@0.2.0",
            "wasi:cli/environment@0.2.12",
            "wasi:cli/stdout@0.3.0",
            "wasi:cli/types@0.3.2",
            "wasi:io/poll@0.2.3",
            "wasi:sockets/tcp@0.2.0",
            "wasi:sockets/types@0.3.0",
            "wasi:http/outgoing-handler@0.2.3",
            "wasi:http/client@0.3.0",
            "podling:pod/lifecycle@0.1.0",
        ] {
            assert!(offers(name), "{name}");
        }
        for name in [
            "wasi:cli/environment",
            "wasi:cli/environment@0.4.0",
            "wasi:clocks/timezone@0.2.0",
            "wasi:nn/graph@0.2.0",
            "wasi:sockets/types@0.4.0",
            "wasi:http/handler@0.3.0",
            "wasi:clocks/timezone@0.3.0",
            "wasi:filesystem/nothing@0.3.0",
            "env",
        ] {
            assert!(!offers(name), "{name}");
        }
    }

    /// Every interface that a module may import, as `docs/limits.md` names them.
    fn everything() -> Vec<String> {
        let of = |version: &'static str, names: Vec<&'static str>| {
            names.into_iter().map(move |name| format!("{name}@{version}"))
        };
        let names = |list: &[(&'static str, Link)]| list.iter().map(|(name, _)| *name).collect();
        let mut all: Vec<String> = of("0.2", names(WASI_0_2))
            .chain(of("0.2", sockets::WASI_0_2.to_vec()))
            .chain(of("0.2", http::WASI_0_2.to_vec()))
            .chain(of("0.3", names(WASI_0_3)))
            .chain(of("0.3", sockets::WASI_0_3.to_vec()))
            .chain(of("0.3", http::WASI_0_3.to_vec()))
            .collect();
        all.extend([p1::PREVIEW1.to_owned(), lifecycle::INTERFACE.to_owned()]);
        all
    }

    /// What each interface can make the host hold is in the table of `docs/limits.md`, with the attack that tries it; and that attack exists.
    #[test]
    fn no_interface_is_forgotten_where_limits_are_written_down() {
        let manual = include_str!("../../docs/limits.md");
        let attacks = include_str!("../../tests/ledger/attacks.rs");
        let (_, table) = manual.split_once("## A guest for each interface").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap_or((table, ""));
        let rows: Vec<Vec<&str>> = table
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let mut named = std::collections::BTreeSet::new();
        for row in &rows {
            let [interfaces, _what, _bound, tried] = row[..] else { panic!("{row:?}") };
            named.extend(interfaces.split(", ").map(|name| name.trim_matches('`').to_owned()));
            let tests: Vec<&str> =
                tried.split('`').skip(1).step_by(2).filter(|name| !name.is_empty()).collect();
            assert!(!tests.is_empty() || tried.starts_with('–'), "{interfaces}: nobody tries");
            for test in tests {
                assert!(attacks.contains(&format!("(\"{test}\", ")), "no attack {test}");
            }
        }
        let offered: std::collections::BTreeSet<String> = everything().into_iter().collect();
        assert_eq!(named, offered, "docs/limits.md names the left, modules may import the right");
    }

    #[test]
    fn everything_links_once() {
        Linkers::new(&Engine::default(), true).unwrap();
        Linkers::new(&Engine::default(), false).unwrap();
    }
}
