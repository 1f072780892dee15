// What a C program does with its machine: stdio, files, folders, time, poll, the environment; and says what differs from Linux.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int bad;

static void must(const char *what, int holds) {
  if (holds) return;
  bad++;
  printf("FAILED %s: %s\n", what, strerror(errno));
}

static char path[256];
static const char *in(const char *dir, const char *name) {
  snprintf(path, sizeof path, "%s/%s", dir, name);
  return path;
}

static long long now(clockid_t clock) {
  struct timespec t;
  must("clock_gettime", clock_gettime(clock, &t) == 0);
  return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void stdio(const char *dir) {
  FILE *f = fopen(in(dir, "notes"), "w+");
  must("fopen", f != NULL);
  if (!f) return;
  must("fprintf", fprintf(f, "%d %s %.3f\n", 42, "lines", 1.5) == 15);
  for (int n = 0; n < 5000; n++) fprintf(f, "line %d\n", n);
  must("fseek", fseek(f, 0, SEEK_SET) == 0);
  int number;
  char word[16];
  double real;
  must("fscanf", fscanf(f, "%d %15s %lf\n", &number, word, &real) == 3 && number == 42 && real == 1.5);
  char line[64];
  int lines = 0;
  while (fgets(line, sizeof line, f)) lines++;
  must("fgets", lines == 5000 && feof(f));
  must("ftell", ftell(f) == 15 + 10 * 7 + 90 * 8 + 900 * 9 + 4000 * 10);
  must("fclose", fclose(f) == 0);
  f = fopen(in(dir, "notes"), "a");
  must("append", f && fputs("end\n", f) >= 0 && fclose(f) == 0);
  f = fopen(in(dir, "absent"), "r");
  must("fopen says ENOENT", !f && errno == ENOENT);
  must("remove", remove(in(dir, "notes")) == 0);
}

static void files(const char *dir) {
  int fd = open(in(dir, "data"), O_CREAT | O_EXCL | O_RDWR, 0600);
  must("open", fd >= 0);
  must("exclusive", open(in(dir, "data"), O_CREAT | O_EXCL | O_RDWR, 0600) < 0 && errno == EEXIST);
  struct iovec parts[3] = {{"one ", 4}, {"", 0}, {"two", 3}};
  ssize_t n = writev(fd, parts, 3);
  must("writev", n == 7 || n == 4);
  if (n == 4) must("rest of writev", write(fd, "two", 3) == 3);
  must("pwrite", pwrite(fd, "ONE", 3, 0) == 3);
  char text[16] = {0};
  must("pread", pread(fd, text, sizeof text, 0) == 7 && strcmp(text, "ONE two") == 0);
  must("lseek", lseek(fd, 0, SEEK_CUR) == 7 && lseek(fd, -3, SEEK_END) == 4);
  must("read", read(fd, text, 3) == 3 && memcmp(text, "two", 3) == 0);
  must("end of file", read(fd, text, 3) == 0);
  must("ftruncate", ftruncate(fd, 1 << 20) == 0);
  struct stat st;
  must("fstat", fstat(fd, &st) == 0 && st.st_size == 1 << 20 && S_ISREG(st.st_mode) && st.st_nlink == 1);
  must("fsync", fsync(fd) == 0);
  must("append flag", fcntl(fd, F_SETFL, O_APPEND) == 0 && (fcntl(fd, F_GETFL) & O_APPEND));
  must("close", close(fd) == 0);
  must("closed", write(fd, "x", 1) < 0 && errno == EBADF);
  must("link", linkat(AT_FDCWD, in(dir, "data"), AT_FDCWD, "/data/hard", 0) == 0);
  must("two links", stat(in(dir, "hard"), &st) == 0 && st.st_nlink == 2);
  must("symlink", symlink("hard", in(dir, "soft")) == 0);
  must("lstat", lstat(in(dir, "soft"), &st) == 0 && S_ISLNK(st.st_mode));
  n = readlink(in(dir, "soft"), text, sizeof text);
  must("readlink", n == 4 && memcmp(text, "hard", 4) == 0);
  must("unlink", unlink(in(dir, "soft")) == 0 && unlink(in(dir, "hard")) == 0 && unlink(in(dir, "data")) == 0);
  must("mkdir", mkdir(in(dir, "sub"), 0755) == 0);
  must("mkdir again", mkdir(in(dir, "sub"), 0755) < 0 && errno == EEXIST);
  must("unlink a folder", unlink(in(dir, "sub")) < 0 && (errno == EISDIR || errno == EPERM));
  for (int i = 0; i < 500; i++) {
    char name[64];
    snprintf(name, sizeof name, "sub/entry-%d", i);
    fd = open(in(dir, name), O_CREAT | O_WRONLY, 0644);
    if (fd >= 0) close(fd);
  }
  DIR *d = opendir(in(dir, "sub"));
  must("opendir", d != NULL);
  int entries = 0, dots = 0;
  for (struct dirent *e; d && (e = readdir(d));) {
    if (e->d_name[0] == '.') dots++;
    else entries++;
  }
  must("500 entries", entries == 500 && dots == 2);
  if (d) {
    rewinddir(d);
    must("rewinddir", readdir(d) != NULL);
    closedir(d);
  }
  must("rmdir of a full folder", rmdir(in(dir, "sub")) < 0 && errno == ENOTEMPTY);
  for (int i = 0; i < 500; i++) {
    char name[64];
    snprintf(name, sizeof name, "sub/entry-%d", i);
    unlink(in(dir, name));
  }
  must("rmdir", rmdir(in(dir, "sub")) == 0);
  must("no way out", open("/data/../../etc/passwd", O_RDONLY) < 0);
}

static void waiting(void) {
  long long before = now(CLOCK_MONOTONIC);
  struct timespec nap = {0, 30 * 1000 * 1000};
  must("nanosleep", nanosleep(&nap, NULL) == 0);
  must("poll of nothing", poll(NULL, 0, 20) == 0 || errno == ENOTSUP || errno == EINVAL);
  struct pollfd out = {.fd = 1, .events = POLLOUT};
  must("poll of stdout", poll(&out, 1, 1000) == 1 && (out.revents & POLLOUT));
  struct pollfd in = {.fd = 0, .events = POLLIN};
  must("poll of stdin", poll(&in, 1, 1000) == 1);
  char byte;
  must("stdin is at its end", read(0, &byte, 1) == 0);
  long long took = now(CLOCK_MONOTONIC) - before;
  must("time passed", took >= 30 && took < 10000);
  must("the year", now(CLOCK_REALTIME) / 1000 > 1700000000LL);
  time_t t = 1000000000;
  char text[32];
  must("strftime", strftime(text, sizeof text, "%F %T", gmtime(&t)) && !strcmp(text, "2001-09-09 01:46:40"));
}

int main(int argc, char **argv) {
  const char *dir = getenv("DIR");
  must("arguments", argc == 3 && strcmp(argv[2], "two words") == 0);
  must("DIR", dir != NULL);
  if (!dir) return 1;
  stdio(dir);
  files(dir);
  waiting();
  unsigned char random[64] = {0};
  must("getentropy", getentropy(random, sizeof random) == 0);
  must("isatty", !isatty(1));
  fprintf(stderr, "to the error log\n");
  if (bad) {
    printf("%d checks failed\n", bad);
    return 1;
  }
  printf("all as on Linux\n");
  fflush(stdout);
  exit(43);
}
