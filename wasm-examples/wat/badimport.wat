;; badimport: asks for a function that nobody offers.
;;
;; kind: core module. Never runs: the runtime must refuse it and name the import `acme:valves/control` `open`.
(module
  (import "acme:valves/control" "open" (func $open (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $open (i32.const 1)))))
