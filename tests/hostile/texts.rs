//! Attacks that no compiler makes: WebAssembly text.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "shared by a test and a bench, each of which uses its part"
)]

/// Spins while the host asks it for room for a list.
pub fn realloc() -> String {
    command(
        r#"(import "wasi:cli/environment@0.2.0"
             (instance $env (export "get-arguments" (func (result (list string))))))
           (core module $libc (memory (export "memory") 1)
             (func (export "realloc") (param i32 i32 i32 i32) (result i32)
               (loop $again (br $again)) unreachable))
           (core instance $libc (instantiate $libc))
           (core func $args (canon lower (func $env "get-arguments")
             (memory $libc "memory") (realloc (func $libc "realloc"))))
           (core module $m (import "" "args" (func $args (param i32)))
             (func (export "run") (result i32) (call $args (i32.const 0)) i32.const 0))
           (core instance $i (instantiate $m (with "" (instance (export "args" (func $args))))))"#,
        "",
    )
}

/// Spins after its result was taken.
pub fn post_return() -> String {
    command(
        r#"(core module $m (func (export "run") (result i32) i32.const 0)
             (func (export "post") (param i32) (loop $again (br $again))))
           (core instance $i (instantiate $m))"#,
        r#"(post-return (func $i "post"))"#,
    )
}

/// Spins in the destructor of its own resource.
pub fn destructor() -> String {
    dropping("(loop $again (br $again))")
}

pub fn trapping_destructor() -> String {
    dropping("unreachable")
}

fn dropping(deed: &str) -> String {
    let head = format!(
        r#"(core module $d (func (export "dtor") (param i32) {deed}))
           (core instance $d (instantiate $d))
           (type $r (resource (rep i32) (dtor (func $d "dtor"))))
           (core func $new (canon resource.new $r))
           (core func $drop (canon resource.drop $r))
           (core module $m
             (import "" "new" (func $new (param i32) (result i32)))
             (import "" "drop" (func $drop (param i32)))
             (func (export "run") (result i32) (call $drop (call $new (i32.const 1))) i32.const 0))
           (core instance $i (instantiate $m (with "" (instance
             (export "new" (func $new)) (export "drop" (func $drop))))))"#
    );
    command(&head, "")
}

/// A command of WASI 0.2 whose entry is `run` of the core instance `$i` that `head` makes.
fn command(head: &str, options: &str) -> String {
    format!(
        r#"(component {head}
             (func $f (result (result)) (canon lift (core func $i "run") {options}))
             (instance $run (export "run" (func $f)))
             (export "wasi:cli/run@0.2.0" (instance $run)))"#
    )
}

/// Asks for memory and tables that it may not have, without end.
pub fn growing() -> String {
    r#"(module (memory 1 2) (table $t 1 2 funcref) (func (export "_start")
         (loop $again (drop (memory.grow (i32.const 1)))
           (drop (table.grow $t (ref.null func) (i32.const 1))) (br $again))))"#
        .to_owned()
}

/// Two dozen tables, each as large as they get.
pub fn tables() -> String {
    let grow = |n| format!("(drop (table.grow $t{n} (ref.null func) (i32.const 1000000)))");
    let tables: String = (0..24).map(|n| format!("(table $t{n} 1 funcref)")).collect();
    let grow: String = (0..24).map(grow).collect();
    format!(r#"(module {tables} (func (export "_start") {grow} (loop $again (br $again))))"#)
}

/// Components in components, sixteen of each in the next: 4096 core instances.
pub fn instances() -> String {
    nested(3, "")
}

/// The same with a memory in each.
pub fn memories() -> String {
    nested(2, "(memory 1)")
}

/// The same, until they are as many as there are addresses.
pub fn bomb() -> String {
    nested(8, "")
}

fn nested(levels: usize, content: &str) -> String {
    let core =
        format!("(component $c0 (core module $m {content}) (core instance (instantiate $m)))");
    let inner = "(instance (instantiate $inner))".repeat(16);
    let outer = |n: usize| {
        let below = n - 1;
        format!("(component $c{n} (alias outer 1 $c{below} (component $inner)) {inner})")
    };
    let outer: String = (1..=levels).map(outer).collect();
    command(
        &format!(
            r#"{core} {outer} (instance (instantiate $c{levels}))
               (core module $m (func (export "run") (result i32) i32.const 0))
               (core instance $i (instantiate $m))"#
        ),
        "",
    )
}

/// Tasks of WASI 0.3 that wait for an hour, without end.
pub fn tasks() -> String {
    r#"(component
         (import "wasi:clocks/monotonic-clock@0.3.0"
           (instance $clock (export "wait-for" (func async (param "how-long" u64)))))
         (core func $wait (canon lower (func $clock "wait-for") async))
         (core module $m (import "" "wait" (func $wait (param i64) (result i32)))
           (func (export "run") (result i32)
             (loop $again (drop (call $wait (i64.const 3600000000000))) (br $again)) unreachable))
         (core instance $i (instantiate $m (with "" (instance (export "wait" (func $wait))))))
         (func $f async (result (result)) (canon lift (core func $i "run")))
         (instance $run (export "run" (func $f)))
         (export "wasi:cli/run@0.3.0" (instance $run)))"#
        .to_owned()
}

/// Writes the same nothing from millions of places, in one call after the other.
pub fn places() -> String {
    preview1(
        r#"(import "wasi_snapshot_preview1" "fd_write"
             (func $write (param i32 i32 i32 i32) (result i32)))"#,
        "(drop (call $write (i32.const 1) (i32.const 64) (i32.const 5000000) (i32.const 0)))",
    )
}

/// Gets something to wait for a stop by, again and again.
pub fn subscriptions_to_stop() -> String {
    command(
        r#"(import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
           (alias export $poll "pollable" (type $pollable))
           (import "podling:pod/lifecycle@0.1.0"
             (instance $life (export "subscribe" (func (result (own $pollable))))))
           (core func $subscribe (canon lower (func $life "subscribe")))
           (core module $m (import "" "subscribe" (func $subscribe (result i32)))
             (func (export "run") (result i32)
               (loop $again (drop (call $subscribe)) (br $again)) unreachable))
           (core instance $i (instantiate $m
             (with "" (instance (export "subscribe" (func $subscribe))))))"#,
        "",
    )
}

/// Waits for as many things at once as there may be, all of them an hour away.
pub fn waits() -> String {
    small(
        r#"(import "wasi_snapshot_preview1" "poll_oneoff"
             (func $poll (param i32 i32 i32 i32) (result i32)))"#,
        r"(local $n i32)
          (loop $fill
            (i64.store offset=88 (i32.mul (local.get $n) (i32.const 48)) (i64.const 3600000000000))
            (br_if $fill (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 16000))))
          (drop (memory.grow (i32.const 32)))
          (drop (call $poll (i32.const 64) (i32.const 800000) (i32.const 16000) (i32.const 0)))",
    )
}

/// Sends one datagram that is made of the whole memory, a thousand times over.
pub fn datagram() -> String {
    small(
        r#"(import "wasi_snapshot_preview1" "sock_open"
             (func $open (param i32 i32 i32) (result i32)))
           (import "wasi_snapshot_preview1" "sock_send"
             (func $send (param i32 i32 i32 i32 i32) (result i32)))"#,
        r"(local $n i32)
          (loop $fill
            (i32.store offset=68 (i32.mul (local.get $n) (i32.const 8)) (i32.const 1900000))
            (br_if $fill (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000))))
          (drop (call $open (i32.const 1) (i32.const 1) (i32.const 0)))
          (loop $again
            (drop (call $send (i32.load (i32.const 0)) (i32.const 64) (i32.const 1000) (i32.const 0) (i32.const 4)))
            (br $again))",
    )
}

/// Opens a path as long as the memory, again and again.
pub fn long_path() -> String {
    small(
        r#"(import "wasi_snapshot_preview1" "path_open"
             (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))"#,
        r"(memory.fill (i32.const 64) (i32.const 97) (i32.const 1900000))
          (loop $again
            (drop (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1900000)
              (i32.const 1) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 0)))
            (br $again))",
    )
}

/// As many random bytes as there are in one call, again and again.
pub fn random() -> String {
    small(
        r#"(import "wasi_snapshot_preview1" "random_get" (func $get (param i32 i32) (result i32)))"#,
        "(loop $again (drop (call $get (i32.const 64) (i32.const 1000000))) (br $again))",
    )
}

/// Writes the same nothing from a quarter of a million places.
pub fn places_small() -> String {
    small(
        r#"(import "wasi_snapshot_preview1" "fd_write"
             (func $write (param i32 i32 i32 i32) (result i32)))"#,
        "(loop $again (drop (call $write (i32.const 1) (i32.const 64) (i32.const 230000) (i32.const 0))) (br $again))",
    )
}

/// Waits for sixteen thousand things that are there already.
pub fn subscriptions_small() -> String {
    small(
        r#"(import "wasi_snapshot_preview1" "poll_oneoff"
             (func $poll (param i32 i32 i32 i32) (result i32)))"#,
        "(loop $again (drop (call $poll (i32.const 64) (i32.const 800000) (i32.const 16000) (i32.const 0))) (br $again))",
    )
}

/// A core module with 2 MiB of memory.
fn small(imports: &str, deeds: &str) -> String {
    format!(r#"(module {imports} (memory (export "memory") 32) (func (export "_start") {deeds}))"#)
}

/// Waits for nine hundred thousand things that are there already, in one call after the other.
pub fn subscriptions() -> String {
    preview1(
        r#"(import "wasi_snapshot_preview1" "poll_oneoff"
             (func $poll (param i32 i32 i32 i32) (result i32)))"#,
        "(drop (call $poll (i32.const 64) (i32.const 64) (i32.const 900000) (i32.const 0)))",
    )
}

/// A core module with 44 MiB of memory that repeats one deed without end.
fn preview1(import: &str, deed: &str) -> String {
    format!(
        r#"(module {import} (memory (export "memory") 704)
             (func (export "_start") (loop $again {deed} (br $again))))"#
    )
}
