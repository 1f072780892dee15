//! Modules that are busy, in every way that one can be, and how long they take to be ended.
//!
//! Owns: their texts, for the tests (`stop.rs`, `deadline.rs`) and for `benches/cpu/kill.rs`. Nothing else may be named here: it is included by both.

/// Modules that compute without end, each in another place.
pub(crate) const SPINNERS: &[(&str, &str)] = &[
    ("in a loop", r#"(module (func (export "_start") (loop $again (br $again))))"#),
    (
        "in its start function",
        r#"(module (func $f (loop $again (br $again))) (start $f) (func (export "_start")))"#,
    ),
    (
        "filling memory",
        r#"(module (memory 1024) (func (export "_start")
             (loop $again
               (memory.fill (i32.const 0) (i32.const 1) (i32.const 67000000)) (br $again))))"#,
    ),
    (
        "filling tables",
        r#"(module (table $t 1000000 funcref) (func (export "_start")
             (loop $again
               (table.fill $t (i32.const 0) (ref.null func) (i32.const 1000000)) (br $again))))"#,
    ),
    (
        "growing and failing",
        r#"(module (memory 1 2) (table $t 1 2 funcref) (func (export "_start")
             (loop $again (drop (memory.grow (i32.const 1)))
               (drop (table.grow $t (ref.null func) (i32.const 1))) (br $again))))"#,
    ),
    (
        "recursing",
        r#"(module (func $f (param i32) (result i32)
             (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
             (i32.add (call $f (i32.sub (local.get 0) (i32.const 1)))
                      (call $f (i32.sub (local.get 0) (i32.const 1)))))
           (func (export "_start") (drop (call $f (i32.const 1000)))))"#,
    ),
    (
        "calling the host",
        r#"(module
             (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
             (memory (export "memory") 1)
             (func (export "_start") (loop $again (drop (call $yield)) (br $again))))"#,
    ),
    (
        "in a component of WASI 0.3",
        r#"(component
             (core module $m (func (export "run") (result i32) (loop $again (br $again)) unreachable))
             (core instance $i (instantiate $m))
             (func $f async (result (result)) (canon lift (core func $i "run")))
             (instance $run (export "run" (func $f)))
             (export "wasi:cli/run@0.3.0" (instance $run)))"#,
    ),
    (
        "while the host hands it a list",
        r#"(component
             (import "wasi:cli/environment@0.2.0"
               (instance $env (export "get-arguments" (func (result (list string))))))
             (core module $libc (memory (export "memory") 1)
               (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                 (loop $again (br $again)) unreachable))
             (core instance $libc (instantiate $libc))
             (core func $args (canon lower (func $env "get-arguments")
               (memory $libc "memory") (realloc (func $libc "realloc"))))
             (core module $m (import "" "args" (func $args (param i32)))
               (func (export "run") (result i32) (call $args (i32.const 0)) i32.const 0))
             (core instance $i (instantiate $m (with "" (instance (export "args" (func $args))))))
             (func $f (result (result)) (canon lift (core func $i "run")))
             (instance $run (export "run" (func $f)))
             (export "wasi:cli/run@0.2.0" (instance $run)))"#,
    ),
    (
        "after its return",
        r#"(component
             (core module $m (func (export "run") (result i32) i32.const 0)
               (func (export "post") (param i32) (loop $again (br $again))))
             (core instance $i (instantiate $m))
             (func $f (result (result)) (canon lift (core func $i "run")
               (post-return (func $i "post"))))
             (instance $run (export "run" (func $f)))
             (export "wasi:cli/run@0.2.0" (instance $run)))"#,
    ),
    (
        "in a destructor",
        r#"(component
             (core module $d (func (export "dtor") (param i32) (loop $again (br $again))))
             (core instance $d (instantiate $d))
             (type $r (resource (rep i32) (dtor (func $d "dtor"))))
             (core func $new (canon resource.new $r))
             (core func $drop (canon resource.drop $r))
             (core module $m
               (import "" "new" (func $new (param i32) (result i32)))
               (import "" "drop" (func $drop (param i32)))
               (func (export "run") (result i32)
                 (call $drop (call $new (i32.const 1))) i32.const 0))
             (core instance $i (instantiate $m (with "" (instance
               (export "new" (func $new)) (export "drop" (func $drop))))))
             (func $f (result (result)) (canon lift (core func $i "run")))
             (instance $run (export "run" (func $f)))
             (export "wasi:cli/run@0.2.0" (instance $run)))"#,
    ),
    (
        "copying memory",
        r#"(module (memory 1024) (func (export "_start")
             (loop $again
               (memory.copy (i32.const 0) (i32.const 33000000) (i32.const 33000000))
               (br $again))))"#,
    ),
    (
        "growing tables as far as they go, and copying them",
        r#"(module
             (table $a 1 1048576 funcref) (table $b 1 1048576 funcref)
             (func (export "_start")
               (loop $grow
                 (br_if $grow (i32.ne (i32.const -1)
                   (table.grow $a (ref.null func) (i32.const 50000)))))
               (drop (table.grow $b (ref.null func) (i32.const 1000000)))
               (loop $again
                 (table.copy $a $b (i32.const 0) (i32.const 0) (i32.const 1000000))
                 (table.fill $b (i32.const 0) (ref.null func) (i32.const 1000000))
                 (br $again))))"#,
    ),
    (
        "asking for random bytes",
        r#"(module
             (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
             (memory (export "memory") 17)
             (func (export "_start")
               (loop $again (drop (call $random (i32.const 0) (i32.const 1048576))) (br $again))))"#,
    ),
    (
        "waiting for what is over already",
        r#"(module
             (import "wasi_snapshot_preview1" "poll_oneoff"
               (func $poll (param i32 i32 i32 i32) (result i32)))
             (memory (export "memory") 1)
             (data (i32.const 16) "\01")
             (func (export "_start")
               (loop $again
                 (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
                 (br $again))))"#,
    ),
    (
        "in a task of WASI 0.3 that yields and is called again",
        r#"(component
             (core module $m
               (func (export "run") (result i32) i32.const 1)
               (func (export "again") (param i32 i32 i32) (result i32) i32.const 1))
             (core instance $i (instantiate $m))
             (func $f async (result (result))
               (canon lift (core func $i "run") async (callback (func $i "again"))))
             (instance $run (export "run" (func $f)))
             (export "wasi:cli/run@0.3.0" (instance $run)))"#,
    ),
    (
        "in a cascade of calls without a loop",
        r#"(module
             (func $a) (func $b (call $a) (call $a) (call $a) (call $a) (call $a) (call $a) (call $a) (call $a))
             (func $c (call $b) (call $b) (call $b) (call $b) (call $b) (call $b) (call $b) (call $b))
             (func $d (call $c) (call $c) (call $c) (call $c) (call $c) (call $c) (call $c) (call $c))
             (func $e (call $d) (call $d) (call $d) (call $d) (call $d) (call $d) (call $d) (call $d))
             (func $f (call $e) (call $e) (call $e) (call $e) (call $e) (call $e) (call $e) (call $e))
             (func $g (call $f) (call $f) (call $f) (call $f) (call $f) (call $f) (call $f) (call $f))
             (func $h (call $g) (call $g) (call $g) (call $g) (call $g) (call $g) (call $g) (call $g))
             (func $i (call $h) (call $h) (call $h) (call $h) (call $h) (call $h) (call $h) (call $h))
             (func $j (call $i) (call $i) (call $i) (call $i) (call $i) (call $i) (call $i) (call $i))
             (func $k (call $j) (call $j) (call $j) (call $j) (call $j) (call $j) (call $j) (call $j))
             (func (export "_start") (call $k) (call $k) (call $k) (call $k) (call $k)))"#,
    ),
];

/// Modules that wait in a host function for what never comes. The last two have a listening socket, descriptor 3.
pub(crate) const WAITERS: &[(&str, &str)] = &[
    (
        "for a clock",
        r#"(module
             (import "wasi_snapshot_preview1" "poll_oneoff"
               (func $poll (param i32 i32 i32 i32) (result i32)))
             (memory (export "memory") 1)
             (func (export "_start")
               (i32.store (i32.const 16) (i32.const 1))
               (i64.store (i32.const 24) (i64.const 0x7000000000000000))
               (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#,
    ),
    (
        "for a client",
        r#"(module
             (import "wasi_snapshot_preview1" "sock_accept"
               (func $accept (param i32 i32 i32) (result i32)))
             (memory (export "memory") 1)
             (func (export "_start")
               (drop (call $accept (i32.const 3) (i32.const 0) (i32.const 0)))))"#,
    ),
    (
        "for a client to be there, as a poll tells it",
        r#"(module
             (import "wasi_snapshot_preview1" "poll_oneoff"
               (func $poll (param i32 i32 i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "sock_accept"
               (func $accept (param i32 i32 i32) (result i32)))
             (memory (export "memory") 1)
             (func (export "_start")
               (i32.store (i32.const 8) (i32.const 1))
               (i32.store (i32.const 16) (i32.const 3))
               (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
               (drop (call $accept (i32.const 3) (i32.const 0) (i32.const 0)))))"#,
    ),
];
