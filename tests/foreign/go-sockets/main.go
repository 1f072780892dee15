// Two modules that find each other by themselves: `back` listens on a socket of its own and answers lines, `front` answers HTTP on 8080 with
// what it has asked of back, over connections of its own. Sockets that a program makes itself are not WASI's: see sockets.go.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	role := os.Args[len(os.Args)-1]
	var err error
	switch role {
	case "back":
		err = serve(":9090", back)
	case "front":
		err = serve(":8080", front)
	default:
		err = fmt.Errorf("%q is neither back nor front", role)
	}
	log.Fatal(err)
}

func serve(address string, handle func(net.Conn) error) error {
	listener, err := listen(address)
	if err != nil {
		return err
	}
	log.Printf("listening on %s", address)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := handle(conn); err != nil && !errors.Is(err, io.EOF) {
				log.Print(err)
			}
		}()
	}
}

// back answers each line, a little later than it could.
func back(conn net.Conn) error {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		time.Sleep(20 * time.Millisecond)
		if _, err := fmt.Fprintf(conn, "back has heard %s\n", lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}

func front(conn net.Conn) error {
	request, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	words := strings.Fields(request)
	if len(words) < 2 {
		return fmt.Errorf("no request: %q", request)
	}
	text, err := answerTo(words[1])
	status := "200 OK"
	if err != nil {
		text, status = err.Error()+"\n", "500 Internal Server Error"
	}
	_, err = fmt.Fprintf(conn, "HTTP/1.0 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", status, len(text), text)
	return err
}

func answerTo(path string) (string, error) {
	switch path {
	case "/":
		return ask("localhost:9090", "hello")
	case "/many":
		return many(20)
	case "/ends":
		return ends()
	case "/refused":
		_, err := dial(context.Background(), "tcp", "127.0.0.1:9")
		return fmt.Sprintf("%v, refused: %v\n", err, errors.Is(err, syscall.ECONNREFUSED)), nil
	case "/nobody":
		_, err := dial(context.Background(), "tcp", "nobody.invalid:80")
		return fmt.Sprintf("%v\n", err), nil
	}
	return "", fmt.Errorf("nothing at %s", path)
}

func ask(address, word string) (string, error) {
	conn, err := dial(context.Background(), "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, word); err != nil {
		return "", err
	}
	return bufio.NewReader(conn).ReadString('\n')
}

// many asks from as many goroutines at once: none waits for another.
func many(count int) (string, error) {
	var all sync.WaitGroup
	results := make([]error, count)
	for i := range results {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			word := fmt.Sprintf("number %d", i)
			line, err := ask("127.0.0.1:9090", word)
			if err == nil && !strings.Contains(line, word) {
				err = fmt.Errorf("another's answer: %q", line)
			}
			results[i] = err
		}(i)
	}
	all.Wait()
	if err := errors.Join(results...); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d answers\n", count), nil
}

// ends says which addresses a connection to back has.
func ends() (string, error) {
	conn, err := dial(context.Background(), "tcp", "localhost:9090")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return "", err
	}
	var own, other string
	var ownErr, otherErr error
	err = raw.Control(func(fd uintptr) {
		own, ownErr = end(int32(fd), sockLocal)
		other, otherErr = end(int32(fd), sockPeer)
	})
	return fmt.Sprintf("from %s to %s\n", own, other), errors.Join(err, ownErr, otherErr)
}
