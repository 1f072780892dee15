//! From bytes to an artifact, or to an error that an operator understands.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::{
    Backend, CompileMode, ModuleFile, ModuleKind, PrepareError, Runtime, RuntimeConfig,
};
use super::lab::{Trial, guest_path, module, prepare, prepare_bytes, prepare_text};
use crate::spec::Exit;

#[tokio::test]
async fn the_kinds_of_modules_are_told_apart() {
    assert_eq!(prepare("hello", false).await.kind(), ModuleKind::ComponentP2);
    assert_eq!(prepare("hello-p1", true).await.kind(), ModuleKind::CoreP1);
    assert_eq!(prepare("handler", false).await.kind(), ModuleKind::HandlerP2);
    assert!(prepare("hello-p1", true).await.counts_fuel());
}

#[tokio::test]
async fn clones_of_a_module_share_its_code() {
    let (first, second) = (prepare("hello", false).await, prepare("hello", false).await);
    assert!(Arc::ptr_eq(&first.0, &second.0));
}

#[tokio::test]
async fn a_command_of_the_old_kind_may_use_tasks_nevertheless() {
    let artifact = prepare_text(
        r#"(component
             (type $t (future u8))
             (core func $new (canon future.new $t))
             (core module $m (import "" "new" (func $new (result i64)))
               (func (export "run") (result i32) (drop (call $new)) i32.const 0))
             (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))))))
             (func $f (result (result)) (canon lift (core func $i "run")))
             (instance $run (export "run" (func $f)))
             (export "wasi:cli/run@0.2.0" (instance $run)))"#,
        false,
    );
    let artifact = artifact.await.unwrap();
    assert!(artifact.0.profile.settings.tasks);
    assert_eq!(artifact.kind(), ModuleKind::ComponentP2);
    assert_eq!(Trial::new(artifact, &[]).finish().await.0, Exit::Code(0));
    assert!(!prepare("hello", false).await.0.profile.settings.tasks);
}

#[tokio::test]
async fn bad_modules_are_refused_in_words() {
    let refusal = async |bytes: &[u8]| {
        let error = prepare_bytes(bytes, false).await.unwrap_err();
        assert!(error.is_modules_fault(), "{error}");
        // The second time from memory, in the same words.
        assert_eq!(prepare_bytes(bytes, false).await.unwrap_err().to_string(), error.to_string());
        error.to_string()
    };
    assert_eq!(
        refusal(b"\xde\xad\xbe\xef random bytes").await,
        "not a WebAssembly module: it begins with the bytes de ad be ef 20 72 61 6e"
    );
    let whole = std::fs::read(guest_path("hello-p1")).unwrap();
    let cut = refusal(&whole[..whole.len() / 2]).await;
    assert!(cut.starts_with("the WebAssembly module is cut off: "), "{cut}");
    let whole = std::fs::read(guest_path("hello")).unwrap();
    let cut = refusal(&whole[..whole.len() / 3]).await;
    assert!(cut.starts_with("the WebAssembly module is cut off: "), "{cut}");
    let mut broken = std::fs::read(guest_path("exit-p1")).unwrap();
    for byte in broken.iter_mut().skip(8).take(200) {
        *byte ^= 0x55;
    }
    let broken = refusal(&broken).await;
    assert!(broken.starts_with("not a valid WebAssembly module: "), "{broken}");
}

#[tokio::test]
async fn a_module_that_asks_for_what_nobody_offers_is_told_all_the_names() {
    let missing = |error: PrepareError| {
        let PrepareError::MissingImports { imports } = error else { panic!("{error}") };
        imports
    };
    let bad = std::fs::read(guest_path("badimport")).unwrap();
    let error = prepare_bytes(&bad, false).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "imports `acme:valves/control::open`, which podling does not offer"
    );
    let error = prepare_text(
        r#"(module
             (import "env" "frobnicate" (func)) (import "env" "table" (table 1 funcref))
             (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
             (func (export "_start")))"#,
        false,
    );
    assert_eq!(missing(error.await.unwrap_err()), ["env::frobnicate", "env::table"]);
    let error = prepare_text(
        r#"(component
             (import "acme:a/b@1.0.0" (instance (export "f" (func))))
             (import "wasi:cli/environment@0.2.0" (instance))
             (import "wasi:nn/graph@0.2.0" (instance (export "g" (func))))
             (core module $m (func (export "run") (result i32) i32.const 0))
             (core instance $i (instantiate $m))
             (func $f (result (result)) (canon lift (core func $i "run")))
             (instance $run (export "run" (func $f)))
             (export "wasi:cli/run@0.2.0" (instance $run)))"#,
        false,
    );
    assert_eq!(missing(error.await.unwrap_err()), ["acme:a/b@1.0.0", "wasi:nn/graph@0.2.0"]);
}

#[tokio::test]
async fn an_import_of_another_type_is_said_to_be_that() {
    let error = prepare_text(
        r#"(module
             (import "wasi_snapshot_preview1" "fd_close" (func (param i64)))
             (func (export "_start")))"#,
        false,
    );
    let error = error.await.unwrap_err();
    assert!(matches!(error, PrepareError::Incompatible { .. }), "{error}");
    assert!(error.to_string().contains("fd_close"), "{error}");
}

#[tokio::test]
async fn what_is_no_command_is_said_to_be_none() {
    for (text, words) in [
        ("(module)", "exports no `_start`"),
        (r#"(module (func (export "_initialize")))"#, "is a library"),
        (r#"(module (func (export "_start") (param i32)))"#, "without parameters"),
        ("(component)", "exports nothing"),
        (r#"(component (instance $i) (export "a:b/c" (instance $i)))"#, "`a:b/c`"),
        (
            r#"(component (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#,
            "does not have export `handle`",
        ),
    ] {
        let error = prepare_text(text, false).await.unwrap_err();
        assert!(matches!(error, PrepareError::NotACommand { .. }), "{text}: {error}");
        assert!(error.to_string().contains(words), "{text}: {error}");
    }
}

fn fresh(dir: &Path, change: impl FnOnce(&mut RuntimeConfig)) -> Runtime {
    let mut config = RuntimeConfig::new(dir.join("cache"));
    config.compile = CompileMode::InProcess;
    change(&mut config);
    Runtime::new(config).unwrap()
}

fn no_compiler(config: &mut RuntimeConfig) {
    config.compile = CompileMode::Child(vec!["/bin/false".into()]);
}

#[tokio::test]
async fn compiled_code_survives_a_restart_and_damage_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    let hello = || module(guest_path("exit-p1"));
    fresh(dir.path(), |_| {}).prepare(hello(), false).await.unwrap();
    // A second process needs no compiler.
    fresh(dir.path(), no_compiler).prepare(hello(), false).await.unwrap();
    let files: Vec<_> = std::fs::read_dir(dir.path().join("cache")).unwrap().collect();
    let [Ok(file)] = &files[..] else { panic!("{files:?}") };
    let mut bytes = std::fs::read(file.path()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file.path(), bytes).unwrap();
    fresh(dir.path(), no_compiler).prepare(hello(), false).await.unwrap_err();
    let runtime = fresh(dir.path(), |_| {});
    let artifact = runtime.prepare(hello(), false).await.unwrap();
    let handle = runtime.start(Trial::new(artifact, &["9"]).run).await.unwrap();
    assert_eq!(handle.exit.await, Exit::Code(9));
}

#[tokio::test]
async fn while_memory_is_tight_what_was_compiled_before_goes_on_and_what_was_not_waits() {
    let dir = tempfile::tempdir().unwrap();
    let text = |name: &str| {
        let path = dir.path().join(name);
        let text =
            format!("(module (memory 1) (func (export \"_start\")) (func (export \"{name}\")))");
        std::fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
        module(path)
    };
    fresh(dir.path(), |_| {}).prepare(text("known"), false).await.unwrap();
    let runtime = fresh(dir.path(), |_| {});
    runtime.hold_compiles(true);
    runtime.prepare(text("known"), false).await.unwrap();
    let (heard, mut hear) = tokio::sync::mpsc::channel(10);
    let tell = move |held| heard.try_send(held).unwrap();
    let compiling = std::future::ready(());
    let mut new = Box::pin(runtime.prepare_telling(text("new"), false, compiling, &tell));
    // Compiled in a few milliseconds, were it not held.
    let early = tokio::time::timeout(Duration::from_millis(700), &mut new).await;
    assert!(early.is_err(), "compiled while memory is tight: {early:?}");
    // Who waits behind it waits for the same.
    let (heard, mut hear_next) = tokio::sync::mpsc::channel(10);
    let tell_next = move |held| heard.try_send(held).unwrap();
    let compiling = std::future::ready(());
    let mut next = Box::pin(runtime.prepare_telling(text("next"), false, compiling, &tell_next));
    tokio::select! {
        _ = &mut next => panic!("it is held"),
        held = hear_next.recv() => assert_eq!(held, Some(true)),
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("nobody says that it is held"),
    }
    runtime.hold_compiles(false);
    let (new, next) = tokio::join!(new, next);
    assert!(new.unwrap().compiled.is_some() && next.unwrap().compiled.is_some());
    drop((tell, tell_next));
    assert_eq!([hear.recv().await, hear.recv().await], [Some(true), Some(false)]);
    assert_eq!([hear_next.recv().await, hear.recv().await], [Some(false), None]);
}

#[tokio::test]
async fn a_file_that_is_no_compiled_code_is_not_trusted_whatever_its_name_says() {
    let dir = tempfile::tempdir().unwrap();
    let hello = module(guest_path("exit-p1"));
    fresh(dir.path(), |_| {}).prepare(hello.clone(), false).await.unwrap();
    let cache = dir.path().join("cache");
    let name = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().file_name();
    let name = name.into_string().unwrap();
    let (digest, rest) = name.split_once('.').unwrap();
    let (mark, _) = rest.split_once('.').unwrap();
    std::fs::remove_file(cache.join(&name)).unwrap();
    // The checksum in the name is right; the contents are not what wasmtime wrote.
    let contents = b"\x7fELF and so on";
    let sum = super::super::cache::hex(&<sha2::Sha256 as sha2::Digest>::digest(contents));
    std::fs::write(cache.join(format!("{digest}.{mark}.{sum}.cwasm")), contents).unwrap();
    fresh(dir.path(), |_| {}).prepare(hello, false).await.unwrap();
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1);
}

#[tokio::test]
async fn a_file_that_changed_since_it_was_named_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = fresh(dir.path(), |_| {});
    let swapped = ModuleFile { sha256: [7; 32], ..module(guest_path("exit-p1")) };
    let error = runtime.prepare(swapped, false).await.unwrap_err();
    assert!(matches!(error, PrepareError::DigestMismatch { .. }), "{error}");
    let gone = ModuleFile { path: dir.path().join("none"), sha256: [0; 32] };
    let error = runtime.prepare(gone, false).await.unwrap_err();
    assert!(matches!(error, PrepareError::Read { .. }), "{error}");
}

#[tokio::test]
async fn a_compile_command_that_fails_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let with = |command: &[&str]| {
        let command: Vec<OsString> = command.iter().map(Into::into).collect();
        fresh(dir.path(), |config| config.compile = CompileMode::Child(command))
    };
    let file = || module(guest_path("exit-p1"));
    let error = with(&["/nonexistent/podling"]).prepare(file(), false).await.unwrap_err();
    assert!(matches!(error, PrepareError::Spawn { .. }), "{error}");
    let error = with(&["/bin/sh", "-c", "echo out of luck >&2; exit 4"]);
    let error = error.prepare(file(), false).await.unwrap_err();
    assert_eq!(error.to_string(), "the compiler failed (exit status: 4): out of luck");
    let error = with(&["/bin/true"]).prepare(file(), false).await.unwrap_err();
    assert!(matches!(error, PrepareError::ChildFailed { .. }), "{error}");
    let left = std::fs::read_dir(dir.path().join("cache")).unwrap().count();
    assert_eq!(left, 0, "no file of a failed compilation is left");
}

/// A pod whose module cannot be compiled tries again for ever; that must not cost a minute of a core each time.
#[tokio::test]
async fn what_is_too_much_for_the_compiler_is_tried_once_and_said_each_time() {
    const TRIES: usize = 4;
    for (ends, says, tried) in [
        ("kill -XCPU $$", "more than 60 s of CPU time", 1),
        ("echo memory allocation of 9 bytes failed >&2; exit 134", "MiB of memory", 1),
        ("echo 'not this one' >&2; exit 10", "not a valid WebAssembly module: not this one", 1),
        // The machine's fault, for all that is known.
        ("kill -KILL $$", "the compiler was killed (SIGKILL)", TRIES),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("tries");
        let script = format!("echo x >> {}; {ends}", log.display());
        let runtime = fresh(dir.path(), |config| {
            config.compile = CompileMode::Child(vec!["/bin/sh".into(), "-c".into(), script.into()]);
        });
        for _ in 0..TRIES {
            let error = runtime.prepare(module(guest_path("exit-p1")), false).await.unwrap_err();
            assert!(error.to_string().contains(says), "{ends}: {error}");
        }
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), tried, "{ends}");
    }
}

#[tokio::test]
async fn dropping_a_preparation_kills_its_compiler() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", pid_file.display());
    let runtime = fresh(dir.path(), |config| {
        config.compile = CompileMode::Child(vec!["/bin/sh".into(), "-c".into(), script.into()]);
    });
    let task =
        tokio::spawn(async move { runtime.prepare(module(guest_path("exit-p1")), false).await });
    super::lab::eventually("the child runs", || pid_file.exists()).await;
    task.abort();
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    let ended = || {
        let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        !process.exists() || stat.contains(") Z ")
    };
    super::lab::eventually("the child is gone", ended).await;
}

#[tokio::test]
async fn the_interpreter_runs_everything_too() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = fresh(dir.path(), |config| config.backend = Backend::Pulley);
    for (name, expected) in [("exit-p1", Exit::Code(5)), ("exit", Exit::Code(5))] {
        let artifact = runtime.prepare(module(guest_path(name)), false).await.unwrap();
        let handle = runtime.start(Trial::new(artifact, &["5"]).run).await.unwrap();
        assert_eq!(handle.exit.await, expected, "{name}");
    }
    let artifact = runtime.prepare(module(guest_path("spin-p1")), false).await.unwrap();
    let handle = runtime.start(Trial::new(artifact, &[]).run).await.unwrap();
    handle.control.kill();
    assert_eq!(handle.exit.await, Exit::Killed);
}
