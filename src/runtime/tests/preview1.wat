;; Echoes five bytes on port 7010 by the functions of WasmEdge's first generation: sock_accept without flags, addresses with a type
;; beside them. Ends with 7; with 1, and so on, at the first call that fails.
(module
  (import "wasi_snapshot_preview1" "sock_open" (func $open (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_bind" (func $bind (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_listen" (func $listen (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_recv"
    (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_getlocaladdr"
    (func $local (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_getpeeraddr"
    (func $peer (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_getsockopt"
    (func $option (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  ;; 1024: the socket, 1028: the connection; 1040: an address of 4 bytes at 1056, 1048: one of 16 bytes at 1056
  (data (i32.const 1040) "\20\04\00\00\04\00\00\00\20\04\00\00\10\00\00\00")
  ;; 1080: 127.0.0.1 for bind, described at 1088
  (data (i32.const 1080) "\7f\00\00\01")
  (data (i32.const 1088) "\38\04\00\00\04\00\00\00")
  ;; 1100: one buffer of five bytes at 1120
  (data (i32.const 1104) "\60\04\00\00\05\00\00\00")
  ;; 1160: the length of an option's value, told by a pointer
  (data (i32.const 1160) "\04\00\00\00")

  (func $must (param $errno i32) (param $code i32)
    (if (local.get $errno) (then (call $exit (local.get $code)))))
  (func $same (param $a i32) (param $b i32) (param $code i32)
    (if (i32.ne (local.get $a) (local.get $b)) (then (call $exit (local.get $code)))))

  (func (export "_start")
    (call $must (call $open (i32.const 1) (i32.const 2) (i32.const 1024)) (i32.const 1))
    (call $must (call $bind (i32.load (i32.const 1024)) (i32.const 1088) (i32.const 7010)) (i32.const 2))
    (call $must (call $listen (i32.load (i32.const 1024)) (i32.const 8)) (i32.const 3))
    (call $must (call $local (i32.load (i32.const 1024)) (i32.const 1048) (i32.const 1140) (i32.const 1144))
      (i32.const 4))
    (call $same (i32.load (i32.const 1140)) (i32.const 4) (i32.const 5))
    (call $same (i32.load (i32.const 1144)) (i32.const 7010) (i32.const 6))
    (call $must (call $accept (i32.load (i32.const 1024)) (i32.const 1028)) (i32.const 8))
    (call $must (call $peer (i32.load (i32.const 1028)) (i32.const 1048) (i32.const 1140) (i32.const 1144))
      (i32.const 9))
    (call $same (i32.load (i32.const 1056)) (i32.const 0x0100007f) (i32.const 10))
    (call $must (call $recv (i32.load (i32.const 1028)) (i32.const 1104) (i32.const 1) (i32.const 0)
      (i32.const 1148) (i32.const 1152)) (i32.const 11))
    (call $same (i32.load (i32.const 1148)) (i32.const 5) (i32.const 12))
    (call $must (call $send (i32.load (i32.const 1028)) (i32.const 1104) (i32.const 1) (i32.const 0)
      (i32.const 1148)) (i32.const 13))
    (call $must (call $option (i32.load (i32.const 1028)) (i32.const 0) (i32.const 1) (i32.const 1164)
      (i32.const 1160)) (i32.const 14))
    (call $same (i32.load (i32.const 1164)) (i32.const 2) (i32.const 15))
    (call $exit (i32.const 7))))
