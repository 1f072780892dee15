// A small service as somebody writes it who has Go's standard library, and has read that a wasip1 program may be given its listening
// socket: net/http, goroutines, timers, files, directories, logs, an orderly end.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// listener finds the socket among the descriptors that are open from the start.
func listener() (net.Listener, error) {
	for fd := uintptr(3); ; fd++ {
		l, err := net.FileListener(os.NewFile(fd, ""))
		var errno syscall.Errno
		if errors.As(err, &errno) && errno == syscall.ENOTSOCK {
			continue
		}
		return l, err
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "check" {
		check()
		return
	}
	began := time.Now()
	var ticks atomic.Int64
	go func() {
		for range time.Tick(50 * time.Millisecond) {
			ticks.Add(1)
		}
	}()

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from Go, %s\n", os.Getenv("NAME"))
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/ticks", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, ticks.Load()) })
	mux.HandleFunc("/up", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, time.Since(began).Milliseconds()) })
	mux.HandleFunc("/sleep", func(w http.ResponseWriter, r *http.Request) {
		ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
		fmt.Fprintln(w, "slept")
	})
	mux.HandleFunc("/file/", file)
	mux.HandleFunc("/exit", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.URL.Query().Get("code"))
		log.Printf("asked to exit with %d", code)
		os.Exit(code)
	})
	mux.HandleFunc("/panic", func(w http.ResponseWriter, r *http.Request) {
		go func() { panic("asked to panic") }()
	})
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		mb, _ := strconv.Atoi(r.URL.Query().Get("mb"))
		held = append(held, make([]byte, mb<<20))
		fmt.Fprintln(w, len(held))
	})

	l, err := listener()
	if err != nil {
		log.Fatalf("no listening socket: %v", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	if os.Getenv("STOP_AT_EOF") != "" {
		go func() {
			// Other goroutines must go on meanwhile.
			io.Copy(io.Discard, os.Stdin)
			log.Print("standard input has ended: stopping")
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			server.Shutdown(ctx)
			close(done)
		}()
	}
	log.Printf("serving, %v after the start", time.Since(began))
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-done
	log.Print("stopped")
}

var held [][]byte

// file answers GET, PUT and DELETE of what lies below /data, and lists folders.
func file(w http.ResponseWriter, r *http.Request) {
	path := filepath.Join("/data", r.URL.Path[len("/file/"):])
	fail := func(err error) {
		status := http.StatusInternalServerError
		if errors.Is(err, os.ErrNotExist) {
			status = http.StatusNotFound
		}
		http.Error(w, err.Error(), status)
	}
	switch r.Method {
	case http.MethodPut:
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = os.WriteFile(path, body, 0o644)
		}
		if err != nil {
			fail(err)
		}
	case http.MethodDelete:
		if err := os.Remove(path); err != nil {
			fail(err)
		}
	default:
		info, err := os.Stat(path)
		if err == nil && info.IsDir() {
			var entries []os.DirEntry
			entries, err = os.ReadDir(path)
			names := []string{}
			for _, entry := range entries {
				names = append(names, entry.Name())
			}
			sort.Strings(names)
			if err == nil {
				json.NewEncoder(w).Encode(names)
				return
			}
		}
		if err != nil {
			fail(err)
			return
		}
		http.ServeFile(w, r, path)
	}
}

// check tries what a program does with its machine, and says what differs from Linux.
func check() {
	bad := 0
	must := func(what string, holds bool, err error) {
		if !holds || err != nil {
			bad++
			fmt.Printf("FAILED %s: %v\n", what, err)
		}
	}
	dir := os.Getenv("DIR")
	must(fmt.Sprintf("arguments %q", os.Args), len(os.Args) == 3 && os.Args[2] == "two words", nil)
	year := time.Now().Year()
	must("the year", year >= 2024, nil)
	before := time.Now()
	time.Sleep(30 * time.Millisecond)
	slept := time.Since(before)
	must("a sleep", slept >= 30*time.Millisecond && slept < 3*time.Second, nil)

	name := filepath.Join(dir, "notes.txt")
	must("write", true, os.WriteFile(name, []byte("one\n"), 0o600))
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	must("open to append", true, err)
	_, err = f.WriteString("two\n")
	must("append", true, err)
	must("sync", true, f.Sync())
	must("close", true, f.Close())
	text, err := os.ReadFile(name)
	must("read", string(text) == "one\ntwo\n", err)
	f, err = os.OpenFile(name, os.O_RDWR, 0)
	must("open", true, err)
	_, err = f.Seek(4, io.SeekStart)
	must("seek", true, err)
	three := make([]byte, 3)
	_, err = io.ReadFull(f, three)
	must("read after seek", string(three) == "two", err)
	_, err = f.WriteAt([]byte("ONE"), 0)
	must("write at", true, err)
	_, err = f.ReadAt(three, 0)
	must("read at", string(three) == "ONE", err)
	must("truncate", true, f.Truncate(3))
	info, err := f.Stat()
	must("stat", err == nil && info.Size() == 3 && !info.IsDir(), err)
	must("modified now", err == nil && time.Since(info.ModTime()).Abs() < time.Minute, err)
	f.Close()
	old := time.Unix(1_000_000_000, 0)
	must("set times", true, os.Chtimes(name, old, old))
	info, err = os.Stat(name)
	must("times", err == nil && info.ModTime().Equal(old), err)

	deep := filepath.Join(dir, "a", "b", "c")
	must("make folders", true, os.MkdirAll(deep, 0o755))
	for n := 0; n < 300; n++ {
		os.WriteFile(filepath.Join(deep, fmt.Sprintf("file-with-a-rather-long-name-%03d", n)), nil, 0o644)
	}
	entries, err := os.ReadDir(deep)
	must("300 entries", len(entries) == 300, err)
	must("rename", true, os.Rename(name, filepath.Join(deep, "moved")))
	_, err = os.Stat(name)
	must("gone after rename", errors.Is(err, os.ErrNotExist), nil)
	must("symlink", true, os.Symlink("a/b", filepath.Join(dir, "link")))
	target, err := os.Readlink(filepath.Join(dir, "link"))
	must("readlink", target == "a/b", err)
	_, err = os.Stat(filepath.Join(dir, "link", "c", "moved"))
	must("through a link", err == nil, err)
	walked := 0
	err = filepath.WalkDir(dir, func(string, os.DirEntry, error) error { walked++; return nil })
	must(fmt.Sprintf("walk over %d", walked), walked == 1+3+300+1+1, err)
	must("remove all", true, os.RemoveAll(filepath.Join(dir, "a")))
	must("remove the link", true, os.Remove(filepath.Join(dir, "link")))
	left, err := os.ReadDir(dir)
	must("nothing left", len(left) == 0, err)
	temp, err := os.CreateTemp(dir, "t*")
	must("temporary file", true, err)
	temp.Close()
	os.Remove(temp.Name())
	_, err = os.ReadFile("/etc/passwd")
	must("no other files", err != nil, nil)
	_, err = os.Open(filepath.Join(dir, "..", "..", "etc", "passwd"))
	must("no way out", err != nil, nil)
	where, err := os.Getwd()
	must("working directory "+where, where == dir, err)
	relative, err := os.Create("relative")
	must("relative path", true, err)
	relative.Close()
	_, err = os.Stat(filepath.Join(dir, "relative"))
	must("is in the working directory", true, err)
	os.Remove("relative")

	// Two goroutines over a pipe that Go's own net package makes in memory, and many that sleep.
	done := make(chan time.Duration)
	for n := 0; n < 1000; n++ {
		go func(n int) {
			time.Sleep(time.Duration(n%50) * time.Millisecond)
			done <- time.Since(before)
		}(n)
	}
	for n := 0; n < 1000; n++ {
		<-done
	}
	fmt.Fprintln(os.Stderr, "to the error log")
	if bad > 0 {
		fmt.Printf("%d checks failed\n", bad)
		os.Exit(1)
	}
	fmt.Println("all as on Linux")
	os.Exit(42)
}
