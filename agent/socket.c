/* The way over sockets: vsock, where the host is context id 2, and a Unix socket for tests. */
#include "agent.h"
#include "kernel.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define READ_BYTES (64u << 10)

static void flush_socket(struct link *link);
static void close_socket(struct link *link);
static const struct transport over_socket = {flush_socket, close_socket};

static void flush_socket(struct link *link) {
  while (buffer_length(&link->out) > 0) {
    ssize_t length = send(link->fd, buffer_start(&link->out), buffer_length(&link->out), MSG_NOSIGNAL);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0 && errno != EAGAIN) {
      close_link(link);
      return;
    }
    if (length < 0) break;
    buffer_take(&link->out, (size_t)length);
  }
  link->watch->events = buffer_length(&link->out) > 0 ? POLLIN | POLLOUT : POLLIN;
}

static void close_socket(struct link *link) {
  unwatch(link->watch);
  close(link->fd);
}

static void socket_ready(void *owner, short seen) {
  struct link *link = owner;
  if (seen & POLLOUT) {
    flush_socket(link);
    if (!link->gone && !link_is_full(link)) resume_sessions(link);
  }
  if (link->gone || !(seen & (POLLIN | POLLHUP | POLLERR))) return;
  uint8_t *room = buffer_room(&link->in, READ_BYTES);
  ssize_t length = read(link->fd, room, READ_BYTES);
  if (length < 0 && (errno == EINTR || errno == EAGAIN)) {
    if (buffer_length(&link->in) == 0) buffer_clear(&link->in);
    return;
  }
  /* the host closes both directions at once, so half a connection is none */
  if (length <= 0) {
    close_link(link);
    return;
  }
  buffer_added(&link->in, (size_t)length);
  link_received(link);
}

static void take_connection(int fd) {
  struct link *link = open_link(&over_socket, fd, 0);
  if (!link) {
    close(fd);
    return;
  }
  link->watch = watch(fd, POLLIN, socket_ready, link);
  greet(link);
}

static void accept_vsock(void *owner, short seen) {
  (void)seen;
  struct vsock_address peer;
  socklen_t length = sizeof peer;
  int fd;
  while ((fd = accept4(*(int *)owner, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    /* with vsock_loopback, which anybody can have loaded, programs of this machine get here too */
    if (length >= sizeof peer && peer.cid == CID_HOST) take_connection(fd);
    else close(fd);
    length = sizeof peer;
  }
}

int listen_vsock(void) {
  static int fd;
  struct vsock_address address = {.family = AF_VSOCK, .port = AGENT_PORT, .cid = CID_ANY};
  fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return 0;
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 16) != 0) die("listening on vsock");
  watch(fd, POLLIN, accept_vsock, &fd);
  return 1;
}

#ifdef FOR_TESTS
static void accept_unix(void *owner, short seen) {
  (void)seen;
  int fd;
  while ((fd = accept4(*(int *)owner, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) take_connection(fd);
}

void listen_unix(const char *path) {
  static int fd;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    die(path);
  }
  strcpy(address.sun_path, path);
  fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  umask(077);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 64) != 0) die(path);
  watch(fd, POLLIN, accept_unix, &fd);
}
#endif
