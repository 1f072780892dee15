// A server of HTTP with poll(2) and nothing else: the listening socket comes as descriptor 3 (wasip1), or is opened on $PORT (wasip2).
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef OPENS
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#endif

#define CLIENTS 64

static int listener(void) {
#ifdef OPENS
  const char *port = getenv("PORT");
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port ? atoi(port) : 8080)};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  int on = 1;
  if (fd < 0) perror("socket");
  if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)) perror("setsockopt");
  if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 16)) {
    perror("bind, listen");
    exit(1);
  }
  return fd;
#else
  return 3;
#endif
}

static void answer(int fd, const char *request) {
  char path[128] = "", reply[512], body[256];
  sscanf(request, "GET %127s", path);
  int n = snprintf(body, sizeof body, "hello from C, %s, at %s\n", getenv("NAME") ? getenv("NAME") : "", path);
  if (!strcmp(path, "/crash")) abort();
  if (!strcmp(path, "/exit")) exit(7);
  n = snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", n, body);
  for (char *at = reply; n > 0;) {
    ssize_t sent = send(fd, at, n, 0);
    if (sent < 0 && errno == EAGAIN) continue;
    if (sent < 0) {
      perror("send");
      break;
    }
    at += sent;
    n -= sent;
  }
  shutdown(fd, SHUT_RDWR);
  close(fd);
}

int main(void) {
  struct pollfd fds[1 + CLIENTS] = {{.fd = listener(), .events = POLLIN}};
  char buffers[CLIENTS][1024];
  int have[CLIENTS], clients = 0, quiet = 0;
  if (fcntl(fds[0].fd, F_SETFL, O_NONBLOCK)) perror("fcntl");
  fprintf(stderr, "serving\n");
  for (;;) {
    int ready = poll(fds, 1 + clients, 500);
    if (ready < 0) {
      perror("poll");
      return 1;
    }
    if (ready == 0 && quiet++ == 0) fprintf(stderr, "nothing to do\n");
    if (fds[0].revents & POLLIN) {
      int fd = accept(fds[0].fd, NULL, NULL);
      if (fd < 0) perror("accept");
      else if (clients == CLIENTS) close(fd);
      else {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        have[clients] = 0;
        fds[1 + clients++] = (struct pollfd){.fd = fd, .events = POLLIN};
      }
    }
    for (int i = clients - 1; i >= 0; i--) {
      if (!fds[1 + i].revents) continue;
      ssize_t n = recv(fds[1 + i].fd, buffers[i] + have[i], sizeof buffers[i] - 1 - have[i], 0);
      if (n < 0 && errno == EAGAIN) continue;
      if (n > 0) {
        have[i] += n;
        buffers[i][have[i]] = 0;
        if (!strstr(buffers[i], "\r\n\r\n") && have[i] < (int)sizeof buffers[i] - 1) continue;
        answer(fds[1 + i].fd, buffers[i]);
      } else {
        close(fds[1 + i].fd);
      }
      clients--;
      fds[1 + i] = fds[1 + clients];
      have[i] = have[clients];
      memcpy(buffers[i], buffers[clients], sizeof buffers[i]);
    }
  }
}
